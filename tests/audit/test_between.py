from core.audit import between, hashes
from core.images.decoder import Grey
from core.pipeline import tables

import numpy as np
import pytest

SIDE = 64


def drawn(count, seed):
    """Images with detail, uint8 (count, 64, 64, 1)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 8, 8)).astype(np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)[..., None]


def index(images, patients, prefix):
    phash = hashes.words(hashes.bits(hashes.coefficients(Grey(images))))
    rows = [
        (n, f"{prefix}{n}.png", n % 2, patient, SIDE, SIDE, "L", "x", images[n].tobytes().hex()[:600], phash[n])
        for n, patient in enumerate(patients)
    ]
    return tables.frame(rows, tables.INDEX)


@pytest.fixture
def sets():
    """The second set: an exact copy, a mirrored copy, another image of its patient, a patient with a name of the first
    set, and two new patients."""
    first = drawn(6, 1)
    second = drawn(6, 2)
    second[0], second[1] = first[3], first[4][:, ::-1]
    return (
        index(first, ["a", "a", "b", "b", "c", "c"], "f"),
        index(second, ["x", "y", "y", "a", "z", "w"], "s"),
        Grey(first, second),
    )


def test_copies_and_patients_of_the_first_set_are_found_and_counted_once_each(sets):
    compared = between.compare(*sets, same_patients=True)
    assert compared["copy_in_train"].tolist() == [True, True, False, False, False, False]
    assert compared["exact"].tolist() == [True, False, False, False, False, False]
    # y is a person of the first set, as one image of y is; so is a.
    assert compared["patient_in_train"].tolist() == [True, True, True, True, False, False]
    assert between.summarise(compared, sets[0], True) == {
        "images": 6, "exact_copies": 1, "near_copies": 1, "of_known_patients": 2, "patients": "compared",
    }  # fmt: skip
    assert compared["file"].tolist() == sets[1]["file"].tolist() and compared["patient"].tolist() == list("xyyazw")


def test_equal_names_of_independent_hospitals_are_different_patients(sets):
    compared = between.compare(*sets, same_patients=False)
    assert compared["patient_in_train"].tolist() == [True, True, True, False, False, False]
    assert between.summarise(compared, sets[0], False)["patients"] == "other"


def test_where_patients_are_not_known_copies_are_still_found(sets):
    first, second, grey = sets
    compared = between.compare(first, second.assign(patient=None).astype({"patient": "string"}), grey, True)
    assert compared["copy_in_train"].sum() == 2 and compared["patient_in_train"].isna().all()
    assert between.summarise(compared, first, True)["patients"] == "not known"


def test_a_patient_with_a_copy_is_known_although_the_names_of_the_first_set_are_not(sets):
    first, second, grey = sets
    first = first.assign(patient=None).astype({"patient": "string"})
    compared = between.compare(first, second, grey, True)
    assert compared["patient_in_train"].tolist() == [True, True, True, False, False, False]
    assert between.summarise(compared, first, True)["patients"] == "not known"


def test_two_stacks_are_read_as_one(sets):
    grey = sets[2]
    stacked = np.concatenate([grey[:6], grey[6:]])
    rows = np.array([11, 0, 6, 5, 3])
    assert len(grey) == 12 and (grey[rows] == stacked[rows]).all() and (grey[4:8] == stacked[4:8]).all()
