"""Measure how often 95 % intervals contain the true value, and how wide they are, on simulated test sets.

    python benchmarks/interval_coverage.py [--runs 1000]

Each patient has 5 to 40 images, and half of the variance of a score is between patients, if the list says nothing else.
The width is divided by that of the narrowest interval that could hold: 2 x 1.96 standard deviations of the measure
itself over the simulated sets. The method was chosen on the designs of TUNED with other seeds; the designs of UNTUNED
changed nothing in it.

tuned:
apart     half of the patients are positive, and all images of a patient have one class
mixed     every patient has images of both classes
hard      as apart, but one positive patient in ten looks like a negative one
few       as apart, with 3 images of each patient
heavy     as apart, but scores have heavy tails: Student's t with 3 degrees of freedom
rare      as mixed, but 5 % of the images are positive
ties      as apart, with few different scores
half      as apart, but one patient has half of all images
strong    as apart, with an AUC of 0.98
untuned:
weak      as apart, with an AUC of 0.65
uneven    as apart, but one patient in four is positive
alike     as apart, but nine tenths of the variance is between patients
sizes     as apart, but the numbers of images differ by far: 1 to 400
half-hard as half, and one positive patient in ten looks like a negative one

Columns: the AUC by image; the AUC in which each patient weighs the same; the AUC by patient (mean of the images);
sensitivity and specificity by image. The bootstrap over images, at the end, takes images as independent.
"""

import argparse
import functools
import sys
from pathlib import Path

import numpy as np
from scipy.special import expit
from scipy.stats import norm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.evidence import intervals, metrics
from core.evidence.intervals import Scores

TUNED = ("apart", "mixed", "hard", "few", "heavy", "rare", "ties", "half", "strong")
UNTUNED = ("weak", "uneven", "alike", "sizes", "half-hard")
DESIGNS = ("apart", "mixed", "hard")
PATIENTS = (12, 20, 40)
HARD_SHARE = 0.1
SHIFT = {"hard": 2.5, "half-hard": 2.5, "weak": 0.55, "strong": 2.9}
FIRST_SEED = 500_000  # the method was chosen with seeds of NumPy's generator below 10,000
MEASURES = ("roc_auc", "sensitivity", "specificity")
COLUMNS = ("AUC by image", "AUC, equal weights", "AUC by patient", "sensitivity", "specificity")


def draw(design: str, patients: int, shift: float, threshold: float, seed: int) -> Scores:
    random = np.random.RandomState(seed)
    images = random.randint(5, 41, patients)
    if design == "few":
        images[:] = 3
    if design == "sizes":
        images = np.exp(random.uniform(0, np.log(400), patients)).astype(int)
    if design in ("half", "half-hard"):
        images[seed % 2] = images.sum() - images[seed % 2]
    units = np.repeat(np.arange(patients), images)
    if design in ("mixed", "rare"):
        low, high = (0.2, 0.8) if design == "mixed" else (0.0, 0.1)
        labels = (random.random_sample(len(units)) < random.uniform(low, high, patients)[units]).astype(int)
    else:
        labels = (np.arange(patients) % (4 if design == "uneven" else 2) == 1).astype(int)[units]
    share = 0.9 if design == "alike" else 0.5

    def noise(count: int) -> np.ndarray:
        return random.standard_t(3, count) / np.sqrt(3) if design == "heavy" else random.standard_normal(count)

    score = np.sqrt(share) * noise(patients)[units] + np.sqrt(1 - share) * noise(len(units))
    effect = labels * (random.random_sample(patients) >= HARD_SHARE)[units] if "hard" in design else labels
    score = score + shift * effect
    score = score.round() if design == "ties" else score
    return Scores(labels, expit(score), score >= threshold, units)


@functools.lru_cache
def truth(design: str, shift: float, threshold: float) -> tuple[float, float, float, float, float]:
    """The true value of each of COLUMNS: in each class the scores have variance 1, and the class means are ``shift``
    apart. What has no formula is measured on 100,000 patients."""
    large = draw(design.replace("half-", "").replace("half", "apart"), 100_000, shift, threshold, seed=1)
    patient_auc = float("nan")  # with images of both classes in each patient, hardly any patient is negative
    if design not in ("mixed", "rare"):
        patient_auc = metrics.measures(by_patient(large))["roc_auc"] or float("nan")
    if design in ("heavy", "ties"):
        auc, sensitivity, specificity = (metrics.measures(large)[name] or float("nan") for name in MEASURES)
        return auc, auc, patient_auc, sensitivity, specificity
    hard = HARD_SHARE if "hard" in design else 0
    auc = float((1 - hard) * norm.cdf(shift / np.sqrt(2)) + hard * 0.5)
    sensitivity = float((1 - hard) * norm.sf(threshold - shift) + hard * norm.sf(threshold))
    return auc, auc, patient_auc, sensitivity, float(norm.cdf(threshold))


def by_patient(scores: Scores) -> Scores:
    """One score per patient: the mean probability of the images."""
    images = np.bincount(scores.units)
    probabilities = np.bincount(scores.units, scores.probabilities) / images
    labels = (np.bincount(scores.units, scores.labels) > 0).astype(int)
    return Scores(labels, probabilities, probabilities >= 0.5, np.arange(len(images)))


def simulate(design: str, patients: int, runs: int, by_image: bool = False, shift: float | None = None) -> np.ndarray:
    """The value, the bounds and the truth of each of COLUMNS: float64 (runs, 5, 4), NaN where not defined.

    Parameters
    ----------
    design : str
        One of TUNED or UNTUNED.
    patients, runs : int
        How many patients a test set has, and how many sets are drawn.
    by_image : bool
        Whether images are taken as independent.
    shift : float, optional
        The distance between the class means; None for that of the design.
    """
    shift = SHIFT.get(design, 1.5) if shift is None else shift
    threshold = shift / 2
    truths = truth(design, shift, threshold)
    results = np.full((runs, len(COLUMNS), 4), np.nan)
    for run in range(runs):
        seed = FIRST_SEED + run
        scores = draw(design, patients, shift, threshold, seed)
        if by_image:
            scores = scores._replace(units=np.arange(len(scores.labels)))
        results[run, [0, 3, 4], :3] = measure_intervals(scores, MEASURES)
        if not by_image:
            results[run, 1, :3] = measure_intervals(metrics.equal_patients(scores), ("roc_auc",))
            results[run, 2, :3] = measure_intervals(by_patient(scores), ("roc_auc",))
    results[:, :, 3] = truths
    return results


def measure_intervals(scores: Scores, names: tuple[str, ...]) -> np.ndarray:
    """The value and the bounds of each measure: float64 (len(names), 3), NaN where not defined. They are those of
    metrics.metrics_with_ci, without what else it computes."""
    auc = "roc_auc" in names
    left_out = intervals.jackknife(scores, 0, auc)
    units = int(scores.units.max()) + 1
    values = intervals.weighted_measures(scores, lambda _, count: np.ones((count, units), int), 1, units, auc)
    rows = np.full((len(names), 3), np.nan)
    for row, name in zip(rows, names, strict=True):
        value = float(values[name][0])
        variance = "not defined" if np.isnan(value) else intervals.patient_variance(name, value, left_out[name], scores)
        if not isinstance(variance, str):
            row[:] = value, *intervals.interval(name, value, variance, scores)
    return rows


def coverage_and_width(results: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of COLUMNS, the share of runs whose interval contains the truth, and the mean width over the narrowest
    that could hold; NaN if not defined."""
    coverage, width = np.full((2, len(COLUMNS)), np.nan)
    for column in range(len(COLUMNS)):
        value, low, high, true = results[~np.isnan(results[:, column]).any(axis=1), column].T
        if len(value) > 1:
            coverage[column] = np.mean((low <= true) & (true <= high))
            width[column] = np.mean(high - low) / (2 * norm.ppf(0.975) * value.std())
    return coverage, width


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    args = parser.parse_args()
    print(f"coverage in % of {args.runs} runs (images taken as independent: {args.runs // 5})")
    print("and width over the narrowest that could hold")
    for kind, designs in (("tuned", TUNED), ("untuned", UNTUNED), ("images taken as independent", DESIGNS)):
        print(f"\n{kind:28}" + "".join(f"{name:>20}" for name in COLUMNS))
        for design in designs:
            for patients in PATIENTS:
                by_image = designs is DESIGNS
                results = simulate(design, patients, args.runs // 5 if by_image else args.runs, by_image)
                cells = "".join(
                    f"{'-':>20}" if np.isnan(share) else f"{100 * share:13.1f}{width:7.2f}"
                    for share, width in zip(*coverage_and_width(results), strict=True)
                )
                print(f"{design:12}{patients:3} patients    {cells}", flush=True)


if __name__ == "__main__":
    main()
