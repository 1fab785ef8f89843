"""Measure how often 95 % intervals contain the true value, in a simulation with correlated images of each patient.

    python benchmarks/interval_coverage.py [--runs 500]

Each patient has 5 to 40 images. The designs are: half of the patients are positive ("apart"); every patient has images
of both classes ("mixed"); or as "apart", but one positive patient in ten looks like a negative one ("hard"). Half of
the variance of a score is between patients. For comparison, the output also has the bootstrap over images, which treats
every image as an independent patient.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.special import expit
from scipy.stats import norm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.evidence import metrics
from core.evidence.bootstrap import Scores

DESIGNS = ("apart", "mixed", "hard")
HARD = 0.1


def truth(design: str, shift: float, threshold: float) -> dict[str, float]:
    """In each class the scores have variance 1; the class means are ``shift`` apart."""
    hard = HARD if design == "hard" else 0
    return {
        "roc_auc": float((1 - hard) * norm.cdf(shift / np.sqrt(2)) + hard * 0.5),
        "sensitivity": float((1 - hard) * norm.sf(threshold - shift) + hard * norm.sf(threshold)),
        "specificity": float(norm.cdf(threshold)),
    }


def draw(design: str, patients: int, shift: float, threshold: float, seed: int) -> Scores:
    random = np.random.RandomState(seed)
    images = random.randint(5, 41, patients)
    units = np.repeat(np.arange(patients), images)
    if design != "mixed":
        labels = (np.arange(patients) % 2)[units]
    else:
        labels = (random.random_sample(len(units)) < random.uniform(0.2, 0.8, patients)[units]).astype(int)
    own = random.standard_normal(patients)[units]
    score = np.sqrt(0.5) * own + np.sqrt(0.5) * random.standard_normal(len(units))
    shown = labels * (random.random_sample(patients) >= HARD)[units] if design == "hard" else labels
    score += shift * shown
    return Scores(labels, expit(score), score >= threshold, units)


def covered(design: str, patients: int, shift: float, runs: int, by_image: bool) -> tuple[dict[str, float], float]:
    """For each measure, the share of runs whose interval contains the true value; and the mean width for the AUC."""
    threshold = shift / 2
    known = truth(design, shift, threshold)
    holds: dict[str, list[bool]] = {name: [] for name in known}
    widths = []
    for found in _runs(design, patients, shift, threshold, runs, by_image):
        for name, entry in found.items():
            if entry["ci_low"] is not None:
                holds[name].append(entry["ci_low"] <= known[name] <= entry["ci_high"])
        if found["roc_auc"]["ci_low"] is not None:
            widths.append(found["roc_auc"]["ci_high"] - found["roc_auc"]["ci_low"])
    return {name: float(np.mean(held)) for name, held in holds.items()}, float(np.mean(widths))


def _runs(
    design: str, patients: int, shift: float, threshold: float, runs: int, by_image: bool
) -> Iterator[dict[str, dict[str, float]]]:
    for seed in range(runs):
        scores = draw(design, patients, shift, threshold, seed)
        if by_image:
            scores = scores._replace(units=np.arange(len(scores.labels)))
        yield metrics.metrics_with_ci(scores, seed, ("roc_auc", "sensitivity", "specificity"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500)
    asked = parser.parse_args()
    print(f"coverage in % of {asked.runs} runs; mean width of the AUC interval")
    print("design  patients  true AUC   over patients: AUC sens. spec. width   over images: AUC sens. spec. width")
    for design in DESIGNS:
        shift = 2.5 if design == "hard" else 1.5
        for patients in (12, 20, 40, 80):
            cells = []
            for by_image in (False, True):
                held, width = covered(design, patients, shift, asked.runs, by_image)
                cells.append("".join(f"{100 * share:6.1f}" for share in held.values()) + f"{width:6.2f}")
            area = truth(design, shift, 0)["roc_auc"]
            print(f"{design:7}{patients:9}{area:10.3f}   {cells[0]:>30}   {cells[1]:>27}", flush=True)


if __name__ == "__main__":
    main()
