from core.evidence import bootstrap
from core.evidence.bootstrap import Scores

import numpy as np
import pytest
from sklearn import metrics

from interval_coverage import DESIGNS, covered, draw


def sample(count=300, patients=25, seed=0, ties=False):
    random = np.random.RandomState(seed)
    labels = random.randint(0, 2, count)
    probabilities = np.clip(0.3 + 0.2 * labels + 0.2 * random.standard_normal(count), 0, 1)
    probabilities = probabilities.round(1) if ties else probabilities
    units = np.unique(random.randint(0, patients, count), return_inverse=True)[1]
    return Scores(labels, probabilities, probabilities >= 0.5, units)


@pytest.mark.parametrize("ties", [False, True])
def test_each_resample_equals_scikit_learn_on_the_images_of_the_drawn_patients(ties):
    scores = sample(ties=ties)
    resampled = bootstrap.resample(scores, seed=3)
    rows = min(bootstrap.RESAMPLES, bootstrap.CHUNK_SIZE // len(scores.labels))
    patients = scores.units.max() + 1
    drawn = np.random.RandomState([3, 0]).randint(patients, size=(rows, patients), dtype=np.int32)
    for row in range(20):
        images = np.concatenate([np.flatnonzero(scores.units == patient) for patient in drawn[row]])
        labels, probabilities, predicted = (column[images] for column in scores[:3])
        expected = {
            "accuracy": metrics.accuracy_score(labels, predicted),
            "balanced_accuracy": metrics.balanced_accuracy_score(labels, predicted),
            "sensitivity": metrics.recall_score(labels, predicted),
            "specificity": metrics.recall_score(1 - labels, ~predicted),
            "precision": metrics.precision_score(labels, predicted),
            "f1": metrics.f1_score(labels, predicted),
            "roc_auc": metrics.roc_auc_score(labels, probabilities),
            "pr_auc": metrics.average_precision_score(labels, probabilities),
            "brier": metrics.brier_score_loss(labels, probabilities),
        }
        expected["pairs"] = (labels == 1).sum() * (labels == 0).sum()
        assert {name: values[row] for name, values in resampled.items()} == pytest.approx(expected, rel=1e-5)


def test_resamples_of_a_subset_draw_the_patients_of_its_superset():
    superset = sample()
    half = superset.units < 12
    subset = Scores(*(column[half] for column in superset[:4]))
    resampled, alone = bootstrap.resample(subset, 3, superset=superset), bootstrap.resample(subset, 3)
    patients = superset.units.max() + 1
    drawn = np.random.RandomState([3, 0]).randint(patients, size=(bootstrap.RESAMPLES, patients), dtype=np.int32)
    images = np.concatenate([np.flatnonzero(half & (superset.units == patient)) for patient in drawn[7]])
    correct = superset.predicted == (superset.labels == 1)
    assert resampled["accuracy"][7] == pytest.approx(correct[images].mean())
    assert (resampled["accuracy"] != alone["accuracy"]).any()


def test_a_measure_that_a_resample_does_not_define_is_nan():
    scores = Scores(np.array([0, 1]), np.array([0.2, 0.8]), np.array([False, True]), np.array([0, 1]))
    resampled = bootstrap.resample(scores, seed=0)
    one_class = np.isnan(resampled["roc_auc"])
    assert 0.4 < one_class.mean() < 0.6  # one of two patients twice: half of the resamples
    assert (np.isnan(resampled["pr_auc"]) == one_class).all()
    assert (np.isnan(resampled["balanced_accuracy"]) == one_class).all()
    assert np.isnan(resampled["sensitivity"]).mean() == pytest.approx(one_class.mean() / 2, abs=0.05)


def test_equal_seeds_give_equal_resamples_with_any_number_of_cores(monkeypatch):
    scores = sample(5000, 50)
    resampled = bootstrap.resample(scores, seed=1)
    monkeypatch.setattr(bootstrap.os, "cpu_count", lambda: 1)
    again, other = bootstrap.resample(scores, seed=1), bootstrap.resample(scores, seed=2)
    assert all((resampled[name] == again[name]).all() for name in resampled)
    assert (resampled["roc_auc"] != other["roc_auc"]).any()


def test_the_effective_number_of_patients_is_that_of_kish():
    assert bootstrap.effective_sample_size(np.repeat([0, 1, 2, 3], 7)) == 4
    assert bootstrap.effective_sample_size(np.array([0, 0, 0, 1])) == pytest.approx(16 / 10)


def test_the_interval_of_a_perfect_measure_depends_on_the_number_of_patients():
    """A share of 1 - 0.025 ** (1 / 20) of patients may be unlike them: no better than chance, or all wrong."""
    labels = np.tile([0, 1], 20)
    scores = Scores(labels, labels * 0.8 + 0.1, labels == 1, np.arange(40) // 2)
    bounds = bootstrap.interval("roc_auc", 1.0, bootstrap.resample(scores, 0)["roc_auc"], scores)
    assert bounds == (pytest.approx(0.5 + 0.5 * 0.025 ** (1 / 20)), 1.0)
    wrong = scores._replace(predicted=labels == 0)
    assert bootstrap.interval("accuracy", 0.0, bootstrap.resample(wrong, 0)["accuracy"], wrong) == (
        0.0, pytest.approx(1 - 0.025 ** (1 / 20)),
    )  # fmt: skip


def test_one_false_negative_never_narrows_the_interval_of_a_perfect_sensitivity():
    labels, units = np.ones(300, int), np.arange(300) // 100
    perfect = Scores(labels, np.full(300, 0.9), np.ones(300, bool), units)
    one_missed = perfect._replace(predicted=np.arange(300) > 0)
    bounds = [
        bootstrap.interval("sensitivity", value, bootstrap.resample(scores, 0, auc=False)["sensitivity"], scores)
        for value, scores in ((1.0, perfect), (299 / 300, one_missed))
    ]
    assert bounds[1][0] <= bounds[0][0] == pytest.approx(0.025 ** (1 / 3))


def test_a_patient_with_most_of_the_images_counts_as_little_more_than_one():
    units = np.concatenate([np.zeros(990, int), np.arange(1, 10)])
    scores = Scores(np.ones(999, int), np.full(999, 0.9), np.ones(999, bool), units)
    low, _ = bootstrap.interval("sensitivity", 1.0, bootstrap.resample(scores, 0, auc=False)["sensitivity"], scores)
    assert low < 0.03


def test_one_patient_gives_no_interval_however_many_images_there_are():
    scores = sample(400, 20)
    one_patient = scores._replace(units=np.where(scores.labels == 1, 0, scores.units + 1))
    resampled = bootstrap.resample(one_patient, 0)
    for measure in ("roc_auc", "sensitivity", "balanced_accuracy"):
        assert "one patient" in bootstrap.interval(measure, 0.7, resampled[measure], one_patient)
    assert not isinstance(bootstrap.interval("specificity", 0.7, resampled["specificity"], one_patient), str)


def test_intervals_are_within_0_and_1_and_contain_the_value():
    for seed in range(20):
        scores = sample(40, 4, seed)
        resampled = bootstrap.resample(scores, seed)
        value = metrics.roc_auc_score(scores.labels, scores.probabilities)
        low, high = bootstrap.interval("roc_auc", value, resampled["roc_auc"], scores)
        assert 0 < low < value < high < 1


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("design", DESIGNS)
def test_intervals_over_patients_have_their_nominal_coverage_and_those_over_images_do_not(design):
    coverage, _ = covered(design, patients=60, shift=1.5, runs=300, by_image=False)
    assert 0.92 <= coverage["roc_auc"] <= 0.98, coverage
    assert all(share >= 0.92 for share in coverage.values()), coverage  # the others may be conservative
    naive, _ = covered(design, patients=60, shift=1.5, runs=100, by_image=True)
    assert all(share < 0.85 for share in naive.values()), naive


def compared(first, second, seed):
    resampled = [bootstrap.resample(scores, seed)["roc_auc"] for scores in (first, second)]
    values = [metrics.roc_auc_score(scores.labels, scores.probabilities) for scores in (first, second)]
    return bootstrap.difference(tuple(values), resampled[1] - resampled[0], "roc_auc", (first, second))


def test_the_interval_of_a_paired_difference_is_far_narrower_than_that_of_one_measure():
    first = draw("apart", 40, 1.5, 0.75, seed=1)
    second = first._replace(probabilities=np.clip(first.probabilities + 0.05 * first.labels, 0, 1))
    low, high, p = compared(first, second, seed=1)
    assert 0 < low < high and p < 0.05
    bounds = bootstrap.interval("roc_auc", 0.85, bootstrap.resample(first, 1)["roc_auc"], first)
    assert high - low < 0.3 * (bounds[1] - bounds[0])


def test_if_all_resamples_give_the_same_difference_p_is_that_of_the_sign_test():
    labels = np.repeat([0, 1], 20)
    perfect = Scores(labels, 0.1 + 0.8 * labels, labels == 1, np.arange(40))
    low, high, p = compared(perfect._replace(probabilities=0.9 - 0.8 * labels), perfect, seed=1)
    assert low == high == 1 and p == pytest.approx(2 * 0.5**20)


def test_the_difference_of_equal_classifiers_is_zero():
    scores = sample()
    assert compared(scores, scores, seed=1) == (0.0, 0.0, 1.0)
