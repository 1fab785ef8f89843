"""Assign images to train, validation and test, keeping together what belongs together."""

from typing import Any

import numpy as np
import pandas as pd

from core.pipeline import tables
from core.pipeline.errors import Mistake, some
from core.pipeline.params import PARTS, Split
from core.split import groups


def assign(index: pd.DataFrame, clusters: pd.DataFrame, listed: pd.DataFrame, chosen: Split, seed: int) -> pd.DataFrame:
    """Give every image of ``index`` a part: train, val, test or dropped.

    ``clusters`` and ``listed`` have the columns of tables.CLUSTERS and tables.LISTED. Returns those of
    tables.SPLIT in the order of ``index``. Equal arguments give an equal split. Raises Mistake where the
    strategy lacks what it needs (patients, lists), or a part would be empty.
    """
    split = index[["row", "file", "label", "patient"]].reset_index(drop=True)
    copied = groups.copied(split, clusters)
    # One cluster for exact and near copies alike: whatever stands in a row of either kind.
    split["cluster"] = groups.joined(split, [copied]).where(split.index.isin(copied.index))

    if chosen.strategy == "patient" and split["patient"].isna().any():
        raise Mistake(
            "split.strategy patient needs to know the patients, and this source doesn't say: "
            "set data.patient, or split.strategy: image if each image is of another patient"
        )
    if chosen.strategy == "predefined" and listed.empty:
        raise Mistake("split.strategy predefined needs the lists data.lists.train, .val and .test")

    dropped = np.zeros(len(split), dtype=bool)
    if chosen.strategy == "predefined":
        dropped |= ~split["file"].isin(listed["file"]).to_numpy(dtype=bool)
    if chosen.duplicates == "drop":  # of the listed images only, so that a copy on no list can't push out one that is
        dropped[~dropped] = _redundant(split[~dropped])
    ties = []
    if chosen.strategy == "patient":
        # Whoever shares an image is one person under two names, even where one of each image is kept.
        ties.append(split["patient"] if chosen.duplicates == "keep" else groups.persons(split))
    if chosen.duplicates == "together":
        ties.append(split["cluster"])
    split["group"] = groups.joined(split, ties)

    split["part"] = pd.array(["dropped"] * len(split), dtype="string")
    if chosen.strategy == "predefined":
        split.loc[~dropped, "part"] = split["file"].map(listed.set_index("file")["part"])[~dropped]
        if chosen.duplicates == "together":
            _refuse_torn_groups(split)
    else:
        split.loc[~dropped, "part"] = _parts(split[~dropped], chosen, seed)

    for part in PARTS:
        if not (split["part"] == part).any():
            if chosen.strategy == "predefined":
                raise Mistake(f"the part {part} would get no image: none that data.lists.{part} names is here")
            asked = f"split.train {chosen.train:g}, val {chosen.val:g}, test {chosen.test:g}"
            raise Mistake(
                f"the part {part} would get no image: {split['group'].nunique():,} groups of images that belong "
                f"together are too few for {asked if chosen.folds is None else f'split.folds {chosen.folds}'}"
                + _largest(split)
            )
    return split[tables.SPLIT]


def _largest(split: pd.DataFrame) -> str:
    """Which copies join the most patients to one group, for a message; empty where none do."""
    members = split[split["group"] == split["group"].mode()[0]]
    if members["patient"].nunique() < 2:
        return ""
    ties = members.groupby("cluster")["patient"].nunique()
    shown = members.loc[members["cluster"] == ties.idxmax(), "file"]
    return (
        f".\nCopies join {members['patient'].nunique():,} patients to one group, such as {some(list(shown), 3)}. "
        "If they show nothing (blank images), leave them out of the source; if they are no copies, "
        "split.duplicates: keep"
    )


def _redundant(split: pd.DataFrame) -> np.ndarray:
    """True for all but the first image of each cluster, and for all of one whose labels contradict each other."""
    known = split["cluster"].notna()
    labels = split[known].groupby("cluster")["label"].transform("nunique").reindex(split.index, fill_value=1)
    return (known & (split["cluster"].duplicated() | (labels > 1))).to_numpy(dtype=bool)


def _parts(kept: pd.DataFrame, chosen: Split, seed: int) -> np.ndarray:
    """The part of each row of ``kept``, its groups whole: by the fractions, or with one fold to test on."""
    if chosen.folds is None:
        return np.array(PARTS)[_distribute(kept, np.array([chosen.train, chosen.val, chosen.test]), seed)]
    tested = _distribute(kept, np.full(chosen.folds, 1 / chosen.folds), seed) == chosen.fold - 1
    part = np.where(tested, "test", "train").astype("<U5")
    val = chosen.val / (chosen.train + chosen.val)
    part[~tested] = np.array(PARTS)[_distribute(kept[~tested], np.array([1 - val, val]), seed)]
    return part


def _distribute(kept: pd.DataFrame, fractions: np.ndarray, seed: int) -> np.ndarray:
    """Spread groups over as many parts as ``fractions``, greedily from the largest, where they fit best: (rows,).

    The misfit is the chi-square distance from the wanted numbers of negatives and of positives. While the
    groups with a positive (or a negative) are no more than the parts without one, those parts come first.
    """
    positive = kept["label"] == 1
    table = pd.DataFrame({"group": kept["group"], "positive": positive, "negative": ~positive}).groupby("group").sum()
    sizes = table[["negative", "positive"]].to_numpy(dtype=np.float64)  # (groups, 2)
    shuffled = np.random.RandomState(seed).permutation(len(sizes))
    # Groups of positives first: they are the fewer, and what is left of the others evens the parts out.
    order = shuffled[np.lexsort((-sizes[shuffled].sum(axis=1), -sizes[shuffled, 1]))]

    wanted = fractions[:, None] * sizes.sum(axis=0)  # (parts, 2)
    weight = 1 / np.maximum(wanted, 1e-9)
    have = np.zeros_like(wanted)
    left = np.array([len(sizes), *(sizes > 0).sum(axis=0)])  # groups at all, with a negative, with a positive
    chosen = np.zeros(len(sizes), dtype=np.int64)
    for group in order:
        size = sizes[group]
        # Of the squared misfit only the change by adding this group differs between the parts.
        change = ((2 * (have - wanted) + size) * size * weight).sum(axis=1)
        has = np.array([True, *(size > 0)])
        lacking = np.column_stack([have.sum(axis=1) == 0, have == 0])
        scarce = lacking[:, has & (left <= lacking.sum(axis=0))]
        # The part that lacks most of what has become scarce; among equals the best fit.
        best = int(np.lexsort((change, -scarce.sum(axis=1)))[0])
        chosen[group] = best
        have[best] += size
        left -= has
    return chosen[table.index.get_indexer(pd.Index(kept["group"]))]


def _refuse_torn_groups(split: pd.DataFrame) -> None:
    placed = split[split["part"] != "dropped"]
    torn = placed.groupby("group")["part"].nunique()
    if (torn > 1).any():
        files = list(placed.loc[placed["group"].isin(torn.index[torn > 1]), "file"])
        raise Mistake(
            f"data.lists put copies of one image into different parts ({len(files):,} images: {some(files)}), and "
            "split.duplicates is together. Mend the lists, or see what it does: split.duplicates: keep"
        )


def summarise(split: pd.DataFrame, chosen: Split) -> dict[str, Any]:
    """How many images, positives, patients and positive patients each part has, and how many were dropped.

    ``deviation`` is by how much a part's share of the images and of the positives exceeds the one asked for,
    null where lists gave the parts; ``positive_groups`` how many groups with a positive there were to assign.
    """
    figures: dict[str, Any] = {part: tables.counts(split[split["part"] == part]) for part in PARTS}
    kept = split[split["part"] != "dropped"]
    asked = {part: getattr(chosen, part) for part in PARTS}
    if chosen.folds is not None:
        rest = (1 - 1 / chosen.folds) / (chosen.train + chosen.val)
        asked = {"train": chosen.train * rest, "val": chosen.val * rest, "test": 1 / chosen.folds}
    for part in PARTS:
        figures[part]["deviation"] = {
            name: None
            if chosen.strategy == "predefined" or not total
            else round(figures[part][name] / total - asked[part], 6)
            for name, total in (("images", len(kept)), ("positives", int((kept["label"] == 1).sum())))
        }
    return figures | {
        "dropped": len(split) - len(kept),
        "positive_groups": int(kept.loc[kept["label"] == 1, "group"].nunique()),
    }


def describe(figures: dict[str, Any]) -> str:
    """One line for each part, how far it is from what was asked, and what is missing: plain text."""
    lines = []
    for part in PARTS:
        counts = {name.replace("_", " "): count for name, count in figures[part].items() if isinstance(count, int)}
        line = f"{part:8}" + ", ".join(f"{count:,} {name}" for name, count in counts.items())
        off = {name: share for name, share in figures[part]["deviation"].items() if share is not None}
        if off:
            line += "; off by " + ", ".join(f"{100 * share:+.1f} % of all {name}" for name, share in off.items())
        lines.append(line)
        if figures[part]["positives"] in (0, figures[part]["images"]):
            lines.append(f"{part} has one class only: most measures on it are not defined.")
    if figures["positive_groups"] < len(PARTS):
        lines.append(
            f"There are {figures['positive_groups']} groups with a positive image for {len(PARTS)} parts: one goes "
            "without. Only images of more patients help; split.folds tests on each group in turn."
        )
    if figures["dropped"]:
        lines.append(f"dropped {figures['dropped']:,} images")
    return "\n".join(lines)
