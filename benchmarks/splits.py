"""Reported and true ROC AUC of the default run, with a split by patient and with a random split of images.

    python benchmarks/splits.py [--sets 10] [--small]

Each set of synthetic images has a split and a training of its own. The true value is the ROC AUC of the same model on
images of 600 new patients. A set takes five minutes on two cores, or one and a half once coverage.py has run.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

import trainings

RANDOM = {"split.strategy": "image", "split.duplicates": "keep", "split.on_leak": "report"}


def rows(seed: int, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """For both splits: the ROC AUC that the run reports, and the true value."""
    size = trainings.default_ensemble_size()
    members = list(range(size))
    by_patient = trainings.load_or_train(
        seed, 2 * size, recipe
    )  # twice the members: the same trainings as in coverage.py
    leaking = trainings.load_or_train(seed, size, recipe | RANDOM)
    return [
        {"split": strategy, "told": trainings.roc_auc(predictions.test, members),
         "true": trainings.roc_auc(predictions.fresh, members)}
        for strategy, predictions in (("patients apart", by_patient), ("at random", leaking))
    ]  # fmt: skip


def main() -> None:
    seeds, recipe = trainings.parse_args(__doc__, 10)
    table = trainings.load_or_measure(__file__, seeds, recipe, rows)
    print("| split | reported ROC AUC: mean (SD) | lowest to highest | truth: mean (SD) | reported minus truth |")
    print("|---|---|---|---|---|")
    for strategy, subset in table.groupby("split", sort=False):
        reported, true = subset["told"], subset["true"]
        print(
            f"| {strategy} | {reported.mean():.3f} ({reported.std():.3f}) "
            f"| {reported.min():.3f} to {reported.max():.3f} "
            f"| {true.mean():.3f} ({true.std():.3f}) | {reported.mean() - true.mean():+.3f} |"
        )


if __name__ == "__main__":
    main()
