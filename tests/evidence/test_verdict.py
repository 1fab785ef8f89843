from core.evidence import metrics, verdict

import numpy as np
import pandas as pd
import pytest


def judged(labels, probabilities, patients, known=None, synthetic=False, units=None):
    count = len(labels)
    test = pd.DataFrame(
        {
            "file": [f"f{n}" for n in range(count)],
            "label": labels,
            "probability": probabilities,
            "patient": pd.array(patients or [None] * count, dtype="string"),
            "unit": pd.factorize(pd.Series(units or patients or range(count)))[0],
            "copy_in_train": pd.array([False] * count, dtype="boolean"),
            "patient_in_train": pd.array(known or [None if patients is None else False] * count, dtype="boolean"),
        }
    )
    return verdict.word({"synthetic": synthetic} | metrics.summarise(test, test, 0.5, 0.5, seed=1))


random = np.random.RandomState(0)
LABELS = np.repeat([0, 1], 100)
GOOD = np.clip(0.35 + 0.3 * LABELS + 0.1 * random.standard_normal(200), 0, 1)
MANY = [f"p{n // 5}" for n in range(200)]


def test_a_good_classifier_on_many_patients_is_better_than_chance_and_nothing_leaked():
    said = judged(LABELS, GOOD, MANY)
    assert "**Better than chance: ROC AUC 0.9" in said and "independent" not in said
    assert "200 images of 40 patients; 100 positive images of 20 patients" in said and "Nothing leaked" in said


def test_guessing_cannot_be_told_from_chance():
    assert "**Cannot be told from chance" in judged(LABELS, random.random_sample(200), MANY)


def test_the_wrong_way_round_is_worse_than_chance():
    assert "**Worse than chance" in judged(LABELS, 1 - GOOD, MANY)


def test_positives_of_one_patient_are_not_evidence_of_anything():
    patients = [f"p{n // 5}" for n in range(100)] + ["one"] * 100
    assert "**Not evidence of anything: all positives come from one patient.**" in judged(LABELS, GOOD, patients)


def test_positives_of_patients_who_share_images_are_counted_as_one():
    patients = [f"p{n // 5}" for n in range(100)] + [f"q{n // 50}" for n in range(100)]
    said = judged(LABELS, GOOD, patients, units=[*patients[:100], *["q"] * 100])
    assert "**Not evidence of anything: all positives come from one patient" in said


@pytest.mark.parametrize(
    ("each", "words"),
    [(20, "Above chance on these patients, who are too few to say it of new ones"), (14, "Better than chance")],
)
def test_few_patients_are_called_few_and_five_too_few(each, words):
    patients = [f"p{n // 5}" for n in range(100)] + [f"q{n // each}" for n in range(100)]
    said = judged(LABELS, GOOD, patients)
    assert f"**{words}: ROC AUC" in said
    assert f"on {-(-100 // each)} independent patients of the rarer class.**" in said


def test_a_test_set_that_training_has_seen_is_not_evidence_of_anything():
    said = judged(LABELS, GOOD, MANY, known=[True] * 200)
    assert "**Not evidence of anything: training has seen every test image" in said
    assert "It leaks" in said and "Nothing is left to believe." in said


def test_what_leaked_is_counted_and_the_verdict_rests_on_the_rest():
    known = [n % 2 == 0 for n in range(200)]
    probabilities = np.where(known, LABELS * 0.8 + 0.1, random.random_sample(200))
    said = judged(LABELS, probabilities, MANY, known=known)
    assert "seen 100 of its 200 images" in said
    assert "The test set leaks. Cannot be told from chance: without the leak" in said
    assert "What the leak is worth: accuracy 0." in said


def test_without_positives_that_training_does_not_know_nothing_is_shown():
    said = judged(LABELS, GOOD, MANY, known=list(LABELS == 1))
    assert "Not evidence of anything: no positive image but leaked ones in the test set" in said


def test_unknown_patients_are_a_condition_of_the_verdict():
    said = judged(LABELS, GOOD, None)
    assert "if every image is of another patient" in said and "whether patients are on both sides is not known" in said


def test_accuracy_stands_beside_calling_everything_by_the_commoner_class():
    labels = np.repeat([0, 1], [190, 10])
    said = judged(labels, np.full(200, 0.1), [f"p{n}" for n in range(200)])
    assert "Accuracy 0.950; to call every image by the commoner class gives 0.950" in said
    assert "Of 100 positive images it calls 0 positive (0 to 31)" in said  # 1 - 0.025 ** (1 / 10)


@pytest.mark.parametrize("synthetic", [True, False])
def test_synthetic_images_are_said_to_be_and_no_clinical_use_is_suggested(synthetic):
    said = judged(LABELS, GOOD, MANY, synthetic=synthetic)
    assert ("SYNTHETIC" in said) == synthetic and "Research only: no medical device" in said
