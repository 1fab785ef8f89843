"""Find the images that stand in a set more than once."""

from typing import Any

import pandas as pd

from core import tables


def find_copies(index: pd.DataFrame) -> pd.DataFrame:
    """Cluster the images whose decoded pixels are equal, whatever their files' bytes.

    Returns the columns of tables.CLUSTERS, one row for each image that has a copy. Clusters are numbered
    from 0 in the order of their first file; distance is 0 and correlation 1 by definition.
    """
    copied = index[index["pixels_sha256"].duplicated(keep=False)]
    rows = copied[["file"]].assign(
        cluster=copied.groupby("pixels_sha256", sort=False).ngroup(), kind="exact", distance=0, correlation=1.0
    )
    return rows.astype({"cluster": "Int64"}).sort_values(["cluster", "file"], ignore_index=True)[tables.CLUSTERS]


def conflicts(index: pd.DataFrame, clusters: pd.DataFrame) -> list[list[str]]:
    """The files of each cluster whose copies carry different labels."""
    labelled = clusters.merge(index[["file", "label"]], on="file")
    mixed = labelled.groupby("cluster")["label"].nunique()
    return [list(labelled.loc[labelled["cluster"] == cluster, "file"]) for cluster in mixed.index[mixed > 1]]


def summarise(index: pd.DataFrame, clusters: pd.DataFrame, unreadable: int) -> dict[str, Any]:
    """The figures of metrics/audit.json. Patients are null where they are not known."""
    positive = index[index["label"] == 1]
    known = index["patient"].notna().any()
    distinct = index["pixels_sha256"].nunique()
    return {
        "synthetic": tables.is_synthetic(index),
        "images": len(index),
        "distinct_images": distinct,
        "redundant_copies": len(index) - distinct,
        "exact_clusters": int(clusters["cluster"].nunique()),
        "copied_images": len(clusters),
        "near_pairs": None,
        "positives": len(positive),
        "distinct_positives": positive["pixels_sha256"].nunique(),
        "patients": index["patient"].nunique() if known else None,
        "positive_patients": positive["patient"].nunique() if known else None,
        "label_conflicts": len(conflicts(index, clusters)),
        "unreadable": unreadable,
    }


def explain(figures: dict[str, Any], conflicting: list[list[str]]) -> str:
    """What was found, what it means, and which parameter deals with it: plain text."""
    kind = "SYNTHETIC images" if figures["synthetic"] else "images"
    lines = [
        f"{figures['images']:,} {kind}, {figures['distinct_images']:,} of them distinct; "
        f"{figures['positives']:,} positive, {figures['distinct_positives']:,} of them distinct"
    ]
    if figures["patients"] is None:
        lines.append("Patients are not known: a split cannot keep them apart. data.patient tells where they stand.")
    else:
        lines.append(
            f"{figures['patients']:,} patients, {figures['positive_patients']:,} of them with a positive image"
        )
        if figures["positive_patients"] < 10:
            lines.append("So few positive patients cannot show how a classifier does on new ones.")
    if figures["redundant_copies"]:
        lines.append(
            f"{figures['copied_images']:,} images stand in {figures['exact_clusters']:,} clusters of exact copies "
            f"({figures['redundant_copies']:,} redundant). split.duplicates: together keeps them on one side, "
            "drop keeps one of each."
        )
    else:
        lines.append("No exact copies.")
    for files in conflicting:
        lines.append(f"Equal images with different labels: {', '.join(files[:4])}. One of the labels is wrong.")
    return "\n".join(lines)
