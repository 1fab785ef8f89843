from core.evidence import metrics, seed_variance, verdict
from core.evidence.seed_variance import VarianceComponent

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.metrics import roc_auc_score

import coverage
import equal_recipes
import trainings

PATIENTS, IMAGES = 30, 10


def test_the_jackknife_variance_of_a_mean_is_that_of_the_textbook():
    values = np.array([1.0, 2.0, 6.0])  # s^2 / k = 7 / 3
    left_out = [float(np.delete(values, number).mean()) for number in range(3)]
    assert seed_variance.jackknife(left_out) == (pytest.approx(7 / 3), 2)
    for undefined in ([0.7], [], [0.1, None]):
        assert seed_variance.jackknife(undefined) is None


def test_the_degrees_of_freedom_of_a_sum_are_those_of_satterthwaite_and_at_most_those_of_the_patients():
    assert seed_variance.combine(VarianceComponent(1.0, 8.0), VarianceComponent(1.0, 2.0)) == (
        2.0,
        pytest.approx(4 / (1 / 8 + 1 / 2)),
    )
    assert seed_variance.combine(VarianceComponent(1e-9, 8.0), VarianceComponent(1.0, 2.0)).df == pytest.approx(2)
    assert seed_variance.combine(VarianceComponent(1.0, 8.0), VarianceComponent(1.0, 8.0)) == (2.0, 8.0)
    assert seed_variance.combine(VarianceComponent(0.0, 8.0), VarianceComponent(0.0, 2.0)) == (0.0, 8.0)


def test_leaving_out_a_network_averages_the_others_before_calibration():
    predictions = pd.DataFrame({"probability": [0.5], "member_1": [0.2], "member_2": [0.4], "member_3": [0.9]})
    scored = seed_variance.add_leave_one_out(predictions, temperature=2.0)
    assert seed_variance.leave_one_out_columns(scored) == ["without_1", "without_2", "without_3"]
    assert scored.loc[0, "without_3"] == pytest.approx(expit(np.log(0.3 / 0.7) / 2))
    single = seed_variance.add_leave_one_out(predictions[["probability", "member_1"]], 1.0)
    assert seed_variance.leave_one_out_columns(single) == []


def simulated(random, members, spread):
    """Test images of 30 patients, scored by ``members`` networks. Each network has a quality of its own, with standard
    deviation ``spread``, and an error of its own for each patient."""
    patient = np.repeat(np.arange(PATIENTS), IMAGES)
    label = patient % 2
    common = random.standard_normal(PATIENTS)[patient] + random.standard_normal(len(patient))
    quality = 1.5 + spread * random.standard_normal(members)
    scores = [
        quality[number] * (label - 0.5) + common + 0.5 * random.standard_normal(PATIENTS)[patient]
        for number in range(members)
    ]
    return label, patient, expit(np.array(scores).T)


def scores_of(label, patient, by_member):
    columns = {f"member_{number}": by_member[:, number - 1] for number in range(1, by_member.shape[1] + 1)}
    rows = pd.DataFrame({"label": label, "unit": patient, "probability": by_member.mean(axis=1)} | columns)
    return metrics.scores(seed_variance.add_leave_one_out(rows, 1.0), 0.5)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_the_interval_of_the_recipe_covers_its_mean_over_many_trainings_and_that_of_the_model_does_not(spread):
    """With a spread, most of the uncertainty comes from the seed: one ensemble says little about the next."""
    random = np.random.RandomState(1)
    truth = np.mean([_area(*simulated(random, 3, spread)) for _ in range(1500)])
    covered = {"model": 0, "recipe": 0}
    shares = []
    for seed in range(100):
        entry = metrics.metrics_with_ci(scores_of(*simulated(random, 3, spread)), seed, ("roc_auc",))["roc_auc"]
        covered["model"] += entry["ci_low"] <= truth <= entry["ci_high"]
        covered["recipe"] += entry["recipe"]["ci_low"] <= truth <= entry["recipe"]["ci_high"]
        shares.append(entry["recipe"]["seed_variance_share"])
    assert covered["recipe"] >= 90
    assert (covered["model"] < 90) == (np.mean(shares) > 0.3) == (spread > 0)


def _area(label, patient, by_member):
    return roc_auc_score(label, by_member.mean(axis=1))


def test_the_interval_of_the_recipe_is_that_of_the_model_if_networks_agree_and_wider_otherwise():
    label, patient, by_member = simulated(np.random.RandomState(2), 3, 0.5)
    agree = np.repeat(by_member.mean(axis=1, keepdims=True), 3, axis=1)
    same = metrics.metrics_with_ci(scores_of(label, patient, agree), 1, ("roc_auc", "accuracy"))
    for entry in same.values():
        assert entry["recipe"] == pytest.approx(
            {"ci_low": entry["ci_low"], "ci_high": entry["ci_high"], "seed_variance_share": 0.0}
        )
    apart = metrics.metrics_with_ci(scores_of(label, patient, by_member), 1, ("roc_auc", "accuracy"))
    for entry in apart.values():
        assert entry["recipe"]["ci_low"] < entry["ci_low"] and entry["ci_high"] < entry["recipe"]["ci_high"]


def test_one_network_has_a_reason_instead_of_an_interval_of_the_recipe():
    label, patient, by_member = simulated(np.random.RandomState(2), 1, 0.5)
    entry = metrics.metrics_with_ci(scores_of(label, patient, by_member), 1, ("roc_auc",))["roc_auc"]
    assert entry["ci_low"] is not None and entry["recipe"] == {
        "ci_low": None, "ci_high": None, "seed_variance_share": None,
        "reason": "the seed variance of one network is unknown: set train.ensemble_size to 2 or more",
    }  # fmt: skip
    (sentence,) = verdict._seed_variance({"patients": 12, "roc_auc": entry})
    assert "no interval for new patients and a new training (the seed variance of one network" in sentence


@pytest.mark.parametrize(
    ("share", "remedy"), [(0.1, "more test patients"), (0.7, "a larger ensemble (train.ensemble_size)")]
)
def test_the_verdict_gives_the_share_of_the_seed_and_what_would_narrow_the_interval(share, remedy):
    block = {
        "patients": 12,
        "roc_auc": {
            "value": 0.8,
            "ci_low": 0.7,
            "ci_high": 0.9,
            "recipe": {"ci_low": 0.6, "ci_high": 0.95, "seed_variance_share": share},
        },
    }
    (sentence,) = verdict._seed_variance(block)
    assert "the ROC AUC is 0.600 to 0.950" in sentence
    assert f"{100 * share:.0f} % of this variance comes from the random seed" in sentence
    assert f"the choice of test patients, so {remedy} would narrow the interval most" in sentence


@pytest.mark.long
@pytest.mark.slow
def test_on_real_trainings_intervals_contain_the_true_value_and_equal_recipes_do_not_differ(tmp_path, monkeypatch):
    """The benchmarks of the full size, on two small sets of eight trainings each."""
    monkeypatch.setattr(trainings, "CACHE", tmp_path)
    sets = range(trainings.FIRST_SEED, trainings.FIRST_SEED + 2)
    rows = trainings.load_or_measure("coverage", sets, trainings.SMALL, coverage.rows)
    defined = rows.dropna(subset=["model_low", "recipe_low"])
    assert len(defined) >= 6  # of 8
    for kind in ("model", "recipe"):
        assert coverage.contains_truth(defined, kind).mean() >= 0.9
    assert (defined["recipe_low"] <= defined["model_low"]).all()
    assert (defined["recipe_high"] >= defined["model_high"]).all()
    assert (defined["recipe_luck"] > 0).any()
    calls = trainings.load_or_measure("equal_recipes", sets, trainings.SMALL, equal_recipes.rows)
    assert not calls.loc[calls["compared"] == "recipes of 4 members", "any"].any()


def test_the_interaction_of_patients_and_trainings_is_that_of_a_two_way_analysis_of_variance():
    values = np.array([[1.0, 4, 2, 8, 5], [2, 3, 9, 6, 1], [7, 5, 3, 3, 4]])  # of 3 networks and 5 patients
    networks, patients = values.shape
    effects = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    mean_square = (effects**2).sum() / ((networks - 1) * (patients - 1))
    members = [float(np.delete(values, number, 0).mean()) for number in range(networks)]
    left_out = np.array([np.delete(values, number, 1).mean() for number in range(patients)])
    crossed = [[np.delete(np.delete(values, k, 0), r, 1).mean() for r in range(patients)] for k in range(networks)]
    component = seed_variance.interaction(float(values.mean()), members, left_out, np.array(crossed))
    assert component == (pytest.approx(mean_square / values.size), 8)
