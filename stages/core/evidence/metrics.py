"""Measures of a classifier's probabilities with their intervals. A measure that is not defined is None."""

from typing import Any

from core.evidence import bootstrap, luck, messages
from core.evidence.bootstrap import Scores
from core.pipeline import tables
from core.pipeline.errors import PipelineError

import numpy as np
import pandas as pd

MEASURES = tuple(bootstrap.RESTS_ON)
SHAREFREE = ("roc_auc", "sensitivity", "specificity")  # those that do not depend on the share of positives
POINTS = (0.90, 0.95)  # specificity, then sensitivity, to reach at an operating point


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def measures(scores: Scores) -> dict[str, float | None]:
    """The measures of one set of images.

    None means not defined: sensitivity without positives, precision if no image is predicted positive, the areas
    under the curves with one class.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score  # slow to import

    labels, called, positive = scores.labels, scores.called, scores.labels == 1
    hits, false_alarms = int((called & positive).sum()), int((called & ~positive).sum())
    misses, passed = int((~called & positive).sum()), int((~called & ~positive).sum())
    sensitivity, specificity = _ratio(hits, hits + misses), _ratio(passed, passed + false_alarms)
    both = sensitivity is not None and specificity is not None
    return {
        "accuracy": _ratio(hits + passed, len(labels)),
        "balanced_accuracy": (sensitivity + specificity) / 2 if both else None,  # type: ignore[operator]
        "sensitivity": sensitivity,
        "specificity": specificity,
        "precision": _ratio(hits, hits + false_alarms),
        "f1": _ratio(2 * hits, 2 * hits + false_alarms + misses) if positive.any() else None,
        "roc_auc": float(roc_auc_score(labels, scores.probabilities)) if both else None,
        "pr_auc": float(average_precision_score(labels, scores.probabilities)) if both else None,
        "brier": float(np.mean((scores.probabilities - labels) ** 2)) if len(labels) else None,
    }


def scores(predictions: pd.DataFrame, threshold: "float | pd.Series[float]") -> Scores:
    """Scores from the columns label, probability, unit, and those of luck.leave_out. A probability of ``threshold`` or
    more is called positive; ``threshold`` is one number for all rows, or one per row."""
    labels, units = predictions["label"].to_numpy(), pd.factorize(predictions["unit"])[0].astype(np.int64)

    def scored(column: str) -> Scores:
        probabilities = predictions[column].to_numpy(dtype=np.float64)
        return Scores(labels, probabilities, probabilities >= np.asarray(threshold), units)

    return scored("probability")._replace(fewer=tuple(scored(column) for column in luck.columns(predictions)))


def figures(found: Scores, seed: int, names: tuple[str, ...] = MEASURES) -> dict[str, dict[str, Any]]:
    """Measures as {value, low, high, recipe: {low, high, luck}}. The first interval is the model's, the second the
    recipe's; ``luck`` is the share of trainings in the variance of the latter.

    A number that is not defined is None, and the key ``reason`` says why.
    """
    ranks = bool({"roc_auc", "pr_auc"} & set(names))
    resampled = bootstrap.resample(found, seed, ranks) if len(found.labels) else {}
    values, fewer = measures(found), [measures(scores) for scores in found.fewer]
    entries: dict[str, dict[str, Any]] = {}
    for name in names:
        value = values[name]
        entries[name] = {
            "value": value,
            "ci_low": None,
            "ci_high": None,
            "recipe": {"ci_low": None, "ci_high": None, "seed_variance_share": None},
        }
        if value is None:
            entries[name]["reason"] = _why_undefined(found)
            continue
        bounds = bootstrap.interval(name, value, resampled[name], found)
        if isinstance(bounds, str):
            entries[name]["reason"] = f"no interval: {bounds}"
            continue
        entries[name]["ci_low"], entries[name]["ci_high"] = bounds
        training = luck.of_training([values_of[name] for values_of in fewer])
        if training is None:
            entries[name]["recipe"]["reason"] = "not defined without one of the networks" if fewer else luck.ALONE
            continue
        whole = bootstrap.interval(name, value, resampled[name], found, training)
        assert not isinstance(whole, str)  # the model has an interval
        share = bootstrap.luck_share(name, resampled[name], found, training)
        entries[name]["recipe"] = {"ci_low": whole[0], "ci_high": whole[1], "seed_variance_share": share}
    return entries


def of_model(found: Scores, seed: int, name: str) -> dict[str, Any]:
    """One measure of ``figures`` without the interval of the recipe: {value, low, high}, and the ``reason``."""
    entry = figures(found._replace(fewer=()), seed, (name,))[name]
    return {key: value for key, value in entry.items() if key != "recipe"}


def _why_undefined(found: Scores) -> str:
    if not len(found.labels):
        return "no image"
    if (found.labels == 0).all():
        return "no positive image"
    return "no negative image" if (found.labels == 1).all() else "no image is predicted positive"


def by_patient(predictions: pd.DataFrame, how: str) -> pd.DataFrame:
    """One row per patient: the "mean" or "max" probability of the images, and label 1 if any image is positive."""
    rows = predictions.groupby("patient", as_index=False).agg(
        {"label": "max", "unit": "first"} | dict.fromkeys(["probability", *luck.columns(predictions)], how)
    )
    return rows.astype({"patient": "string"})


def unseen(predictions: pd.DataFrame) -> pd.DataFrame:
    """The rows without a copy in training and, if patients are known, without their patient in training."""
    known = predictions["copy_in_train"].fillna(False) | predictions["patient_in_train"].fillna(False)
    return predictions[~known.astype(bool)]


def choose_threshold(asked: float | str, validation: pd.DataFrame) -> float:
    """The given threshold, or for "validation" the one with the best balanced accuracy on ``validation``.

    Raises PipelineError if it has to be chosen and validation has one class only.
    """
    if asked != "validation":
        return float(asked)
    if validation["label"].nunique() < 2:
        raise PipelineError(messages.no_threshold(len(validation), int(validation["label"].sum())))
    false_alarms, sensitivity, thresholds = _roc_curve(validation)
    return float(min(1.0, thresholds[np.argmax(sensitivity - false_alarms)]))


def summarise(
    test: pd.DataFrame, validation: pd.DataFrame, threshold: float, asked: float | str, seed: int
) -> dict[str, Any]:
    """The blocks of the details of evaluate: ``test``, ``test_unseen``, ``leak`` (test minus unseen), ``leaking``
    (test images that are copies of training images, and others of training patients), ``test_patients`` and
    ``operating_points``.

    Patients are scored by the mean and by the maximum of their images. If ``asked`` is "validation", the threshold for
    each of the two is chosen on the validation patients. ``test_patients`` is null if patients are not known.
    """
    fresh = unseen(test)
    of_test = _block(test, threshold, seed)
    of_fresh = of_test if len(fresh) == len(test) else _block(fresh, threshold, seed)
    copies = int(test["copy_in_train"].fillna(False).sum())
    blocks: dict[str, Any] = {"test": of_test, "test_unseen": of_fresh, "leak": {}, "test_patients": None}
    blocks["leaking"] = {"copies": copies, "of_training_patients": len(test) - len(fresh) - copies}
    for name in ("accuracy", "sensitivity", "roc_auc"):
        values = of_test[name]["value"], of_fresh[name]["value"]
        blocks["leak"][name] = None if None in values else values[0] - values[1]
    if test["patient"].notna().any():
        blocks["test_patients"] = {}
        for how in ("mean", "max"):
            patients = by_patient(validation, how)
            # A few validation patients can all be of one class. Then use the threshold chosen on images.
            own = choose_threshold(asked, patients) if patients["label"].nunique() == 2 else threshold
            block = _block(by_patient(test, how), own, seed)
            blocks["test_patients"][how] = {"threshold": own} | {
                name: value for name, value in block.items() if name not in ("images", "positives")
            }
    return blocks | {"operating_points": operating_points(test, validation, seed)}


def headline(figures: dict[str, Any]) -> dict[str, float | None]:
    """The figures of metrics/evaluate.json, on the test images that training has not seen; None if not defined.

    ``roc_auc_inflation``: how much higher the ROC AUC of the whole test set is, because of what leaks.
    """
    block, area = figures["test_unseen"], figures["test_unseen"]["roc_auc"]
    values = {name: block[name]["value"] for name in ("sensitivity", "specificity", "pr_auc", "accuracy", "brier")}
    return {"roc_auc": area["value"], "roc_auc_ci_low": area["ci_low"], "roc_auc_ci_high": area["ci_high"]} | values | {
        "threshold": figures["threshold"],
        "roc_auc_seed_variance_share": area["recipe"]["seed_variance_share"],
        "roc_auc_inflation": figures["leak"]["roc_auc"],
    }  # fmt: skip


def _block(predictions: pd.DataFrame, threshold: float, seed: int) -> dict[str, Any]:
    return counts(predictions) | figures(scores(predictions, threshold), seed)


def counts(predictions: pd.DataFrame) -> dict[str, int | None]:
    """The counts behind a figure: images, positives, patients, patients with a positive image, and the number of
    independent groups of patients and copies (``unit``) with a positive and with a negative image."""
    units = {
        f"{name}_components": predictions.loc[predictions["label"] == label, "unit"].nunique()
        for label, name in ((1, "positive"), (0, "negative"))
    }
    return tables.counts(predictions) | units


def by_class(test: pd.DataFrame, classes: "pd.Series[str]", threshold: float, seed: int) -> dict[str, Any]:
    """For each original class of the test images: on which side it is, its images and patients, how many are called
    wrongly with the accuracy among them, and the quartiles of the probability. ``classes`` is on the index of ``test``.
    """
    found: dict[str, Any] = {}
    for name, rows in test.groupby(classes, sort=True):
        judged = scores(rows, threshold)
        found[str(name)] = {
            "side": "positive" if rows["label"].iloc[0] else "negative",
            "images": len(rows),
            "patients": tables.counts(rows)["patients"],
            "wrong": int((judged.called != (judged.labels == 1)).sum()),
            "quartiles": [float(value) for value in np.quantile(judged.probabilities, (0.25, 0.5, 0.75))],
        } | figures(judged, seed, ("accuracy",))
    return found


def operating_points(test: pd.DataFrame, validation: pd.DataFrame, seed: int) -> dict[str, Any]:
    """Sensitivity and specificity of ``test`` at thresholds chosen on ``validation``.

    ``specificity_90`` is the lowest threshold with a specificity of at least 0.90 on validation; ``sensitivity_90`` is
    the highest threshold with a sensitivity of at least 0.90. If validation has one class only, each is null with a
    reason.
    """
    points: dict[str, Any] = {}
    for fixed in ("specificity", "sensitivity"):
        for goal in POINTS:
            name = f"{fixed}_{100 * goal:.0f}"
            if validation["label"].nunique() < 2:
                points[name] = {"threshold": None, "reason": "validation has one class only"}
                continue
            false_alarms, sensitivity, thresholds = _roc_curve(validation, drop_intermediate=False)
            reached = 1 - false_alarms >= goal - 1e-12 if fixed == "specificity" else sensitivity >= goal - 1e-12
            # Thresholds are in descending order: specificity falls and sensitivity rises along them.
            chosen = np.flatnonzero(reached)[-1 if fixed == "specificity" else 0]
            threshold = float(thresholds[chosen])
            entries = figures(scores(test, threshold), seed, ("sensitivity", "specificity"))
            # The first threshold is infinite (no image is positive), which JSON can't store.
            points[name] = {"threshold": threshold if np.isfinite(threshold) else None} | entries
    return points


def _roc_curve(rows: pd.DataFrame, drop_intermediate: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rates of false alarms, the sensitivities and their thresholds."""
    from sklearn.metrics import roc_curve

    return roc_curve(rows["label"], rows["probability"], drop_intermediate=drop_intermediate)


def curves(part: dict[str, pd.DataFrame]) -> dict[str, dict[str, pd.DataFrame]]:
    """ROC and PR curves of each of ``part``, as tables; a table has no rows if one class is missing."""
    from sklearn.metrics import precision_recall_curve

    found: dict[str, dict[str, pd.DataFrame]] = {"roc": {}, "pr": {}}
    for name, rows in part.items():
        roc = pd.DataFrame(columns=["false_positive_rate", "sensitivity"], dtype=float)
        pr = pd.DataFrame(columns=["sensitivity", "precision"], dtype=float)
        if rows["label"].nunique() == 2:
            false_alarms, sensitivity, _ = _roc_curve(rows)
            roc = pd.DataFrame({"false_positive_rate": false_alarms, "sensitivity": sensitivity})
            precision, sensitivity, _ = precision_recall_curve(
                rows["label"], rows["probability"], drop_intermediate=True
            )
            pr = pd.DataFrame({"sensitivity": sensitivity, "precision": precision})
        found["roc"][name], found["pr"][name] = roc, pr
    return found


def call(predictions: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """The true and the predicted class of each image, in words."""
    words = np.array(["negative", "positive"])
    return pd.DataFrame(
        {
            "actual": words[predictions["label"]],
            "predicted": words[(predictions["probability"] >= threshold).astype(int)],
        }
    )


def confusion(called: pd.DataFrame) -> np.ndarray:
    """Counts (2, 2): rows are the true class, columns the predicted class, negative first."""
    from sklearn.metrics import confusion_matrix

    return confusion_matrix(called["actual"], called["predicted"], labels=["negative", "positive"])


def histogram(predictions: pd.DataFrame, bins: int = 20) -> pd.DataFrame:
    """Number of images of each label in each of ``bins`` equal bins of the probability."""
    edges = np.linspace(0, 1, bins + 1)
    table = {"probability": (edges[:-1] + edges[1:]) / 2}
    for label, name in enumerate(("negatives", "positives")):
        table[name] = np.histogram(predictions.loc[predictions["label"] == label, "probability"], edges)[0]
    return pd.DataFrame(table)
