"""What the plots show: curves, confusion matrix and histogram of predictions, as tables."""

from typing import Any

from core.evidence import calibration, metrics, utility

import numpy as np
import pandas as pd


def for_plots(splits: dict[str, pd.DataFrame], threshold: float) -> dict[str, Any]:
    """What plots.PlotData takes, from the tables of predictions of "val" and "test"."""
    test = splits["test"]
    predicted = predicted_classes(test, threshold)
    return {
        "test": test, "curves": curves(splits), "predicted": predicted, "confusion": confusion(predicted),
        "bins": histogram(test), "net_benefit": net_benefit(metrics.non_leaking(test)),
        "reliability": calibration.reliability(test["label"].to_numpy(), test["probability"].to_numpy()),
    }  # fmt: skip


def curves(splits: dict[str, pd.DataFrame]) -> dict[str, dict[str, pd.DataFrame]]:
    """ROC and PR curves by "roc" or "pr", then by split.

    Parameters
    ----------
    splits : DataFrames with the columns label and probability

    Returns
    -------
    dict of dict of DataFrame
        Columns false_positive_rate and sensitivity, or sensitivity and precision; without rows if a class is missing.
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    by_kind: dict[str, dict[str, pd.DataFrame]] = {"roc": {}, "pr": {}}
    for split, rows in splits.items():
        roc = pd.DataFrame(columns=["false_positive_rate", "sensitivity"], dtype=float)
        pr = pd.DataFrame(columns=["sensitivity", "precision"], dtype=float)
        if rows["label"].nunique() == 2:
            fpr, sensitivity, _ = roc_curve(rows["label"], rows["probability"])
            roc = pd.DataFrame({"false_positive_rate": fpr, "sensitivity": sensitivity})
            precision, sensitivity, _ = precision_recall_curve(
                rows["label"], rows["probability"], drop_intermediate=True
            )
            pr = pd.DataFrame({"sensitivity": sensitivity, "precision": precision})
        by_kind["roc"][split], by_kind["pr"][split] = roc, pr
    return by_kind


def predicted_classes(predictions: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """The columns ``actual`` and ``predicted`` of each image: "negative" or "positive"."""
    words = np.array(["negative", "positive"])
    positive = (predictions["probability"] >= threshold).astype(int)
    return pd.DataFrame({"actual": words[predictions["label"]], "predicted": words[positive]})


def confusion(predicted: pd.DataFrame) -> np.ndarray:
    """The confusion matrix of a table of ``predicted_classes``.

    Returns
    -------
    (2, 2) int64, true class in rows, negative first
    """
    from sklearn.metrics import confusion_matrix

    return confusion_matrix(predicted["actual"], predicted["predicted"], labels=["negative", "positive"])


def histogram(predictions: pd.DataFrame, bins: int = 20) -> pd.DataFrame:
    """The number of ``negatives`` and ``positives`` in equal bins of the probability, with the centre of each bin."""
    edges = np.linspace(0, 1, bins + 1)
    table = {"probability": (edges[:-1] + edges[1:]) / 2}
    for label, name in enumerate(("negatives", "positives")):
        table[name] = np.histogram(predictions.loc[predictions["label"] == label, "probability"], edges)[0]
    return pd.DataFrame(table)


def net_benefit(predictions: pd.DataFrame) -> pd.DataFrame:
    """The net benefit (utility.net_benefit) at each ``threshold`` from 0.01 to 0.99.

    Returns
    -------
    DataFrame
        ``threshold``, and the net benefit of the ``model``, and of calling ``all`` and ``none`` of the images positive;
        without rows if there are no images.
    """
    thresholds = np.arange(1, 100) / 100 if len(predictions) else np.array([])
    labels, probabilities = predictions["label"].to_numpy(), predictions["probability"].to_numpy()
    table = {"threshold": thresholds}
    for name, scores in (("model", probabilities), ("all", np.ones(len(labels)))):
        table[name] = np.array([utility.net_benefit(labels, scores, value).mean() for value in thresholds])
    return pd.DataFrame(table).assign(none=0.0)
