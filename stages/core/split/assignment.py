"""Assign images to train, validation and test, and keep the images of a group in the same part."""

import hmac
from typing import Any

from core.pipeline import tables
from core.pipeline.errors import PipelineError
from core.pipeline.schemas.base import SPLITS
from core.pipeline.schemas.split import Split
from core.pipeline.text import shorten
from core.split import groups

import numpy as np
import pandas as pd


def assign(index: pd.DataFrame, clusters: pd.DataFrame, chosen: Split, seed: int) -> pd.DataFrame:
    """Give every image of ``index`` a part: train, val, test or dropped.

    ``clusters`` has the columns of tables.CLUSTERS, and ``index`` those of queries.singly. For the strategies that
    ``gathers`` names, a row can be several images of one patient and label without copies: their number is in the
    column images (queries.condensed). Returns ``index`` with the columns cluster, group and part of tables.SPLIT, in
    its order. Equal arguments give an equal split. Raises PipelineError if the strategy needs patients or lists that are
    missing, or if a part would be empty.
    """
    split = index.reset_index(drop=True)
    copied = groups.copied(split, clusters)
    # Exact and near copies of one image are in the same cluster.
    split["cluster"] = groups.joined(split.loc[copied.index.unique().sort_values()], [copied]).reindex(split.index)

    by_patient = gathers(chosen)
    if by_patient and split["patient"].isna().any():
        raise PipelineError(
            f"split.strategy is {chosen.strategy}, but the patients are not known: set data.patient, or "
            "split.strategy: image if each image is of a different patient"
        )
    if chosen.strategy == "predefined" and split["listed"].isna().all():
        raise PipelineError("split.strategy predefined needs the lists data.lists.train, .val and .test")

    dropped = np.zeros(len(split), dtype=bool)
    if chosen.strategy == "predefined":
        dropped |= split["listed"].isna().to_numpy(dtype=bool)
    hashed = _by_hash(split["patient"], chosen, seed) if chosen.strategy == "stable" else None
    if hashed is not None:
        dropped |= _torn(split, hashed, chosen)
    if chosen.duplicates == "drop":  # among listed images only: an unlisted copy must not replace a listed one
        dropped[~dropped] = _redundant(split[~dropped])
    ties = []
    if by_patient:
        # Patients who share an image count as one person, even if only one copy is kept.
        ties.append(split["patient"] if chosen.duplicates == "keep" else groups.persons(split))
    if chosen.duplicates == "together":
        ties.append(split["cluster"])
    split["component"] = groups.joined(split, ties)

    split["split"] = pd.array(["dropped"] * len(split), dtype="string")
    if chosen.strategy == "predefined":
        split.loc[~dropped, "split"] = split.loc[~dropped, "listed"]
        if chosen.duplicates == "together":
            _refuse_torn_components(split)
    elif hashed is not None:
        split.loc[~dropped, "split"] = hashed[~dropped]
    else:
        split.loc[~dropped, "split"] = _parts(split[~dropped], chosen, seed)

    for part in SPLITS:
        if not (split["split"] == part).any():
            if chosen.strategy == "predefined":
                raise PipelineError(
                    f"the part {part} would get no image: no image of data.lists.{part} is in the source"
                )
            asked = f"split.train {chosen.train:g}, val {chosen.val:g}, test {chosen.test:g}"
            raise PipelineError(
                f"the part {part} would get no image: {split['component'].nunique():,} groups of images (patients, "
                f"copies) are too few for {asked if chosen.folds is None else f'split.folds {chosen.folds}'}"
                + _largest(split)
            )
    return split


def gathers(chosen: Split) -> bool:
    """Whether all images of a patient that are no copies get the same part."""
    return chosen.strategy in ("patient", "stable")


def _by_hash(patients: "pd.Series[str]", chosen: Split, seed: int) -> "pd.Series[str]":
    """The part of each image by a keyed hash of its patient alone (HMAC-SHA256; the key is the seed), so that it does
    not depend on the other images."""

    def part(patient: str) -> str:
        hashed = hmac.digest(str(seed).encode(), patient.encode(), "sha256")
        first, second = (int.from_bytes(hashed[start : start + 8]) / 2**64 for start in (0, 8))
        val = chosen.val / (chosen.train + chosen.val)
        if chosen.folds is None:
            tested = first >= chosen.train + chosen.val
        else:
            tested = int(first * chosen.folds) == chosen.fold - 1
        return "test" if tested else "val" if second < val else "train"

    return patients.map({patient: part(patient) for patient in patients.unique()}).astype("string")


def _torn(split: pd.DataFrame, hashed: "pd.Series[str]", chosen: Split) -> np.ndarray:
    """True for each image of a patient whom copies join to a patient in an earlier part (train, val, test). These
    patients are left out: no other one has to move."""
    if chosen.duplicates == "keep":
        return np.zeros(len(split), dtype=bool)
    order = hashed.map({part: number for number, part in enumerate(SPLITS)})
    return (order > order.groupby(groups.persons(split)).transform("min")).to_numpy(dtype=bool)


def _largest(split: pd.DataFrame) -> str:
    """A hint for a message: the copies that join the most patients into one group, or an empty string."""
    images = split.assign(images=split.get("images", 1)).groupby("component")["images"].sum()
    members = split[split["component"] == images.idxmax()]
    if members["patient"].nunique() < 2:
        return ""
    ties = members.groupby("cluster")["patient"].nunique()
    shown = members.loc[members["cluster"] == ties.idxmax(), "file"]
    return (
        f".\nCopies join {members['patient'].nunique():,} patients into one group, for example {shorten(list(shown), 3)}. "
        "If these images are blank, remove them from the source. If they are not copies, set split.duplicates: keep"
    )


def _redundant(split: pd.DataFrame) -> np.ndarray:
    """True for every image of a cluster except the first, and for all images of a cluster with contradicting labels."""
    known = split["cluster"].notna()
    labels = split[known].groupby("cluster")["label"].transform("nunique").reindex(split.index, fill_value=1)
    return (known & (split["cluster"].duplicated() | (labels > 1))).to_numpy(dtype=bool)


def _parts(kept: pd.DataFrame, chosen: Split, seed: int) -> np.ndarray:
    """The part of each row of ``kept``, by the fractions or with one fold as the test set. Groups are never divided."""
    if chosen.folds is None:
        return np.array(SPLITS)[_distribute(kept, np.array([chosen.train, chosen.val, chosen.test]), seed)]
    tested = _distribute(kept, np.full(chosen.folds, 1 / chosen.folds), seed) == chosen.fold - 1
    part = np.where(tested, "test", "train").astype("<U5")
    val = chosen.val / (chosen.train + chosen.val)
    part[~tested] = np.array(SPLITS)[_distribute(kept[~tested], np.array([1 - val, val]), seed)]
    return part


def _distribute(kept: pd.DataFrame, fractions: np.ndarray, seed: int) -> np.ndarray:
    """Assign groups to parts greedily, the largest first, each to the part where it fits best: part numbers (rows,).

    The misfit is the chi-square distance from the requested numbers of negatives and positives. If the remaining
    groups with a positive (or a negative) are not more than the parts without one, these parts come first.
    """
    images, positive = kept.get("images", 1), kept["label"] == 1
    table = pd.DataFrame(
        {"component": kept["component"], "positive": positive * images, "negative": ~positive * images}
    )
    table = table.groupby("component").sum()
    sizes = table[["negative", "positive"]].to_numpy(dtype=np.float64)  # (groups, 2)
    shuffled = np.random.RandomState(seed).permutation(len(sizes))
    # Groups with positives first: they are rarer. The other groups then balance the sizes of the parts.
    order = shuffled[np.lexsort((-sizes[shuffled].sum(axis=1), -sizes[shuffled, 1]))]

    wanted = fractions[:, None] * sizes.sum(axis=0)  # (parts, 2)
    weight = 1 / np.maximum(wanted, 1e-9)
    have = np.zeros_like(wanted)
    left = np.array([len(sizes), *(sizes > 0).sum(axis=0)])  # remaining groups: all, with a negative, with a positive
    chosen = np.zeros(len(sizes), dtype=np.int64)
    for group in order:
        size = sizes[group]
        # The change of the squared misfit if this group is added to each part.
        change = ((2 * (have - wanted) + size) * size * weight).sum(axis=1)
        has = np.array([True, *(size > 0)])
        lacking = np.column_stack([have.sum(axis=1) == 0, have == 0])
        scarce = lacking[:, has & (left <= lacking.sum(axis=0))]
        # Choose the part that lacks the most kinds in ``scarce``; among equal parts, choose the best fit.
        best = int(np.lexsort((change, -scarce.sum(axis=1)))[0])
        chosen[group] = best
        have[best] += size
        left -= has
    return chosen[table.index.get_indexer(pd.Index(kept["component"]))]


def _refuse_torn_components(split: pd.DataFrame) -> None:
    placed = split[split["split"] != "dropped"]
    torn = placed.groupby("component")["split"].nunique()
    if (torn > 1).any():
        files = list(placed.loc[placed["component"].isin(torn.index[torn > 1]), "file"])
        raise PipelineError(
            f"data.lists put copies of one image into different parts ({len(files):,} images: {shorten(files)}), and "
            "split.duplicates is together. Fix the lists, or set split.duplicates: keep to measure the effect"
        )


def summarise(split: pd.DataFrame, chosen: Split) -> dict[str, Any]:
    """The numbers of images, positives, patients and positive patients of each part, and of dropped images.

    ``deviation`` is a part's share of the images and of the positives minus the requested share, or null if lists
    define the parts. ``positive_components`` is the number of groups with a positive image.
    """
    figures: dict[str, Any] = {part: tables.counts(split[split["split"] == part]) for part in SPLITS}
    kept = split[split["split"] != "dropped"]
    asked = {part: getattr(chosen, part) for part in SPLITS}
    if chosen.folds is not None:
        rest = (1 - 1 / chosen.folds) / (chosen.train + chosen.val)
        asked = {"train": chosen.train * rest, "val": chosen.val * rest, "test": 1 / chosen.folds}
    for part in SPLITS:
        figures[part]["deviation"] = {
            name: None
            if chosen.strategy == "predefined" or not total
            else round(figures[part][name] / total - asked[part], 6)
            for name, total in (("images", tables.number(kept)), ("positives", tables.number(kept[kept["label"] == 1])))
        }
    return figures | {
        "dropped": tables.number(split) - tables.number(kept),
        "positive_components": int(kept.loc[kept["label"] == 1, "component"].nunique()),
    }


def headline(figures: dict[str, Any]) -> dict[str, int | None]:
    """The figures of metrics/split.json: what the test result rests on, and how much of it training has seen."""
    test = figures["test"]
    counts = {f"test_{name}": test[name] for name in ("images", "positives", "patients", "positive_patients")}
    return counts | {"test_images_leaking": figures["leak"]["test_in_train"], "dropped_images": figures["dropped"]}


def describe(figures: dict[str, Any]) -> str:
    """Plain text: one line per part with its deviation from the requested shares, and warnings."""
    lines = []
    for part in SPLITS:
        counts = {name.replace("_", " "): count for name, count in figures[part].items() if isinstance(count, int)}
        line = f"{part:8}" + ", ".join(f"{count:,} {name}" for name, count in counts.items())
        off = {name: share for name, share in figures[part]["deviation"].items() if share is not None}
        if off:
            line += "; off by " + ", ".join(f"{100 * share:+.1f} % of all {name}" for name, share in off.items())
        lines.append(line)
        if figures[part]["positives"] in (0, figures[part]["images"]):
            lines.append(f"{part} has one class only, so most measures are not defined on it.")
    if figures["positive_components"] < len(SPLITS):
        lines.append(
            f"{figures['positive_components']} groups with a positive image are too few for {len(SPLITS)} parts: at least "
            "one part has none. Only images of more patients help. With split.folds, each group is tested in turn."
        )
    if figures["dropped"]:
        lines.append(f"dropped {figures['dropped']:,} images")
    return "\n".join(lines)
