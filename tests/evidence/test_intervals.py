from core.evidence import intervals
from core.evidence import metrics as evidence
from core.evidence.intervals import Scores

import numpy as np
import pytest
from scipy import optimize, stats
from sklearn import metrics

from interval_coverage import COLUMNS, DESIGNS, TUNED, UNTUNED, coverage_and_width, draw, simulate


def sample(count=300, patients=25, seed=0, ties=False):
    random = np.random.RandomState(seed)
    labels = random.randint(0, 2, count)
    probabilities = np.clip(0.3 + 0.2 * labels + 0.2 * random.standard_normal(count), 0, 1)
    probabilities = probabilities.round(1) if ties else probabilities
    units = np.unique(random.randint(0, patients, count), return_inverse=True)[1]
    return Scores(labels, probabilities, probabilities >= 0.5, units)


def sensitivity_of(hits, units=None):
    """Positive images that are predicted as ``hits`` says, of ``units`` or one a patient."""
    hits = np.asarray(hits, dtype=bool)
    units = np.arange(len(hits)) if units is None else np.asarray(units)
    return Scores(np.ones(len(hits), int), hits.astype(float), hits, units)


def interval_of(scores, measure):
    """The 95 % interval of a measure, or the reason why there is none."""
    value = evidence.measures(scores)[measure]
    variance = intervals.patient_variance(measure, value, intervals.jackknife(scores, 0)[measure], scores)
    return variance if isinstance(variance, str) else intervals.interval(measure, value, variance, scores)


def expected_measures(labels, probabilities, predicted):
    return {
        "accuracy": metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, predicted),
        "sensitivity": metrics.recall_score(labels, predicted),
        "specificity": metrics.recall_score(1 - labels, ~predicted),
        "precision": metrics.precision_score(labels, predicted),
        "f1": metrics.f1_score(labels, predicted),
        "roc_auc": metrics.roc_auc_score(labels, probabilities),
        "pr_auc": metrics.average_precision_score(labels, probabilities),
        "brier": metrics.brier_score_loss(labels, probabilities),
        "pairs": (labels == 1).sum() * (labels == 0).sum(),
    }


def test_a_subset_without_each_patient_of_its_superset_keeps_its_value_where_the_patient_is_not_in_it():
    superset = sample()
    half = superset.units < 12
    subset = Scores(*(column[half] for column in superset[:4]))
    left_out = intervals.jackknife(subset, 3, superset=superset)["accuracy"]
    correct = (subset.predicted == (subset.labels == 1)).mean()
    assert len(left_out) == superset.units.max() + 1 and left_out[12:] == pytest.approx(correct)
    assert left_out[:12] == pytest.approx(intervals.jackknife(subset, 3)["accuracy"])


def test_a_measure_that_is_not_defined_without_a_patient_is_nan():
    scores = Scores(np.array([0, 1]), np.array([0.2, 0.8]), np.array([False, True]), np.array([0, 1]))
    left_out = intervals.jackknife(scores, seed=0)
    for measure in ("roc_auc", "pr_auc", "balanced_accuracy"):
        assert np.isnan(left_out[measure]).all()
    assert left_out["sensitivity"] == pytest.approx([1, np.nan], nan_ok=True)


def test_the_number_of_patients_computed_at_once_changes_nothing(monkeypatch):
    scores = sample(5000, 50)
    left_out = intervals.jackknife(scores, seed=1)
    monkeypatch.setattr(intervals, "CHUNK_SIZE", 20_000)  # four patients at once, in threads
    chunked = intervals.jackknife(scores, seed=1)
    assert all((left_out[name] == chunked[name]).all() for name in left_out)


def test_the_effective_number_of_patients_is_that_of_kish():
    assert intervals.effective_sample_size(np.repeat([0, 1, 2, 3], 7)) == 4
    assert intervals.effective_sample_size(np.array([0, 0, 0, 1])) == pytest.approx(16 / 10)


@pytest.mark.parametrize("ties", [False, True])
def test_the_jackknife_equals_scikit_learn_on_the_images_of_all_other_patients(ties):
    scores = sample(ties=ties)
    left_out = intervals.jackknife(scores, seed=3)
    assert len(left_out["roc_auc"]) == scores.units.max() + 1
    for unit in range(scores.units.max() + 1):
        columns = [column[scores.units != unit] for column in scores[:3]]
        assert {name: values[unit] for name, values in left_out.items()} == pytest.approx(
            expected_measures(*columns), rel=1e-5
        )


@pytest.mark.parametrize("scale", [1, 0.001])
def test_measures_with_weights_of_images_equal_scikit_learns(scale):
    scores = evidence.equal_patients(sample(ties=True))
    scores = scores._replace(weights=scale * scores.weights)
    num_units = scores.units.max() + 1
    measured = intervals.weighted_measures(scores, lambda first, count: np.ones((count, num_units), int), 1, 300)
    pairs = measured.pop("pairs")
    assert {name: values[0] for name, values in measured.items()} == pytest.approx(evidence.measures(scores), rel=1e-6)
    assert pairs == pytest.approx(scores.weights[scores.labels == 1].sum() * scores.weights[scores.labels == 0].sum())


def test_many_patients_are_left_out_in_groups_with_the_same_variance(monkeypatch):
    scores = sample(6000, 600)
    single = intervals.jackknife(scores, 1)
    monkeypatch.setattr(intervals, "MAX_LEFT_OUT", 300)
    grouped, again = intervals.jackknife(scores, 1), intervals.jackknife(scores, 1)
    assert len(single["roc_auc"]) == 600 and len(grouped["roc_auc"]) == 300
    for measure, value in evidence.measures(scores).items():
        assert (grouped[measure] == again[measure]).all()
        variances = [intervals.patient_variance(measure, value, of[measure], scores) for of in (single, grouped)]
        assert variances[1].variance == pytest.approx(variances[0].variance, rel=0.3)  # 4 standard errors
        assert variances[0].df > 500 and variances[1].df == 299


def test_the_variance_of_a_share_with_one_image_per_patient_is_that_of_the_textbook():
    scores = sensitivity_of([1] * 15 + [0] * 5)
    left_out = intervals.jackknife(scores, 0)["sensitivity"]
    assert intervals.patient_variance("sensitivity", 0.75, left_out, scores) == (pytest.approx(0.75 * 0.25 / 19), 19)


def test_the_variance_of_an_auc_with_one_image_per_patient_is_that_without_bias():
    """The square of the mean over pairs, minus the mean of the products of two pairs without a patient in common."""
    random = np.random.RandomState(0)
    labels = np.repeat([1, 0], 12)
    probabilities = 0.5 + 0.1 * (labels - 0.5) + 0.1 * random.standard_normal(24)
    scores = Scores(labels, probabilities, probabilities >= 0.5, np.arange(24))
    above = probabilities[:12, None] > probabilities[None, 12:]
    products = above[:, :, None, None] * above[None, None]
    apart = ~np.eye(12, dtype=bool)[:, None, :, None] & ~np.eye(12, dtype=bool)[None, :, None, :]
    unbiased = above.mean() ** 2 - products[np.broadcast_to(apart, products.shape)].mean()
    left_out = intervals.jackknife(scores, 0)["roc_auc"]
    variance = intervals.patient_variance("roc_auc", above.mean(), left_out, scores).variance
    assert unbiased <= variance == pytest.approx(unbiased, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("design", ["few", "half"])
def test_the_variance_of_an_auc_is_on_average_that_over_test_sets(design):
    """Even if one patient has half of all images, and with six patients of each class."""
    variances, values = [], []
    for seed in range(1500):
        scores = draw(design, 12, 1.5, 0.75, seed)
        values.append(metrics.roc_auc_score(scores.labels, scores.probabilities))
        left_out = intervals.jackknife(scores, 0)["roc_auc"]
        variances.append(intervals.patient_variance("roc_auc", values[-1], left_out, scores))
    estimates = np.array([component.variance for component in variances if not isinstance(component, str)])
    assert 0.9 < estimates.mean() / np.var(values) < 1.15


@pytest.mark.parametrize(("hits", "patients"), [(9, 10), (17, 20), (3, 40), (1, 3)])
def test_with_one_image_per_patient_the_interval_is_wilsons_with_students_t(hits, patients):
    """Unless a missing kind of patient makes it wider; at the side of 0 or 1, no narrower than on the logit scale."""
    low, high = interval_of(sensitivity_of([1] * hits + [0] * (patients - hits)), "sensitivity")
    share, quantile = hits / patients, stats.t.ppf(0.975, patients - 1)

    def distance(p):
        return abs(share - p) - quantile * np.sqrt(p * (1 - p) / (patients - 1))

    present = 0.03 ** (1 / patients)
    odds = np.exp(quantile / np.sqrt((patients - 1) * share * (1 - share)))
    lowest, highest = share / (share + (1 - share) * odds), share / (share + (1 - share) / odds)
    expected_low = [optimize.brentq(distance, 1e-12, share), share * present, *[lowest] * (share < 0.5)]
    expected_high = [optimize.brentq(distance, share, 1 - 1e-12), share * present + 1 - present]
    assert low == pytest.approx(min(expected_low))
    assert high == pytest.approx(max([*expected_high, *[highest] * (share > 0.5)]))


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_with_many_patients_the_interval_is_that_of_scipy(share):
    hits = int(share * 2000)
    wilson = stats.binomtest(hits, 2000).proportion_ci(method="wilson")
    bounds = interval_of(sensitivity_of(np.arange(2000) < hits), "sensitivity")
    assert bounds == pytest.approx((wilson.low, wilson.high), abs=3e-4)
    repeated = sensitivity_of(np.arange(8000) // 4 < hits, np.arange(8000) // 4)  # four equal images of each patient
    assert interval_of(repeated, "sensitivity") == pytest.approx(bounds)


def test_the_interval_of_a_perfect_measure_depends_on_the_number_of_patients():
    """A share of 1 - 0.03 ** (1 / 20) of patients may be unlike them: no better than chance, or all wrong."""
    labels = np.tile([0, 1], 20)
    scores = Scores(labels, labels * 0.8 + 0.1, labels == 1, np.arange(40) // 2)
    exact = stats.binomtest(20, 20).proportion_ci(confidence_level=0.94, method="exact")
    assert interval_of(scores, "roc_auc") == (pytest.approx(0.5 + 0.5 * exact.low), 1.0)
    wrong = scores._replace(predicted=labels == 0)
    assert interval_of(wrong, "accuracy") == (0.0, pytest.approx(1 - exact.low))


def test_one_false_negative_never_narrows_the_interval_of_a_perfect_sensitivity():
    units = np.arange(300) // 100
    perfect = interval_of(sensitivity_of(np.ones(300), units), "sensitivity")
    one_missed = interval_of(sensitivity_of(np.arange(300) > 0, units), "sensitivity")
    assert one_missed[0] <= perfect[0] == pytest.approx(0.03 ** (1 / 3))


def test_a_patient_with_most_of_the_images_counts_as_little_more_than_one():
    units = np.concatenate([np.zeros(990, int), np.arange(1, 10)])
    low, _ = interval_of(sensitivity_of(np.ones(999), units), "sensitivity")
    assert low < 0.035


def test_one_patient_gives_no_interval_however_many_images_there_are():
    scores = sample(400, 20)
    one_patient = scores._replace(units=np.where(scores.labels == 1, 0, scores.units + 1))
    for measure in ("roc_auc", "sensitivity", "balanced_accuracy"):
        assert "one patient" in interval_of(one_patient, measure)
    assert not isinstance(interval_of(one_patient, "specificity"), str)


@pytest.mark.parametrize("count", [4, 10, 40])
def test_intervals_are_within_0_and_1_and_contain_the_value(count):
    for seed in range(7):
        scores = sample(count, 4, seed)
        for variant in (scores, evidence.equal_patients(scores)):
            for measure, value in evidence.measures(variant).items():
                bounds = "not defined" if value is None else interval_of(variant, measure)
                if not isinstance(bounds, str):
                    assert 0 <= bounds[0] <= value <= bounds[1] <= 1 and bounds[0] < bounds[1]


def test_patients_with_equally_many_images_have_one_interval_whether_or_not_each_weighs_the_same():
    random = np.random.RandomState(0)
    units = np.repeat(np.arange(3000), 7)  # weights of 1 / 7 are no counts: in float32 their sums are not exact
    labels = units % 2
    noise = random.standard_normal(len(units)) + random.standard_normal(3000)[units]
    probabilities = stats.logistic.cdf(labels + noise)
    scores = Scores(labels, probabilities, probabilities >= 0.5, units)
    by_image, equal = (
        evidence.model_metric(weighted, 1, "roc_auc") for weighted in (scores, evidence.equal_patients(scores))
    )
    assert [equal[key] for key in ("value", "ci_low", "ci_high")] == pytest.approx(
        [by_image[key] for key in ("value", "ci_low", "ci_high")], abs=1e-6
    )


def test_equal_weights_give_each_pair_of_patients_the_same_weight():
    labels, units = np.array([1, 1, 1, 1, 0, 0, 0]), np.array([0, 0, 0, 1, 2, 2, 3])
    probabilities = np.array([0.9, 0.8, 0.3, 0.6, 0.5, 0.7, 0.6])
    weighted = evidence.equal_patients(Scores(labels, probabilities, probabilities >= 0.65, units))
    # Patient 0 above patient 2 in 4 of 6 pairs, above 3 in 2 of 3; patient 1 in 1 of 2, and tied with 3.
    assert evidence.measures(weighted)["roc_auc"] == pytest.approx((4 / 6 + 2 / 3 + 1 / 2 + 1 / 2) / 4)
    assert evidence.measures(weighted)["sensitivity"] == pytest.approx((2 / 3 + 0) / 2)
    assert evidence.measures(weighted)["specificity"] == pytest.approx((1 / 2 + 1) / 2)
    left_out = intervals.jackknife(weighted, 0)
    assert left_out["roc_auc"] == pytest.approx(
        [(1 / 2 + 1 / 2) / 2, (4 / 6 + 2 / 3) / 2, (2 / 3 + 1 / 2) / 2, (4 / 6 + 1 / 2) / 2]
    )
    assert left_out["specificity"] == pytest.approx([3 / 4, 3 / 4, 1, 1 / 2])


def test_a_patient_with_half_of_all_images_widens_only_the_interval_of_the_figure_by_image():
    width = np.array([np.diff(interval_of(variant, "roc_auc")) for seed in range(20)
                      for scores in [draw("half", 40, 1.5, 0.75, seed)]
                      for variant in (scores, evidence.equal_patients(scores))]).reshape(-1, 2)  # fmt: skip
    assert (width[:, 1] < width[:, 0]).all() and np.median(width[:, 1]) < 0.5 * np.median(width[:, 0])


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("design", [*TUNED, *UNTUNED])
def test_intervals_over_patients_have_their_nominal_coverage_and_the_width_that_it_needs(design):
    for patients in (12, 40):
        results = simulate(design, patients, runs=300)
        coverage, width = coverage_and_width(results)
        defined = ~np.isnan(coverage)
        assert (coverage[defined] >= 0.93).all(), coverage  # 0.95 less 1.6 standard errors
        limits = {"half": 1.8, "strong": np.inf} | dict.fromkeys(DESIGNS, 1.25 if patients == 12 else 1.1)
        if design in TUNED:
            assert width[0] < 1.05 * limits.get(design, 1.5 if patients == 12 else 1.2), width  # SD over 300 runs


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("design", DESIGNS)
def test_intervals_over_images_are_too_narrow(design):
    coverage, _ = coverage_and_width(simulate(design, patients=60, runs=100, by_image=True))
    tested = [COLUMNS.index(name) for name in ("AUC by image", "sensitivity", "specificity")]
    assert (coverage[tested] < 0.85).all(), coverage


def compared(first, second, measure="roc_auc"):
    pair = first, second
    values = [evidence.measures(scores)[measure] for scores in pair]
    left_out = [intervals.jackknife(scores, 0)[measure] for scores in pair]
    return intervals.difference(measure, tuple(values), left_out[1] - left_out[0], pair)


def test_the_interval_of_a_paired_difference_is_far_narrower_than_that_of_one_measure():
    first = draw("apart", 40, 1.5, 0.75, seed=1)
    second = first._replace(probabilities=np.clip(first.probabilities + 0.05 * first.labels, 0, 1))
    low, high, p = compared(first, second)
    assert 0 < low < high and p < 0.05
    bounds = interval_of(first, "roc_auc")
    assert high - low < 0.3 * (bounds[1] - bounds[0])


def test_the_difference_of_two_shares_with_one_image_per_patient_has_the_paired_t_test():
    random = np.random.RandomState(0)
    pair = sensitivity_of(random.random_sample(30) < 0.6), sensitivity_of(random.random_sample(30) < 0.8)
    expected = stats.ttest_rel(*(scores.predicted.astype(float) for scores in reversed(pair)))
    bounds = expected.confidence_interval()
    assert compared(*pair, "sensitivity") == pytest.approx((bounds.low, bounds.high, expected.pvalue))


def test_the_variance_of_a_difference_is_that_of_two_samples_if_no_patient_has_both_classes():
    effects, labels = np.array([3.0, -1.0, 2.0, 0.5, -0.5]), np.array([1, 1, 1, 0, 0])
    scores = Scores(labels, np.zeros(5), np.zeros(5, bool), np.arange(5))
    of_classes = np.array([14 * 2 / 3, 0.5 * 1 / 2])
    welch = of_classes.sum() ** 2 / (of_classes**2 / [2, 1]).sum()
    for measure, factor in (("balanced_accuracy", 1), ("roc_auc", 2)):
        component = intervals._difference_variance(measure, effects, (scores, scores))
        assert component == (pytest.approx(of_classes.sum()), pytest.approx(factor * welch))
    mixed = scores._replace(labels=np.array([1, 1, 1, 0, 0, 0]), units=np.array([0, 1, 2, 3, 4, 0]))
    expected = (pytest.approx(14.5 * 4 / 5), pytest.approx(4))
    for measure in ("balanced_accuracy", "roc_auc"):
        assert intervals._difference_variance(measure, effects, (mixed, mixed)) == expected


def test_if_the_difference_is_the_same_without_each_patient_p_is_that_of_the_sign_test():
    labels = np.repeat([0, 1], 20)
    perfect = Scores(labels, 0.1 + 0.8 * labels, labels == 1, np.arange(40))
    low, high, p = compared(perfect._replace(probabilities=0.9 - 0.8 * labels), perfect)
    assert low == high == 1 and p == pytest.approx(2 * 0.5**20)


def test_the_interval_of_a_difference_is_within_minus_1_and_1():
    """Three patients, of whom one has most images: the standard error is as large as the range."""
    units = np.array([0] * 8 + [1, 2])
    for hits in (np.arange(10) < 8, np.arange(10) >= 8, np.arange(10) % 2 == 0):
        low, high, p = compared(sensitivity_of(hits, units), sensitivity_of(~hits, units), "sensitivity")
        assert -1 <= low <= (~hits).mean() - hits.mean() <= high <= 1 and 0 <= p <= 1


def test_the_difference_of_equal_classifiers_is_zero():
    scores = sample()
    assert compared(scores, scores) == (0.0, 0.0, 1.0)
