"""Connected components of images: images of one patient and copies of an image belong together."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_array, csgraph


def connected_components(count: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Number the connected components of an undirected graph.

    Parameters
    ----------
    count : int
        Number of nodes.
    first, second : ndarray of int, shape (E,)
        Edge ``i`` connects the nodes ``first[i]`` and ``second[i]``, each from 0 to ``count`` - 1.

    Returns
    -------
    ndarray of int32, shape (count,)
        The component of each node, numbered from 0.
    """
    graph = coo_array((np.ones(len(first), dtype=np.int8), (first, second)), shape=(count, count))
    return csgraph.connected_components(graph, directed=False)[1]


def union(table: pd.DataFrame, keys: list["pd.Series[Any]"]) -> "pd.Series[int]":
    """Number the components of rows. Rows with an equal value in any of ``keys`` are in the same component.

    Parameters
    ----------
    table : DataFrame
        Only its index is used, which must be unique.
    keys : list of Series
        Each refers to rows by the index of ``table``, and can contain a row several times or not at all. Missing values
        connect nothing.

    Returns
    -------
    Series of Int64
        The component of each row of ``table``, numbered from 0 in the order of the rows.
    """
    rows, nodes, total = [], [], len(table)
    for key in keys:
        codes, values = pd.factorize(key)
        position = table.index.get_indexer(key.index)
        valid = (codes >= 0) & (position >= 0)
        rows.append(position[valid])
        nodes.append(total + codes[valid])
        total += len(values)
    numbers = connected_components(
        total, np.concatenate([*rows, []]).astype(int), np.concatenate([*nodes, []]).astype(int)
    )
    return pd.Series(pd.factorize(numbers[: len(table)])[0], index=table.index, dtype="Int64")


def copy_clusters(images: pd.DataFrame, clusters: pd.DataFrame, kind: str | None = None) -> "pd.Series[Any]":
    """The clusters of copies that images are in.

    Parameters
    ----------
    images : DataFrame
        Has the column file, which may be missing for images without copies.
    clusters : DataFrame
        Has the columns of tables.CLUSTERS.
    kind : {"exact", "near"}, optional
        By default, clusters of both kinds.

    Returns
    -------
    Series
        The cluster numbers, on the index of ``images``. An image in an exact and a near cluster occurs twice. An image
        without copies does not occur.
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
    """The unit of resampling of each image: images of one patient and copies are joined, also indirectly."""
    return union(split, [split["patient"], split["cluster"]])


def persons(split: pd.DataFrame) -> "pd.Series[int]":
    """The person of each image: patients who share an image are one person. Missing if the patient is not known."""
    return units(split).where(split["patient"].notna())
