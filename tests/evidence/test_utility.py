from core.evidence import curves, messages, utility
from core.evidence.intervals import Scores

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from scipy.stats import t as student
from sklearn.metrics import roc_curve

from utility_coverage import COLUMNS, simulate

AREA = {"value": 0.8, "ci_low": 0.7, "ci_high": 0.9}  # a ROC AUC


def sample(count=400, each=10):
    """Of patients with images of both classes; the labels follow 0.4 + 0.7 times the logit of the probability."""
    random = np.random.RandomState(3)
    units = np.arange(count) // each
    logits = 1.2 * random.standard_normal(count) + 0.8 * random.standard_normal(units.max() + 1)[units]
    labels = (random.random_sample(count) < expit(0.4 + 0.7 * logits)).astype(int)
    probabilities = expit(logits).round(3)
    return Scores(labels, probabilities, probabilities >= 0.5, units)


def test_the_calibration_line_and_its_standard_errors_are_those_of_statsmodels():
    """statsmodels 0.15.0, with x = logit(probabilities): GLM(labels, add_constant(x), Binomial()) for the slope,
    GLM(labels, ones, Binomial(), offset=x) for the intercept, fit(cov_type="cluster", cov_kwds={"groups": units})."""
    scores = sample()
    quantile = student.ppf(0.975, 39)
    for slope, value, standard_error in ((True, 0.75014806, 0.08571476), (False, 0.42900211, 0.12959339)):
        entry = utility.calibration_line(scores, slope)
        assert entry["value"] == pytest.approx(value, abs=1e-7)
        assert (entry["ci_high"] - entry["value"]) / quantile == pytest.approx(standard_error, rel=0.02)


def test_the_net_benefit_is_that_of_dcurves():
    """dcurves 1.1.7: dca(data, outcome="label", modelnames=["probability"], thresholds=[...])["net_benefit"]."""
    expected = {0.05: (0.571842, 0.573684), 0.1: (0.551667, 0.55), 0.2: (0.473125, 0.49375), 0.3: (0.410357, 0.421429),
                0.5: (0.2825, 0.19)}  # fmt: skip
    scores = sample()
    block = utility.summarise(scores)["net_benefit"]
    curve = curves.net_benefit(pd.DataFrame({"label": scores.labels, "probability": scores.probabilities}))
    for threshold, values in expected.items():
        entry = block[f"{threshold:g}"]
        assert (entry["model"]["value"], entry["all"]["value"]) == pytest.approx(values, abs=1e-6)
        assert entry["difference"]["value"] == pytest.approx(values[0] - values[1], abs=2e-6)
        row = curve[curve["threshold"].round(6) == threshold].iloc[0]
        assert (row["model"], row["all"], row["none"]) == pytest.approx((*values, 0), abs=1e-6)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("goal", [0.9, 0.95])
def test_a_point_of_the_roc_curve_is_that_of_scikit_learn(ties, goal):
    scores = sample()
    probabilities = scores.probabilities.round(1) if ties else scores.probabilities
    fpr, sensitivity, _ = roc_curve(scores.labels, probabilities, drop_intermediate=False)
    scores = scores._replace(probabilities=probabilities)
    at_specificity = utility.roc_point(scores, "specificity", goal)["value"]
    assert at_specificity == pytest.approx(sensitivity[1 - fpr >= goal - 1e-9].max())
    at_sensitivity = utility.roc_point(scores, "sensitivity", goal)["value"]
    assert at_sensitivity == pytest.approx((1 - fpr)[sensitivity >= goal - 1e-9].max())


@pytest.mark.slow
def test_intervals_cover_the_truth_and_those_of_a_fixed_threshold_do_not():
    coverage, _ = simulate("apart", 40, 100)
    shares = dict(zip(COLUMNS, coverage, strict=True))
    assert shares.pop("fixed") < 0.88 and min(shares.values()) >= 0.91  # 0.95 with an SD of 0.022


def test_what_is_not_defined_has_a_reason():
    labels, units = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1])
    separated = Scores(labels, np.array([0.1, 0.2, 0.3, 0.4]), labels == 1, units)
    blocks = utility.summarise(separated)
    assert blocks["calibration_line"]["slope"] == utility._undefined(utility.SEPARATED)
    single = utility.summarise(separated._replace(units=np.arange(4)))
    assert single["net_benefit"]["0.5"]["model"]["reason"] == utility.SAME  # no image is predicted positive
    assert blocks["roc_points"]["specificity_90"]["value"] == 1
    assert blocks["roc_points"]["specificity_90"]["reason"] == utility.ONE_PATIENT
    for labels in (np.zeros(4, int), np.zeros(0, int)):
        scores = Scores(labels, np.linspace(0, 1, len(labels)), labels == 1, np.arange(len(labels)))
        blocks = utility.summarise(scores)
        assert blocks["calibration_line"]["in_the_large"]["reason"] == utility.ONE_CLASS
        assert blocks["roc_points"]["sensitivity_95"]["reason"] == utility.ONE_CLASS
        assert curves.net_benefit(pd.DataFrame({"label": labels, "probability": labels / 1})).shape == (
            (99, 4) if len(labels) else (0, 4)
        )


def test_a_figure_that_no_patient_changes_has_no_interval_of_rounding_errors():
    labels, probabilities = np.tile([0, 1, 1], 7), np.tile([0.1, 0.8, 0.9], 7)
    blocks = utility.summarise(Scores(labels, probabilities, probabilities >= 0.5, np.repeat(np.arange(7), 3)))
    for entry in (blocks["calibration_line"]["in_the_large"], *blocks["net_benefit"]["0.05"].values()):
        assert (entry["ci_low"], entry["ci_high"], entry["reason"]) == (None, None, utility.SAME)


def test_the_list_of_likely_wrong_labels_is_that_of_cleanlab():
    """cleanlab 2.9.0: find_label_issues(labels, column_stack([1 - p, p]), filter_by="confident_learning",
    return_indices_ranked_by="self_confidence")."""
    random = np.random.RandomState(4)
    labels = random.randint(0, 2, 80)
    probabilities = np.clip(0.5 + 0.2 * (2 * labels - 1) + 0.35 * random.standard_normal(80), 0.01, 0.99)
    table = pd.DataFrame({"label": labels, "probability": probabilities})
    assert utility.likely_wrong(table, AREA).index.tolist() == [8, 32, 0, 28, 12, 6]
    assert utility.likely_wrong(table[table["label"] == 1], AREA).empty and utility.likely_wrong(table[:0], AREA).empty


@pytest.mark.parametrize(("low", "high"), [(0.066, 0.79), (0.5, 0.9), (0.1, 0.4), (None, None)])
def test_scores_that_may_be_no_better_than_chance_contradict_no_label(low, high):
    """Without this, 530 of 1,198 labels of the original's images were listed, at a ROC AUC of 0.315 (0.066, 0.790)."""
    table = pd.DataFrame({"label": [0, 0, 1, 1], "probability": [0.9, 0.1, 0.2, 0.8]})
    assert len(utility.likely_wrong(table, AREA)) == 2
    area = AREA | {"ci_low": low, "ci_high": high}
    assert utility.likely_wrong(table, area).empty
    assert "is not shown to be better than chance" in messages.wrong_labels(0, area, "list.csv")


def test_planted_wrong_labels_are_at_the_top_also_of_folds_with_other_scales():
    random = np.random.RandomState(0)
    true = random.randint(0, 2, 3000)
    logits = 3.6 * (true - 0.5) + random.standard_normal(3000)
    fold = np.arange(3000) % 3
    planted = random.permutation(3000) < 150
    table = pd.DataFrame({"label": true ^ planted, "probability": expit(logits + 1.5 * (fold - 1)), "fold": fold})
    wrong = planted[utility.likely_wrong(table, AREA, table["fold"]).index]
    at_half = 1 + np.flatnonzero(wrong.cumsum() >= 75)[0]
    assert 75 / at_half >= 0.8
