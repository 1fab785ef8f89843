from core.evidence import messages, metrics, seed_variance, utility
from core.pipeline.errors import PipelineError

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics

MEASURES = [
    "accuracy",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "precision",
    "f1",
    "roc_auc",
    "pr_auc",
    "brier",
]


def predictions(labels, probabilities, patients=None, copies=None, in_train=None):
    count = len(labels)
    return pd.DataFrame(
        {
            "file": [f"f{n}" for n in range(count)],
            "label": labels,
            "probability": probabilities,
            "patient": pd.array(patients or [None] * count, dtype="string"),
            "unit": pd.factorize(pd.Series(patients or range(count)))[0],
            "copy_in_train": pd.array(copies or [False] * count, dtype="boolean"),
            "patient_in_train": pd.array(in_train or [None] * count, dtype="boolean"),
        }
    )


def measured(labels, probabilities, threshold=0.5):
    return metrics.measures(metrics.scores(predictions(labels, probabilities), threshold))


def test_the_measures_equal_scikit_learns_and_a_count_by_hand():
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 1])
    probabilities = np.array([0.9, 0.5, 0.4, 0.6, 0.1, 0.2, 0.4, 0.8])
    predicted = probabilities >= 0.5
    assert measured(labels, probabilities) == pytest.approx(
        {
            "accuracy": 6 / 8, "balanced_accuracy": 0.75, "sensitivity": 3 / 4, "specificity": 3 / 4,
            "precision": sklearn.metrics.precision_score(labels, predicted),
            "f1": sklearn.metrics.f1_score(labels, predicted),
            "roc_auc": 13.5 / 16, "pr_auc": sklearn.metrics.average_precision_score(labels, probabilities),
            "brier": sklearn.metrics.brier_score_loss(labels, probabilities),
        }
    )  # fmt: skip


def test_a_probability_at_the_threshold_is_positive():
    assert measured([1], [0.5])["sensitivity"] == 1


@pytest.mark.parametrize(
    ("labels", "probabilities", "undefined"),
    [
        ([0, 0], [0.1, 0.9], {"balanced_accuracy", "sensitivity", "f1", "roc_auc", "pr_auc"}),
        ([1, 1], [0.1, 0.9], {"balanced_accuracy", "specificity", "roc_auc", "pr_auc"}),
        ([0, 1], [0.1, 0.2], {"precision"}),
        ([], [], set(MEASURES)),
    ],
)  # fmt: skip
def test_a_measure_that_is_not_defined_is_none_and_never_zero(labels, probabilities, undefined):
    values = measured(labels, probabilities)
    assert {name for name, value in values.items() if value is None} == undefined


def test_non_leaking_images_have_neither_a_copy_nor_their_patient_in_training():
    rows = predictions([0] * 4, [0.1] * 4, list("abcd"), [True, False, False, True], [False, True, False, True])
    assert list(metrics.non_leaking(rows)["file"]) == ["f2"]
    assert list(metrics.non_leaking(predictions([0, 0], [0.1, 0.1], copies=[True, False]))["file"]) == ["f1"]


def test_a_patients_score_is_the_mean_and_the_label_that_of_any_image():
    rows = predictions([0, 1, 0], [0.2, 0.6, 0.3], ["a", "a", "b"])
    means = metrics.by_patient(rows, "mean").set_index("patient")
    assert means.loc["a", "probability"] == pytest.approx(0.4) and means.loc["a", "label"] == 1
    assert means.loc["b", "label"] == 0
    assert metrics.by_patient(rows, "max").set_index("patient").loc["a", "probability"] == 0.6


def test_breasts_are_scored_beside_patients_and_validation_chooses_how_their_views_combine():
    """One breast of each patient is positive; the highest of two views tells the breasts apart, the mean does not."""
    views = {1: (0.9, 0.1), 0: (0.5, 0.6)}
    rows = [(label, view, f"p{patient}") for patient in range(4) for label in (1, 0) for view in views[label]]
    test = predictions(*map(list, zip(*rows, strict=True))).assign(breast=["L", "L", "R", "R"] * 4)
    blocks = metrics.summarise(test, test, 0.5, 0.5, seed=1, combine="validation")
    breasts, patients = blocks["test_breasts"], blocks["test_patients"]
    assert breasts["max"]["breasts"] == 8 and breasts["max"]["positive_breasts"] == breasts["max"]["patients"] == 4
    assert breasts["max"]["roc_auc"]["value"] == 1 and breasts["mean"]["roc_auc"]["value"] == 0
    assert patients["max"]["roc_auc"]["value"] is None  # every patient has a positive breast
    assert blocks["combine"] == {
        "patients": {"rule": "mean", "val_roc_auc": {"mean": None, "max": None}},
        "breasts": {"rule": "max", "val_roc_auc": {"mean": 0.0, "max": 1.0}},
    }
    blocks |= utility.summarise(metrics.scores(test, 0.5))
    assert "breasts' max" in messages.summary({"synthetic": False} | blocks)
    plain = metrics.summarise(test, test, 0.5, 0.5, seed=1)
    assert plain["combine"] == {level: {"rule": "mean"} for level in ("patients", "breasts")}


def test_the_summary_has_every_block_and_null_with_a_reason_for_what_is_not_defined():
    test = predictions([0, 1], [0.2, 0.6], ["a", "b"], in_train=[True, True])
    blocks = metrics.summarise(test, test, 0.5, 0.5, seed=1)
    # two patients who both agree: 0.03 ** (1 / 2)
    undefined = {"ci_low": None, "ci_high": None, "seed_variance_share": None}
    accuracy = blocks["test"]["accuracy"]
    assert accuracy.pop("recipe") == undefined | {"reason": seed_variance.SINGLE_NETWORK}
    assert accuracy == {"value": 1.0, "ci_low": pytest.approx(0.173205, abs=1e-6), "ci_high": 1.0}
    one_patient = {"value": 1.0, "ci_low": None, "ci_high": None, "recipe": undefined}
    reason = "no interval: it depends on one patient, or on one set of copies"
    assert blocks["test"]["sensitivity"] == one_patient | {"reason": reason}
    assert blocks["test_unseen"]["images"] == 0
    assert blocks["test_unseen"]["roc_auc"] == one_patient | {"value": None, "reason": "no image"}
    assert blocks["leak"] == {"accuracy": None, "sensitivity": None, "roc_auc": None}
    assert blocks["test_patients"]["mean"]["roc_auc"]["reason"] == "no image"
    assert blocks["test_equal_patients"]["roc_auc"]["value"] is None
    clean = metrics.summarise(test.assign(patient_in_train=False), test, 0.5, 0.5, seed=1)
    assert clean["test_patients"]["mean"]["patients"] == 2
    assert clean["test_patients"]["max"]["roc_auc"]["value"] == 1.0
    assert clean["test_equal_patients"]["roc_auc"]["value"] == 1.0
    unknown = predictions([0, 1], [0.2, 0.6])
    assert metrics.summarise(unknown, unknown, 0.5, 0.5, seed=1)["test_patients"] is None
    others = utility.summarise(metrics.scores(test, 0.5)) | {"likely_wrong_labels": 12}
    text = messages.summary({"synthetic": True, "threshold": 0.5} | blocks | others)
    assert "calibration (non-leaking): slope -," in text and "likely wrong labels: not searched" in text
    assert "SYNTHETIC" in text and "1.000 (0.173 to 1.000)" in text and "1.000 (no interval)" in text


def test_where_only_leaking_images_have_a_patient_no_patient_has_the_most_images():
    test = predictions([0, 1, 0, 1], [0.1, 0.9, 0.2, 0.8], list("abcd"), in_train=[True, True, False, False])
    test["patient"] = test["patient"].where(test["patient_in_train"])
    blocks = metrics.summarise(test, test, 0.5, 0.5, seed=1)
    assert blocks["test_equal_patients"]["largest_patient"] == 0
    assert blocks["test_patients"]["mean"]["roc_auc"]["reason"] == "no image"


def test_the_leak_is_the_difference_that_the_leaking_images_make():
    labels, in_train = [0, 1, 0, 1, 0, 1], [True, True, False, False, False, False]
    test = predictions(labels, [0.1, 0.9, 0.2, 0.8, 0.9, 0.1], list("abcdef"), in_train=in_train)
    blocks = metrics.summarise(test, test, 0.5, 0.5, seed=1)
    assert blocks["leak"]["accuracy"] == pytest.approx(4 / 6 - 2 / 4)
    assert blocks["test_unseen"]["roc_auc"]["value"] == 0.25  # of (0.8, 0.1) against (0.2, 0.9) one is above
    assert blocks["leak"]["roc_auc"] == blocks["test"]["roc_auc"]["value"] - 0.25


def test_figures_by_patient_and_operating_points_rest_on_images_that_training_has_not_seen():
    labels, patients = [0, 1] * 20, [f"p{n // 4}" for n in range(40)]
    probabilities = [0.1, 0.9] * 10 + [0.6, 0.4] * 10  # the first five patients are in training, and known by heart
    test = predictions(labels, probabilities, patients, in_train=[True] * 20 + [False] * 20)
    blocks = metrics.summarise(test, test, 0.5, 0.5, seed=1)
    assert blocks["test"]["sensitivity"]["value"] == 0.5 and blocks["test_unseen"]["sensitivity"]["value"] == 0
    assert blocks["test_patients"]["mean"]["patients"] == 5
    assert blocks["test_equal_patients"]["sensitivity"]["value"] == 0
    assert blocks["operating_points"]["specificity_90"]["sensitivity"]["value"] == 0
    assert blocks["leaking"]["roc_auc"]["of_training_patients"]["value"] == 1
    assert blocks["leaking"]["roc_auc"]["copies"] == {
        "value": None, "ci_low": None, "ci_high": None, "reason": "no image"
    }  # fmt: skip


def test_operating_points_are_chosen_on_validation_and_measured_on_test():
    labels = [0] * 20 + [1] * 20
    validation = predictions(labels, [n / 40 for n in range(40)])
    test = predictions(labels, [n / 40 + 0.1 for n in range(20)] + [n / 40 - 0.2 for n in range(20, 40)])
    points = metrics.operating_points(test, validation, seed=1)
    assert set(points) == {"specificity_90", "specificity_95", "sensitivity_90", "sensitivity_95"}
    # On validation 18 of 20 negatives lie below 18 / 40, 19 below 19 / 40; 18 of 20 positives from 22 / 40 on.
    assert [points[name]["threshold"] for name in sorted(points)] == [22 / 40, 21 / 40, 18 / 40, 19 / 40]
    predicted = test["probability"] >= 18 / 40
    assert points["specificity_90"]["specificity"]["value"] == (~predicted[:20]).mean()
    assert points["specificity_90"]["sensitivity"]["value"] == predicted[20:].mean()
    assert points["specificity_90"]["sensitivity"]["ci_low"] is not None
    one_class = metrics.operating_points(test, validation[:20], seed=1)
    assert one_class["sensitivity_90"] == {"threshold": None, "reason": "validation has one class only"}


def test_a_threshold_is_chosen_for_the_best_balanced_accuracy_on_validation():
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, 100)
    rows = predictions(labels, np.clip(0.2 + 0.2 * labels + random.normal(0, 0.1, 100), 0, 1))
    threshold = metrics.choose_threshold("validation", rows)
    best = max(  # another threshold predicts what one of these does
        sklearn.metrics.balanced_accuracy_score(labels, rows["probability"] >= at) for at in rows["probability"]
    )
    assert sklearn.metrics.balanced_accuracy_score(labels, rows["probability"] >= threshold) == pytest.approx(best)
    assert metrics.choose_threshold(0.3, rows) == 0.3


def test_a_threshold_from_one_class_is_refused():
    with pytest.raises(PipelineError, match="validation, which has one class only: 0 of 2 images are positive"):
        metrics.choose_threshold("validation", predictions([0, 0], [0.1, 0.2]))


def test_both_thresholds_come_from_validation_and_each_from_its_own_rows():
    validation = predictions([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.9], ["a", "a", "b", "b"])
    test = predictions([0, 0, 1, 1], [0.5, 0.6, 0.7, 0.8], ["c", "c", "d", "d"])
    threshold = metrics.choose_threshold("validation", validation)
    assert threshold == 0.3  # the lowest positive of validation; on test it would be 0.7
    blocks = metrics.summarise(test, validation, threshold, "validation", seed=1)
    assert blocks["test_patients"]["mean"]["threshold"] == pytest.approx(0.6)  # the mean of patient b
    assert blocks["test"]["positive_patients"] == 1 and blocks["test"]["patients"] == 2
    assert blocks["test"]["specificity"]["value"] == 0.0


def test_each_original_class_has_its_errors_counted_by_hand():
    test = predictions([0, 0, 0, 1, 1, 0], [0.9, 0.2, 0.4, 0.8, 0.1, 0.7], patients=["a", "a", "b", "c", "d", "e"])
    classes = pd.Series(["cyst", "cyst", "normal", "cancer", "cancer", "normal"])
    entries = metrics.by_class(test, classes, 0.5, seed=1)
    counts = ("side", "images", "patients", "wrong")
    assert {name: tuple(entry[key] for key in counts) for name, entry in entries.items()} == {
        "cancer": ("positive", 2, 2, 1), "cyst": ("negative", 2, 1, 1), "normal": ("negative", 2, 2, 1),
    }  # fmt: skip
    assert entries["normal"]["quartiles"] == pytest.approx([0.475, 0.55, 0.625])
    assert entries["cancer"]["accuracy"]["value"] == 0.5 and entries["cancer"]["accuracy"]["ci_low"] is not None
    assert entries["cyst"]["accuracy"]["reason"] == "no interval: it depends on one patient, or on one set of copies"
