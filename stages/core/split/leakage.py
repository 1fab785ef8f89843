"""Test images that training has seen: as an exact copy, as a near copy, or through another image of the patient."""

from core.pipeline import tables
from core.pipeline.text import pluralise, shorten
from core.split import groups

import pandas as pd


def shared_with_train(split: pd.DataFrame) -> pd.DataFrame:
    """For each row, whether train contains a copy of the image (exact or near), and an image of its patient.

    Boolean columns copy_in_train and patient_in_train; the latter is missing if the patient is unknown. Patients who
    share an image, even a dropped one, count as one patient.
    """
    return _shared(split, "train")


def _shared(split: pd.DataFrame, part: str) -> pd.DataFrame:
    within = split["split"] == part
    person = groups.persons(split)
    known = person.isin(person[within].dropna()).astype("boolean")
    return pd.DataFrame(
        {
            f"copy_in_{part}": split["cluster"].isin(split.loc[within, "cluster"].dropna()).astype("boolean"),
            f"patient_in_{part}": known.mask(split["patient"].isna()),
        }
    )


def _known_by_train(split: pd.DataFrame, clusters: pd.DataFrame) -> pd.DataFrame:
    """``split`` with the columns of shared_with_train and exact_in_train: whether train contains an exact copy."""
    exact = groups.copied(split, clusters, "exact")
    trained = exact[exact.index.isin(split.index[split["split"] == "train"])]
    there = split.index.isin(exact.index[exact.isin(trained)])
    return split.join(shared_with_train(split)).assign(exact_in_train=there)


def measure(split: pd.DataFrame, clusters: pd.DataFrame) -> dict[str, int | None]:
    """The figures under ``leak`` in the details of split: images of test and val that training has seen.

    An image counts as a near copy only if it is not an exact copy. ``test_in_train`` counts test images with a copy or
    their patient in training, ``test_in_val`` in validation, which can choose the epoch and the threshold.
    """
    shared = _known_by_train(split, clusters)
    leak: dict[str, int | None] = {}
    for part in ("test", "val"):
        rows = shared[shared["split"] == part]
        exact = rows[rows["exact_in_train"]]
        leak[f"{part}_copies_in_train"] = tables.number(exact)
        leak[f"{part}_positive_copies_in_train"] = tables.number(exact[exact["label"] == 1])
        leak[f"{part}_near_copies_in_train"] = tables.number(rows[rows["copy_in_train"] & ~rows["exact_in_train"]])
        known = rows["patient"].notna().any()
        of_known = rows[rows["patient_in_train"].fillna(False)]
        leak[f"{part}_patients_in_train"] = tables.number(of_known) if known else None
    test = shared[shared["split"] == "test"]
    seen = test["copy_in_train"].fillna(False) | test["patient_in_train"].fillna(False)
    leak["test_in_train"] = tables.number(test[seen.astype(bool)])
    leak["test_in_val"] = tables.number(in_val(split))
    return leak


def in_val(split: pd.DataFrame) -> pd.DataFrame:
    """The test images that have a copy or their patient in validation."""
    shared = _shared(split, "val").fillna(False).any(axis=1)
    return split[(split["split"] == "test") & shared]


def explain(split: pd.DataFrame, clusters: pd.DataFrame) -> str | None:
    """A text that names the test images and patients that training or validation has seen, or None."""
    shared = _known_by_train(split, clusters)
    test = shared[shared["split"] == "test"]
    of_all = f"of {tables.number(test):,} test images"
    lines = []
    for kind, copied in (
        ("copies", test[test["exact_in_train"]]),
        ("near copies", test[test["copy_in_train"] & ~test["exact_in_train"]]),
    ):
        if len(copied):
            count = tables.number(copied)
            names = shorten(list(copied["file"]), total=count)
            lines.append(f"{count:,} {of_all} are {kind} of a training image: {names}")
    if (known := test[test["patient_in_train"].fillna(False)]).size:
        patients = sorted(known["patient"].unique())
        lines.append(
            f"{tables.number(known):,} {of_all} are of {len(patients):,} patients who are also in training: "
            f"{shorten(patients)}"
        )
    if len(known := in_val(split)):
        count = tables.number(known)
        either = known["file"].fillna(known["patient"]).drop_duplicates()  # images without copies may have no file
        lines.append(
            f"{count:,} {of_all} have a copy or their patient in validation, which can choose the epoch and the "
            f"threshold: {shorten(list(either), total=count)}"
        )
    return "\n".join(lines) or None


def left_out(split: pd.DataFrame) -> str | None:
    """A text that names the patients without an image in any part, whom a stable split leaves out, or None."""
    kept = split.loc[split["split"] != "dropped", "patient"]
    gone = split[~split["patient"].isin(kept)]
    if gone.empty:
        return None
    patients = sorted(gone["patient"].unique())
    return (
        f"Left out: {pluralise(len(patients), 'patient')} with {pluralise(tables.number(gone), 'image')}, as copies join them to "
        f"a patient in an earlier part (train, val, test), and a stable split moves nobody: {shorten(patients)}"
    )


def assure(split: pd.DataFrame) -> str:
    """A text for a split without a known leak."""
    if split["patient"].isna().any():
        return (
            "No test image has an exact or near copy in training. Patients are not known (data.patient), so the same "
            "patient can be in training and test."
        )
    return "No test image has an exact copy, a near copy or its patient in training."
