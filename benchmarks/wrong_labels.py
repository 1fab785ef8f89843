"""Whether planted wrong labels are at the top of the list of likely wrong labels.

    python benchmarks/wrong_labels.py [--sets 3] [--small]

Of each set of 600 synthetic images of 32 pixels, 5 % get the other label. Three folds are trained on these labels,
and every image is judged by the network that did not train on it. Precision is that of the shortest top of the list
that has half of the planted labels. The images of the positive class have a dark square of 8 pixels, of three
contrasts: how well the network tells the classes apart decides what the list is worth. A set takes a few minutes.
"""

import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.commands import folds
from core.evidence import utility
from core.network import ensemble, inference
from core.pipeline import files, tables

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

import parameters
import trainings

FOLDS = 3
PLANTED = 0.05
RECIPE = {
    "data.phantom.images": 600, "data.phantom.side": 32, "prepare.image_size": 32, "train.ensemble_size": 1,
    "train.batch_size": 16, "split.folds": FOLDS, "split.on_leak": "fail",
}  # fmt: skip
CONTRASTS = (0, 40, 80)
SIDE = 8


def rows(seed: int, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"contrast": contrast} | row(seed, recipe, contrast) for contrast in CONTRASTS]


def run(clone: Path, changes: dict[str, Any], *stages: str) -> None:
    """Run stages in a clone, in this process."""
    parameters.change(clone / "params.yaml", changes)
    os.environ["DVC_ROOT"] = str(clone)
    os.chdir(clone)
    for stage in stages:
        sys.argv = [f"stages/{stage}.py"]
        runpy.run_path(sys.argv[0], run_name="__main__")


def plant(contrast: int, random: np.random.RandomState) -> "pd.Series[bool]":
    """Darken a square of each positive image, and give 5 % of the images the other label; by file, which."""
    index = tables.read("data/prepared/index.csv", tables.INDEX)
    images = np.load("data/prepared/images.npy").astype(int)
    for row in np.flatnonzero(index["label"] == 1):
        top, left = random.randint(images.shape[1] - SIDE, size=2)
        images[row, top : top + SIDE, left : left + SIDE] -= contrast
    np.save("data/prepared/images.npy", images.clip(0).astype(np.uint8))
    planted = random.permutation(len(index)) < round(PLANTED * len(index))
    tables.write(index.assign(label=(index["label"] - planted).abs()), "data/prepared/index.csv", tables.INDEX)
    return pd.Series(planted, index["file"])


def predict() -> pd.DataFrame:
    """The rows of the split, with the probabilities of the network that was trained on it."""
    split = tables.read("data/split.csv", tables.SPLIT).assign(unit=0)
    network = ensemble.load_ensemble("models/model.safetensors", files.read_json("models/model.json"))
    images = files.read_array("data/prepared/images.npy")
    by_member = inference.probabilities(network, images, split["row"].to_numpy(), torch.device("cpu"))
    return split.assign(probability=by_member.mean(axis=1))


def row(seed: int, recipe: dict[str, Any], contrast: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="wrong-labels-") as place:
        clone = Path(place) / "clone"
        subprocess.run(["git", "clone", "--quiet", trainings.TOP, clone], check=True)
        run(clone, {"seed": seed} | RECIPE | recipe, "download", "prepare", "audit")
        planted = plant(contrast, np.random.RandomState(seed))
        predictions = []
        for fold in range(1, FOLDS + 1):
            run(clone, {"split.fold": fold}, "split", "train")
            predictions.append(predict())
        os.chdir(trainings.TOP)
    pooled = folds.pool(predictions, [0.5] * FOLDS)
    wrong = planted[pooled["file"]].to_numpy()
    listed = wrong[utility.likely_wrong(pooled, pooled["fold"]).index]
    reached = np.flatnonzero(listed.cumsum() >= wrong.sum() / 2)
    true = (pooled["label"] - wrong).abs()
    areas = [roc_auc_score(true[part.index], part["probability"]) for _, part in pooled.groupby("fold")]
    return {
        "roc_auc": np.mean(areas), "planted": int(wrong.sum()), "listed": len(listed),
        "recall": listed.sum() / wrong.sum(), "precision": listed.mean() if len(listed) else np.nan,
        "precision_at_half": listed[: 1 + reached[0]].mean() if len(reached) else np.nan,
    }  # fmt: skip


def main() -> None:
    seeds, recipe = trainings.asked(__doc__, 3)
    print(trainings.recorded(__file__, seeds, recipe, rows).to_string(index=False, float_format="%.3f"))


if __name__ == "__main__":
    main()
