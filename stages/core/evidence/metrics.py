"""Measures of a classifier's probabilities with their intervals. A measure that is not defined is None."""

import itertools
from collections.abc import Callable
from typing import Any

from core.evidence import intervals, messages, seed_variance
from core.evidence.intervals import Scores
from core.pipeline import tables
from core.pipeline.errors import PipelineError

import numpy as np
import pandas as pd

MEASURES = tuple(intervals.SUPPORT)
PREVALENCE_FREE = ("roc_auc", "sensitivity", "specificity")  # those that do not depend on the share of positives
AREAS = ("roc_auc", "pr_auc")  # the measures that compare the probabilities of images with each other
# Why a figure is not defined. They are written into the details, so they are here and not in the messages.
ONE_CLASS = "validation has one class only"
NO_VALIDATION = "there are no validation images"
NO_PAIRS = "no fold or subgroup has images of both classes"
LEVELS = {"patients": ["patient"], "breasts": ["patient", "breast"]}  # the columns that name each patient and breast
RULES = ("mean", "max")  # that combine the probabilities of the images of a patient or a breast
POINTS = (0.90, 0.95)  # specificity, then sensitivity, to reach at an operating point


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None


def measures(scores: Scores) -> dict[str, float | None]:
    """The measures of one set of images, in [0, 1].

    None means not defined: sensitivity without positives, precision if no image is predicted positive, the areas under
    the curves with one class.
    """
    from sklearn.metrics import average_precision_score  # slow to import

    labels, predicted, positive, weights = scores.labels, scores.predicted, scores.labels == 1, scores.weights

    def total(images: np.ndarray) -> float:
        return int(images.sum()) if weights is None else float(weights[images].sum())

    tp, fp = total(predicted & positive), total(predicted & ~positive)
    fn, tn = total(~predicted & positive), total(~predicted & ~positive)
    sensitivity, specificity = _ratio(tp, tp + fn), _ratio(tn, tn + fp)
    both = sensitivity is not None and specificity is not None
    return {
        "accuracy": _ratio(tp + tn, tp + fn + fp + tn),
        "balanced_accuracy": (sensitivity + specificity) / 2 if both else None,  # type: ignore[operator]
        "sensitivity": sensitivity,
        "specificity": specificity,
        "precision": _ratio(tp, tp + fp),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn) if positive.any() else None,
        "roc_auc": _roc_auc(scores) if both else None,
        "pr_auc": float(average_precision_score(labels, scores.probabilities, sample_weight=weights)) if both else None,
        "brier": float(np.average((scores.probabilities - labels) ** 2, weights=weights)) if len(labels) else None,
    }


def _roc_auc(scores: Scores) -> float:
    from sklearn.metrics import roc_auc_score  # slow to import

    area = float(roc_auc_score(scores.labels, scores.probabilities, sample_weight=scores.weights))
    # With weights, the trapezoids of a perfect curve can add up to slightly more or less than 1.
    return area if scores.weights is None else min(1.0, round(area, 12))


def within(
    scores: Scores, strata: np.ndarray, compute: Callable[[Scores], dict[str, Any]] = measures
) -> dict[str, Any]:
    """AREAS among images of the same stratum: the mean over the strata with both classes, weighted by their number of
    pairs of a positive and a negative image; None if there is no pair.

    Probabilities of several networks, or of several levels of a group, can have different scales.

    Parameters
    ----------
    strata : (N,) int64 or str
        The stratum of each image.
    compute : callable
        Returns the measures of one stratum: ``measures``, or intervals.jackknife with its ``pairs``.
    """
    total: Any = 0
    sums: dict[str, Any] = dict.fromkeys(AREAS, 0.0)
    for stratum in pd.unique(strata):
        subset = select(scores, strata == stratum)
        count = int((subset.labels == 1).sum() * (subset.labels == 0).sum())
        if not count:
            continue
        values = compute(subset)
        pairs = values.get("pairs", count)
        sums = {name: sums[name] + np.nan_to_num(values[name]) * pairs for name in AREAS}
        total = total + pairs
    with np.errstate(invalid="ignore", divide="ignore"):
        return {name: value / total if np.any(total) else None for name, value in sums.items()}


def select(scores: Scores, images: np.ndarray) -> Scores:
    """The scores of some images, with the same numbers of units.

    Parameters
    ----------
    images : (N,) bool
    """
    members = tuple(select(others, images) for others in scores.leave_one_out)
    weights = None if scores.weights is None else scores.weights[images]
    labels, probabilities = scores.labels[images], scores.probabilities[images]
    return Scores(labels, probabilities, scores.predicted[images], scores.units[images], members, weights)


def scores(predictions: pd.DataFrame, threshold: "float | pd.Series[float]") -> Scores:
    """The scores of a table. A probability at the threshold is predicted positive.

    Parameters
    ----------
    predictions : DataFrame
        With the columns label, probability and unit, and for an ensemble those of seed_variance.add_leave_one_out.
    threshold : float or Series, one per row
    """
    labels, units = predictions["label"].to_numpy(), pd.factorize(predictions["unit"])[0].astype(np.int64)

    def of_column(column: str) -> Scores:
        probabilities = predictions[column].to_numpy(dtype=np.float64)
        return Scores(labels, probabilities, probabilities >= np.asarray(threshold), units)

    columns = seed_variance.leave_one_out_columns(predictions)
    return of_column("probability")._replace(leave_one_out=tuple(of_column(column) for column in columns))


def equal_patients(scores: Scores) -> Scores:
    """The scores with weights such that, in each class, all patients weigh the same, however many images they have."""
    _, positions, images = np.unique(2 * scores.units + scores.labels, return_inverse=True, return_counts=True)
    weights = 1 / images[positions]
    return scores._replace(
        weights=weights, leave_one_out=tuple(others._replace(weights=weights) for others in scores.leave_one_out)
    )


def metrics_with_ci(
    scores: Scores,
    seed: int,
    names: tuple[str, ...] = MEASURES,
    strata: np.ndarray | None = None,
    left_out: dict[str, np.ndarray] | None = None,
) -> dict[str, dict[str, Any]]:
    """Measures with 95 % intervals: {value, ci_low, ci_high, recipe: {ci_low, ci_high, seed_variance_share}}.

    The first interval is the model's, the second the recipe's; ``seed_variance_share`` is the share of trainings in the
    variance of the latter. A number that is not defined is None, and the key ``reason`` says why.

    Parameters
    ----------
    strata : (N,) int64 or str, the stratum of each image: AREAS are those ``within`` strata
    left_out : dict of (R,) float64, of intervals.jackknife, if it has been computed
    """
    if left_out is None:
        left_out = intervals.jackknife(scores, seed, bool(set(AREAS) & set(names))) if len(scores.labels) else {}
    values, leave_one_out = measures(scores), [measures(others) for others in scores.leave_one_out]
    support = dict.fromkeys(names, scores)
    if strata is not None:
        values |= within(scores, strata)
        leave_one_out = [
            entry | within(others, strata) for entry, others in zip(leave_one_out, scores.leave_one_out, strict=True)
        ]
        left_out |= within(scores, strata, lambda subset: intervals.jackknife(subset, seed, superset=scores))
        both = pd.Series(scores.labels).groupby(strata).transform("nunique").to_numpy() == 2
        support |= dict.fromkeys(AREAS, select(scores, both))
    entries: dict[str, dict[str, Any]] = {}
    for name in names:
        value = values[name]
        recipe: dict[str, Any] = {"ci_low": None, "ci_high": None, "seed_variance_share": None}
        entry = entries[name] = {"value": value, "ci_low": None, "ci_high": None, "recipe": recipe}
        if value is None:
            entry["reason"] = _undefined_reason(scores, strata)
            continue
        patients = intervals.patient_variance(name, value, left_out[name], support[name])
        if isinstance(patients, str):
            entry["reason"] = f"no interval: {patients}"
            continue
        entry["ci_low"], entry["ci_high"] = intervals.interval(name, value, patients, support[name])
        training = seed_variance.jackknife([others[name] for others in leave_one_out])
        if training is None:
            single = seed_variance.SINGLE_NETWORK
            recipe["reason"] = "not defined without one of the networks" if leave_one_out else single
            continue
        recipe["ci_low"], recipe["ci_high"] = intervals.interval(name, value, patients, support[name], training)
        recipe["seed_variance_share"] = intervals.seed_variance_share(patients, training)
    return entries


def model_metric(scores: Scores, seed: int, name: str, strata: np.ndarray | None = None) -> dict[str, Any]:
    """One entry of ``metrics_with_ci`` without the recipe: {value, ci_low, ci_high}, and the ``reason`` of a None.

    Parameters
    ----------
    strata : (N,) int64 or str, as for ``metrics_with_ci``
    """
    entry = metrics_with_ci(scores._replace(leave_one_out=()), seed, (name,), strata)[name]
    return {key: value for key, value in entry.items() if key != "recipe"}


def _undefined_reason(scores: Scores, strata: np.ndarray | None = None) -> str:
    if not len(scores.labels):
        return "no image"
    if (scores.labels == 0).all():
        return "no positive image"
    if (scores.labels == 1).all():
        return "no negative image"
    return "no image is predicted positive" if strata is None else NO_PAIRS


def by_patient(predictions: pd.DataFrame, aggregate: str, level: str = "patients") -> pd.DataFrame:
    """One row per patient, or per breast.

    Parameters
    ----------
    aggregate : {"mean", "max"} of the probabilities of the images
    level : {"patients", "breasts"}

    Returns
    -------
    DataFrame
        patient (and breast), label (1 if any image is positive), unit, probability, and those of
        seed_variance.add_leave_one_out.
    """
    columns = ["probability", *seed_variance.leave_one_out_columns(predictions)]
    rows = predictions.groupby(LEVELS[level], as_index=False).agg(
        {"label": "max", "unit": "first"} | dict.fromkeys(columns, aggregate)
    )
    return rows.astype({"patient": "string"})


def choose_rule(strategy: str, by_rule: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """The ``rule``, which is evaluate.combine, or for "validation" that of the highest ROC AUC there, with the
    ``val_roc_auc`` of each; the mean if they are equal or not defined. ``by_rule``: validation, from ``by_patient``."""
    if strategy != "validation":
        return {"rule": strategy}
    areas = {rule: measures(scores(rows, 0.5))["roc_auc"] for rule, rows in by_rule.items()}
    return {"rule": max(RULES, key=lambda rule: areas[rule] or 0.0), "val_roc_auc": areas}


def non_leaking(predictions: pd.DataFrame) -> pd.DataFrame:
    """The rows without a copy in training and, if patients are known, without their patient in training."""
    leaking = predictions["copy_in_train"].fillna(False) | predictions["patient_in_train"].fillna(False)
    return predictions[~leaking.astype(bool)]


def leaking(predictions: pd.DataFrame) -> dict[str, int]:
    """How many rows have a copy in training, and how many others have their patient in training."""
    copies = int(predictions["copy_in_train"].fillna(False).sum())
    return {"copies": copies, "of_training_patients": len(predictions) - len(non_leaking(predictions)) - copies}


def leaking_auc(
    predictions: pd.DataFrame, threshold: "float | pd.Series[float]", seed: int, strata: np.ndarray | None = None
) -> dict[str, dict[str, Any]]:
    """ROC AUC on the rows that are ``copies`` of training images, and on the others ``of_training_patients``.

    The first is memory, the second can be too high, by how much the ROC AUC of the non-leaking rows says.

    Parameters
    ----------
    strata : (N,) int64, as for ``metrics_with_ci``
    """
    of_all = scores(predictions, threshold)
    copies = predictions["copy_in_train"].fillna(False).to_numpy(dtype=bool)
    others = ~copies & ~predictions.index.isin(non_leaking(predictions).index)
    return {
        name: model_metric(select(of_all, rows), seed, "roc_auc", None if strata is None else strata[rows])
        for name, rows in (("copies", copies), ("of_training_patients", others))
    }


def choose_threshold(threshold: float | str, validation: pd.DataFrame) -> float:
    """``threshold``, or for "validation" the one with the best balanced accuracy on ``validation``; in [0, 1].

    Raises PipelineError if it has to be chosen and validation has one class only.
    """
    if threshold != "validation":
        return float(threshold)
    if validation["label"].nunique() < 2:
        raise PipelineError(messages.NO_THRESHOLD.format(images=len(validation), positives=validation["label"].sum()))
    from sklearn.metrics import roc_curve  # slow to import

    fpr, sensitivity, thresholds = roc_curve(validation["label"], validation["probability"])
    return float(min(1.0, thresholds[np.argmax(sensitivity - fpr)]))


def summarise(
    test: pd.DataFrame,
    validation: pd.DataFrame,
    threshold: float,
    strategy: float | str,
    seed: int,
    left_out: dict[str, np.ndarray] | None = None,
    combine: str = "mean",
) -> dict[str, Any]:
    """The blocks of the details of evaluate. Patients and breasts are scored by the mean and the maximum of their
    images.

    Parameters
    ----------
    test, validation : DataFrame
        With the columns label, patient, probability, unit, copy_in_train and patient_in_train, and breast if known.
    threshold, strategy
        The threshold of the images, and evaluate.threshold: if it is "validation", the thresholds of patients are
        chosen on the validation patients.
    left_out
        Of intervals.jackknife for the non-leaking images, if it has been computed.
    combine
        evaluate.combine.

    Returns
    -------
    dict
        ``test``: counts and measures of all test images. ``test_unseen``: of the non-leaking ones. ``leak``: the
        measures of test minus test_unseen. ``leaking``: the counts of ``leaking``, with ``roc_auc``, of
        ``leaking_auc``. On the non-leaking images: ``test_patients`` and ``test_equal_patients`` (see
        ``equal_patients``), None if patients are unknown, ``test_breasts`` if breasts are known, and
        ``operating_points``. ``largest_patient`` is the number of images of the patient with the most,
        ``effective_patients`` of intervals.effective_sample_size. ``combine``: of each level, from ``choose_rule``.
    """
    without_leak = non_leaking(test)
    of_non_leaking = _block(without_leak, threshold, seed, left_out)
    of_test = of_non_leaking if len(without_leak) == len(test) else _block(test, threshold, seed)
    blocks: dict[str, Any] = {"test": of_test, "test_unseen": of_non_leaking, "leak": {}, "test_patients": None}
    blocks |= {"test_equal_patients": None, "combine": {}}
    blocks["leaking"] = leaking(test) | {"roc_auc": leaking_auc(test, threshold, seed)}
    for name in ("accuracy", "sensitivity", "roc_auc"):
        values = of_test[name]["value"], of_non_leaking[name]["value"]
        blocks["leak"][name] = None if None in values else values[0] - values[1]
    if test["patient"].notna().any():
        equal = equal_patients(scores(without_leak, threshold))
        sizes = without_leak["patient"].value_counts()  # none, if only leaking images have a patient
        blocks["test_equal_patients"] = metrics_with_ci(equal, seed, PREVALENCE_FREE) | {
            "largest_patient": int(sizes.max()) if len(sizes) else 0,
            "effective_patients": intervals.effective_sample_size(pd.factorize(without_leak["unit"])[0]),
        }
        for level, columns in LEVELS.items():
            if columns[-1] not in test:
                continue
            labelled = validation.reindex(columns=validation.columns.union(columns, sort=False))
            of_validation = {rule: by_patient(labelled, rule, level) for rule in RULES}
            blocks["combine"][level] = choose_rule(combine, of_validation)
            blocks[f"test_{level}"] = {
                rule: _level_block(by_patient(without_leak, rule, level), rows, threshold, strategy, seed)
                for rule, rows in of_validation.items()
            }
    return blocks | {"operating_points": operating_points(without_leak, validation, seed)}


def _level_block(
    test: pd.DataFrame, validation: pd.DataFrame, threshold: float, strategy: float | str, seed: int
) -> dict[str, Any]:
    """The block of patients or breasts, with their number if they are breasts. A few of them can all be of one class in
    validation. Then their threshold is that of the images."""
    both = validation["label"].nunique() == 2
    own_threshold = choose_threshold(strategy, validation) if both else threshold
    block = _block(test, own_threshold, seed)
    breasts = {"breasts": block.pop("images"), "positive_breasts": block.pop("positives")}
    return {"threshold": own_threshold} | (breasts if "breast" in test else {}) | block


def headline(details: dict[str, Any]) -> dict[str, float | None]:
    """The content of metrics/evaluate.json, on the non-leaking test images; None if not defined.

    ``roc_auc_inflation``: how much higher the ROC AUC of the whole test set is, because of what leaks.
    """
    block, area = details["test_unseen"], details["test_unseen"]["roc_auc"]
    values = {name: block[name]["value"] for name in ("sensitivity", "specificity", "pr_auc", "brier")}
    return {"roc_auc": area["value"], "roc_auc_ci_low": area["ci_low"], "roc_auc_ci_high": area["ci_high"]} | values | {
        "threshold": details["threshold"],
        "roc_auc_inflation": details["leak"]["roc_auc"],
    }  # fmt: skip


def _block(
    predictions: pd.DataFrame, threshold: float, seed: int, left_out: dict[str, np.ndarray] | None = None
) -> dict[str, Any]:
    return counts(predictions) | metrics_with_ci(scores(predictions, threshold), seed, left_out=left_out)


def counts(predictions: pd.DataFrame) -> dict[str, int | None]:
    """tables.counts, and the number of components of patients and copies (``unit``) with a positive and with a negative
    image."""
    components = {
        f"{name}_components": predictions.loc[predictions["label"] == label, "unit"].nunique()
        for label, name in ((1, "positive"), (0, "negative"))
    }
    return tables.counts(predictions) | components


def by_class(test: pd.DataFrame, classes: "pd.Series[str]", threshold: float, seed: int) -> dict[str, Any]:
    """By original class: the ``side``, "positive" or "negative"; the numbers of ``images`` and ``patients``; how many
    are ``wrong``, with the ``accuracy``; the three ``quartiles`` of the probability."""
    entries: dict[str, Any] = {}
    for name, rows in test.groupby(classes, sort=True):
        of_class = scores(rows, threshold)
        entries[str(name)] = {
            "side": "positive" if rows["label"].iloc[0] else "negative",
            "images": len(rows),
            "patients": tables.counts(rows)["patients"],
            "wrong": int((of_class.predicted != (of_class.labels == 1)).sum()),
            "quartiles": np.quantile(of_class.probabilities, (0.25, 0.5, 0.75)).tolist(),
        } | metrics_with_ci(of_class, seed, ("accuracy",))
    return entries


def operating_points(test: pd.DataFrame, validation: pd.DataFrame, seed: int) -> dict[str, Any]:
    """Sensitivity and specificity of ``test`` at thresholds chosen on ``validation``.

    ``specificity_90`` is at the lowest threshold with a specificity of at least 0.90 on validation, ``sensitivity_90``
    at the highest threshold with a sensitivity of at least 0.90. Each has the ``threshold`` and the entries of
    ``metrics_with_ci``; or None as threshold with a ``reason``, if validation has one class only.
    """
    from sklearn.metrics import roc_curve  # slow to import

    points: dict[str, Any] = {}
    for fixed, goal in itertools.product(("specificity", "sensitivity"), POINTS):
        name = f"{fixed}_{100 * goal:.0f}"
        if validation["label"].nunique() < 2:
            reason = ONE_CLASS if len(validation) else NO_VALIDATION
            points[name] = {"threshold": None, "reason": reason}
            continue
        fpr, sensitivity, thresholds = roc_curve(
            validation["label"], validation["probability"], drop_intermediate=False
        )
        reached = 1 - fpr >= goal - 1e-12 if fixed == "specificity" else sensitivity >= goal - 1e-12
        # Thresholds are in descending order: specificity falls and sensitivity rises along them.
        threshold = float(thresholds[np.flatnonzero(reached)[-1 if fixed == "specificity" else 0]])
        entries = metrics_with_ci(scores(test, threshold), seed, ("sensitivity", "specificity"))
        # The first threshold is infinite (no image is positive), which JSON can't store.
        points[name] = {"threshold": threshold if np.isfinite(threshold) else None} | entries
    return points
