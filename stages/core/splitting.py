"""Assign images to parts so that what belongs together stays together, and measure what leaked."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from core import tables
from core.errors import Mistake, some
from core.params import PARTS, Split


def assign(index: pd.DataFrame, clusters: pd.DataFrame, listed: pd.DataFrame, chosen: Split, seed: int) -> pd.DataFrame:
    """Give every image of ``index`` a part: train, val, test or dropped.

    ``clusters`` and ``listed`` have the columns of tables.CLUSTERS and tables.LISTED. Returns those of
    tables.SPLIT in the order of ``index``. Equal arguments give an equal split. Raises Mistake where the
    strategy lacks what it needs (patients, lists), or a part would be empty.
    """
    split = index[["row", "file", "label", "patient"]].copy()
    split["cluster"] = split["file"].map(clusters.set_index("file")["cluster"]).astype("Int64")

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
        ties.append(split["patient"])
    if chosen.duplicates == "together":
        ties.append(split["cluster"])
    split["group"] = pd.array(_components(len(split), ties), dtype="Int64")

    split["part"] = pd.array(["dropped"] * len(split), dtype="string")
    if chosen.strategy == "predefined":
        split.loc[~dropped, "part"] = split["file"].map(listed.set_index("file")["part"])[~dropped]
        if chosen.duplicates == "together":
            _refuse_torn_groups(split)
    else:
        fractions = np.array([getattr(chosen, part) for part in PARTS])
        kept = split[~dropped]
        split.loc[~dropped, "part"] = _distribute(kept["group"], kept["label"], fractions, seed)

    for part in PARTS:
        if not (split["part"] == part).any():
            if chosen.strategy == "predefined":
                raise Mistake(f"the part {part} would get no image: none that data.lists.{part} names is here")
            raise Mistake(
                f"the part {part} would get no image: {split['group'].nunique():,} groups of images that belong "
                f"together are too few for split.train {chosen.train:g}, val {chosen.val:g}, test {chosen.test:g}"
            )
    return split[tables.SPLIT]


def _redundant(split: pd.DataFrame) -> np.ndarray:
    """True for all but the first image of each cluster, and for all of one whose labels contradict each other."""
    known = split["cluster"].notna()
    labels = split[known].groupby("cluster")["label"].transform("nunique").reindex(split.index, fill_value=1)
    return (known & (split["cluster"].duplicated() | (labels > 1))).to_numpy(dtype=bool)


def _components(count: int, ties: list["pd.Series[Any]"]) -> np.ndarray:
    """Number the sets of rows that any of ``ties`` joins: int32 (count,). Missing values join nothing."""
    rows, nodes, total = [np.arange(count)], [np.arange(count)], count
    for tie in ties:
        codes, values = pd.factorize(tie)
        rows.append(np.flatnonzero(codes >= 0))
        nodes.append(total + codes[codes >= 0])
        total += len(values)
    row, node = np.concatenate(rows), np.concatenate(nodes)
    graph = coo_array((np.ones(len(row), dtype=np.int8), (row, node)), shape=(total, total))
    return connected_components(graph, directed=False)[1][:count]


def _distribute(groups: "pd.Series[Any]", labels: "pd.Series[Any]", fractions: np.ndarray, seed: int) -> np.ndarray:
    """Spread groups over the parts, greedily from the largest, where images and positives fit best.

    The misfit is the chi-square distance from the wanted numbers of negatives and of positives. While the
    groups with a positive (or a negative) are no more than the parts without one, those parts come first.
    """
    table = pd.DataFrame({"group": groups, "positive": labels == 1, "negative": labels == 0}).groupby("group").sum()
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
    part = np.array(PARTS)[chosen]
    return part[table.index.get_indexer(pd.Index(groups))]


def _refuse_torn_groups(split: pd.DataFrame) -> None:
    placed = split[split["part"] != "dropped"]
    torn = placed.groupby("group")["part"].nunique()
    if (torn > 1).any():
        files = list(placed.loc[placed["group"].isin(torn.index[torn > 1]), "file"])
        raise Mistake(
            f"data.lists put copies of one image into different parts ({len(files):,} images: {some(files)}), and "
            "split.duplicates is together. Mend the lists, or see what it does: split.duplicates: keep"
        )


def shared_with_train(split: pd.DataFrame) -> pd.DataFrame:
    """For each row, whether train holds a copy of the image, and another image of its patient.

    Columns copy_in_train and patient_in_train, boolean; the latter is missing where patients are unknown.
    """
    train = split[split["part"] == "train"]
    patient = split["patient"].isin(train["patient"].dropna()).astype("boolean")
    return pd.DataFrame(
        {
            "copy_in_train": split["cluster"].isin(train["cluster"].dropna()).astype("boolean"),
            "patient_in_train": patient.mask(split["patient"].isna()),
        }
    )


def measure_leak(split: pd.DataFrame) -> dict[str, int | None]:
    """The figures of metrics/split.json under ``leak``: images of test and of val that train knows."""
    shared = split.join(shared_with_train(split))
    leak: dict[str, int | None] = {}
    for part in ("test", "val"):
        rows = shared[shared["part"] == part]
        leak[f"{part}_copies_in_train"] = int(rows["copy_in_train"].sum())
        leak[f"{part}_positive_copies_in_train"] = int((rows["copy_in_train"] & (rows["label"] == 1)).sum())
        leak[f"{part}_near_copies_in_train"] = None  # near copies are not searched for yet
        known = rows["patient"].notna().any()
        leak[f"{part}_patients_in_train"] = int(rows["patient_in_train"].sum()) if known else None
    return leak


def summarise(split: pd.DataFrame) -> dict[str, Any]:
    """How many images, positives, patients and positive patients each part has, and how many were dropped."""
    figures: dict[str, Any] = {part: tables.counts(split[split["part"] == part]) for part in PARTS}
    return figures | {"dropped": int((split["part"] == "dropped").sum())}


def describe(figures: dict[str, Any]) -> str:
    """One line for each part: plain text."""
    lines = []
    for part in PARTS:
        counts = {name.replace("_", " "): count for name, count in figures[part].items() if count is not None}
        lines.append(f"{part:8}" + ", ".join(f"{count:,} {name}" for name, count in counts.items()))
        if figures[part]["positives"] in (0, figures[part]["images"]):
            lines.append(f"{part} has one class only: most measures on it are not defined.")
    if figures["dropped"]:
        lines.append(f"dropped {figures['dropped']:,} images")
    return "\n".join(lines)


def assure(split: pd.DataFrame) -> str:
    """What a split without a known leak promises, and what it can't."""
    if split["patient"].isna().any():
        return (
            "No test image has a copy in training. Patients are not known (data.patient), so that some are on both "
            "sides can't be excluded."
        )
    return "No test image has a copy or a patient in training."


def explain_leak(split: pd.DataFrame) -> str | None:
    """Which images and patients of the test set training knows; None where it knows none."""
    shared = split.join(shared_with_train(split))
    test = shared[shared["part"] == "test"]
    lines = []
    if (copies := test[test["copy_in_train"]]).size:
        lines.append(
            f"{len(copies):,} of {len(test):,} test images are copies of a training image: {some(list(copies['file']))}"
        )
    if (known := test[test["patient_in_train"].fillna(False)]).size:
        patients = sorted(known["patient"].unique())
        lines.append(
            f"{len(known):,} of {len(test):,} test images are of {len(patients):,} patients who are also in training: "
            f"{some(patients)}"
        )
    return "\n".join(lines) or None
