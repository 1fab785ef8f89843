"""95 % intervals over patients: all images of a patient are left out together.

The interval of the model says what this model would reach on new patients, that of the recipe what a new training would
reach on them: it adds the variance over trainings (core.evidence.seed_variance).

Images of a patient are not independent: intervals that take them as independent are far too narrow. The variance over
patients is the jackknife's: each measure is computed without each patient in turn. The interval is Wilson's score
interval, which stays within [0, 1], with the number of images for which a proportion would have this variance, and with
the quantile of Student's t instead of the normal one, as for proportions from surveys of clusters. Near 1, or 0, a
single pair of patients decides the variance: there the bound is that of the t interval on the logit scale if it is
farther.

Its degrees of freedom are the number of patients minus 1, in the set of SUPPORT with the fewest and at most
MAX_LEFT_OUT. Those of Bell and McCaffrey or from Kish's effective number are near 1 if one patient has half of all
images, because the estimated variance is then mostly that patient's. But the patient moves the measure as much as the
variance: an interval with so few degrees of freedom would be far too wide.

The paired difference of two classifiers has the jackknife's variance too, and a t interval.

References
----------
Wilson 1927, Journal of the American Statistical Association 22(158), 209-212: the score interval.
Kott 2017, Survey Methodology 43(2), "A note on Wilson coverage intervals for proportions estimated from complex
samples"; Franco, Little, Louis and Slud 2019, Journal of Survey Statistics and Methodology 7(3), 334-364: for clusters.
Efron and Stein 1981, The Annals of Statistics 9(3), 586-596: the jackknife's variance and its bias.
Kott 2001, Journal of Official Statistics 17(4), 521-526: the jackknife over groups, for many patients.
Obuchowski 1997, Biometrics 53(2), 567-578: the variance of the area under the curve over patients.
Bell and McCaffrey 2002, Survey Methodology 28(2), 169-181; Carter, Schnepel and Steigerwald 2017, Review of Economics
and Statistics 99(4), 698-709: degrees of freedom with clusters of unequal size.

The combination is ours: benchmarks/interval_coverage.py measures its coverage and its width.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from core.evidence import seed_variance
from core.evidence.seed_variance import VarianceComponent

import numpy as np
from scipy.special import expit, logit, stdtr, stdtrit

MAX_LEFT_OUT = 1000  # patients are left out one by one up to this number, and beyond it in so many groups
MAX_PAIRED = 200  # patients up to which the interaction is estimated: beyond, it is about 1 % of the variance or less
CONFIDENCE = 0.95
ALPHA = 0.05  # the level of significance: a difference with a higher p can be chance
MISSING_PROBABILITY = 0.03  # of the 5 % of intervals that may miss; the other bound misses less often
ONE_PATIENT = "it depends on one patient, or on one set of copies"
CHUNK_SIZE = 1_000_000  # images times rows of weights in memory, per core


class Scores(NamedTuple):
    """The input of all measures: N images with their probabilities."""

    labels: np.ndarray  # int64 (N,), 0 or 1
    probabilities: np.ndarray  # float64 (N,), of the positive class, in [0, 1]
    predicted: np.ndarray  # bool (N,): predicted positive
    units: np.ndarray  # int64 (N,): the patient, or component of patients and copies, numbered from 0
    leave_one_out: tuple["Scores", ...] = ()  # the same images without each network of the ensemble in turn
    weights: np.ndarray | None = None  # float64 (N,), above 0; None if all images weigh the same


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


def jackknife(scores: Scores, seed: int, auc: bool = True, superset: Scores | None = None) -> dict[str, np.ndarray]:
    """Each measure without each of the units in turn.

    With more than MAX_LEFT_OUT units, as many groups of units are left out, which ``seed`` draws.

    Parameters
    ----------
    auc : whether to compute the areas under the curves, which take most of the time
    superset : what ``scores`` are a subset of, with the same numbers of units
        Its units are left out, to combine subsets.

    Returns
    -------
    dict of (R,) float64, as ``weighted_measures``; R is the number of units, at most MAX_LEFT_OUT
    """
    population = superset or scores
    num_units = int(population.units.max()) + 1
    rows = min(num_units, MAX_LEFT_OUT)
    groups = np.arange(num_units)
    if rows < num_units:
        groups = np.random.RandomState(seed % 2**32).permutation(num_units) % rows

    def weights_of(first: int, count: int) -> np.ndarray:
        return (groups != np.arange(first, first + count)[:, None]).astype(np.int64)

    return weighted_measures(scores, weights_of, rows, max(len(population.labels), num_units), auc)


def weighted_measures(
    scores: Scores, weights_of: Callable[[int, int], np.ndarray], rows: int, size: int, auc: bool = True
) -> dict[str, np.ndarray]:
    """Each measure with ``rows`` different weights of the units.

    Parameters
    ----------
    weights_of : callable
        ``weights_of(first, count)`` returns those of ``count`` rows from ``first`` on: (count, number of units) int64.
    size : sets how many rows are computed at once; equal sizes give equal calls of ``weights_of``

    Returns
    -------
    dict of (rows,) float64
        By the name of the measure, NaN where it is not defined. With ``auc``, also ``pairs``, the number of pairs that
        roc_auc compares.
    """
    labels, units = scores.labels.astype(np.float64), scores.units
    positive, predicted = labels == 1, scores.predicted
    squared = (scores.probabilities - labels) ** 2
    cells = [positive & predicted, positive & ~predicted, ~positive & predicted, ~positive & ~predicted, squared]
    if scores.weights is not None:
        cells = [cell * scores.weights for cell in cells]
    sums_by_unit = np.column_stack([np.bincount(units, cell) for cell in cells])  # (U, 5)

    order = np.argsort(-scores.probabilities, kind="stable")
    ranked = -scores.probabilities[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))  # of each run of equal probabilities
    ranked_units, ranked_positive = units[order], positive[order]
    ranked_weights = None if scores.weights is None else scores.weights[order]

    def compute(first: int, count: int) -> dict[str, np.ndarray]:
        weights = weights_of(first, count)
        measures = _from_counts(weights[:, : len(sums_by_unit)] @ sums_by_unit)
        if auc:
            image_weights = weights.astype(np.float32)[:, ranked_units]
            if ranked_weights is not None:
                image_weights = image_weights * ranked_weights  # in float64: these are no counts
            measures |= _areas(image_weights, ranked_positive, starts)
        return measures

    step = max(1, min(rows, CHUNK_SIZE // size))
    if step >= rows:  # a small test set: starting threads would take longer
        return compute(0, rows)
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
    # In place: these arrays are the largest. The bound only prevents 0 / 0: sums of weights can be below 1.
    precision /= np.maximum(tp + fp, np.finfo(np.float32).tiny, out=fp)
    average = np.einsum("rn,rn->r", positives, precision, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        pr_auc = np.where(num_negatives > 0, average / num_positives, np.nan)
        pairs = num_positives * num_negatives
        return {"roc_auc": above / pairs, "pr_auc": pr_auc, "pairs": pairs}


def effective_sample_size(units: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The effective number of patients: (sum m)^2 / sum m^2, where m is the number of images of each patient.

    From 1 to the number of patients, or 0 without images. With ``weights``, m is the sum of the weights.

    Parameters
    ----------
    units : (N,) int64, the patient of each image, numbered from 0
    weights : (N,) float64, above 0

    References
    ----------
    Kish 1965, Survey Sampling, Wiley.
    """
    images = np.bincount(units, weights).astype(np.float64)
    return float(images.sum() ** 2 / (images**2).sum()) if len(units) else 0.0


def patient_variance(measure: str, value: float, left_out: np.ndarray, scores: Scores) -> VarianceComponent | str:
    """The variance of a measure over patients, or the reason why it can't be estimated.

    It is the jackknife's, (k - 1) / k times the sum of squared differences from ``value``, and has k - 1 degrees of
    freedom. k is the number of patients in the set of SUPPORT with the fewest, at most MAX_LEFT_OUT. For roc_auc, what
    the jackknife estimates too high is subtracted.

    Parameters
    ----------
    measure, value : a key of SUPPORT, and the measure on ``scores``
    left_out : (R,) float64, the measure without each patient
    """
    patients = _patients(measure, scores)
    if patients < 2:
        return ONE_PATIENT
    terms = min(patients, len(left_out))
    variance = float(np.nansum((left_out - value) ** 2)) * (terms - 1) / terms
    if measure == "roc_auc":
        # No more than half: with very few patients, the correction is as uncertain as the variance.
        variance -= min(_interaction(scores), variance / 2)
    if value not in (0, 1) and not variance > 1e-24:
        return "it is the same without each patient"
    return VarianceComponent(variance, terms - 1)


def _support(measure: str, scores: Scores) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Units and weights of each of the sets of images that a measure is computed from."""
    weights = scores.weights
    return [(scores.units[images], None if weights is None else weights[images]) for images in SUPPORT[measure](scores)]


def _patients(measure: str, scores: Scores) -> int:
    """The number of patients in the set of images that has the fewest."""
    return min(len(np.unique(units)) for units, _ in _support(measure, scores))


def _interaction(*score_sets: Scores) -> float:
    """The variance of an area under the curve, or of the difference of two, that comes from pairs of patients rather
    than from single patients.

    Leaving out patients counts it twice: the positive patient of a pair is left out, and so is the negative one. With
    one image per patient, the jackknife's variance minus this term is slightly above that of Bamber (1975, Journal of
    Mathematical Psychology 12(4), 387-415), which has no bias. With more than MAX_PAIRED patients, it is taken as 0.
    """
    scores = score_sets[0]
    numbers, units = np.unique(scores.units, return_inverse=True)  # a subset has few of the numbers
    if len(numbers) > MAX_PAIRED:
        return 0.0
    weights = np.ones(len(units)) if scores.weights is None else scores.weights
    shares = [np.bincount(units[side], weights[side], minlength=len(numbers)) for side in SUPPORT["roc_auc"](scores)]
    positives, negatives = (share / share.sum() for share in shares)
    above = _above(score_sets[0], units, weights)
    if len(score_sets) > 1:
        above -= _above(score_sets[1], units, weights)
    area = above.sum()
    of_positives, of_negatives = above.sum(axis=1) - positives * area, above.sum(axis=0) - negatives * area
    expected = np.outer(positives, negatives) * area
    expected += np.outer(of_positives, negatives) + np.outer(positives, of_negatives)
    return float(((above - expected) ** 2).sum())


def _above(scores: Scores, units: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """For each two units, the weight of their pairs in which the positive image ranks above the negative one, over that
    of all pairs: float64 (U, U). A tie counts half."""
    positive, num_units = scores.labels == 1, int(units.max()) + 1
    probabilities = scores.probabilities[positive]
    above = np.zeros((num_units, num_units))
    for unit in np.unique(units[~positive]):
        images = np.flatnonzero(~positive & (units == unit))
        images = images[np.argsort(scores.probabilities[images], kind="stable")]
        below = np.concatenate([[0], np.cumsum(weights[images])])
        ranks = [np.searchsorted(scores.probabilities[images], probabilities, side) for side in ("left", "right")]
        wins = (below[ranks[0]] + below[ranks[1]]) / 2
        above[:, unit] = np.bincount(units[positive], weights[positive] * wins, minlength=num_units)
    return above / (weights[positive].sum() * weights[~positive].sum())


def interval(
    measure: str, value: float, patients: VarianceComponent, scores: Scores, training: VarianceComponent | None = None
) -> tuple[float, float]:
    """The 95 % interval (low, high) of a measure.

    The images of a test set say nothing of a kind of patient that is missing from it. A kind that makes up a share of
    1 - 0.03^(1/k) of all patients is missing among k patients with a probability of 3 % (exact binomial; k is the
    effective number). The interval therefore includes at least the values that the measure would have with this share
    of MISSING_KIND patients. If the measure is 0 or 1, the interval of the model consists of these values alone.

    ``value`` is the measure on ``scores``, in [0, 1]; ``patients`` is its ``patient_variance``, and ``training`` its
    variance over trainings. With the latter, the interval is that of the recipe, otherwise that of the model.
    """
    return _bounds(measure, value, patients, _sample_size(measure, scores), training)


def _bounds(
    measure: str, value: float, patients: VarianceComponent, sample_size: float, training: VarianceComponent | None
) -> tuple[float, float]:
    """The interval of a measure with this variance over an effective number of ``sample_size`` patients."""
    present = MISSING_PROBABILITY ** (1 / sample_size)  # the least share of patients of the kinds in the test set
    worst, best = MISSING_KIND.get(measure, (0.0, 1.0))
    lowest, highest = present * value + (1 - present) * worst, present * value + (1 - present) * best
    if value in (0, 1):  # a score interval has no width: the seed variance, if any, on the plain scale
        half = _quantile(training) * np.sqrt(training.variance) if training else 0.0
        return max(0.0, min(value - half, lowest)), min(1.0, max(value + half, highest))
    total = seed_variance.combine(patients, training) if training else patients
    # Wilson: all p with |value - p| <= t sqrt(p (1 - p) / n), where a proportion of n images has the variance found.
    ratio = float(_quantile(total) ** 2 * total.variance / (value * (1 - value)))  # t^2 / n
    centre = (value + ratio / 2) / (1 + ratio)
    half = np.sqrt(ratio * value * (1 - value) + ratio**2 / 4) / (1 + ratio)
    low, high = float(centre - half), float(centre + half)
    logit_half = np.sqrt(ratio / (value * (1 - value)))
    if value <= 0.5:
        low = min(low, float(expit(logit(value) - logit_half)))
    if value >= 0.5:
        high = max(high, float(expit(logit(value) + logit_half)))
    return max(0.0, min(low, lowest)), min(1.0, max(high, highest))


def predict_width(
    measure: str, value: float, patients: VarianceComponent, scores: Scores
) -> tuple[Callable[[float, float], float], float]:
    """How the width of an interval of the model depends on the number of patients; arguments as for ``interval``.

    Returns ``width(factor, variance)``, the width with ``factor`` times as many patients, if the variance over patients
    is ``variance`` times its estimate; and the degrees of freedom of this estimate, from the effective number of
    patients: if one patient has most of the images, little is known of how much patients differ.
    """
    sample_size = _sample_size(measure, scores)

    def width(factor: float, variance: float) -> float:
        component = VarianceComponent(variance * patients.variance / factor, factor * (patients.df + 1) - 1)
        low, high = _bounds(measure, value, component, factor * sample_size, None)
        return high - low

    return width, max(sample_size - 1, 0.5)


def seed_variance_share(patients: VarianceComponent, training: VarianceComponent) -> float:
    """The share of trainings in the variance over patients and trainings, in [0, 1]."""
    total = training.variance + patients.variance
    return training.variance / total if total else 0.0


def _quantile(component: VarianceComponent) -> float:
    """The quantile of Student's t for a 95 % interval with this estimate of the variance."""
    return float(stdtrit(max(component.df, 1), (1 + CONFIDENCE) / 2))


def _sample_size(measure: str, *score_sets: Scores) -> float:
    """The effective number of patients behind a measure."""
    return min(effective_sample_size(*support) for scores in score_sets for support in _support(measure, scores))


def difference(
    measure: str,
    values: tuple[float, float],
    left_out: np.ndarray,
    pair: tuple[Scores, Scores],
    trainings: tuple[VarianceComponent, ...] = (),
    within_folds: bool = False,
) -> tuple[float, float, float] | str:
    """The 95 % interval of a paired difference (second minus first) and its two-sided p, or why there are none.

    The interval is a t interval, cut at -1 and 1. If the difference is the same without each patient, p is that of a
    sign test on the effective number of patients.

    Parameters
    ----------
    values : the measure of both classifiers
    left_out : (R,) float64, their difference without each patient
    pair : both classifiers on the same images
    trainings : variances over trainings, minus interactions; with them, recipes are compared, otherwise models
    within_folds : whether the areas under the curves compare images of the same fold only
    """
    if min(_patients(measure, scores) for scores in pair) < 2:
        return ONE_PATIENT
    observed = values[1] - values[0]
    patients = _difference_variance(measure, left_out - observed, pair)
    if measure == "roc_auc" and not within_folds:
        patients = patients._replace(variance=patients.variance - min(_interaction(*pair), patients.variance / 2))
    total = seed_variance.combine(patients, *trainings)
    if not total.variance > 1e-24:
        return observed, observed, 1.0 if observed == 0 else min(1.0, 2 * 0.5 ** _sample_size(measure, *pair))
    standard_error = np.sqrt(total.variance)
    half, p = _quantile(total) * standard_error, 2 * stdtr(max(total.df, 1), -abs(observed) / standard_error)
    return max(-1.0, float(observed - half)), min(1.0, float(observed + half)), float(p)


def _difference_variance(measure: str, effects: np.ndarray, pair: tuple[Scores, Scores]) -> VarianceComponent:
    """The jackknife's variance of a difference, from how much each patient changes it when left out: float64 (R,).

    Where no patient has images of both classes, the patients of each class are a sample, so the jackknife is stratified
    and the degrees of freedom are Welch's (1938, Biometrika 29, 350-362). For roc_auc these are doubled: the patients
    whom two models score most differently increase the difference and its variance alike, and the ratio to the standard
    error has lighter tails than Student's t. The factor was chosen by simulation (benchmarks/comparison.py).
    """
    squares = np.nan_to_num(effects) ** 2
    sides = [np.unique(units) for units, _ in _support(measure, pair[0])]
    if len(sides) == 1:
        samples = [(squares.sum(), min(len(effects), *(_patients(measure, scores) for scores in pair)))]
    elif len(effects) <= pair[0].units.max() or np.isin(sides[0], sides[1]).any():
        samples = [(squares.sum(), len(effects))]  # patients are left out in groups, or have images of both classes
    else:
        samples = [(squares[side].sum(), len(side)) for side in sides]
    components = [VarianceComponent(float(total) * (count - 1) / count, count - 1) for total, count in samples]
    variance, df = seed_variance.satterthwaite(*components)
    return VarianceComponent(variance, 2 * df if measure == "roc_auc" and len(samples) > 1 else df)


def above_chance(auc: dict[str, Any]) -> bool:
    """Whether the interval of a ROC AUC is above 0.5."""
    return (auc["ci_low"] or 0) > 0.5
