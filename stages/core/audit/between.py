"""Images and patients that two sets have in common: that of a model, and another one that tests it."""

from typing import Any

from core.audit import copies, hashes
from core.images.decoder import Grey
from core.pipeline import components

import numpy as np
import pandas as pd


def compare(first: pd.DataFrame, second: pd.DataFrame, grey: Grey, same_patients: bool) -> pd.DataFrame:
    """Find the images of ``second`` that are, or whose patients are, in ``first``.

    Parameters
    ----------
    first, second : DataFrame with the columns of tables.INDEX; the first is the model's set
    grey : Grey, (N, 64, 64) uint8: the thumbnails of ``first``, followed by those of ``second``
    same_patients : whether a patient of the same name in both sets is one person
        Patients who share an image are one person in any case.

    Returns
    -------
    DataFrame
        ``second`` with more columns: unit (left out together), exact (whether ``first`` contains an exact copy), and
        copy_in_train and patient_in_train as in leakage.shared_with_train, as if ``first`` were all training images.
    """
    both = pd.concat([first.assign(split="train"), second.assign(split="test")], ignore_index=True)
    if not same_patients:
        both["patient"] = both["split"] + " " + both["patient"]
    new = ~both["pixels_sha256"].duplicated().to_numpy() & (copies.levels(grey)[1] >= copies.MIN_STD)
    queried = np.flatnonzero(new & (both["split"] == "test").to_numpy())
    near, _ = copies.near_pairs(grey, hashes.read(list(both["phash"])), np.flatnonzero(new), queried)
    pair = pd.Series(np.arange(len(near)).repeat(2), index=near[["first", "second"]].to_numpy().ravel())
    both["cluster"] = components.union(both, [both["pixels_sha256"], pair])
    unit = components.units(both)
    in_first = (both["split"] == "train").to_numpy()
    patient_in_first = unit.isin(unit[in_first]).astype("boolean").mask(both["patient"].isna())
    compared = both.assign(
        unit=unit,
        exact=both["pixels_sha256"].isin(first["pixels_sha256"]),
        copy_in_train=both["cluster"].isin(both.loc[in_first, "cluster"]).astype("boolean"),
        patient_in_train=patient_in_first,
    )
    return compared[~in_first].reset_index(drop=True).assign(patient=second["patient"].to_numpy())


def summarise(second: pd.DataFrame, first: pd.DataFrame, same_patients: bool) -> dict[str, Any]:
    """Count the images of the second set that are also in the first; ``second`` is from ``compare``.

    Each image is counted once: as an exact copy, as a near copy, or as another image of a patient of the first set.
    ``patients`` says whether the names of the patients were compared.
    """
    copied = second["copy_in_train"].astype(bool)
    patient_shared = second["patient_in_train"].fillna(False).astype(bool)
    has_patients = first["patient"].notna().any() and second["patient"].notna().any()
    return {
        "images": len(second),
        "exact_copies": int(second["exact"].sum()),
        "near_copies": int((copied & ~second["exact"]).sum()),
        "of_known_patients": int((patient_shared & ~copied).sum()),
        "patients": "compared" if has_patients and same_patients else "other" if has_patients else "not known",
    }
