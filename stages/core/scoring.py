"""What a classifier's probabilities are worth, each figure undefined rather than guessed."""

from typing import Any

import numpy as np
import pandas as pd
from sklearn import metrics

from core import tables
from core.errors import Mistake


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def measures(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> dict[str, float | None]:
    """The measures of one set of images: labels 0 or 1 (N,), probabilities in [0, 1] (N,).

    An image counts as positive from ``threshold`` on. None stands for what is not defined: sensitivity
    without positives, precision where nothing is called positive, the areas under the curves with one class.
    """
    positive, called = labels == 1, probabilities >= threshold
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
        "roc_auc": float(metrics.roc_auc_score(labels, probabilities)) if both else None,
        "pr_auc": float(metrics.average_precision_score(labels, probabilities)) if both else None,
        "brier": float(np.mean((probabilities - labels) ** 2)) if len(labels) else None,
    }


def figures(predictions: pd.DataFrame, threshold: float) -> dict[str, Any]:
    """The measures of some rows of predictions, each as {value, low, high}, and what stands behind them."""
    found = measures(predictions["label"].to_numpy(), predictions["probability"].to_numpy(), threshold)
    # The interval belongs to the bootstrap over patients, which this release does not have yet.
    return tables.counts(predictions) | {
        name: {"value": value, "low": None, "high": None} for name, value in found.items()
    }


def by_patient(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row a patient: the mean probability of the images, and label 1 where any of them is positive."""
    rows = predictions.groupby("patient", as_index=False).agg(
        probability=("probability", "mean"), label=("label", "max")
    )
    return rows.astype({"patient": "string"})


def unseen(predictions: pd.DataFrame) -> pd.DataFrame:
    """The rows that training knows nothing of: no copy of the image, and, where patients are known, no patient."""
    known = predictions["copy_in_train"].fillna(False) | predictions["patient_in_train"].fillna(False)
    return predictions[~known.astype(bool)]


def choose_threshold(asked: float | str, validation: pd.DataFrame) -> float:
    """The threshold asked for, or the one of best balanced accuracy on ``validation``.

    Raises Mistake where validation has one class only, so that none can be chosen.
    """
    if asked != "validation":
        return float(asked)
    if validation["label"].nunique() < 2:
        raise Mistake(
            f"evaluate.threshold can't be chosen: validation has {int(validation['label'].sum())} positives among "
            f"{len(validation)} images. Give a number, as evaluate.threshold: 0.5"
        )
    false_alarms, sensitivity, thresholds = metrics.roc_curve(validation["label"], validation["probability"])
    return float(min(1.0, thresholds[np.argmax(sensitivity - false_alarms)]))


def summarise(test: pd.DataFrame, validation: pd.DataFrame, threshold: float, asked: float | str) -> dict[str, Any]:
    """The blocks of metrics/evaluate.json: ``test``, ``test_unseen``, and ``test_patients`` by patient.

    The last has a threshold of its own, chosen on validation's patients where ``asked`` is "validation", and
    is null where patients are not known.
    """
    blocks: dict[str, Any] = {"test": figures(test, threshold), "test_unseen": figures(unseen(test), threshold)}
    blocks["test_patients"] = None
    if test["patient"].notna().any():
        patients = by_patient(validation)
        # Of few patients in validation all may be of one class: then the images' threshold has to do.
        own = choose_threshold(asked, patients) if patients["label"].nunique() == 2 else threshold
        of_patients = figures(by_patient(test), own)
        blocks["test_patients"] = {"threshold": own} | {
            name: value for name, value in of_patients.items() if name not in ("images", "positives")
        }
    return blocks


def curves(part: dict[str, pd.DataFrame]) -> dict[str, dict[str, pd.DataFrame]]:
    """ROC and PR curves of each of ``part``, as tables; without rows where one class is missing."""
    found: dict[str, dict[str, pd.DataFrame]] = {"roc": {}, "pr": {}}
    for name, rows in part.items():
        roc = pd.DataFrame(columns=["false_positive_rate", "sensitivity"], dtype=float)
        pr = pd.DataFrame(columns=["sensitivity", "precision"], dtype=float)
        if rows["label"].nunique() == 2:
            false_alarms, sensitivity, _ = metrics.roc_curve(rows["label"], rows["probability"])
            roc = pd.DataFrame({"false_positive_rate": false_alarms, "sensitivity": sensitivity})
            precision, sensitivity, _ = metrics.precision_recall_curve(
                rows["label"], rows["probability"], drop_intermediate=True
            )
            pr = pd.DataFrame({"sensitivity": sensitivity, "precision": precision})
        found["roc"][name], found["pr"][name] = roc, pr
    return found


def call(predictions: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """The true class of each image and the one it is called, in words."""
    words = np.array(["negative", "positive"])
    return pd.DataFrame(
        {
            "actual": words[predictions["label"]],
            "predicted": words[(predictions["probability"] >= threshold).astype(int)],
        }
    )


def confusion(called: pd.DataFrame) -> np.ndarray:
    """Counts (2, 2): rows are the true class, columns the one called, negative first."""
    return metrics.confusion_matrix(called["actual"], called["predicted"], labels=["negative", "positive"])


def histogram(predictions: pd.DataFrame, bins: int = 20) -> pd.DataFrame:
    """How many images of each label have a probability in each of ``bins`` equal bins."""
    edges = np.linspace(0, 1, bins + 1)
    table = {"probability": (edges[:-1] + edges[1:]) / 2}
    for label, name in enumerate(("negatives", "positives")):
        table[name] = np.histogram(predictions.loc[predictions["label"] == label, "probability"], edges)[0]
    return pd.DataFrame(table)


def explain(figures: dict[str, Any]) -> str:
    """The measures as columns of plain text: the whole test set, what training knows nothing of, and patients."""
    names = {"test": "test", "test_unseen": "unseen", "test_patients": "by patient"}
    blocks = {title: figures[name] for name, title in names.items() if figures[name] is not None}
    lines = ["SYNTHETIC images"] if figures["synthetic"] else []
    lines.append(" " * 18 + "".join(f"{title:>12}" for title in blocks))
    for row in figures["test"]:
        found = [block.get(row) for block in blocks.values()]
        cells = [entry["value"] if isinstance(entry, dict) else entry for entry in found]
        texts = ["-" if cell is None else f"{cell:.3f}" if isinstance(cell, float) else f"{cell:,}" for cell in cells]
        lines.append(f"{row.replace('_', ' '):18}" + "".join(f"{text:>12}" for text in texts))
    known = figures["test"]["images"] - figures["test_unseen"]["images"]
    if known:
        lines.append(
            f"Training has seen {known:,} of these test images, or others of their patients: believe 'unseen'."
        )
    return "\n".join(lines)
