import hashlib
from collections import Counter

from core.images import phantom

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, KFold, cross_val_predict


@pytest.fixture(scope="module")
def patches():
    return list(phantom.draw(1200, 60, 64, seed=1))


def test_the_images_have_the_same_bytes_on_every_machine(patches):
    """The digest was taken once on x86-64 with numpy 2.4; integers from a frozen stream can't give another."""
    digest = hashlib.sha256(b"".join(patch.pixels.tobytes() for patch in patches)).hexdigest()
    assert digest == "c18f23297aa2378c6de921c0ab471158c058fe6ec1d9931179b42266f29f2b21"


def test_it_draws_as_many_images_and_patients_as_asked(patches):
    assert len(patches) == 1200 and len({patch.name for patch in patches}) == 1200
    assert Counter(patch.patient for patch in patches).most_common()[0][1] == 20
    assert len({patch.patient for patch in patches}) == 60
    assert all(patch.pixels.shape == (64, 64, 3) and patch.pixels.dtype == np.uint8 for patch in patches)


def test_another_seed_gives_other_images(patches):
    assert next(phantom.draw(1200, 60, 64, seed=2)).pixels.tobytes() != patches[0].pixels.tobytes()


def test_exact_copies_are_planted_and_one_of_them_contradicts_its_label(patches):
    labels = {}
    for patch in patches:
        labels.setdefault(patch.pixels.tobytes(), []).append(patch.label)
    copied = [duplicates for duplicates in labels.values() if len(duplicates) > 1]
    assert len(copied) == 20
    assert sum(len(set(duplicates)) > 1 for duplicates in copied) == 1


def test_near_copies_are_planted_mirrored_and_brighter(patches):
    images = {patch.pixels.tobytes() for patch in patches}
    mirrored = [p for p in patches if p.pixels[:, ::-1].tobytes() in images]
    assert len(mirrored) >= 20
    first, brighter = patches[0].pixels.astype(int), patches[18].pixels.astype(int)
    assert np.corrcoef(first.ravel(), brighter.ravel())[0, 1] > 0.98 and brighter.mean() > first.mean() + 5


def test_positives_are_more_crowded_with_nuclei_than_negatives_of_the_same_patient(patches):
    differences = []
    for patient in {patch.patient for patch in patches}:
        dark = {
            label: [p.pixels.mean() for p in patches if p.patient == patient and p.label == label] for label in (0, 1)
        }
        if len(dark[0]) > 2 and len(dark[1]) > 2:
            differences.append(np.mean(dark[0]) - np.mean(dark[1]))
    assert len(differences) > 10 and np.mean(differences) > 3


def test_some_patients_have_no_positive_image_and_others_many(patches):
    share = {
        patient: np.mean([p.label for p in patches if p.patient == patient]) for patient in {p.patient for p in patches}
    }
    assert sum(value <= 0.05 for value in share.values()) >= 20
    assert max(share.values()) > 0.8


def test_too_few_images_for_the_patients_is_an_error():
    with pytest.raises(ValueError, match="100 images are too few for 60 patients"):
        next(phantom.draw(100, 60, 64, seed=1))


@pytest.mark.slow
def test_a_split_by_image_flatters_a_classifier_and_one_by_patient_still_finds_the_signal(patches):
    """By scikit-learn alone: a random forest on colours and quantiles, in five folds of either kind."""

    def features(pixels):
        grey = pixels.mean(axis=-1)
        levels = np.quantile(grey, [0.05, 0.25, 0.5, 0.75, 0.95])
        dark = (grey < (levels[0] + levels[-1]) / 2).mean()
        return [*pixels.mean((0, 1)), *pixels.std((0, 1)), *levels, dark, np.abs(np.diff(grey, axis=0)).mean()]

    values = np.array([features(patch.pixels.astype(float)) for patch in patches])
    labels, patients = np.array([patch.label for patch in patches]), [patch.patient for patch in patches]

    def auc(folds, groups=None):
        forest = RandomForestClassifier(200, random_state=0)
        probabilities = cross_val_predict(forest, values, labels, cv=folds, groups=groups, method="predict_proba")
        return roc_auc_score(labels, probabilities[:, 1])

    by_patient, by_image = auc(GroupKFold(5), patients), auc(KFold(5, shuffle=True, random_state=0))
    assert 0.75 < by_patient < 0.95
    assert by_image - by_patient > 0.04
