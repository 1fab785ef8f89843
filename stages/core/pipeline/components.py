"""Connected components of images: images of one patient and copies of an image belong together."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_array, csgraph


def connected_components(count: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Number the connected components of an undirected graph with ``count`` nodes.

    Parameters
    ----------
    first, second : (E,) int, 0 to ``count`` - 1
        Edge ``i`` connects the nodes ``first[i]`` and ``second[i]``.

    Returns
    -------
    (count,) int32, from 0
    """
    graph = coo_array((np.ones(len(first), dtype=np.int8), (first, second)), shape=(count, count))
    return csgraph.connected_components(graph, directed=False)[1]


def union(table: pd.DataFrame, keys: list["pd.Series[Any]"]) -> "pd.Series[int]":
    """Number the components of rows. Rows with an equal value in any of ``keys`` are in the same component.

    Parameters
    ----------
    table : DataFrame with a unique index
    keys : Series on rows of this index
        Each can contain a row several times or not at all. Missing values connect nothing.

    Returns
    -------
    Series of Int64, from 0 in the order of the rows of ``table``
    """
    rows, nodes, total = [], [], len(table)
    for key in keys:
        codes, values = pd.factorize(key)
        position = table.index.get_indexer(key.index)
        valid = (codes >= 0) & (position >= 0)
        rows.append(position[valid])
        nodes.append(total + codes[valid])
        total += len(values)
    first, second = (np.concatenate([*ends, []]).astype(int) for ends in (rows, nodes))
    numbers = connected_components(total, first, second)
    return pd.Series(pd.factorize(numbers[: len(table)])[0], index=table.index, dtype="Int64")


def copy_clusters(images: pd.DataFrame, clusters: pd.DataFrame, kind: str | None = None) -> "pd.Series[Any]":
    """The clusters of copies that images are in.

    Parameters
    ----------
    images : DataFrame with the column file, which may be missing for images without copies
    clusters : DataFrame with the columns of tables.CLUSTERS
    kind : {"exact", "near"}, default both

    Returns
    -------
    Series of cluster numbers, on the index of ``images``
        An image in an exact and a near cluster occurs twice. An image without copies does not occur.
    """
    rows = clusters if kind is None else clusters[clusters["kind"] == kind]
    names = images["file"].dropna()
    position = pd.Series(names.index, index=names)
    rows = rows[rows["file"].isin(position.index)]
    return pd.Series(rows["cluster"].to_numpy(), index=position[rows["file"]].to_numpy())


def of_images(images: pd.DataFrame, clusters: pd.DataFrame) -> "pd.Series[int]":
    """The component of each image: images of one patient and copies are joined, also through other images."""
    return union(images, [images["patient"], copy_clusters(images, clusters)])


def units(split: pd.DataFrame) -> "pd.Series[int]":
    """The unit of each image, which is left out as a whole: images of one patient and copies are joined, also
    indirectly."""
    return union(split, [split["patient"], split["cluster"]])


def persons(split: pd.DataFrame) -> "pd.Series[int]":
    """The person of each image: patients who share an image are one person. Missing if the patient is not known."""
    return units(split).where(split["patient"].notna())
