"""Calibration line, net benefit and points of the ROC curve, with 95 % intervals over patients; likely wrong labels.

The variance over patients is the jackknife's to first order: how much a figure changes without each patient follows
from its derivatives, so that neither a threshold nor a line is fitted again for each patient. The intervals are those
of the model; they do not contain the seed variance. benchmarks/utility_coverage.py measures their coverage.

References
----------
Cox 1958, Biometrika 45(3/4), 562-565; Van Calster et al. 2019, BMC Medicine 17, 230: calibration slope and
calibration-in-the-large.
Bell and McCaffrey 2002, Survey Methodology 28(2), 169-181: the jackknife of a regression over clusters.
Vickers and Elkin 2006, Medical Decision Making 26(6), 565-574: net benefit.
Woodruff 1952, Journal of the American Statistical Association 47(260), 635-646: the variance of a quantile.
Platt, Hanley and Yang 2000, Statistics in Medicine 19(3), 313-322; Zhou and Qin 2005, Statistics in Medicine 24(3),
465-477: sensitivity at a fixed specificity.
Northcutt, Jiang and Chuang 2021, Journal of Artificial Intelligence Research 70, 1373-1411, section 3.1: the confident
joint, which finds wrong labels.
"""

from typing import Any

from core.evidence import calibration, intervals, metrics
from core.evidence.intervals import Scores
from core.evidence.seed_variance import VarianceComponent

import numpy as np
import pandas as pd
from scipy.special import expit, stdtrit

WRONG_LABELS = ["file", "patient", "label", "probability"]  # columns of the list of likely wrong labels
THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.5)  # at which the details have the net benefit
ROUNDING = 1e-16  # a variance up to this is that of rounding errors: no patient changes the figure
# Why there is no figure or no interval. They are written into the details, so they are here and not in the messages.
ONE_CLASS = "a class is missing"
ONE_PATIENT = "no interval: a class has one patient, or one set of copies"
SEPARATED = "the probabilities separate the classes, or are all equal"
SAME = "no interval: it is the same without each patient"


def summarise(scores: Scores) -> dict[str, Any]:
    """The blocks of the details on the non-leaking test images; each figure is {value, ci_low, ci_high}, None with a
    ``reason`` where not defined.

    Returns
    -------
    dict
        ``calibration_line``: the ``slope`` of the labels' logit on that of the probabilities, 1 if calibrated, and the
        intercept at slope 1 (``in_the_large``), 0 if calibrated. ``net_benefit``: by threshold, that of the ``model``,
        of calling all images positive (``all``), and their ``difference``. ``roc_points``: the sensitivity at each
        specificity of metrics.POINTS and the reverse, at thresholds chosen on these images.
    """
    lines = {name: calibration_line(scores, name == "slope") for name in ("slope", "in_the_large")}
    benefits = {f"{threshold:g}": _net_benefits(scores, threshold) for threshold in THRESHOLDS}
    points = {
        f"{fixed}_{100 * goal:.0f}": roc_point(scores, fixed, goal)
        for fixed in ("specificity", "sensitivity")
        for goal in metrics.POINTS
    }
    return {"calibration_line": lines, "net_benefit": benefits, "roc_points": points}


def calibration_line(scores: Scores, slope: bool) -> dict[str, Any]:
    """The slope of the logistic regression of the labels on the logits; or its intercept, with a slope of 1.

    A small test set can miss a kind of patients (see intervals.interval). The interval of the slope includes the slope
    that the patients would have with a share of such patients whose labels do not depend on the probabilities.

    Returns
    -------
    dict
        ``value``, ``ci_low`` and ``ci_high``, and the ``reason`` if one of them is None.
    """
    labels, logits = scores.labels, calibration.logits(scores.probabilities)
    positive, negative = logits[labels == 1], logits[labels == 0]
    if not len(positive) or not len(negative):
        return _undefined(ONE_CLASS)
    if slope and (positive.min() >= negative.max() or negative.min() >= positive.max()):
        return _undefined(SEPARATED)
    ones = np.ones_like(logits)
    design, offset = (np.column_stack([ones, logits]), 0 * logits) if slope else (ones[:, None], logits)
    coefficients = calibration.fit_logistic(labels, design, offset)
    mean = expit(offset + design @ coefficients)

    def by_unit(values: np.ndarray) -> np.ndarray:
        return np.bincount(scores.units, values)

    columns = range(design.shape[1])
    gradient = np.stack([by_unit((labels - mean) * design[:, i]) for i in columns], axis=-1)
    hessian = np.stack([[by_unit(mean * (1 - mean) * design[:, i] * design[:, j]) for i in columns] for j in columns])
    others = (hessian.sum(axis=-1, keepdims=True) - hessian).transpose(2, 0, 1)
    effects = (np.linalg.pinv(others) @ gradient[..., None])[:, -1, 0]
    entry = _t_interval(float(coefficients[-1]), effects, scores)
    if slope and entry["ci_low"] is not None:
        classes = [scores.units[labels == label] for label in (0, 1)]
        present = intervals.MISSING_PROBABILITY ** (1 / min(map(intervals.effective_sample_size, classes)))
        diluted = calibration.fit_logistic(present * labels + (1 - present) * labels.mean(), design, offset)
        entry["ci_low"] = min(entry["ci_low"], float(diluted[-1]))
    return entry


def net_benefit(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """What each image adds to the net benefit of calling those from ``threshold`` on positive.

    1 for a true positive, minus the odds of the threshold for a false one. The net benefit is the mean.

    Parameters
    ----------
    labels : (N,) int64, 0 or 1
    probabilities : (N,) float64, in [0, 1]

    Returns
    -------
    (N,) float64
    """
    return np.where(labels == 1, 1, -threshold / (1 - threshold)) * (probabilities >= threshold)


def _net_benefits(scores: Scores, threshold: float) -> dict[str, dict[str, Any]]:
    if not len(scores.labels):
        return {name: _undefined(ONE_CLASS) for name in ("model", "all", "difference")}
    model = net_benefit(scores.labels, scores.probabilities, threshold)
    every = net_benefit(scores.labels, np.ones_like(scores.probabilities), threshold)
    images = np.ones(len(model), dtype=bool)
    return {
        name: _t_interval(float(values.mean()), _without_patients(scores, images, values), scores)
        for name, values in (("model", model), ("all", every), ("difference", model - every))
    }


def roc_point(scores: Scores, fixed: str, goal: float) -> dict[str, Any]:
    """The sensitivity at the lowest threshold with a specificity of at least ``goal``, or the specificity at the
    highest threshold with such a sensitivity. The variance includes the choice of the threshold.

    Parameters
    ----------
    fixed : {"specificity", "sensitivity"}, the one that is at least ``goal``
    goal : in (0, 1)

    Returns
    -------
    dict, as ``calibration_line``
    """
    if len(np.unique(scores.labels)) < 2:
        return _undefined(ONE_CLASS)
    sign, label = (1, 1) if fixed == "specificity" else (-1, 0)
    measured, limiting = scores.labels == label, scores.labels != label
    values = sign * scores.probabilities

    def above(level: float) -> "tuple[float, np.ndarray]":
        cut = np.quantile(values[limiting], np.clip(level - 1e-12, 0, 1), method="inverted_cdf")
        return float((values[measured] > cut).mean()), values > cut

    value, passed = above(goal)
    change = _without_patients(scores, measured, passed)
    of_limit = _without_patients(scores, limiting, ~passed)
    spread = 2 * np.sqrt(_variance(of_limit, scores).variance)
    low, high = max(goal - spread, 0), min(goal + spread, 1)
    # The slope of the curve, over the range in which the threshold varies (Woodruff).
    slope = (above(low)[0] - above(high)[0]) / (high - low) if high > low else 0
    if _patients(scores) < 2:
        return {"value": value, "ci_low": None, "ci_high": None, "reason": ONE_PATIENT}
    variance = _variance(change + slope * of_limit, scores)
    ci_low, ci_high = intervals.interval("pr_auc", value, variance, scores)  # pr_auc rests on both classes, too
    return {"value": value, "ci_low": ci_low, "ci_high": ci_high}


def _without_patients(scores: Scores, images: np.ndarray, values: np.ndarray) -> np.ndarray:
    """How much the mean of ``values`` (N,) over ``images``, bool (N,), is lower without each unit: float64 (U,)."""
    units, size = scores.units[images], int(scores.units.max()) + 1
    sums = np.bincount(units, values[images] - values[images].mean(), size)
    return sums / np.maximum(images.sum() - np.bincount(units, minlength=size), 1)


def _patients(scores: Scores) -> int:
    """The number of units with a positive, or with a negative image: the smaller one."""
    return min(len(np.unique(scores.units[scores.labels == label])) for label in (0, 1))


def _variance(effects: np.ndarray, scores: Scores) -> VarianceComponent:
    """The jackknife's variance, from the effects of leaving out each unit."""
    units = len(effects)
    return VarianceComponent(float((effects**2).sum()) * (units - 1) / units, max(1, _patients(scores) - 1))


def _t_interval(value: float, effects: np.ndarray, scores: Scores) -> dict[str, Any]:
    entry = {"value": value, "ci_low": None, "ci_high": None}
    variance, df = _variance(effects, scores)
    if _patients(scores) < 2 or not variance > ROUNDING:
        return entry | {"reason": SAME if _patients(scores) > 1 else ONE_PATIENT}
    half = float(stdtrit(df, (1 + intervals.CONFIDENCE) / 2)) * variance**0.5
    return entry | {"ci_low": value - half, "ci_high": value + half}


def _undefined(reason: str) -> dict[str, Any]:
    return {"value": None, "ci_low": None, "ci_high": None, "reason": reason}


def likely_wrong(predictions: pd.DataFrame, auc: dict[str, Any], strata: "pd.Series[int] | int" = 0) -> pd.DataFrame:
    """The rows whose label contradicts the probability, lowest probability of the label first: a list for people to
    look at, which changes no label.

    A row is off the diagonal of the confident joint: the other class has at least the mean probability that it has on
    its own images and, if both classes have that, the higher probability. Scores that are no better than chance
    contradict no label.

    Parameters
    ----------
    predictions : DataFrame
        With the columns label and probability, of images that are not in training: otherwise the network may have
        learned the wrong label.
    auc : dict
        Their ROC AUC, of metrics.metrics_with_ci.
    strata : Series, on the index of ``predictions``
        The fold of each row: networks of different folds have different scales.
    """
    if not intervals.above_chance(auc):
        return predictions[:0]
    rows = predictions.assign(stratum=strata, own=predictions["probability"].where(predictions["label"] == 1))
    rows["own"] = rows["own"].fillna(1 - rows["probability"])
    means = rows.groupby(["stratum", "label"])["own"].mean()
    own, other = (
        means.reindex(pd.MultiIndex.from_arrays([rows["stratum"], label])).to_numpy()
        for label in (rows["label"], 1 - rows["label"])
    )
    listed = (1 - rows["own"] >= other) & ((rows["own"] < own) | (rows["own"] < 0.5))
    return predictions.loc[rows["own"][listed].sort_values(kind="stable").index]
