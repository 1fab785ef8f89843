"""Images and patients that two sets have in common: that of a model, and another one that tests it."""

from typing import Any

from core.audit import copies, hashes
from core.images.decoder import Grey
from core.pipeline import components

import numpy as np
import pandas as pd


def compare(first: pd.DataFrame, second: pd.DataFrame, grey: Grey, same_patients: bool) -> pd.DataFrame:
    """``second`` with the columns unit, copy_in_train and patient_in_train, as if ``first`` were all training images.

    Both have the columns of tables.INDEX; ``grey`` is uint8 (N, 64, 64), their thumbnails one after another. With
    ``same_patients``, a patient of the same name in both sets is one person. Patients who share an image are one person
    in any case. An image without known patient has a missing value in patient_in_train.
    """
    both = pd.concat([first.assign(split="train"), second.assign(split="test")], ignore_index=True)
    if not same_patients:
        both["patient"] = both["split"] + " " + both["patient"]
    new = ~both["pixels_sha256"].duplicated().to_numpy() & (copies.levels(grey)[1] >= copies.FLAT)
    asked = np.flatnonzero(new & (both["split"] == "test").to_numpy())
    near, _ = copies.near_pairs(grey, hashes.read(list(both["phash"])), np.flatnonzero(new), asked)
    pair = pd.Series(range(len(near)))
    ends = [pair.set_axis(near["one"].to_numpy()), pair.set_axis(near["other"].to_numpy())]
    both["cluster"] = components.joined(both, [both["pixels_sha256"], pd.concat(ends)])
    unit = components.units(both)
    trained = (both["split"] == "train").to_numpy()
    of_known = unit.isin(unit[trained]).astype("boolean").mask(both["patient"].isna())
    found = both.assign(
        unit=unit,
        exact=both["pixels_sha256"].isin(first["pixels_sha256"]),
        copy_in_train=both["cluster"].isin(both.loc[trained, "cluster"]).astype("boolean"),
        patient_in_train=of_known,
    )
    return found[~trained].reset_index(drop=True).assign(patient=second["patient"].to_numpy())


def summarise(found: pd.DataFrame, first: pd.DataFrame, same_patients: bool) -> dict[str, Any]:
    """What the two sets have in common, from ``compare``: numbers of images of the second set. Each is counted once:
    as an exact copy, as a near copy, or as another image of a patient of the first set. ``patients`` says whether their
    names were compared."""
    copied = found["copy_in_train"].astype(bool)
    of_known = found["patient_in_train"].fillna(False).astype(bool)
    known = first["patient"].notna().any() and found["patient"].notna().any()
    return {
        "images": len(found),
        "exact_copies": int(found["exact"].sum()),
        "near_copies": int((copied & ~found["exact"]).sum()),
        "of_known_patients": int((of_known & ~copied).sum()),
        "patients": "compared" if known and same_patients else "other" if known else "not known",
    }
