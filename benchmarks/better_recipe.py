"""How many test patients it takes to tell a better recipe from a worse one, on real trainings.

    python benchmarks/better_recipe.py [--sets 20] [--small]

The better recipe is the default; the worse one has half of the patients to train on. Both are compared on test sets of
some of the 600 new patients, five images each. The truth is the difference of ROC AUC on all of them, as the mean over
both ensembles that eight trainings of the better recipe give. A data set takes six minutes on two cores, or one and a
half once coverage.py has run.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.commands import comparison

import numpy as np
import pandas as pd

import parameters
import trainings

HALVED = ["images", "patients"]
PATIENTS = [10, 20, 40, 80, 160]
TESTS = 5  # test sets of each size for each pair
DIFFERENCES = [-1.0, 0.0, 0.02, 0.04, 0.06, 0.1, 1.0]  # limits of the columns


def rows(seed: int, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per pair of ensembles and test set: the true difference, the number of patients, what was called."""
    count = trainings.members()
    ours = list(range(count))
    ensembles = [ours, list(range(count, 2 * count))]
    better = trainings.trained(seed, 2 * count, recipe)
    worse = trainings.trained(seed, count, recipe | halved(recipe))
    true = np.mean([trainings.area(better.fresh, which) for which in ensembles]) - trainings.area(worse.fresh, ours)
    random = np.random.default_rng(seed)
    found = []
    for which in ensembles:
        for patients in PATIENTS * TESTS:
            chosen = random.choice(better.fresh["patient"].unique(), patients, replace=False)
            tests = [made.fresh[made.fresh["patient"].isin(chosen)].reset_index(drop=True) for made in (worse, better)]
            pair = trainings.run(tests[0], ours, "half"), trainings.run(tests[1], which, "whole")
            told = comparison.measure(pair, comparison.test_images(pair, shared=False)).set_index("measure")
            up = told["difference"] * np.where(told.index.isin(comparison.LESS_IS_BETTER), -1, 1) > 0
            better_in, worse_in = told["differ"] & up, told["differ"] & ~up
            found.append(
                {"true": float(true), "patients": patients, "difference": told.loc["roc_auc", "difference"]}
                | {"better": bool(better_in.any()), "auc_better": bool(better_in["roc_auc"])}
                | {"worse": bool(worse_in.any())}
            )
    return found


def halved(recipe: dict[str, Any]) -> dict[str, Any]:
    """Half of the images, and so half of the patients."""
    given = parameters.read(trainings.TOP / "params.yaml")["data"]["phantom"]
    return {f"data.phantom.{name}": recipe.get(f"data.phantom.{name}", given[name]) // 2 for name in HALVED}


def main() -> None:
    seeds, recipe = trainings.asked(__doc__, 20)
    table = trainings.recorded(__file__, seeds, recipe, rows)
    bins = pd.cut(table["true"], DIFFERENCES, right=False)
    kinds = bins.cat.categories
    names = [f"{one.left:g} to {one.right:g}" if one.right < 1 else f"from {one.left:g}" for one in kinds]
    for words, column in (("in any measure", "better"), ("in ROC AUC", "auc_better")):
        print(f"Called better {words}, by the true difference of ROC AUC:\n")
        print(f"| test patients | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
        for patients, some in table.groupby("patients"):
            each = [some.loc[bins[some.index] == kind, column] for kind in kinds]
            cells = [f"{one.mean():.0%} of {len(one)}" if len(one) else "-" for one in each]
            print(f"| {patients} | {' | '.join(cells)} |")
        print()
    print(f"Called worse in any measure: {int(table['worse'].sum())} of {len(table)}")


if __name__ == "__main__":
    main()
