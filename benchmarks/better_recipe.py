"""How many test patients it takes to tell a better recipe from a worse one, on real trainings.

    python benchmarks/better_recipe.py [--sets 20] [--small]

The better recipe is the default; the worse one trains on half of the patients. They are compared on test sets that are
drawn from 600 new patients with five images each. The true difference is that of ROC AUC on all 600, as the mean over
the two ensembles of the eight trainings of the better recipe. A data set takes two minutes of one core, or half a
minute once coverage.py has run.

Beside the share of comparisons that call it better in ROC AUC is the power of a test that knows the SD: that of the
measured differences around the true ones over all sets, and over trainings, by the jackknife on all 600 patients.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.commands import comparison
from core.evidence import seed_variance

import numpy as np
import pandas as pd
from scipy.stats import norm

import parameters
import trainings

HALVED = ["images", "patients"]
PATIENTS = [10, 20, 40, 80, 160]
TESTS = 5  # test sets of each size for each pair
DIFFERENCES = [-1.0, 0.0, 0.02, 0.04, 0.06, 0.1, 1.0]  # limits of the columns


def rows(seed: int, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per pair of ensembles and test set: the true difference, the number of patients, and the comparison."""
    size = trainings.default_ensemble_size()
    first = list(range(size))
    ensembles = [first, list(range(size, 2 * size))]
    better = trainings.load_or_train(seed, 2 * size, recipe)
    worse = trainings.load_or_train(seed, size, recipe | half_the_data(recipe))
    aucs = [trainings.roc_auc(better.fresh, members) for members in ensembles]
    true = np.mean(aucs) - trainings.roc_auc(worse.fresh, first)
    others = [trainings.roc_auc(worse.fresh, first[:number] + first[number + 1 :]) for number in first]
    training_variance = np.var(aucs) + seed_variance.jackknife(others).variance  # of half a better one, of the worse
    random = np.random.default_rng(seed)
    results = []
    for members in ensembles:
        for count in PATIENTS * TESTS:
            patients = random.choice(better.fresh["patient"].unique(), count, replace=False)
            tests = [
                table[table["patient"].isin(patients)].reset_index(drop=True) for table in (worse.fresh, better.fresh)
            ]
            pair = trainings.run(tests[0], first, "half"), trainings.run(tests[1], members, "full")
            table = comparison.measure(pair, comparison.test_images(pair, shared=False)).set_index("measure")
            improved = table["difference"] * np.where(table.index.isin(comparison.LESS_IS_BETTER), -1, 1) > 0
            better_in, worse_in = table["differ"] & improved, table["differ"] & ~improved
            results.append(
                {
                    "true": float(true),
                    "training_variance": training_variance,
                    "patients": count,
                    "difference": table.loc["roc_auc", "difference"],
                }
                | {"better": bool(better_in.any()), "auc_better": bool(better_in["roc_auc"])}
                | {"worse": bool(worse_in.any())}
            )
    return results


def known_sd_power(table: pd.DataFrame) -> "pd.Series[float]":
    """The power of a two-sided test of the ROC AUC at 5 % that knows the SD, for each row."""
    variances = ((table["difference"] - table["true"]) ** 2).groupby(table["patients"]).mean()
    sets = table.drop_duplicates("set")
    ratio = table["true"] / np.sqrt(table["patients"].map(variances) + sets["training_variance"].mean())
    limit = norm.ppf(0.975)
    return pd.Series(norm.cdf(ratio - limit) + norm.cdf(-ratio - limit), table.index)


def half_the_data(recipe: dict[str, Any]) -> dict[str, Any]:
    """The changes that halve the number of images and of patients."""
    default = parameters.read(trainings.TOP / "params.yaml")["data"]["phantom"]
    return {f"data.phantom.{name}": recipe.get(f"data.phantom.{name}", default[name]) // 2 for name in HALVED}


def main() -> None:
    seeds, recipe = trainings.parse_args(__doc__, 20)
    table = trainings.load_or_measure(__file__, seeds, recipe, rows)
    bins = pd.cut(table["true"], DIFFERENCES, right=False)
    ranges = bins.cat.categories
    names = [f"{edges.left:g} to {edges.right:g}" if edges.right < 1 else f"from {edges.left:g}" for edges in ranges]
    for scope, column in (("in any measure", "better"), ("in ROC AUC", "auc_better")):
        print(f"Called better {scope}, by the true difference of ROC AUC:\n")
        print(f"| test patients | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
        for patients, subset in table.groupby("patients"):
            calls = [subset.loc[bins[subset.index] == edges, column] for edges in ranges]
            cells = [f"{called.mean():.0%} of {len(called)}" if len(called) else "-" for called in calls]
            print(f"| {patients} | {' | '.join(cells)} |")
        print()
    known = known_sd_power(table)
    print("| test patients | called better in ROC AUC | power of a test that knows the SD | ratio |\n|---|---|---|---|")
    for patients, subset in table.groupby("patients"):
        called, power = subset["auc_better"].mean(), known[subset.index].mean()
        print(f"| {patients} | {called:.0%} of {len(subset)} | {power:.0%} | {called / power:.2f} |")
    print(f"\nCalled worse in any measure: {int(table['worse'].sum())} of {len(table)}")


if __name__ == "__main__":
    main()
