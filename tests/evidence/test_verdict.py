import re

from core.evidence import metrics, subgroups, verdict

import numpy as np
import pandas as pd
import pytest


def rendered(labels, probabilities, patients, in_train=None, synthetic=False, units=None, copies=None):
    count = len(labels)
    test = pd.DataFrame(
        {
            "file": [f"f{n}" for n in range(count)],
            "label": labels,
            "probability": probabilities,
            "patient": pd.array(patients or [None] * count, dtype="string"),
            "unit": pd.factorize(pd.Series(units or patients or range(count)))[0],
            "copy_in_train": pd.array(copies or [False] * count, dtype="boolean"),
            "patient_in_train": pd.array(in_train or [None if patients is None else False] * count, dtype="boolean"),
        }
    )
    return verdict.render_verdict({"synthetic": synthetic} | metrics.summarise(test, test, 0.5, 0.5, seed=1))


random = np.random.RandomState(0)
LABELS = np.repeat([0, 1], 100)
GOOD = np.clip(0.35 + 0.3 * LABELS + 0.1 * random.standard_normal(200), 0, 1)
MANY = [f"p{n // 5}" for n in range(200)]


def test_a_good_classifier_on_many_patients_is_better_than_chance_and_nothing_leaked():
    text = rendered(LABELS, GOOD, MANY)
    assert "**Better than chance: ROC AUC 0.9" in text and "independent" not in text
    assert "200 images of 40 patients; 100 positive images of 20 patients" in text and "No leak was found" in text


def test_guessing_cannot_be_told_from_chance():
    assert "**Not distinguishable from chance" in rendered(LABELS, random.random_sample(200), MANY)


def test_the_wrong_way_round_is_worse_than_chance():
    assert "**Worse than chance" in rendered(LABELS, 1 - GOOD, MANY)


@pytest.mark.parametrize(("images", "named"), [(4, False), (80, True)])
def test_a_few_patients_with_most_of_the_test_set_are_counted_beside_the_figures_of_equal_weights(images, named):
    patients = [f"p{n}" for n in range(20) for _ in range(4)] + ["large"] * images
    labels = [n % 2 for n in range(len(patients))]
    scores = [0.6 + 0.3 * label if name != "large" else 0.4 for label, name in zip(labels, patients, strict=True)]
    text = rendered(labels, scores, patients)
    # Kish: 160 ** 2 / (20 * 4 ** 2 + 80 ** 2) = 3.8
    assert ("21 patients count as 4 of equal size, and one has 80 of 160 images (50 %)" in text) == named
    assert ("If each patient weighs the same: ROC AUC 0.9" in text) == named


def test_positives_of_one_patient_are_not_evidence_of_anything():
    patients = [f"p{n // 5}" for n in range(100)] + ["one"] * 100
    text = rendered(LABELS, GOOD, patients)
    assert "**Not evidence of anything: all positive images come from one patient.**" in text


def test_positives_of_patients_who_share_images_are_counted_as_one():
    patients = [f"p{n // 5}" for n in range(100)] + [f"q{n // 50}" for n in range(100)]
    text = rendered(LABELS, GOOD, patients, units=[*patients[:100], *["q"] * 100])
    assert "**Not evidence of anything: all positive images come from one patient" in text


@pytest.mark.parametrize(
    ("per_patient", "words"),
    [(20, "Better than chance, but too few patients to generalise"), (14, "Better than chance")],
)
def test_few_patients_are_called_few_and_five_too_few(per_patient, words):
    patients = [f"p{n // 5}" for n in range(100)] + [f"q{n // per_patient}" for n in range(100)]
    text = rendered(LABELS, GOOD, patients)
    assert f"**{words}: ROC AUC" in text
    assert f", with {-(-100 // per_patient)} independent patients in the smaller class.**" in text


def test_a_test_set_that_training_has_seen_is_not_evidence_of_anything():
    text = rendered(LABELS, GOOD, MANY, in_train=[True] * 200)
    assert "**Not evidence for new patients: every test image is a copy of a training image or shows a patient" in text
    assert re.search(r"without the copies, ROC AUC \S+ \(\S+ to \S+\), which can be too high\.\*\*", text)
    assert "The test set leaks" in text and "No test image is free of leaks." in text


def test_what_leaked_is_counted_and_the_verdict_rests_on_the_rest():
    in_train = [n % 2 == 0 for n in range(200)]
    probabilities = np.where(in_train, LABELS * 0.8 + 0.1, random.random_sample(200))
    text = rendered(LABELS, probabilities, MANY, in_train=in_train)
    assert "100 of its 200 images are of patients who are also in training, so their score can be too high" in text
    assert "The test set leaks. Not distinguishable from chance: ROC AUC 0." in text
    assert "Effect of the leak: accuracy 0." in text and "on the non-leaking test images" in text


def test_copies_and_other_images_of_training_patients_have_a_roc_auc_each_beside_that_of_new_patients():
    copies = [n % 100 < 20 for n in range(200)]
    in_train = [n % 100 < 50 for n in range(200)]
    probabilities = np.where(copies, LABELS * 0.8 + 0.1, np.where(in_train, GOOD, random.random_sample(200)))
    text = rendered(LABELS, probabilities, MANY, in_train=in_train, copies=copies)
    assert "40 of its 200 images are copies" in text and "60 others are of patients who are also in training" in text
    assert "ROC AUC 1.000 (0." in text and " on copies, 0.9" in text and " on images of new patients" in text
    alone = rendered(LABELS, GOOD, MANY, in_train=[True] * 200, copies=[True] * 200)
    assert "**Not evidence of anything: every test image is a copy" in alone


def test_without_positives_that_training_does_not_know_nothing_is_shown():
    text = rendered(LABELS, GOOD, MANY, in_train=list(LABELS == 1))
    assert "Not evidence of anything: no positive image among the non-leaking test images" in text


def test_unknown_patients_are_a_condition_of_the_verdict():
    text = rendered(LABELS, GOOD, None)
    assert "patients are unknown, so images are treated as independent" in text and "in both training and test" in text


def test_accuracy_is_shown_beside_that_of_always_predicting_the_majority_class():
    labels = np.repeat([0, 1], [190, 10])
    text = rendered(labels, np.full(200, 0.1), [f"p{n}" for n in range(200)])
    assert "Accuracy 0.950; always predicting the majority class gives 0.950" in text
    assert "of 100 positive images, 0 are predicted positive (0 to 30)" in text  # 1 - 0.03 ** (1 / 10)


@pytest.mark.parametrize("synthetic", [True, False])
def test_synthetic_images_are_said_to_be_and_no_clinical_use_is_suggested(synthetic):
    text = rendered(LABELS, GOOD, MANY, synthetic=synthetic)
    assert ("SYNTHETIC" in text) == synthetic and "Research only: no medical device" in text


def grouped(share, shift):
    """The verdict on patients of two sites: how many of the sick are at A, and how far the scores there are off."""
    random = np.random.RandomState(1)
    patient = np.arange(300) // 5
    sick = patient % 2
    site = np.where((random.random_sample(60)[patient] < share) == (sick == 1), "A", "B")
    table = pd.DataFrame(
        {
            "file": [f"f{n}" for n in range(300)], "label": sick, "unit": patient, "group_site": site,
            "patient": pd.array([f"p{n}" for n in patient], dtype="string"),
            "probability": np.clip(0.4 + 0.2 * sick + 0.1 * random.standard_normal(300) + shift * (site == "A"), 0, 1),
            "copy_in_train": pd.array([False] * 300, dtype="boolean"),
            "patient_in_train": pd.array([False] * 300, dtype="boolean"),
        }
    ).astype({"group_site": "string"})  # fmt: skip
    rest = table.assign(unit=table["unit"] + 100)
    figures = {"synthetic": False} | metrics.summarise(table, table, 0.5, 0.5, seed=1)
    return figures | subgroups.summarise(table, rest, 0.5, 1)


def test_a_group_that_predicts_the_class_is_named_first():
    text = verdict.render_verdict(grouped(0.9, 0))
    assert "**Possible shortcut: site. Better than chance" in text
    assert "**Possible shortcut**: site alone, without any image, predicts the class with ROC AUC 0.9" in text


def test_a_shortcut_is_announced_only_if_its_interval_excludes_chance():
    figures = grouped(0.9, 0)
    entry = figures["groups"]["site"]["shortcut"]["group_only_auc"]
    entry |= {"value": 0.561, "ci_low": 0.416, "ci_high": 0.697}
    text = verdict.render_verdict(figures)
    assert "Possible shortcut" not in text
    assert "site is associated with the class (p < 0.001), but alone it does not predict the class" in text
    entry |= {"ci_low": None, "ci_high": None}
    assert "Possible shortcut" not in verdict.render_verdict(figures)


def test_the_part_that_fails_is_named_with_its_figure_and_p():
    text = verdict.render_verdict(grouped(0.5, -0.3))
    assert (
        "**Lower performance in a subgroup**: site A: sensitivity 0." in text and "below the others (p < 0.001" in text
    )
    assert "shortcut" not in text


def test_equal_parts_are_not_called_equal():
    text = verdict.render_verdict(grouped(0.5, 0))
    assert "No subgroup of site differs significantly from the others, which does not prove" in text


def other_set(figures, fall):
    non_leaking = figures["test_unseen"]
    drop = {
        name: {"value": fall, "ci_low": fall - 0.05, "ci_high": fall + 0.05, "worse": name == "roc_auc" and fall > 0.06}
        for name in metrics.MEASURES
    }
    common = {"images": 300, "exact_copies": 40, "near_copies": 60, "of_known_patients": 20, "patients": "not known"}
    return figures | {
        "test_unseen": non_leaking | {"images": 180}, "drop": drop, "common": common, "mean_probability": 0.61,
        "ood_share": {"value": 0.3, "ci_low": 0.2, "ci_high": 0.4},
    }  # fmt: skip


def test_the_verdict_speaks_of_both_sets():
    figures = {key: value for key, value in grouped(0.5, 0).items() if key not in ("groups", "worst")}
    text = verdict.render_verdict(figures, other_set(figures, 0.1))
    assert "External validation: Better than chance: ROC AUC" in text and "The test set leaks" not in text
    assert "120 of its images are excluded, because they are also in the first set: 40 exact copies, 60 near" in text
    assert "60 near copies, 20 other images of patients in both sets" in text
    assert "ROC AUC 0.100 (0.050 to 0.150)" in text and "Significant drop: ROC AUC." in text
    assert "Patients are unknown, so some of them can be in both sets." in text
    assert "out-of-distribution images: 0.300 (0.200 to 0.400); 0.05 is expected" in text
    assert "No drop is significant" in verdict.render_verdict(figures, other_set(figures, 0.01))
    assert verdict.render_verdict(figures) == verdict.render_verdict(figures, None)


def test_a_name_from_the_data_has_no_meaning_in_the_verdict():
    figures = grouped(0.5, -0.3)
    figures["worst"]["level"] = "*<b>A"
    figures["groups"]["site"]["levels"]["*<b>A"] = figures["groups"]["site"]["levels"]["A"]
    assert r"site \*\<b>A: sensitivity" in verdict.render_verdict(figures)


def of_files(*names, reason=None):
    entry = {"auc": 0.97, "p": 0.0005}
    return {
        "unit": "patient", "units": 12, "positive_units": 5, "compared": 9, "reason": reason,
        "shortcuts": list(names), "properties": dict.fromkeys(names, entry),
    }  # fmt: skip


def test_a_property_of_the_files_that_predicts_the_class_is_named_with_its_auc_and_p():
    figures = grouped(0.5, 0)
    text = verdict.render_verdict(figures, None, of_files("image_width", "mean_brightness"))
    assert "**Possible shortcut: image width. Better than chance" in text  # brightness can be the disease
    assert (
        "- **Possible shortcut**: the image width alone predicts the class with ROC AUC 0.970 in all images "
        "(permutation p < 0.001, corrected for 9 properties). "
        "The network may have learned this property instead of the disease.\n"
    ) in text
    assert "mean brightness alone" in text and text.count("The disease itself may also change this property") == 1
    many = verdict.render_verdict(figures, None, of_files(*[f"p{number}" for number in range(7)]))
    assert many.count("**Possible shortcut**") == 4 and "Other possible shortcuts: p4, p5, p6." in many


def test_a_group_is_named_as_a_shortcut_once():
    text = verdict.render_verdict(grouped(0.9, 0), None, of_files("group_site", "jpeg_quality"))
    assert (
        len(re.findall(r"\*\*Possible shortcut\*\*: (the )?site alone", text)) == 1
        and "site and JPEG quality. Better" in text
    )


def test_too_few_patients_for_properties_of_the_files_are_said():
    text = verdict.render_verdict(grouped(0.5, 0), None, of_files(reason="too few"))
    assert "is not testable with 12 patients, 5 of them positive." in text
    assert "testable" not in verdict.render_verdict(grouped(0.5, 0), None, of_files())
