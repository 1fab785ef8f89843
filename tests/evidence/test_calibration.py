from core.evidence import calibration
from core.pipeline.errors import PipelineError

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit


def overconfident(count=20000, temperature=2.5):
    """Labels drawn with known chances, and probabilities whose logits are ``temperature`` times too large."""
    random = np.random.RandomState(0)
    logits = random.normal(0, 1.5, count)
    return (random.random_sample(count) < expit(logits)).astype(int), expit(temperature * logits)


def test_the_fitted_temperature_is_the_one_of_the_simulation():
    labels, probabilities = overconfident()
    assert calibration.fit_temperature(labels, probabilities) == pytest.approx(2.5, rel=0.05)


def test_the_temperature_lowers_the_calibration_error_and_the_brier_score():
    labels, probabilities = overconfident()
    block = calibration.summarise(labels, probabilities, 2.5, applied=True)
    assert block["ece"]["after"] < 0.02 < 0.1 < block["ece"]["before"]
    assert block["brier"]["after"] < block["brier"]["before"]


def test_the_expected_calibration_error_equals_a_count_by_hand():
    labels, probabilities = np.array([0, 1, 1, 1]), np.array([0.12, 0.18, 0.75, 1.0])
    # bins: 0.15 on average with half positive; 0.75 with all positive; 1.0 with all positive
    assert calibration.ece(labels, probabilities) == pytest.approx((2 * 0.35 + 0.25 + 0) / 4)
    assert calibration.reliability(labels, probabilities)["images"].tolist() == [2, 1, 1]
    assert calibration.ece(labels[:0], probabilities[:0]) is None


def test_a_temperature_never_changes_the_order():
    _, probabilities = overconfident(500)
    assert (np.argsort(calibration.apply_temperature(probabilities, 3.0)) == np.argsort(probabilities)).all()
    assert calibration.apply_temperature(np.array([0.0, 0.5, 1.0]), 2.0)[1] == 0.5


def rows(labels, splits):
    return pd.DataFrame({"label": labels, "split": pd.array(splits, dtype="string")})


def test_the_temperature_is_fitted_on_validation_alone_and_applied_only_if_asked_for():
    labels, probabilities = overconfident(4000)
    table = rows(np.concatenate([labels, 1 - labels]), ["val"] * 4000 + ["test"] * 4000)
    raw = np.concatenate([probabilities, probabilities])
    result, block = calibration.apply(table, raw, calibrate=False)
    assert (result == raw).all() and not block["applied"] and block["temperature"] == pytest.approx(2.5, rel=0.1)
    result, block = calibration.apply(table, raw, calibrate=True)
    assert block["applied"] and np.allclose(result, calibration.apply_temperature(raw, block["temperature"]))


def test_validation_of_one_class_gives_a_reason_or_an_error():
    table = rows([1, 1, 0, 1], ["val", "val", "test", "test"])
    _, block = calibration.apply(table, np.full(4, 0.6), calibrate=False)
    assert block["temperature"] is None and "one class" in block["reason"]
    assert block["brier"] == {"before": pytest.approx(0.26), "after": None}
    with pytest.raises(PipelineError, match=r"evaluate\.calibration"):
        calibration.apply(table, np.full(4, 0.6), calibrate=True)
