"""Whether planted wrong labels are at the top of the list of likely wrong labels.

    python benchmarks/wrong_labels.py [--sets 3] [--small]

Of each set of synthetic images, 5 % get the other label. Three folds are trained on these labels, and every image is
judged by the networks that did not train on it. Precision is that of the shortest top of the ranking that has half of
the planted labels. A set of 3,000 images takes ten minutes on two cores.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.commands import folds
from core.evidence import label_errors
from core.pipeline import tables

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

import parameters
import trainings

FOLDS = 3
PLANTED = 0.05
RECIPE = {"data.phantom.images": 3000, "data.phantom.patients": 150}


def rows(seed: int, recipe: dict[str, Any]) -> list[dict[str, Any]]:
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
        planted = np.random.RandomState(seed).permutation(len(labels)) < round(PLANTED * len(labels))
        wrong = labels.assign(label=labels["label"].where(~planted, 1 - labels["label"]))
        tables.write(wrong, clone / "data/raw/labels.csv", tables.LABELS)
        run("prepare", "audit")
        predictions = []
        for fold in range(1, FOLDS + 1):
            run("split", "train", "evaluate", fold=fold)
            predictions.append(tables.read(clone / "data/predictions.csv", tables.PREDICTIONS).assign(unit=0))
    pooled = folds.pool(predictions, [0.5] * FOLDS)
    pooled["planted"] = pooled["file"].map(pd.Series(planted, labels["file"]))
    listed = label_errors.likely_wrong(pooled, pooled["fold"])
    found = pooled["planted"][listed.index].to_numpy()
    reached = np.flatnonzero(found.cumsum() >= 0.5 * planted.sum())
    area = np.mean([roc_auc_score(part["label"] ^ part["planted"], part["probability"])
                    for _, part in pooled.groupby("fold")])  # fmt: skip
    at_half = 0.5 * planted.sum() / (1 + reached[0]) if len(reached) else np.nan
    return [{"images": len(pooled), "planted": int(planted.sum()), "roc_auc": area, "listed": len(listed),
             "recall": found.sum() / planted.sum(), "precision": found.mean(), "precision_at_half": at_half,
             "precision_20": found[:20].mean()}]  # fmt: skip


def main() -> None:
    seeds, recipe = trainings.asked(__doc__, 3)
    print(trainings.recorded(__file__, seeds, recipe, rows).to_string(index=False, float_format="%.3f"))


if __name__ == "__main__":
    main()
