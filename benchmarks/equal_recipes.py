"""How often two equal recipes are called different, on real trainings that differ in their seed alone.

    python benchmarks/equal_recipes.py [--sets 40] [--small]

Beside it: the same pairs, compared as models, and pairs of single networks, as before there were members.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.commands import comparison
from core.pipeline import tables

import pandas as pd

import trainings


def told(made: trainings.Trained, first: list[int], second: list[int], alone: bool = False) -> pd.DataFrame:
    """The comparison of two ensembles of a data set; ``alone``: as models, not as recipes."""
    runs = trainings.run(made.test, first, "first"), trainings.run(made.test, second, "second")
    if alone:
        merged = [run.predictions.drop(columns=tables.members(run.predictions)) for run in runs]
        runs = runs[0]._replace(predictions=merged[0]), runs[1]._replace(predictions=merged[1])
    return comparison.measure(runs, comparison.test_images(runs, shared=False))


def rows(seed: int, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """For each kind of comparison, whether it calls the two different in any measure, and in ROC AUC."""
    count = trainings.members()
    first, second = list(range(count)), list(range(count, 2 * count))
    made = trainings.trained(seed, 2 * count, recipe)
    found = []
    for kind, pair in {
        f"recipes of {count} members": (first, second, False),
        f"the same {count} members as models": (first, second, True),
        "one network each, as models": ([0], [count], True),
    }.items():
        differ = told(made, *pair).set_index("measure")["differ"]
        found.append({"compared": kind, "any": bool(differ.any()), "roc_auc": bool(differ["roc_auc"])})
    return found


def main() -> None:
    seeds, recipe = trainings.asked(__doc__, 40)
    table = trainings.recorded(__file__, seeds, recipe, rows)
    print("| compared | called different in any measure | in ROC AUC |\n|---|---|---|")
    for kind, calls in table.groupby("compared", sort=False):
        print(f"| {kind} | {calls['any'].sum()} of {len(calls)} | {calls['roc_auc'].sum()} |")


if __name__ == "__main__":
    main()
