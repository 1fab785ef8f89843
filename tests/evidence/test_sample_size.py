from core.evidence import metrics, sample_size

import numpy as np
import pandas as pd
import pytest


def patients(count, seed):
    """Six images each; half of the patients are sick, and half of the variance of the scores is between patients."""
    random = np.random.RandomState(seed)
    label = np.repeat(np.arange(count) % 2, 6)
    score = 1.6 * label - 0.8 + np.repeat(random.standard_normal(count), 6) + random.standard_normal(6 * count)
    rows = {"label": label, "probability": 1 / (1 + np.exp(-score)), "unit": np.repeat(np.arange(count), 6)}
    return metrics.scores(pd.DataFrame(rows), 0.5)


@pytest.mark.parametrize("measure", sample_size.PLANNED)
def test_test_sets_of_the_planned_size_have_intervals_of_the_planned_width(measure):
    ratios = []
    for seed in range(8):
        plan = sample_size.plan(patients(120, seed), seed)
        needed = plan[measure]["needed"]["0.1"]
        assert needed["ci_low"] <= needed["patients"] <= needed["ci_high"]
        entry = metrics.metrics_with_ci(patients(needed["patients"], 100 + seed), seed, (measure,))[measure]
        ratios.append((entry["ci_high"] - entry["ci_low"]) / 0.1)
    assert 0.9 < np.median(ratios) < 1.1 and np.mean(np.abs(np.array(ratios) - 1) < 0.2) >= 0.75


def test_the_current_width_is_that_of_the_interval_and_twice_as_many_patients_narrow_it():
    scores = patients(40, 1)
    plan, entry = sample_size.plan(scores, 1), metrics.metrics_with_ci(scores, 1)["roc_auc"]
    assert plan["patients"] == 40 and plan["roc_auc"]["width"] == pytest.approx(entry["ci_high"] - entry["ci_low"])
    assert 0.6 < plan["roc_auc"]["doubled"] / plan["roc_auc"]["width"] < 0.75  # 1 / sqrt(2), and fewer quantiles
    sizes = [needed["patients"] for needed in plan["roc_auc"]["needed"].values()]
    assert sizes == sorted(sizes)


def test_a_measure_without_variance_has_a_reason_instead_of_a_plan():
    scores = patients(40, 1)
    perfect = scores._replace(probabilities=scores.labels.astype(float), predicted=scores.labels == 1)
    assert sample_size.plan(perfect, 1)["roc_auc"] == {"reason": "a value of 1.0 has no variance"}
    healthy = scores._replace(labels=np.zeros_like(scores.labels))
    assert sample_size.plan(healthy, 1)["sensitivity"] == {"reason": "no positive image"}


@pytest.mark.parametrize("count", [2, 3, 4, 5, 3000])
def test_few_and_many_patients_have_a_plan_whose_range_can_be_unbounded(count):
    for seed in range(5 if count < 10 else 1):  # estimates of 3,000 patients hardly depend on the seed
        plan = sample_size.plan(patients(count, seed), seed)
        for measure in sample_size.PLANNED:
            for needed in plan[measure].get("needed", {}).values():
                assert needed["patients"] is None or needed["ci_low"] <= needed["patients"]
                assert needed["ci_high"] is None or needed["patients"] <= needed["ci_high"]


def test_the_range_is_unbounded_if_one_patient_has_nearly_all_images():
    scores = patients(8, 1)
    rows = np.concatenate([np.arange(48), np.repeat(np.flatnonzero(scores.units == 1), 100)])
    names = ("labels", "probabilities", "predicted", "units")
    uneven = scores._replace(**{name: getattr(scores, name)[rows] for name in names})
    assert sample_size.plan(uneven, 1)["sensitivity"]["needed"]["0.1"]["ci_high"] is None
