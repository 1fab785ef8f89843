"""Test images that training has seen: as an exact copy, as a near copy, or through another image of the patient."""

from typing import Any, Literal, NamedTuple

from core.pipeline import components, tables
from core.split import messages

import pandas as pd


def shared_with_train(split: pd.DataFrame) -> pd.DataFrame:
    """Whether train contains a copy of each image (exact or near), and an image of its patient.

    Parameters
    ----------
    split : DataFrame
        Has the columns patient, cluster and split, as from assignment.assign.

    Returns
    -------
    DataFrame
        Boolean columns copy_in_train and patient_in_train, on the index of ``split``. The latter is missing if the
        patient is unknown. Patients who share an image, even a dropped one, count as one patient.
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


def _exact_and_shared(split: pd.DataFrame, clusters: pd.DataFrame) -> pd.DataFrame:
    """``split`` with the columns of shared_with_train and exact_in_train: whether train contains an exact copy."""
    exact = components.copy_clusters(split, clusters, "exact")
    train_clusters = exact[exact.index.isin(split.index[split["split"] == "train"])]
    exact_in_train = split.index.isin(exact.index[exact.isin(train_clusters)])
    return split.join(shared_with_train(split)).assign(exact_in_train=exact_in_train)


def measure(split: pd.DataFrame, clusters: pd.DataFrame) -> dict[str, int | None]:
    """The figures under ``leak`` in the details of split: images of test and val that training has seen.

    An image counts as a near copy only if it is not an exact copy. ``test_in_train`` counts test images with a copy or
    their patient in training, ``test_in_val`` in validation, which can choose the epoch and the threshold.
    """
    shared = _exact_and_shared(split, clusters)
    leak: dict[str, int | None] = {}
    for name in ("test", "val"):
        rows = shared[shared["split"] == name]
        exact = rows[rows["exact_in_train"]]
        leak[f"{name}_copies_in_train"] = tables.number(exact)
        leak[f"{name}_positive_copies_in_train"] = tables.number(exact[exact["label"] == 1])
        leak[f"{name}_near_copies_in_train"] = tables.number(rows[rows["copy_in_train"] & ~rows["exact_in_train"]])
        has_patients = rows["patient"].notna().any()
        patient_shared = rows[rows["patient_in_train"].fillna(False)]
        leak[f"{name}_patients_in_train"] = tables.number(patient_shared) if has_patients else None
    test = shared[shared["split"] == "test"]
    seen = test["copy_in_train"].fillna(False) | test["patient_in_train"].fillna(False)
    leak["test_in_train"] = tables.number(test[seen.astype(bool)])
    leak["test_in_val"] = tables.number(in_val(split))
    return leak


def in_val(split: pd.DataFrame) -> pd.DataFrame:
    """The test images that have a copy or their patient in validation."""
    shared = _shared(split, "val").fillna(False).any(axis=1)
    return split[(split["split"] == "test") & shared]


class Leak(NamedTuple):
    """Test images that training or validation has seen: how, how many images, of how many patients, and some of the
    files (or patients, for the kind patients)."""

    kind: Literal["copies", "near copies", "patients", "validation"]
    images: int
    patients: int
    names: list[str]


def find(split: pd.DataFrame, clusters: pd.DataFrame) -> list[Leak]:
    """The kinds of leak that a split has; empty if it has none. ``split`` is from assignment.assign, and ``clusters``
    has the columns of tables.CLUSTERS."""
    shared = _exact_and_shared(split, clusters)
    test = shared[shared["split"] == "test"]
    patient_shared = test[test["patient_in_train"].fillna(False)]
    shared_with_val = in_val(split)
    # A row of several images may have no file.
    files = shared_with_val["file"].fillna(shared_with_val["patient"]).drop_duplicates()
    rows: list[tuple[Any, pd.DataFrame, list[str]]] = [
        (kind, copies, list(copies["file"]))
        for kind, copies in (
            ("copies", test[test["exact_in_train"]]),
            ("near copies", test[test["copy_in_train"] & ~test["exact_in_train"]]),
        )
    ]
    rows += [
        ("patients", patient_shared, sorted(patient_shared["patient"].unique())),
        ("validation", shared_with_val, list(files)),
    ]
    return [
        Leak(kind, tables.number(images), images["patient"].nunique(), names)
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
    return messages.no_leak(patients_known=bool(split["patient"].notna().all()))
