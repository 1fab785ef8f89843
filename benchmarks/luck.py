"""How far the figure of the default run depends on the seed of its training.

    python benchmarks/luck.py [--sets 10] [--small]

The default data and split, trained with other seeds: ROC AUC on the test images, and on the images of 600 new patients,
of the ensembles and of their members alone.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

import trainings


def rows(seed: int, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """ROC AUC of the ensemble of this seed, and of each of its members."""
    count = trainings.members()
    made = trainings.trained(1, count, recipe | {"train.seed": seed})
    groups = {f"{count} members": [list(range(count))], "one network": [[number] for number in range(count)]}
    return [
        {"trained": words, "test": trainings.area(made.test, which), "fresh": trainings.area(made.fresh, which)}
        for words, some in groups.items()
        for which in some
    ]


def main() -> None:
    seeds, recipe = trainings.asked(__doc__, 10, first=1)
    table = trainings.recorded(__file__, seeds, recipe, rows)
    print("| trained | trainings | test: mean (SD) | lowest | 600 new patients: mean (SD) | lowest |")
    print("|---|---|---|---|---|---|")
    for words, some in table.groupby("trained"):
        cells = [f"{part.mean():.3f} ({part.std():.3f}) | {part.min():.3f}" for part in (some["test"], some["fresh"])]
        print(f"| {words} | {len(some)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
