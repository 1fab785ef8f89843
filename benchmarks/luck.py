"""How much the ROC AUC of the default run depends on the seed of its training.

    python benchmarks/luck.py [--sets 10] [--small]

Trains on the default data and split with other seeds. Prints the ROC AUC of the ensembles, and of their members alone,
on the test images and on images of 600 new patients.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

import trainings


def rows(seed: int, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """ROC AUC of the ensemble of this seed, and of each of its members."""
    size = trainings.default_ensemble_size()
    predictions = trainings.load_or_train(1, size, recipe | {"train.seed": seed})
    ensembles = [(f"{size} members", list(range(size))), *(("one network", [number]) for number in range(size))]
    return [
        {"trained": kind, "test": trainings.roc_auc(predictions.test, members),
         "fresh": trainings.roc_auc(predictions.fresh, members)}
        for kind, members in ensembles
    ]  # fmt: skip


def main() -> None:
    seeds, recipe = trainings.parse_args(__doc__, 10, first=1)
    table = trainings.load_or_measure(__file__, seeds, recipe, rows)
    print("| trained | trainings | test: mean (SD) | lowest | 600 new patients: mean (SD) | lowest |")
    print("|---|---|---|---|---|---|")
    for kind, subset in table.groupby("trained"):
        aucs = subset["test"], subset["fresh"]
        cells = [f"{values.mean():.3f} ({values.std():.3f}) | {values.min():.3f}" for values in aucs]
        print(f"| {kind} | {len(subset)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
