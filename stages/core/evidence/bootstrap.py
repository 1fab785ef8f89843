"""95 % intervals from a bootstrap over patients: a resample contains all images of each drawn patient.

There are two. That of the model says what this model would reach on new patients. That of the recipe says what it would
reach on new patients after a new training: it adds the variance over trainings (core.evidence.luck).

Images of a patient are not independent, so a bootstrap over images gives intervals that are far too narrow. With few
patients, percentiles of the resamples are too narrow as well. The interval is therefore a t interval on the logit
scale. Its standard error comes from the resamples. Its degrees of freedom come from the effective number of patients
(Kish: (sum m)^2 / sum m^2, where m is the number of images of each patient).

For the correction of standard error and quantile see Hesterberg 2015, The American Statistician 69(4), 371-386; for
degrees of freedom from an effective number of clusters see Carter, Schnepel and Steigerwald 2017, Review of Economics
and Statistics 99(4), 698-709. The combination is ours: benchmarks/interval_coverage.py measures its coverage.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from core.evidence import luck
from core.evidence.luck import Part

import numpy as np
from scipy.special import expit, logit, stdtr, stdtrit

RESAMPLES = 2000
LEVEL = 0.95
AT_ONCE = 1_000_000  # images times resamples in memory, per core


class Scores(NamedTuple):
    """The input of all measures: labels (N,) 0 or 1, probabilities (N,) in [0, 1], called (N,) bool (predicted
    positive), and units (N,), the patient (or cluster) of each image, numbered from 0. ``fewer``: the same images,
    scored without the first member of the ensemble, without the second, and so on; empty for one network."""

    labels: np.ndarray
    probabilities: np.ndarray
    called: np.ndarray
    units: np.ndarray
    fewer: tuple["Scores", ...] = ()


# The sets of images that a measure is computed from. The set with the fewest patients limits its interval.
RESTS_ON: dict[str, Callable[[Scores], list[np.ndarray]]] = {
    "accuracy": lambda s: [np.ones(len(s.labels), dtype=bool)],
    "balanced_accuracy": lambda s: [s.labels == 1, s.labels == 0],
    "sensitivity": lambda s: [s.labels == 1],
    "specificity": lambda s: [s.labels == 0],
    "precision": lambda s: [s.called],
    "f1": lambda s: [(s.labels == 1) | s.called],
    "roc_auc": lambda s: [s.labels == 1, s.labels == 0],
    "pr_auc": lambda s: [s.labels == 1, s.labels == 0],
    "brier": lambda s: [np.ones(len(s.labels), dtype=bool)],
}


# The lowest and highest value of a measure on patients of a kind that the test set lacks. The worse of the two is
# chance for the measures listed here, and 0 (all wrong) for all others.
UNLIKE = {"balanced_accuracy": (0.5, 1.0), "roc_auc": (0.5, 1.0), "brier": (0.0, 0.25)}


def resample(scores: Scores, seed: int, ranks: bool = True, of: Scores | None = None) -> dict[str, np.ndarray]:
    """Each measure on RESAMPLES resamples of the units: float64 (RESAMPLES,), NaN if it is not defined.

    Equal labels, units and seed give equal resamples, so that two classifiers can be compared on each resample.
    ``ranks=False`` leaves out the areas under the curves, which take most of the time. ``of``: the scores that these
    are a part of, with the same numbers of units; their units are drawn, so that parts can be compared, too.
    """
    whole = of or scores
    count = int(whole.units.max()) + 1

    def draw(first: int, many: int) -> np.ndarray:
        random = np.random.RandomState([seed % 2**32, first])
        drawn = random.randint(count, size=(many, count), dtype=np.int32) + np.arange(many)[:, None] * count
        return np.bincount(drawn.ravel(), minlength=many * count).reshape(many, count)

    return weighted(scores, draw, RESAMPLES, max(len(whole.labels), count), ranks)


def weighted(
    scores: Scores, draw: Callable[[int, int], np.ndarray], rows: int, size: int, ranks: bool = True
) -> dict[str, np.ndarray]:
    """Each measure with ``rows`` different weights of the units: float64 (rows,), NaN if it is not defined. Also
    ``pairs``, the number of pairs that roc_auc compares.

    ``draw(first, many)`` returns the weights of ``many`` rows from ``first`` on: whole numbers (many, units). ``size``
    sets how many rows are computed at once; equal sizes give equal calls of ``draw``.
    """
    labels, units = scores.labels.astype(np.float64), scores.units
    positive, called = labels == 1, scores.called
    squared = (scores.probabilities - labels) ** 2
    cells = [positive & called, positive & ~called, ~positive & called, ~positive & ~called, squared]
    by_unit = np.column_stack([np.bincount(units, cell) for cell in cells])  # (units, 5)

    order = np.argsort(-scores.probabilities, kind="stable")
    ranked = -scores.probabilities[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))  # of each run of equal probabilities
    unit_of, positive_of = units[order], positive[order]

    def chunk(first: int, many: int) -> dict[str, np.ndarray]:
        times = draw(first, many)
        found = _counted(times[:, : len(by_unit)] @ by_unit)
        if ranks:
            weight = times.astype(np.float32)[:, unit_of]
            found |= _ranked(weight, positive_of, starts)
        return found

    each = max(1, min(rows, AT_ONCE // size))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        chunks = list(pool.map(lambda first: chunk(first, min(each, rows - first)), range(0, rows, each)))
    return {name: np.concatenate([part[name] for part in chunks]) for name in chunks[0]}


def _counted(sums: np.ndarray) -> dict[str, np.ndarray]:
    hits, misses, false_alarms, passed, squared = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity, specificity = hits / (hits + misses), passed / (passed + false_alarms)
        f1 = 2 * hits / (2 * hits + false_alarms + misses)
        total = hits + misses + false_alarms + passed
        return {
            "accuracy": (hits + passed) / total,
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "sensitivity": sensitivity,
            "specificity": specificity,
            "precision": hits / (hits + false_alarms),
            "f1": np.where(hits + misses > 0, f1, np.nan),
            "brier": squared / total,
        }


def _ranked(weight: np.ndarray, positive: np.ndarray, starts: np.ndarray) -> dict[str, np.ndarray]:
    """Areas under the curves for image weights ``weight`` (R, N), sorted by probability, highest first.

    ``starts`` are the positions at which the probability changes. Counts in float32 are exact up to 16 million images.
    """
    good, bad = weight * positive, weight * ~positive
    if len(starts) < len(positive):
        good, bad = np.add.reduceat(good, starts, axis=1), np.add.reduceat(bad, starts, axis=1)
    hits, false_alarms = np.cumsum(good, axis=1), np.cumsum(bad, axis=1)
    positives, negatives = hits[:, -1].astype(np.float64), false_alarms[:, -1].astype(np.float64)
    # Pairs in which the positive ranks above the negative; a tie counts half (Mann-Whitney).
    above = np.einsum("rn,rn->r", bad, hits - good / 2, dtype=np.float64)
    hits /= np.maximum(hits + false_alarms, 1, out=false_alarms)
    precise = np.einsum("rn,rn->r", good, hits, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        pr_auc = np.where(negatives > 0, precise / positives, np.nan)
        return {"roc_auc": above / (positives * negatives), "pr_auc": pr_auc, "pairs": positives * negatives}


def effective(units: np.ndarray) -> float:
    """Effective number of patients (Kish): (sum m)^2 / sum m^2, where m is the number of images of each patient."""
    images = np.bincount(units).astype(np.float64)
    return float(images.sum() ** 2 / (images**2).sum()) if len(units) else 0.0


def interval(
    measure: str, value: float, resampled: np.ndarray, scores: Scores, training: Part | None = None
) -> tuple[float, float] | str:
    """The 95 % interval of a measure in [0, 1], or the reason why there is none. With the variance over trainings, it
    is the interval of the recipe, otherwise that of the model.

    Resamples can't contain a kind of patient that is missing from the test set. A kind that makes up a share of
    1 - 0.025^(1/k) of all patients is missing among k patients with a probability of 2.5 % (exact binomial; k is the
    effective number). The interval therefore includes at least the values that the measure would have with this share
    of UNLIKE patients. If the measure is 0 or 1, the interval consists of these values alone.
    """
    found = _limit(measure, (scores,))
    if isinstance(found, str):
        return found
    count, freedom = found
    patients = over_patients(resampled, freedom)
    if value not in (0, 1) and not patients.variance > 1e-24:
        return "all resamples agree"
    return _bounds(measure, value, patients, count, training)


def _bounds(measure: str, value: float, patients: Part, count: float, training: Part | None) -> tuple[float, float]:
    """The interval of a measure with this variance over patients, of whom there are effectively ``count``."""
    alike = ((1 - LEVEL) / 2) ** (1 / count)
    worst, best = UNLIKE.get(measure, (0.0, 1.0))
    least, most = alike * value + (1 - alike) * worst, alike * value + (1 - alike) * best
    if value in (0, 1):  # no logit: the luck of the training, if any, on the plain scale
        half = _half(training) if training else 0.0
        return max(0.0, min(value - half, least)), min(1.0, max(value + half, most))
    half = _half(luck.together(patients, training) if training else patients) / (value * (1 - value))
    return min(float(expit(logit(value) - half)), least), max(float(expit(logit(value) + half)), most)


def foreseen(
    measure: str, value: float, resampled: np.ndarray, scores: Scores
) -> tuple[Callable[[float, float], float], float]:
    """The width of the interval of a measure that has one, on ``times`` as many patients, whose variance is ``wide``
    times what it seems: a function of the two. Also the degrees of freedom of the variance."""
    found = _limit(measure, (scores,))
    assert not isinstance(found, str)
    count, freedom = found
    variance = over_patients(resampled, freedom).variance

    def width(times: float, wide: float) -> float:
        patients = Part(wide * variance / times, times * count - 1)
        low, high = _bounds(measure, value, patients, times * count, None)
        return high - low

    return width, freedom


def luck_share(measure: str, resampled: np.ndarray, scores: Scores, training: Part) -> float:
    """The share of trainings in the variance over patients and trainings, for a measure that has an interval."""
    limit = _limit(measure, (scores,))
    assert not isinstance(limit, str)
    both = training.variance + over_patients(resampled, limit[1]).variance
    return training.variance / both if both else 0.0


def over_patients(resampled: np.ndarray, freedom: float) -> Part:
    """The variance of a figure over patients, from its resamples."""
    return Part(float(np.nanvar(resampled, ddof=1)) * (freedom + 1) / freedom, freedom)


def _half(part: Part) -> float:
    """Half of the 95 % interval of a figure with this variance, on its own scale."""
    return float(stdtrit(max(part.freedom, 1), (1 + LEVEL) / 2) * np.sqrt(part.variance))


def _limit(measure: str, both: tuple[Scores, ...]) -> tuple[float, float] | str:
    """The effective number of patients behind a measure and the degrees of freedom, or why there is no interval."""
    sets = [scores.units[images] for scores in both for images in RESTS_ON[measure](scores)]
    if min(len(np.unique(units)) for units in sets) < 2:
        return "it depends on one patient, or on one set of copies"
    patients = min(effective(units) for units in sets)
    return patients, max(patients - 1, 0.5)


def difference(
    values: tuple[float, float],
    resampled: np.ndarray,
    measure: str,
    both: tuple[Scores, Scores],
    trainings: tuple[Part, ...] = (),
) -> tuple[float, float, float] | str:
    """The 95 % interval of a paired difference (second minus first) and its two-sided p, or why there are none.

    ``resampled`` is the difference on each resample. With the variance of each figure over ``trainings``, it compares
    recipes, otherwise models. The interval is the t interval of ``interval``, but on the plain scale. If all resamples
    give the same difference, p is that of a sign test on the effective number of patients.
    """
    limit = _limit(measure, both)
    if isinstance(limit, str):
        return limit
    patients, freedom = limit
    whole = luck.together(over_patients(resampled, freedom), *trainings)
    found = values[1] - values[0]
    if not whole.variance > 1e-24:
        return found, found, 1.0 if found == 0 else min(1.0, 2 * 0.5**patients)
    freedom, spread = max(whole.freedom, 1), np.sqrt(whole.variance)
    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * spread
    return found - half, found + half, float(2 * stdtr(freedom, -abs(found) / spread))
