from core.evidence import luck, metrics, verdict
from core.evidence.luck import Part

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.metrics import roc_auc_score

import coverage
import equal_recipes
import trainings

PATIENTS, IMAGES = 30, 10


def test_the_variance_of_a_mean_over_trainings_is_the_one_of_the_textbook():
    figures = np.array([1.0, 2.0, 6.0])  # s^2 / k = 7 / 3
    left_out = [float(np.delete(figures, at).mean()) for at in range(3)]
    assert luck.of_training(left_out) == (pytest.approx(7 / 3), 2)
    assert luck.of_training([0.7]) is None and luck.of_training([]) is None and luck.of_training([0.1, None]) is None


def test_the_degrees_of_freedom_of_a_sum_are_satterthwaites_and_at_most_those_of_the_patients():
    assert luck.together(Part(1.0, 8.0), Part(1.0, 2.0)) == (2.0, pytest.approx(4 / (1 / 8 + 1 / 2)))
    assert luck.together(Part(1e-9, 8.0), Part(1.0, 2.0)).freedom == pytest.approx(2)
    assert luck.together(Part(1.0, 8.0), Part(1.0, 8.0)) == (2.0, 8.0)
    assert luck.together(Part(0.0, 8.0), Part(0.0, 2.0)) == (0.0, 8.0)


def test_leaving_out_a_member_averages_the_others_and_is_calibrated_after():
    given = pd.DataFrame({"probability": [0.5], "member_1": [0.2], "member_2": [0.4], "member_3": [0.9]})
    found = luck.leave_out(given, temperature=2.0)
    assert luck.columns(found) == ["without_1", "without_2", "without_3"]
    assert found.loc[0, "without_3"] == pytest.approx(expit(np.log(0.3 / 0.7) / 2))
    assert luck.columns(luck.leave_out(given[["probability", "member_1"]], 1.0)) == []


def drawn(random, members, spread):
    """Test images of 30 patients as ``members`` trainings score them. A training has a quality of its own, with
    standard deviation ``spread``, and an opinion of its own of each patient."""
    patient = np.repeat(np.arange(PATIENTS), IMAGES)
    label = patient % 2
    common = random.standard_normal(PATIENTS)[patient] + random.standard_normal(len(patient))
    quality = 1.5 + spread * random.standard_normal(members)
    scores = [
        quality[at] * (label - 0.5) + common + 0.5 * random.standard_normal(PATIENTS)[patient] for at in range(members)
    ]
    return label, patient, expit(np.array(scores).T)


def table(label, patient, each):
    columns = {f"member_{at}": each[:, at - 1] for at in range(1, each.shape[1] + 1)}
    rows = pd.DataFrame({"label": label, "unit": patient, "probability": each.mean(axis=1)} | columns)
    return metrics.scores(luck.leave_out(rows, 1.0), 0.5)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_the_interval_of_the_recipe_covers_its_mean_over_many_trainings_and_that_of_the_model_does_not(spread):
    """With a spread, most of the doubt is the training's: what one ensemble shows says little about the next."""
    random = np.random.RandomState(1)
    truth = np.mean([_area(*drawn(random, 3, spread)) for _ in range(1500)])
    covered = {"model": 0, "recipe": 0}
    shares = []
    for seed in range(100):
        entry = metrics.figures(table(*drawn(random, 3, spread)), seed, ("roc_auc",))["roc_auc"]
        covered["model"] += entry["ci_low"] <= truth <= entry["ci_high"]
        covered["recipe"] += entry["recipe"]["ci_low"] <= truth <= entry["recipe"]["ci_high"]
        shares.append(entry["recipe"]["seed_variance_share"])
    assert covered["recipe"] >= 90
    assert (covered["model"] < 90) == (np.mean(shares) > 0.3) == (spread > 0)


def _area(label, patient, each):
    return roc_auc_score(label, each.mean(axis=1))


def test_the_interval_of_the_recipe_is_the_models_where_members_agree_and_wider_where_not():
    label, patient, each = drawn(np.random.RandomState(2), 3, 0.5)
    agree = np.repeat(each.mean(axis=1, keepdims=True), 3, axis=1)
    same = metrics.figures(table(label, patient, agree), 1, ("roc_auc", "accuracy"))
    for entry in same.values():
        assert entry["recipe"] == pytest.approx(
            {"ci_low": entry["ci_low"], "ci_high": entry["ci_high"], "seed_variance_share": 0.0}
        )
    apart = metrics.figures(table(label, patient, each), 1, ("roc_auc", "accuracy"))
    for entry in apart.values():
        assert entry["recipe"]["ci_low"] < entry["ci_low"] and entry["ci_high"] < entry["recipe"]["ci_high"]


def test_one_network_has_no_interval_of_the_recipe_and_says_why():
    label, patient, each = drawn(np.random.RandomState(2), 1, 0.5)
    entry = metrics.figures(table(label, patient, each), 1, ("roc_auc",))["roc_auc"]
    assert entry["ci_low"] is not None and entry["recipe"] == {
        "ci_low": None, "ci_high": None, "seed_variance_share": None,
        "reason": "the seed variance of one network is unknown: set train.ensemble_size to 3 or more",
    }  # fmt: skip
    block = {"roc_auc": entry}
    assert "how different is unknown: the seed variance of one network" in verdict._seed_variance(block)[0]


@pytest.mark.parametrize(
    ("share", "remedy"), [(0.1, "more test patients"), (0.7, "a larger ensemble (train.ensemble_size)")]
)
def test_the_verdict_says_how_much_of_the_doubt_is_luck_and_what_would_lower_it(share, remedy):
    block = {
        "roc_auc": {
            "value": 0.8,
            "ci_low": 0.7,
            "ci_high": 0.9,
            "recipe": {"ci_low": 0.6, "ci_high": 0.95, "seed_variance_share": share},
        }
    }
    (said,) = verdict._seed_variance(block)
    assert (
        "ROC AUC 0.600 to 0.950" in said
        and f"{100 * share:.0f} % of this uncertainty comes from the random seed" in said
    )
    assert f"the choice of test patients: {remedy} would reduce it most" in said


@pytest.mark.long
@pytest.mark.slow
def test_on_real_trainings_intervals_contain_the_truth_and_equal_recipes_are_not_called_different(
    tmp_path, monkeypatch
):
    """The benchmarks of the full size, on four small sets of eight trainings each."""
    monkeypatch.setattr(trainings, "KEPT", tmp_path)
    sets = range(trainings.FIRST, trainings.FIRST + 4)
    found = trainings.recorded("coverage", sets, trainings.SMALL, coverage.rows)
    known = found.dropna(subset=["model_low", "recipe_low"])
    assert len(known) >= 12  # of 16
    for kind in ("model", "recipe"):
        assert coverage.covered(known, kind).mean() >= 0.9
    assert (known["recipe_low"] <= known["model_low"]).all() and (known["recipe_high"] >= known["model_high"]).all()
    assert (known["recipe_luck"] > 0).any()
    calls = trainings.recorded("equal_recipes", sets, trainings.SMALL, equal_recipes.rows)
    assert not calls.loc[calls["compared"] == "recipes of 4 members", "any"].any()
