"""Whether planted wrong labels are at the top of the list of likely wrong labels.

    python benchmarks/wrong_labels.py [--sets 3] [--small]

Of each set of 1,200 synthetic images of 32 pixels, 5 % get the other label. Three folds are trained on these labels,
and every image is judged by the network that did not train on it. Precision is that of the shortest top of the list
that has half of the planted labels. The images of the positive class have a dark square of 8 pixels, of three
contrasts: how well the network tells the classes apart decides what the list is worth. A set takes a few minutes.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.commands import folds
from core.evidence import utility
from core.pipeline import tables

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

import parameters
import trainings

FOLDS = 3
PLANTED = 0.05
RECIPE = {"data.phantom.side": 32, "prepare.image_size": 32, "train.ensemble_size": 1, "train.batch_size": 16}
CONTRASTS = (0, 40, 80)
SIDE = 8


def rows(seed: int, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"contrast": contrast} | row(seed, recipe, contrast) for contrast in CONTRASTS]


def mark(clone: Path, positive: np.ndarray, contrast: int, random: np.random.RandomState) -> None:
    """Darken a square of each positive image."""
    images = np.load(clone / "data/prepared/images.npy").astype(int)
    for row in np.flatnonzero(positive):
        top, left = random.randint(images.shape[1] - SIDE, size=2)
        images[row, top : top + SIDE, left : left + SIDE] -= contrast
    np.save(clone / "data/prepared/images.npy", images.clip(0).astype(np.uint8))


def row(seed: int, recipe: dict[str, Any], contrast: int) -> dict[str, Any]:
    random = np.random.RandomState(seed)
    with tempfile.TemporaryDirectory(prefix="wrong-labels-") as place:
        clone = Path(place) / "clone"
        subprocess.run(["git", "clone", "--quiet", trainings.TOP, clone], check=True)
        fixed = {"seed": seed, "split.folds": FOLDS, "split.on_leak": "fail"} | RECIPE | recipe

        def run(*stages: str, fold: int = 1) -> None:
            parameters.change(clone / "params.yaml", fixed | {"split.fold": fold})
            scripts = [f"stages/{stage}.py" for stage in stages]
            subprocess.run([sys.executable, "-c", trainings.RUN, *scripts], cwd=clone, check=True, capture_output=True,
                           env=os.environ | {"DVC_ROOT": str(clone)})  # fmt: skip

        run("download")
        labels = tables.read(clone / "data/raw/labels.csv", tables.LABELS)
        planted = random.permutation(len(labels)) < round(PLANTED * len(labels))
        wrong = labels.assign(label=labels["label"].where(~planted, 1 - labels["label"]))
        tables.write(wrong, clone / "data/raw/labels.csv", tables.LABELS)
        run("prepare", "audit")
        positive = tables.read(clone / "data/prepared/index.csv", tables.INDEX)["file"].map(
            labels.set_index("file")["label"]
        )
        mark(clone, positive.to_numpy() == 1, contrast, random)
        predictions = []
        for fold in range(1, FOLDS + 1):
            run("split", "train", "evaluate", fold=fold)
            predictions.append(tables.read(clone / "data/predictions.csv", tables.PREDICTIONS).assign(unit=0))
    pooled = folds.pool(predictions, [0.5] * FOLDS)
    pooled["planted"] = pooled["file"].map(pd.Series(planted, labels["file"]))
    listed = utility.likely_wrong(pooled, pooled["fold"])
    found = pooled["planted"][listed.index].to_numpy()
    reached = np.flatnonzero(found.cumsum() >= 0.5 * planted.sum())
    area = np.mean([roc_auc_score(part["label"] ^ part["planted"], part["probability"])
                    for _, part in pooled.groupby("fold")])  # fmt: skip
    at_half = 0.5 * planted.sum() / (1 + reached[0]) if len(reached) else np.nan
    return {"roc_auc": area, "planted": int(planted.sum()), "listed": len(listed),
            "recall": found.sum() / planted.sum(), "precision": found.mean(),
            "precision_at_half": at_half}  # fmt: skip


def main() -> None:
    seeds, recipe = trainings.asked(__doc__, 3)
    print(trainings.recorded(__file__, seeds, recipe, rows).to_string(index=False, float_format="%.3f"))


if __name__ == "__main__":
    main()
