from core.evidence import external, metrics

import numpy as np
import pytest
from scipy import stats


def block(correct, count):
    """A block of measures, all of which are this proportion, with Wilson's interval."""
    bounds = stats.binomtest(correct, count).proportion_ci(method="wilson")
    return {name: {"value": correct / count, "ci_low": bounds.low, "ci_high": bounds.high} for name in metrics.MEASURES}


def test_the_interval_of_the_drop_is_the_published_one_of_two_proportions():
    """Newcombe 1998, Statistics in Medicine 17, 873-890, table II, method 10: 56 of 70 against 48 of 80."""
    entry = external.drop(block(56, 70), block(48, 80))["accuracy"]
    assert (entry["value"], entry["ci_low"], entry["ci_high"]) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_a_measure_that_one_set_does_not_define_has_a_reason_instead_of_a_drop():
    there = block(48, 80) | {"roc_auc": {"value": None, "ci_low": None, "ci_high": None, "reason": "no positive image"}}
    entry = external.drop(block(56, 70), there)["roc_auc"]
    assert entry == {"value": None, "ci_low": None, "ci_high": None, "reason": "no positive image"}


def test_the_share_of_marked_images_has_an_interval_over_patients():
    units = np.repeat(np.arange(40), 5)
    marked = units % 4 == 0  # all images of a patient, or none
    clustered = external.share(marked, units, 1)
    assert clustered["value"] == 0.25 and clustered["ci_low"] < 0.15 and clustered["ci_high"] > 0.37
    scattered = external.share(np.arange(200) % 4 == 0, units, 1)
    assert scattered["ci_high"] - scattered["ci_low"] < (clustered["ci_high"] - clustered["ci_low"]) / 2


def test_a_drop_is_worse_if_it_is_significant_after_a_correction_for_three_measures():
    for correct, worse in ((48, True), (51, False)):  # of 80, against 56 of 70
        drops = external.drop(block(56, 70), block(correct, 80))
        assert [name for name in metrics.MEASURES if drops[name].get("worse")] == (
            ["sensitivity", "specificity", "roc_auc"] if worse else []
        )
    assert drops["roc_auc"]["ci_low"] > 0  # without the correction it would be
