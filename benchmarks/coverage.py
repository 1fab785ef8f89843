"""How often 95 % intervals contain the true value, on real trainings: for the model, and for its recipe.

    python benchmarks/coverage.py [--sets 40] [--small]

The true value of a model is its measure on images of 600 new patients. The true value of the recipe is the mean of this
over all ensembles that can be formed from twice as many trainings on the same data. A data set takes about two minutes
of one core.
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
    """One row per measure: value, both intervals, both true values, and the number of positive test patients."""
    size = trainings.default_ensemble_size()
    predictions = trainings.load_or_train(seed, 2 * size, recipe)
    members = list(range(size))
    entries = metrics.metrics_with_ci(trainings.scores(predictions.test, members), seed, trainings.NAMES)
    truths = [trainings.truth(predictions, list(ensemble)) for ensemble in combinations(range(2 * size), size)]
    model = trainings.truth(predictions, members)
    patients = predictions.test.loc[predictions.test["label"] == 1, "patient"].nunique()
    return [
        {"measure": name, "patients": patients, "value": entry["value"]}
        | {"model_truth": model[name], "recipe_truth": float(np.mean([truth[name] for truth in truths]))}
        | {"model_low": entry["ci_low"], "model_high": entry["ci_high"]}
        | {"recipe_low": entry["recipe"]["ci_low"], "recipe_high": entry["recipe"]["ci_high"]}
        | {"recipe_luck": entry["recipe"]["seed_variance_share"]}
        for name, entry in entries.items()
    ]


def contains_truth(table: pd.DataFrame, kind: str) -> "pd.Series[bool]":
    return (table[f"{kind}_low"] <= table[f"{kind}_truth"]) & (table[f"{kind}_truth"] <= table[f"{kind}_high"])


def median_width(table: pd.DataFrame, kind: str) -> float:
    return (table[f"{kind}_high"] - table[f"{kind}_low"]).median()


def main() -> None:
    seeds, recipe = trainings.parse_args(__doc__, 40)
    table = trainings.load_or_measure(__file__, seeds, recipe, rows)
    print("| measure | model: covered | median width | recipe: covered | median width | share of the seed |")
    print("|---|---|---|---|---|---|")
    for name in trainings.NAMES:
        subset = table[table["measure"] == name].dropna(subset=["model_low", "recipe_low"])
        cells = [
            f"{int(contains_truth(subset, kind).sum())} of {len(subset)} | {median_width(subset, kind):.2f}"
            for kind in ("model", "recipe")
        ]
        print(f"| {name} | {' | '.join(cells)} | {subset['recipe_luck'].median():.2f} |")
    print("\n| positive test patients | sets | median width of the AUC's interval: model | recipe |\n|---|---|---|---|")
    aucs = table[table["measure"] == "roc_auc"].dropna(subset=["model_low", "recipe_low"])
    for patients, subset in aucs.groupby("patients"):
        widths = [median_width(subset, kind) for kind in ("model", "recipe")]
        print(f"| {patients} | {len(subset)} | {widths[0]:.2f} | {widths[1]:.2f} |")


if __name__ == "__main__":
    main()
