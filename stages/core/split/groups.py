"""Which images belong together: those of one patient, and copies of each other."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def linked(count: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Number the sets of ``count`` things that links from ``one`` to ``other`` join: int32 (count,)."""
    graph = coo_array((np.ones(len(one), dtype=np.int8), (one, other)), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def joined(table: pd.DataFrame, ties: list["pd.Series[Any]"]) -> "pd.Series[int]":
    """Number the sets of rows that any of ``ties`` joins by an equal value: Int64, on the table's index.

    A tie names its rows by the table's index and may name one twice; missing values join nothing.
    """
    rows, nodes, total = [], [], len(table)
    for tie in ties:
        codes, values = pd.factorize(tie)
        place = table.index.get_indexer(tie.index)
        known = (codes >= 0) & (place >= 0)
        rows.append(place[known])
        nodes.append(total + codes[known])
        total += len(values)
    numbers = linked(total, np.concatenate([*rows, []]).astype(int), np.concatenate([*nodes, []]).astype(int))
    return pd.Series(pd.factorize(numbers[: len(table)])[0], index=table.index, dtype="Int64")


def copied(images: pd.DataFrame, clusters: pd.DataFrame, kind: str | None = None) -> "pd.Series[Any]":
    """The clusters of ``kind`` (both, where None) that images are in, on the index of ``images``."""
    wanted = clusters if kind is None else clusters[clusters["kind"] == kind]
    row = pd.Series(images.index, index=images["file"])
    wanted = wanted[wanted["file"].isin(row.index)]
    return pd.Series(wanted["cluster"].to_numpy(), index=row[wanted["file"]].to_numpy())


def of(images: pd.DataFrame, clusters: pd.DataFrame) -> "pd.Series[int]":
    """Number the images that must be seen as one: of a patient, or copies of each other, or both by way of others."""
    return joined(images, [images["patient"], copied(images, clusters)])


def units(split: pd.DataFrame) -> "pd.Series[int]":
    """Number what no resampling may tear apart: images of a patient, and copies, also by way of each other."""
    return joined(split, [split["patient"], split["cluster"]])


def persons(split: pd.DataFrame) -> "pd.Series[int]":
    """Number the patients, those as one who share an image; missing where the patient is not known."""
    return units(split).where(split["patient"].notna())
