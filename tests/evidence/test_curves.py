from core.evidence import curves, metrics

import numpy as np
import pandas as pd
import pytest


def predictions(labels, probabilities):
    return pd.DataFrame({"label": labels, "probability": probabilities})


def test_the_curves_enclose_the_areas_that_are_reported():
    random = np.random.default_rng(2)
    labels = random.integers(0, 2, 200)
    rows = predictions(labels, np.round(random.random(200) * 0.5 + 0.3 * labels, 2))
    roc = curves.curves({"test": rows})["roc"]["test"]
    area = metrics.measures(metrics.scores(rows.assign(unit=range(200)), 0.5))["roc_auc"]
    assert np.trapezoid(roc["sensitivity"], roc["false_positive_rate"]) == pytest.approx(area)
    assert curves.curves({"test": rows[:0]})["pr"]["test"].empty


def test_the_histogram_and_the_confusion_count_every_image_once():
    labels, probabilities = [0, 0, 1, 1, 1], [0.0, 0.6, 0.55, 1.0, 0.2]
    rows = predictions(labels, probabilities)
    bins = curves.histogram(rows)
    assert bins["negatives"].sum() == 2 and bins["positives"].sum() == 3
    counts = curves.confusion(curves.predicted_classes(rows, 0.5))
    assert counts.tolist() == [[1, 1], [1, 2]]


def test_the_precision_curve_falls_from_all_precise_to_the_prevalence():
    labels = [0, 1, 0, 1, 1, 0, 0, 0]
    curve = curves.curves({"test": predictions(labels, [0.1, 0.9, 0.8, 0.7, 0.6, 0.2, 0.3, 0.4])})["pr"]["test"]
    assert curve.iloc[0].to_dict() == {"sensitivity": 1.0, "precision": 3 / 8}
    assert curve.iloc[-1].to_dict() == {"sensitivity": 0.0, "precision": 1.0}
