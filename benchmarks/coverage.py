"""How often intervals contain the truth, on real trainings: for the model, and for its recipe.

    python benchmarks/coverage.py [--sets 40] [--small]

The truth of a model is its figure on images of 600 new patients. The truth of the recipe is the mean of that over
ensembles of other trainings on the same images. A data set takes about four minutes on two cores.
"""

import sys
from itertools import combinations
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.evidence import metrics

import numpy as np
import pandas as pd

import trainings


def rows(seed: int, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per measure: value, both intervals, both truths, and the positive patients of the test."""
    count = trainings.members()
    made = trainings.trained(seed, 2 * count, recipe)
    ours = list(range(count))
    entries = metrics.metrics_with_ci(trainings.scores(made.test, ours), seed, trainings.NAMES)
    every = [trainings.truth(made, list(which)) for which in combinations(range(2 * count), count)]
    model = trainings.truth(made, ours)
    patients = made.test.loc[made.test["label"] == 1, "patient"].nunique()
    return [
        {"measure": name, "patients": patients, "value": entry["value"]}
        | {"model_truth": model[name], "recipe_truth": float(np.mean([truth[name] for truth in every]))}
        | {"model_low": entry["ci_low"], "model_high": entry["ci_high"]}
        | {"recipe_low": entry["recipe"]["ci_low"], "recipe_high": entry["recipe"]["ci_high"]}
        | {"recipe_luck": entry["recipe"]["seed_variance_share"]}
        for name, entry in entries.items()
    ]


def covered(table: pd.DataFrame, kind: str) -> "pd.Series[bool]":
    return (table[f"{kind}_low"] <= table[f"{kind}_truth"]) & (table[f"{kind}_truth"] <= table[f"{kind}_high"])


def main() -> None:
    seeds, recipe = trainings.asked(__doc__, 40)
    table = trainings.recorded(__file__, seeds, recipe, rows)
    print("| measure | model: covered | median width | recipe: covered | median width | share of the seed |")
    print("|---|---|---|---|---|---|")
    for name in trainings.NAMES:
        some = table[table["measure"] == name].dropna(subset=["model_low", "recipe_low"])
        widths = {kind: (some[f"{kind}_high"] - some[f"{kind}_low"]).median() for kind in ("model", "recipe")}
        cells = [f"{int(covered(some, kind).sum())} of {len(some)} | {width:.2f}" for kind, width in widths.items()]
        print(f"| {name} | {' | '.join(cells)} | {some['recipe_luck'].median():.2f} |")
    print("\n| positive test patients | sets | median width of the AUC's interval: model | recipe |\n|---|---|---|---|")
    areas = table[table["measure"] == "roc_auc"].dropna(subset=["model_low", "recipe_low"])
    for patients, some in areas.groupby("patients"):
        widths = [(some[f"{kind}_high"] - some[f"{kind}_low"]).median() for kind in ("model", "recipe")]
        print(f"| {patients} | {len(some)} | {widths[0]:.2f} | {widths[1]:.2f} |")


if __name__ == "__main__":
    main()
