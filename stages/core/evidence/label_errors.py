"""Find labels that are likely wrong, by confident learning. The result is a list for people to look at: no label changes.

Northcutt, Jiang and Chuang 2021, Confident learning: estimating uncertainty in dataset labels, Journal of Artificial
Intelligence Research 70, 1373-1411, section 3.1: the confident joint.
"""

import numpy as np
import pandas as pd

COLUMNS = ["file", "patient", "label", "probability"]  # of the list


def likely_wrong(predictions: pd.DataFrame, strata: "pd.Series[int] | int" = 0) -> pd.DataFrame:
    """The rows whose label contradicts the probability, lowest probability of the label first.

    A row is off the diagonal of the confident joint: the other class has at least the mean probability that it has on
    its own images and, if both classes have that, the higher probability. With images of one class, no row is listed.

    Parameters
    ----------
    predictions : DataFrame
        Of images that are not in training: otherwise the network may have learned the wrong label.
    strata : Series
        The fold of each row: networks of different folds have different scales.
    """
    rows = predictions.assign(stratum=strata, own=predictions["probability"].where(predictions["label"] == 1))
    rows["own"] = rows["own"].fillna(1 - rows["probability"])
    means = rows.groupby(["stratum", "label"])["own"].mean()
    own, other = (
        means.reindex(pd.MultiIndex.from_arrays([rows["stratum"], label])).to_numpy()
        for label in (rows["label"], 1 - rows["label"])
    )
    listed = (1 - rows["own"] >= other) & ((rows["own"] < own) | (rows["own"] < 0.5))
    return predictions.loc[rows["own"][listed].sort_values(kind="stable").index]
