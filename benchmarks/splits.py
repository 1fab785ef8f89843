"""What the default run reports with patients apart and with images split at random, against the truth.

    python benchmarks/splits.py [--sets 10] [--small]

Ten sets of synthetic images, each with a split and a training of its own. The truth is the ROC AUC of the same model on
images of 600 new patients. A set takes five minutes on two cores, or one and a half once coverage.py has run.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

import trainings

RANDOM = {"split.strategy": "image", "split.duplicates": "keep", "split.on_leak": "report"}


def rows(seed: int, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """For both splits: the ROC AUC that the run reports, and the truth."""
    count = trainings.members()
    ours = list(range(count))
    apart = trainings.trained(seed, 2 * count, recipe)  # twice the members: the same trainings as in coverage.py
    leaking = trainings.trained(seed, count, recipe | RANDOM)
    return [
        {"split": words, "told": trainings.area(made.test, ours), "true": trainings.area(made.fresh, ours)}
        for words, made in (("patients apart", apart), ("at random", leaking))
    ]


def main() -> None:
    seeds, recipe = trainings.asked(__doc__, 10)
    table = trainings.recorded(__file__, seeds, recipe, rows)
    print("| split | reported ROC AUC: mean (SD) | lowest to highest | truth: mean (SD) | reported minus truth |")
    print("|---|---|---|---|---|")
    for words, some in table.groupby("split", sort=False):
        told, true = some["told"], some["true"]
        print(
            f"| {words} | {told.mean():.3f} ({told.std():.3f}) | {told.min():.3f} to {told.max():.3f} "
            f"| {true.mean():.3f} ({true.std():.3f}) | {told.mean() - true.mean():+.3f} |"
        )


if __name__ == "__main__":
    main()
