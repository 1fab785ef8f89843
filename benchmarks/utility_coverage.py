"""How often the 95 % intervals of calibration, net benefit and points of the ROC curve contain the true value.

    python benchmarks/utility_coverage.py [--runs 1000]

The simulated test sets are those of interval_coverage.py. The true value is that of 20,000 patients. Each cell is the
coverage in %, and the mean width divided by that of the narrowest interval that could hold (2 x 1.96 standard
deviations of the measure itself). "fixed" is the sensitivity at a specificity of 0.90, with an interval that takes the
threshold as known although the same test images gave it.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.evidence import utility
from core.evidence.intervals import Scores

import interval_coverage
from interval_coverage import DESIGNS, FIRST_SEED, PATIENTS, SHIFT

OTHERS = ("few", "heavy", "rare", "weak", "uneven")
COLUMNS = ("slope", "in the large", "net benefit", "- all", "sens. at 0.90", "spec. at 0.90", "fixed")


def draw(design: str, patients: int, seed: int) -> Scores:
    """Patients drawn from ten times as many, so that the share of positive patients varies as in a real sample."""
    pool = interval_coverage.draw(design, 10 * patients, SHIFT.get(design, 1.5), 0.0, seed)
    sample = np.isin(pool.units, np.random.RandomState(seed).permutation(10 * patients)[:patients])
    labels, probabilities, predicted, units = (column[sample] for column in pool[:4])
    return Scores(labels, probabilities, predicted, np.unique(units, return_inverse=True)[1])


def measure_intervals(scores: Scores) -> np.ndarray:
    """Value and bounds of each of COLUMNS: float64 (COLUMNS, 3), NaN where not defined."""
    blocks = utility.summarise(scores)
    line, benefit, points = blocks["calibration_line"], blocks["net_benefit"]["0.5"], blocks["roc_points"]
    entries = [line["slope"], line["in_the_large"], benefit["model"], benefit["difference"]]
    entries += [points["specificity_90"], points["sensitivity_90"]]
    rows = [[entry["value"], entry["ci_low"], entry["ci_high"]] for entry in entries]
    threshold = np.quantile(scores.probabilities[scores.labels == 0], 0.9 - 1e-12, method="inverted_cdf")
    fixed = interval_coverage.measure_intervals(
        scores._replace(predicted=scores.probabilities > threshold), ("sensitivity",)
    )
    return np.vstack([np.array(rows, dtype=float), fixed])


def simulate(design: str, patients: int, runs: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of COLUMNS, the share of intervals that contain the truth, and their relative mean width."""
    large = measure_intervals(interval_coverage.draw(design, 20_000, SHIFT.get(design, 1.5), 0.0, 1))[:, 0]
    drawn = np.array([measure_intervals(draw(design, patients, FIRST_SEED + run)) for run in range(runs)])
    value, low, high = np.moveaxis(drawn, -1, 0)
    missing = np.isnan(low) | np.isnan(high)
    coverage = np.where(missing, np.nan, (low <= large) & (large <= high))
    return np.nanmean(coverage, axis=0), np.nanmean(high - low, axis=0) / (2 * 1.96 * np.nanstd(value, axis=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    runs = parser.parse_args().runs
    print(f"{'':24}" + "".join(f"{name:>16}" for name in COLUMNS))
    for design in (*DESIGNS, *OTHERS):
        for patients in PATIENTS:
            cells = zip(*simulate(design, patients, runs), strict=True)
            texts = [f"{100 * coverage:10.1f}{width:6.2f}" for coverage, width in cells]
            print(f"{design:12}{patients:3} patients" + "".join(texts), flush=True)


if __name__ == "__main__":
    main()
