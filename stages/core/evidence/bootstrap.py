"""95 % intervals from a bootstrap over patients: a resample contains all images of each drawn patient.

The interval of the model says what this model would reach on new patients, that of the recipe what a new training would
reach on them: it adds the variance over trainings (core.evidence.seed_variance).

Images of a patient are not independent, so a bootstrap over images gives intervals that are far too narrow. With few
patients, percentiles of the resamples are too narrow as well. The interval is therefore a t interval on the logit
scale, with the standard error of the resamples and the degrees of freedom of ``effective_sample_size``.

For the correction of standard error and quantile see Hesterberg 2015, The American Statistician 69(4), 371-386; for
degrees of freedom from an effective number of clusters see Carter, Schnepel and Steigerwald 2017, Review of Economics
and Statistics 99(4), 698-709. The combination is ours: benchmarks/interval_coverage.py measures its coverage.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from core.evidence import seed_variance
from core.evidence.seed_variance import VarianceComponent

import numpy as np
from scipy.special import expit, logit, stdtr, stdtrit

RESAMPLES = 2000
CONFIDENCE = 0.95
CHUNK_SIZE = 1_000_000  # images times resamples in memory, per core


class Scores(NamedTuple):
    """The input of all measures: N images with their probabilities."""

    labels: np.ndarray  # int64 (N,), 0 or 1
    probabilities: np.ndarray  # float64 (N,), of the positive class, in [0, 1]
    predicted: np.ndarray  # bool (N,): predicted positive
    units: np.ndarray  # int64 (N,): the patient, or component of patients and copies, numbered from 0
    leave_one_out: tuple["Scores", ...] = ()  # the same images without each network of the ensemble in turn


# The sets of images that a measure is computed from. The set with the fewest patients limits its interval.
SUPPORT: dict[str, Callable[[Scores], list[np.ndarray]]] = {
    "accuracy": lambda s: [np.ones(len(s.labels), dtype=bool)],
    "balanced_accuracy": lambda s: [s.labels == 1, s.labels == 0],
    "sensitivity": lambda s: [s.labels == 1],
    "specificity": lambda s: [s.labels == 0],
    "precision": lambda s: [s.predicted],
    "f1": lambda s: [(s.labels == 1) | s.predicted],
    "roc_auc": lambda s: [s.labels == 1, s.labels == 0],
    "pr_auc": lambda s: [s.labels == 1, s.labels == 0],
    "brier": lambda s: [np.ones(len(s.labels), dtype=bool)],
}


# The lowest and highest value of a measure on patients of a kind that the test set lacks. The worse of the two is
# chance for the measures listed here, and 0 (all wrong) for all others.
MISSING_KIND = {"balanced_accuracy": (0.5, 1.0), "roc_auc": (0.5, 1.0), "brier": (0.0, 0.25)}


def resample(scores: Scores, seed: int, auc: bool = True, superset: Scores | None = None) -> dict[str, np.ndarray]:
    """Each measure on resamples of the units.

    Equal labels, units and seed give equal resamples, so that two classifiers can be compared on each resample.

    Parameters
    ----------
    scores : Scores
        At least one image.
    auc : bool
        Whether to compute the areas under the curves, which take most of the time.
    superset : Scores, optional
        What ``scores`` are a subset of, with the same numbers of units: its units are drawn, to compare subsets.

    Returns
    -------
    dict of float64 (RESAMPLES,)
        By the name of the measure; NaN where it is not defined.
    """
    population = superset or scores
    num_units = int(population.units.max()) + 1

    def draw(first: int, count: int) -> np.ndarray:
        random = np.random.RandomState([seed % 2**32, first])
        drawn = random.randint(num_units, size=(count, num_units), dtype=np.int32)
        drawn = drawn + np.arange(count)[:, None] * num_units
        return np.bincount(drawn.ravel(), minlength=count * num_units).reshape(count, num_units)

    return weighted_measures(scores, draw, RESAMPLES, max(len(population.labels), num_units), auc)


def weighted_measures(
    scores: Scores, draw: Callable[[int, int], np.ndarray], rows: int, size: int, auc: bool = True
) -> dict[str, np.ndarray]:
    """Each measure with ``rows`` different weights of the units.

    Parameters
    ----------
    draw : callable
        ``draw(first, count)`` returns the weights of ``count`` rows from ``first`` on: int (count, number of units).
    size : int
        Sets how many rows are computed at once; equal sizes give equal calls of ``draw``.

    Returns
    -------
    dict of float64 (rows,)
        As ``resample``. With ``auc``, also ``pairs``, the number of pairs that roc_auc compares.
    """
    labels, units = scores.labels.astype(np.float64), scores.units
    positive, predicted = labels == 1, scores.predicted
    squared = (scores.probabilities - labels) ** 2
    cells = [positive & predicted, positive & ~predicted, ~positive & predicted, ~positive & ~predicted, squared]
    sums_by_unit = np.column_stack([np.bincount(units, cell) for cell in cells])  # (U, 5)

    order = np.argsort(-scores.probabilities, kind="stable")
    ranked = -scores.probabilities[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))  # of each run of equal probabilities
    ranked_units, ranked_positive = units[order], positive[order]

    def compute(first: int, count: int) -> dict[str, np.ndarray]:
        weights = draw(first, count)
        measures = _from_counts(weights[:, : len(sums_by_unit)] @ sums_by_unit)
        if auc:
            image_weights = weights.astype(np.float32)[:, ranked_units]
            measures |= _areas(image_weights, ranked_positive, starts)
        return measures

    step = max(1, min(rows, CHUNK_SIZE // size))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        chunks = list(pool.map(lambda first: compute(first, min(step, rows - first)), range(0, rows, step)))
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _from_counts(sums: np.ndarray) -> dict[str, np.ndarray]:
    """The measures that follow from the confusion matrix and the sum of squared errors: ``sums`` (rows, 5)."""
    tp, fn, fp, tn, squared = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
        f1 = 2 * tp / (2 * tp + fp + fn)
        total = tp + fn + fp + tn
        return {
            "accuracy": (tp + tn) / total,
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "sensitivity": sensitivity,
            "specificity": specificity,
            "precision": tp / (tp + fp),
            "f1": np.where(tp + fn > 0, f1, np.nan),
            "brier": squared / total,
        }


def _areas(weights: np.ndarray, positive: np.ndarray, starts: np.ndarray) -> dict[str, np.ndarray]:
    """Areas under the curves for image weights (rows, N), sorted by probability, highest first.

    ``starts`` are the positions at which the probability changes. Counts in float32 are exact up to 16 million images.
    """
    positives, negatives = weights * positive, weights * ~positive
    if len(starts) < len(positive):
        positives = np.add.reduceat(positives, starts, axis=1)
        negatives = np.add.reduceat(negatives, starts, axis=1)
    tp, fp = np.cumsum(positives, axis=1), np.cumsum(negatives, axis=1)
    num_positives, num_negatives = tp[:, -1].astype(np.float64), fp[:, -1].astype(np.float64)
    # Pairs in which the positive ranks above the negative; a tie counts half (Mann-Whitney).
    above = np.einsum("rn,rn->r", negatives, tp - positives / 2, dtype=np.float64)
    precision = tp
    precision /= np.maximum(tp + fp, 1, out=fp)  # in place: these arrays are the largest
    average = np.einsum("rn,rn->r", positives, precision, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        pr_auc = np.where(num_negatives > 0, average / num_positives, np.nan)
        pairs = num_positives * num_negatives
        return {"roc_auc": above / pairs, "pr_auc": pr_auc, "pairs": pairs}


def effective_sample_size(units: np.ndarray) -> float:
    """The effective number of patients: (sum m)^2 / sum m^2, where m is the number of images of each patient.

    From 1 to the number of patients, or 0 without images. See Kish 1965, Survey Sampling, Wiley.
    """
    images = np.bincount(units).astype(np.float64)
    return float(images.sum() ** 2 / (images**2).sum()) if len(units) else 0.0


def interval(
    measure: str, value: float, resampled: np.ndarray, scores: Scores, training: VarianceComponent | None = None
) -> tuple[float, float] | str:
    """The 95 % interval of a measure, or the reason why there is none.

    Resamples can't contain a kind of patient that is missing from the test set. A kind that makes up a share of
    1 - 0.025^(1/k) of all patients is missing among k patients with a probability of 2.5 % (exact binomial; k is the
    effective number). The interval therefore includes at least the values that the measure would have with this share
    of MISSING_KIND patients. If the measure is 0 or 1, the interval consists of these values alone.

    Parameters
    ----------
    measure : str
        A key of SUPPORT.
    value : float
        The measure on ``scores``, in [0, 1].
    resampled : float64 (RESAMPLES,)
        The measure on each resample of ``scores``.
    training : VarianceComponent, optional
        The variance over trainings. With it, the interval is that of the recipe, otherwise that of the model.
    """
    limit = _sample_size_and_df(measure, (scores,))
    if isinstance(limit, str):
        return limit
    sample_size, df = limit
    patients = patient_variance(resampled, df)
    if value not in (0, 1) and not patients.variance > 1e-24:
        return "all resamples agree"
    return _bounds(measure, value, patients, sample_size, training)


def _bounds(
    measure: str, value: float, patients: VarianceComponent, sample_size: float, training: VarianceComponent | None
) -> tuple[float, float]:
    """The interval of a measure with this variance over an effective number of ``sample_size`` patients."""
    present = ((1 - CONFIDENCE) / 2) ** (1 / sample_size)  # the least share of patients of the kinds in the test set
    worst, best = MISSING_KIND.get(measure, (0.0, 1.0))
    lowest, highest = present * value + (1 - present) * worst, present * value + (1 - present) * best
    if value in (0, 1):  # no logit: the seed variance, if any, on the plain scale
        half = _half_width(training) if training else 0.0
        return max(0.0, min(value - half, lowest)), min(1.0, max(value + half, highest))
    half = _half_width(seed_variance.combine(patients, training) if training else patients) / (value * (1 - value))
    return min(float(expit(logit(value) - half)), lowest), max(float(expit(logit(value) + half)), highest)


def predict_width(
    measure: str, value: float, resampled: np.ndarray, scores: Scores
) -> tuple[Callable[[float, float], float], float]:
    """How the width of an interval of the model depends on the number of patients; arguments as for ``interval``, for
    a measure that has one.

    Returns
    -------
    width : callable
        ``width(patients, variance)`` is the width with ``patients`` times as many patients, if the variance over
        patients is ``variance`` times its estimate.
    df : float
        The degrees of freedom of this estimate.
    """
    limit = _sample_size_and_df(measure, (scores,))
    assert not isinstance(limit, str)
    sample_size, df = limit
    estimate = patient_variance(resampled, df).variance

    def width(patients: float, variance: float) -> float:
        component = VarianceComponent(variance * estimate / patients, patients * sample_size - 1)
        low, high = _bounds(measure, value, component, patients * sample_size, None)
        return high - low

    return width, df


def seed_variance_share(measure: str, resampled: np.ndarray, scores: Scores, training: VarianceComponent) -> float:
    """The share of trainings in the variance over patients and trainings, in [0, 1]; arguments as for ``interval``, for
    a measure that has one."""
    limit = _sample_size_and_df(measure, (scores,))
    assert not isinstance(limit, str)
    total = training.variance + patient_variance(resampled, limit[1]).variance
    return training.variance / total if total else 0.0


def patient_variance(resampled: np.ndarray, df: float) -> VarianceComponent:
    """The variance of a measure over patients, from its resamples: float64 (RESAMPLES,), with NaN where not defined."""
    return VarianceComponent(float(np.nanvar(resampled, ddof=1)) * (df + 1) / df, df)


def _half_width(component: VarianceComponent) -> float:
    """Half of the 95 % interval of a measure with this variance, on its own scale."""
    return float(stdtrit(max(component.df, 1), (1 + CONFIDENCE) / 2) * np.sqrt(component.variance))


def _sample_size_and_df(measure: str, score_sets: tuple[Scores, ...]) -> tuple[float, float] | str:
    """The effective number of patients behind a measure and the degrees of freedom, or why there is no interval."""
    support = [scores.units[images] for scores in score_sets for images in SUPPORT[measure](scores)]
    if min(len(np.unique(units)) for units in support) < 2:
        return "it depends on one patient, or on one set of copies"
    sample_size = min(effective_sample_size(units) for units in support)
    return sample_size, max(sample_size - 1, 0.5)


def difference(
    values: tuple[float, float],
    resampled: np.ndarray,
    measure: str,
    pair: tuple[Scores, Scores],
    trainings: tuple[VarianceComponent, ...] = (),
) -> tuple[float, float, float] | str:
    """The 95 % interval of a paired difference (second minus first) and its two-sided p, or why there are none.

    The interval is the t interval of ``interval``, but on the plain scale. If all resamples give the same difference, p
    is that of a sign test on the effective number of patients.

    Parameters
    ----------
    values : tuple of float
        The measure of both classifiers.
    resampled : float64 (RESAMPLES,)
        The difference on each resample.
    pair : tuple of Scores
        The same images, as both classifiers score them.
    trainings : tuple of VarianceComponent
        The variance of each measure over trainings. With it, recipes are compared, otherwise models.
    """
    limit = _sample_size_and_df(measure, pair)
    if isinstance(limit, str):
        return limit
    sample_size, df = limit
    total = seed_variance.combine(patient_variance(resampled, df), *trainings)
    observed = values[1] - values[0]
    if not total.variance > 1e-24:
        return observed, observed, 1.0 if observed == 0 else min(1.0, 2 * 0.5**sample_size)
    df, standard_error = max(total.df, 1), np.sqrt(total.variance)
    half = float(stdtrit(df, (1 + CONFIDENCE) / 2)) * standard_error
    return observed - half, observed + half, float(2 * stdtr(df, -abs(observed) / standard_error))
