"""Test images that training has seen: as an exact copy, as a near copy, or through another image of the patient."""

from typing import Literal, NamedTuple

from core.pipeline import components, tables
from core.split import messages

import pandas as pd

Kind = Literal["copies", "near copies", "patients", "validation"]


def shared_with_train(split: pd.DataFrame) -> pd.DataFrame:
    """Whether train contains a copy of each image (exact or near), and an image of its patient.

    Patients who share an image, even a dropped one, count as one patient.

    Parameters
    ----------
    split : DataFrame, as from assignment.assign

    Returns
    -------
    DataFrame of boolean, on the index of ``split``
        copy_in_train and patient_in_train; the latter is missing if the patient is unknown.
    """
    return _shared(split, "train")


def _shared(split: pd.DataFrame, name: str) -> pd.DataFrame:
    in_split = split["split"] == name
    person = components.persons(split)
    shared = person.isin(person[in_split].dropna()).astype("boolean")
    return pd.DataFrame(
        {
            f"copy_in_{name}": split["cluster"].isin(split.loc[in_split, "cluster"].dropna()).astype("boolean"),
            f"patient_in_{name}": shared.mask(split["patient"].isna()),
        }
    )


def _test_and_val(split: pd.DataFrame, clusters: pd.DataFrame) -> dict[str, dict[str, pd.DataFrame]]:
    """Of test and val: their images, and those that training has seen by kind. A near copy is no exact copy."""
    exact = components.copy_clusters(split, clusters, "exact")
    train_clusters = exact[exact.index.isin(split.index[split["split"] == "train"])]
    exact_in_train = split.index.isin(exact.index[exact.isin(train_clusters)])
    shared = split.join(shared_with_train(split)).assign(exact_in_train=exact_in_train)
    return {
        name: {
            "images": rows,
            "copies": rows[rows["exact_in_train"]],
            "near copies": rows[rows["copy_in_train"] & ~rows["exact_in_train"]],
            "patients": rows[rows["patient_in_train"].fillna(False)],
        }
        for name, rows in ((name, shared[shared["split"] == name]) for name in ("test", "val"))
    }


def measure(split: pd.DataFrame, clusters: pd.DataFrame) -> dict[str, int | None]:
    """The figures under ``leak`` in the details of split: images of test and val that training has seen.

    An image counts as a near copy only if it is not an exact copy. ``test_in_train`` counts test images with a copy or
    their patient in training, ``test_in_val`` in validation, which can choose the epoch and the threshold.
    """
    parts = _test_and_val(split, clusters)
    leak: dict[str, int | None] = {}
    for name, rows in parts.items():
        exact = rows["copies"]
        leak[f"{name}_copies_in_train"] = tables.number(exact)
        leak[f"{name}_positive_copies_in_train"] = tables.number(exact[exact["label"] == 1])
        leak[f"{name}_near_copies_in_train"] = tables.number(rows["near copies"])
        has_patients = rows["images"]["patient"].notna().any()
        leak[f"{name}_patients_in_train"] = tables.number(rows["patients"]) if has_patients else None
    test = parts["test"]["images"]
    seen = test[["copy_in_train", "patient_in_train"]].fillna(False).any(axis=1)
    return leak | {"test_in_train": tables.number(test[seen]), "test_in_val": tables.number(in_val(split))}


def in_val(split: pd.DataFrame) -> pd.DataFrame:
    """The test images that have a copy or their patient in validation."""
    shared = _shared(split, "val").fillna(False).any(axis=1)
    return split[(split["split"] == "test") & shared]


class Leak(NamedTuple):
    """Test images that training or validation has seen: how many, and of how many patients."""

    kind: Kind
    images: int
    patients: int
    names: list[str]  # of files, or of patients for the kind patients


def find(split: pd.DataFrame, clusters: pd.DataFrame) -> list[Leak]:
    """The kinds of leak that a split has; empty if it has none.

    Parameters
    ----------
    split : DataFrame, from assignment.assign
    clusters : DataFrame with the columns of tables.CLUSTERS
    """
    test = _test_and_val(split, clusters)["test"]
    validation = in_val(split)
    rows: list[tuple[Kind, pd.DataFrame, pd.Series[str]]] = [
        ("copies", test["copies"], test["copies"]["file"]),
        ("near copies", test["near copies"], test["near copies"]["file"]),
        ("patients", test["patients"], test["patients"]["patient"].drop_duplicates().sort_values()),
        # A row of several images may have no file.
        ("validation", validation, validation["file"].fillna(validation["patient"]).drop_duplicates()),
    ]
    return [
        Leak(kind, tables.number(images), images["patient"].nunique(), list(names))
        for kind, images, names in rows
        if len(images)
    ]


def explain(split: pd.DataFrame, clusters: pd.DataFrame) -> str | None:
    """A text that names the test images and patients that training or validation has seen, or None."""
    leaks = find(split, clusters)
    return messages.leaks(leaks, tables.number(split[split["split"] == "test"])) if leaks else None


def left_out(split: pd.DataFrame) -> str | None:
    """A text that names the patients without an image in any split, whom a stable split leaves out, or None."""
    kept = split.loc[split["split"] != "dropped", "patient"]
    dropped = split[~split["patient"].isin(kept)]
    return messages.left_out(sorted(dropped["patient"].unique()), tables.number(dropped)) if len(dropped) else None


def assure(split: pd.DataFrame) -> str:
    """A text for a split without a known leak."""
    return messages.NO_LEAK if split["patient"].notna().all() else messages.NO_COPIES
