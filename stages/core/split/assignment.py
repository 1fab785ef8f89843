"""Assign images to train, validation and test, and keep the images of a component in the same split."""

import hmac
from typing import Any

from core.pipeline import components, tables
from core.pipeline.errors import PipelineError
from core.pipeline.schemas.base import SPLITS
from core.pipeline.schemas.split import Split
from core.split import messages

import numpy as np
import pandas as pd


def assign(index: pd.DataFrame, clusters: pd.DataFrame, cfg: Split, seed: int) -> pd.DataFrame:
    """Assign every image to a split: train, val, test or dropped. Equal arguments give an equal split.

    Parameters
    ----------
    index : DataFrame, from queries.by_image
        If ``keeps_patients_together(cfg)``, it can be from queries.by_patient: a row is then several images of one
        patient and label, and their number is in the column images.
    clusters : DataFrame with the columns of tables.CLUSTERS

    Returns
    -------
    DataFrame
        ``index``, in its order, with the columns cluster, component and split of tables.SPLIT.

    Raises
    ------
    PipelineError
        If the strategy needs patients or lists that are missing, or if a split would be empty.
    """
    split = index.reset_index(drop=True)
    copies = components.copy_clusters(split, clusters)
    # Exact and near copies of one image are in the same cluster.
    split["cluster"] = components.union(split.loc[copies.index.unique().sort_values()], [copies]).reindex(split.index)

    by_patient, predefined = keeps_patients_together(cfg), cfg.strategy == "predefined"
    if by_patient and split["patient"].isna().any():
        raise PipelineError(messages.UNKNOWN_PATIENTS.format(strategy=cfg.strategy))
    if predefined and split["listed"].isna().all():
        raise PipelineError(messages.NO_LISTS)

    dropped = split["listed"].isna().to_numpy(dtype=bool, copy=True) if predefined else np.zeros(len(split), dtype=bool)
    hashed = _by_hash(split["patient"], cfg, seed) if cfg.strategy == "stable" else None
    if hashed is not None and cfg.duplicates != "keep":
        dropped |= _straddling(split, hashed)
    if cfg.duplicates == "drop":  # among listed images only: an unlisted copy must not replace a listed one
        dropped[~dropped] = _redundant(split[~dropped])
    keys = []
    if by_patient:
        # Patients who share an image count as one person, even if only one copy is kept.
        keys.append(split["patient"] if cfg.duplicates == "keep" else components.persons(split))
    if cfg.duplicates == "together":
        keys.append(split["cluster"])
    split["component"] = components.union(split, keys)

    split["split"] = pd.array(["dropped"] * len(split), dtype="string")
    if predefined:
        split.loc[~dropped, "split"] = split.loc[~dropped, "listed"]
        placed = split[~dropped]
        torn = placed[placed.groupby("component")["split"].transform("nunique") > 1]
        if cfg.duplicates == "together" and len(torn):
            raise PipelineError(messages.lists_share_copies(list(torn["file"])))
        if not (split["listed"] == "val").any():  # there is no list for it: no patient is divided between train and val
            train = split[split["split"] == "train"]
            split.loc[train.index, "split"] = _train_or_val(train.assign(component=components.units(train)), cfg, seed)
    elif hashed is not None:
        split.loc[~dropped, "split"] = hashed[~dropped]
    else:
        split.loc[~dropped, "split"] = _by_fractions(split[~dropped], cfg, seed)

    for name in SPLITS:
        if not (split["split"] == name).any():
            if predefined:
                raise PipelineError(messages.EMPTY_LIST.format(split=name))
            count = split["component"].nunique()
            raise PipelineError(messages.empty_split(name, count, cfg, *_largest_component(split)))
    return split


def keeps_patients_together(cfg: Split) -> bool:
    """Whether all images of a patient without copies get the same split."""
    return cfg.strategy in ("patient", "stable")


def _by_hash(patients: "pd.Series[str]", cfg: Split, seed: int) -> "pd.Series[str]":
    """The split of each image by a keyed hash of its patient alone (HMAC-SHA256; the key is the seed), so that it does
    not depend on the other images."""

    def split_of(patient: str) -> str:
        hashed = hmac.digest(str(seed).encode(), patient.encode(), "sha256")
        first, second = (int.from_bytes(hashed[start : start + 8]) / 2**64 for start in (0, 8))
        in_test = first >= cfg.train + cfg.val if cfg.folds is None else int(first * cfg.folds) == cfg.fold - 1
        return "test" if in_test else "val" if second < cfg.val / (cfg.train + cfg.val) else "train"

    return patients.map({patient: split_of(patient) for patient in patients.unique()}).astype("string")


def _straddling(split: pd.DataFrame, hashed: "pd.Series[str]") -> np.ndarray:
    """True for each image of a patient whom copies join to a patient in an earlier split (train, val, test). These
    patients are left out, so that no other patient has to move."""
    order = hashed.map({name: number for number, name in enumerate(SPLITS)})
    return (order > order.groupby(components.persons(split)).transform("min")).to_numpy(dtype=bool)


def _largest_component(split: pd.DataFrame) -> tuple[int, list[str]]:
    """The number of patients in the component with the most images, and the copies that join the most of them."""
    images = split.assign(images=split.get("images", 1)).groupby("component")["images"].sum()
    members = split[split["component"] == images.idxmax()]
    patients = members["patient"].nunique()
    if patients < 2:
        return patients, []
    joined_patients = members.groupby("cluster")["patient"].nunique()
    return patients, list(members.loc[members["cluster"] == joined_patients.idxmax(), "file"])


def _redundant(split: pd.DataFrame) -> np.ndarray:
    """True for every image of a cluster except the first, and for all images of a cluster with contradicting labels."""
    has_copy = split["cluster"].notna()
    labels = split[has_copy].groupby("cluster")["label"].transform("nunique").reindex(split.index, fill_value=1)
    return (has_copy & (split["cluster"].duplicated() | (labels > 1))).to_numpy(dtype=bool)


def _by_fractions(kept: pd.DataFrame, cfg: Split, seed: int) -> np.ndarray:
    """The split of each row of ``kept``, by the fractions or with one fold as the test set; no component is divided."""
    if cfg.folds is None:
        return np.array(SPLITS)[_distribute(kept, np.array([cfg.train, cfg.val, cfg.test]), seed)]
    in_test = _distribute(kept, np.full(cfg.folds, 1 / cfg.folds), seed) == cfg.fold - 1
    split = np.where(in_test, "test", "train").astype("<U5")
    split[~in_test] = _train_or_val(kept[~in_test], cfg, seed)
    return split


def _train_or_val(kept: pd.DataFrame, cfg: Split, seed: int) -> np.ndarray:
    """The split of each row of ``kept``, none of which is tested."""
    val = cfg.val / (cfg.train + cfg.val)
    return np.array(SPLITS)[_distribute(kept, np.array([1 - val, val]), seed)]


def _distribute(kept: pd.DataFrame, fractions: np.ndarray, seed: int) -> np.ndarray:
    """Assign components to splits greedily, the largest first, each to the split where it fits best: numbers (rows,).

    The misfit is the chi-square distance from the requested numbers of negatives and positives. If the remaining
    components with a positive (or a negative) are not more than the splits without one, these splits come first.
    """
    images, positive = kept.get("images", 1), kept["label"] == 1
    counts = pd.DataFrame({"negative": ~positive * images, "positive": positive * images})
    table = counts.groupby(kept["component"]).sum()
    sizes = table.to_numpy(dtype=np.float64)  # (components, 2)
    shuffled = np.random.RandomState(seed).permutation(len(sizes))
    # Components with positives first: they are rarer. The others then balance the sizes of the splits.
    order = shuffled[np.lexsort((-sizes[shuffled].sum(axis=1), -sizes[shuffled, 1]))]

    target = fractions[:, None] * sizes.sum(axis=0)  # (splits, 2)
    weight = 1 / np.maximum(target, 1e-9)
    current = np.zeros_like(target)
    # Components that are not assigned yet: all, those with a negative, those with a positive.
    remaining = np.array([len(sizes), *(sizes > 0).sum(axis=0)])
    split = np.zeros(len(sizes), dtype=np.int64)
    for component in order:
        size = sizes[component]
        # The change of the squared misfit if this component is added to each split.
        change = ((2 * (current - target) + size) * size * weight).sum(axis=1)
        contains = np.array([True, *(size > 0)])
        lacking = np.column_stack([current.sum(axis=1) == 0, current == 0])
        scarce = lacking[:, contains & (remaining <= lacking.sum(axis=0))]
        # Choose the split that lacks the most kinds in ``scarce``; among equal ones, choose the best fit.
        best = int(np.lexsort((change, -scarce.sum(axis=1)))[0])
        split[component] = best
        current[best] += size
        remaining -= contains
    return split[table.index.get_indexer(pd.Index(kept["component"]))]


def summarise(split: pd.DataFrame, cfg: Split) -> dict[str, Any]:
    """The numbers of images, positives, patients and positive patients of each split, and of dropped images.

    ``deviation`` is a split's share of the images and of the positives minus the requested share, or null if lists
    define the splits. ``positive_components`` is the number of components with a positive image.
    """
    figures: dict[str, Any] = {name: tables.counts(split[split["split"] == name]) for name in SPLITS}
    kept = split[split["split"] != "dropped"]
    shares = {name: getattr(cfg, name) for name in SPLITS}
    if cfg.folds is not None:
        rest = (1 - 1 / cfg.folds) / (cfg.train + cfg.val)
        shares = {"train": cfg.train * rest, "val": cfg.val * rest, "test": 1 / cfg.folds}
    totals = {"images": tables.number(kept), "positives": tables.number(kept[kept["label"] == 1])}
    defined = cfg.strategy != "predefined"
    for split_name, counts in figures.items():
        counts["deviation"] = {
            name: round(counts[name] / total - shares[split_name], 6) if defined and total else None
            for name, total in totals.items()
        }
    return figures | {
        "dropped": tables.number(split) - totals["images"],
        "positive_components": int(kept.loc[kept["label"] == 1, "component"].nunique()),
    }


def headline(figures: dict[str, Any]) -> dict[str, int | None]:
    """The figures of metrics/split.json: what the test result rests on, and how much of it training has seen."""
    test = figures["test"]
    counts = {f"test_{name}": test[name] for name in ("images", "positives", "patients", "positive_patients")}
    return counts | {"test_images_leaking": figures["leak"]["test_in_train"], "dropped_images": figures["dropped"]}
