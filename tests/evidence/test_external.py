from core.evidence import external, metrics

import numpy as np
import pytest
from scipy import stats


def block(hits, count):
    """A block of figures, all of which are this proportion, with Wilson's interval."""
    bounds = stats.binomtest(hits, count).proportion_ci(method="wilson")
    return {name: {"value": hits / count, "ci_low": bounds.low, "ci_high": bounds.high} for name in metrics.MEASURES}


def test_the_interval_of_the_drop_is_the_published_one_of_two_proportions():
    """Newcombe 1998, Statistics in Medicine 17, 873-890, table II, method 10: 56 of 70 against 48 of 80."""
    found = external.drop(block(56, 70), block(48, 80))["accuracy"]
    assert (found["value"], found["ci_low"], found["ci_high"]) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_a_figure_that_one_set_lacks_has_no_drop_but_a_reason():
    there = block(48, 80) | {"roc_auc": {"value": None, "ci_low": None, "ci_high": None, "reason": "no positive image"}}
    found = external.drop(block(56, 70), there)["roc_auc"]
    assert found == {"value": None, "ci_low": None, "ci_high": None, "reason": "no positive image"}


def test_the_share_of_marked_images_has_an_interval_over_patients():
    units = np.repeat(np.arange(40), 5)
    marked = units % 4 == 0  # all images of a patient, or none
    found = external.share(marked, units, 1)
    assert found["value"] == 0.25 and found["ci_low"] < 0.15 and found["ci_high"] > 0.37
    alone = external.share(np.arange(200) % 4 == 0, units, 1)
    assert alone["ci_high"] - alone["ci_low"] < (found["ci_high"] - found["ci_low"]) / 2


def test_a_fall_is_worse_if_it_is_more_than_chance_after_a_correction_for_three():
    for hits, worse in ((48, True), (51, False)):  # of 80, against 56 of 70
        found = external.drop(block(56, 70), block(hits, 80))
        assert [name for name in metrics.MEASURES if found[name].get("worse")] == (
            ["sensitivity", "specificity", "roc_auc"] if worse else []
        )
    assert found["roc_auc"]["ci_low"] > 0  # without the correction it would be
