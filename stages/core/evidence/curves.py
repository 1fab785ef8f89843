"""What the plots show: curves, confusion matrix and histogram of predictions, as tables."""

from core.evidence import metrics

import numpy as np
import pandas as pd


def curves(splits: dict[str, pd.DataFrame]) -> dict[str, dict[str, pd.DataFrame]]:
    """ROC and PR curves.

    Parameters
    ----------
    splits : dict of DataFrame
        By the name of the split, a table with the columns label and probability.

    Returns
    -------
    dict of dict of DataFrame
        By "roc" or "pr", then by the split: a table with the columns false_positive_rate and sensitivity, or
        sensitivity and precision, in [0, 1]. It has no rows if one class is missing.
    """
    from sklearn.metrics import precision_recall_curve

    by_kind: dict[str, dict[str, pd.DataFrame]] = {"roc": {}, "pr": {}}
    for split, rows in splits.items():
        roc = pd.DataFrame(columns=["false_positive_rate", "sensitivity"], dtype=float)
        pr = pd.DataFrame(columns=["sensitivity", "precision"], dtype=float)
        if rows["label"].nunique() == 2:
            fpr, sensitivity, _ = metrics.roc_curve(rows)
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
    return pd.DataFrame(
        {
            "actual": words[predictions["label"]],
            "predicted": words[(predictions["probability"] >= threshold).astype(int)],
        }
    )


def confusion(predicted: pd.DataFrame) -> np.ndarray:
    """The confusion matrix of a table of ``predicted_classes``: int64 (2, 2), true class in rows, negative first."""
    from sklearn.metrics import confusion_matrix

    return confusion_matrix(predicted["actual"], predicted["predicted"], labels=["negative", "positive"])


def histogram(predictions: pd.DataFrame, bins: int = 20) -> pd.DataFrame:
    """The number of images of each label by probability.

    Parameters
    ----------
    predictions : DataFrame
        With the columns label and probability.
    bins : int
        Number of equal bins of the probability.

    Returns
    -------
    DataFrame
        One row per bin: ``probability``, its centre, and the number of ``negatives`` and of ``positives``.
    """
    edges = np.linspace(0, 1, bins + 1)
    table = {"probability": (edges[:-1] + edges[1:]) / 2}
    for label, name in enumerate(("negatives", "positives")):
        table[name] = np.histogram(predictions.loc[predictions["label"] == label, "probability"], edges)[0]
    return pd.DataFrame(table)
