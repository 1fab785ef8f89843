"""Groups of images that belong together: images of one patient, and copies."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def linked(count: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Number the connected components of ``count`` nodes with links from ``one`` to ``other``: int32 (count,)."""
    graph = coo_array((np.ones(len(one), dtype=np.int8), (one, other)), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def joined(table: pd.DataFrame, ties: list["pd.Series[Any]"]) -> "pd.Series[int]":
    """Number the groups of rows: rows with an equal value in any of ``ties`` are in one group.

    Returns Int64 on the table's index. A tie refers to rows by the table's index, and can contain a row several
    times. Missing values join nothing.
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
    """The clusters of ``kind`` (None: both kinds) of the images that are copies, on the index of ``images``.

    An image in an exact and a near cluster occurs twice; an image without copies does not occur, and may have no file.
    """
    wanted = clusters if kind is None else clusters[clusters["kind"] == kind]
    names = images["file"].dropna()
    row = pd.Series(names.index, index=names)
    wanted = wanted[wanted["file"].isin(row.index)]
    return pd.Series(wanted["cluster"].to_numpy(), index=row[wanted["file"]].to_numpy())


def of(images: pd.DataFrame, clusters: pd.DataFrame) -> "pd.Series[int]":
    """The group of each image: images of one patient and copies are joined, also indirectly through other images."""
    return joined(images, [images["patient"], copied(images, clusters)])


def units(split: pd.DataFrame) -> "pd.Series[int]":
    """The unit of resampling of each image: images of one patient and copies are joined, also indirectly."""
    return joined(split, [split["patient"], split["cluster"]])


def persons(split: pd.DataFrame) -> "pd.Series[int]":
    """The person of each image: patients who share an image are one person. Missing if the patient is not known."""
    return units(split).where(split["patient"].notna())
