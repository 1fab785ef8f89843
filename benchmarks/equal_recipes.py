"""How often two equal recipes are called different, on real trainings that differ in their seed alone.

    python benchmarks/equal_recipes.py [--sets 40] [--small]

Also measured: the same pairs compared as models, and pairs of single networks compared as models.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.commands import comparison
from core.pipeline import tables

import pandas as pd

import trainings


def compare(
    predictions: trainings.Predictions, first: list[int], second: list[int], as_models: bool = False
) -> pd.DataFrame:
    """The comparison of two ensembles of a data set, as recipes or, if ``as_models``, as models."""
    runs = trainings.run(predictions.test, first, "first"), trainings.run(predictions.test, second, "second")
    if as_models:
        merged = [run.predictions.drop(columns=tables.members(run.predictions)) for run in runs]
        runs = runs[0]._replace(predictions=merged[0]), runs[1]._replace(predictions=merged[1])
    return comparison.measure(runs, comparison.test_images(runs, shared=False))


def rows(seed: int, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """For each kind of comparison, whether it calls the two different in any measure, and in ROC AUC."""
    size = trainings.default_ensemble_size()
    first, second = list(range(size)), list(range(size, 2 * size))
    predictions = trainings.load_or_train(seed, 2 * size, recipe)
    results = []
    for kind, pair in {
        f"recipes of {size} members": (first, second, False),
        f"the same {size} members as models": (first, second, True),
        "one network each, as models": ([0], [size], True),
    }.items():
        differ = compare(predictions, *pair).set_index("measure")["differ"]
        results.append({"compared": kind, "any": bool(differ.any()), "roc_auc": bool(differ["roc_auc"])})
    return results


def main() -> None:
    seeds, recipe = trainings.parse_args(__doc__, 40)
    table = trainings.load_or_measure(__file__, seeds, recipe, rows)
    print("| compared | called different in any measure | in ROC AUC |\n|---|---|---|")
    for kind, calls in table.groupby("compared", sort=False):
        print(f"| {kind} | {calls['any'].sum()} of {len(calls)} | {calls['roc_auc'].sum()} |")


if __name__ == "__main__":
    main()
