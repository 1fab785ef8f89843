"""Assign images to parts so that what belongs together stays together, and measure what leaked."""

from typing import Any

import numpy as np
import pandas as pd

from core import groups, tables
from core.errors import Mistake, some
from core.params import PARTS, Split


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
        ties.append(split["patient"] if chosen.duplicates == "keep" else _person(split))
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


def units(split: pd.DataFrame) -> "pd.Series[int]":
    """Number what no resampling may tear apart: images of a patient, and copies, also by way of each other."""
    return groups.joined(split, [split["patient"], split["cluster"]])


def _person(split: pd.DataFrame) -> "pd.Series[int]":
    """Number the patients, those as one who share an image; missing where the patient is not known."""
    return units(split).where(split["patient"].notna())


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


def shared_with_train(split: pd.DataFrame) -> pd.DataFrame:
    """For each row, whether train holds a copy of the image, exact or near, and an image of its patient.

    Columns copy_in_train and patient_in_train, boolean; the latter is missing where patients are unknown. Patients
    who share an image count as one, dropped images included.
    """
    return _shared(split, "train")


def _shared(split: pd.DataFrame, part: str) -> pd.DataFrame:
    within = split["part"] == part
    person = _person(split)
    known = person.isin(person[within].dropna()).astype("boolean")
    return pd.DataFrame(
        {
            f"copy_in_{part}": split["cluster"].isin(split.loc[within, "cluster"].dropna()).astype("boolean"),
            f"patient_in_{part}": known.mask(split["patient"].isna()),
        }
    )


def _known_by_train(split: pd.DataFrame, clusters: pd.DataFrame) -> pd.DataFrame:
    """``split`` with shared_with_train, and whether the copy in train is an exact one: column exact_in_train."""
    exact = groups.copied(split, clusters, "exact")
    trained = exact[exact.index.isin(split.index[split["part"] == "train"])]
    there = split.index.isin(exact.index[exact.isin(trained)])
    return split.join(shared_with_train(split)).assign(exact_in_train=there)


def measure_leak(split: pd.DataFrame, clusters: pd.DataFrame) -> dict[str, int | None]:
    """The figures of metrics/split.json under ``leak``: images of test and of val that train knows.

    Copies are exact ones; near copies are counted where there is no exact one. ``test_known_to_val`` are test images
    with a copy or a patient in validation, which chose the best epoch.
    """
    shared = _known_by_train(split, clusters)
    leak: dict[str, int | None] = {}
    for part in ("test", "val"):
        rows = shared[shared["part"] == part]
        leak[f"{part}_copies_in_train"] = int(rows["exact_in_train"].sum())
        leak[f"{part}_positive_copies_in_train"] = int((rows["exact_in_train"] & (rows["label"] == 1)).sum())
        leak[f"{part}_near_copies_in_train"] = int((rows["copy_in_train"] & ~rows["exact_in_train"]).sum())
        known = rows["patient"].notna().any()
        leak[f"{part}_patients_in_train"] = int(rows["patient_in_train"].sum()) if known else None
    leak["test_known_to_val"] = len(known_to_val(split))
    return leak


def known_to_val(split: pd.DataFrame) -> pd.DataFrame:
    """The test images that have a copy or their patient in validation."""
    shared = _shared(split, "val").fillna(False).any(axis=1)
    return split[(split["part"] == "test") & shared]


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


def assure(split: pd.DataFrame) -> str:
    """What a split without a known leak promises, and what it can't."""
    if split["patient"].isna().any():
        return (
            "No test image has a copy, exact or near, in training. Patients are not known (data.patient), so that "
            "some are on both sides can't be excluded."
        )
    return "No test image has a copy, exact or near, or a patient in training."


def explain_leak(split: pd.DataFrame, clusters: pd.DataFrame) -> str | None:
    """Which images and patients of the test set training knows; None where it knows none."""
    shared = _known_by_train(split, clusters)
    test = shared[shared["part"] == "test"]
    lines = []
    for kind, copied in (
        ("copies", test[test["exact_in_train"]]),
        ("near copies", test[test["copy_in_train"] & ~test["exact_in_train"]]),
    ):
        if len(copied):
            names = some(list(copied["file"]))
            lines.append(f"{len(copied):,} of {len(test):,} test images are {kind} of a training image: {names}")
    if (known := test[test["patient_in_train"].fillna(False)]).size:
        patients = sorted(known["patient"].unique())
        lines.append(
            f"{len(known):,} of {len(test):,} test images are of {len(patients):,} patients who are also in training: "
            f"{some(patients)}"
        )
    if len(known := known_to_val(split)):
        lines.append(
            f"{len(known):,} of {len(test):,} test images have a copy or their patient in validation, which chooses "
            f"the best epoch: {some(list(known['file']))}"
        )
    return "\n".join(lines) or None
