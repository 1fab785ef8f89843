import copy
import json

from core.evidence import metrics, verdict
from core.report import html, plots

import pandas as pd
import pytest
from matplotlib import pyplot

from conftest import TOP


@pytest.fixture
def figures():
    """What the committed pipeline measured."""
    return {stage: json.loads((TOP / f"metrics/{stage}.json").read_text()) for stage in
            ("audit", "split", "train", "evaluate")}  # fmt: skip


TEST = pd.DataFrame({
    "patient": ["b", "a", "a", "<i>c</i>"], "label": [1, 0, 1, 0], "probability": [0.9, 0.5, 0.1, 0.2],
})  # fmt: skip


def report(figures, patients=TEST, **content):
    given = {
        "plots": {}, "pictures": [], "patients": html.by_patient(patients, 0.5), "findings": {}, "versions": {},
        "confusion": [[1, 1], [1, 1]], "made": {},
        "parameters": {"seed": 1, "data": {"positive": "malignant"}, "model": {"backbone": "b", "weights": "none"}},
    }  # fmt: skip
    return html.report(figures, verdict.word(figures["evaluate"]), **given | content)


def test_patients_and_classes_are_counted_as_by_hand():
    rows = html.by_patient(TEST, 0.5)
    assert [(row["patient"], row["images"], row["positives"], row["called"]) for row in rows] == [
        ("b", 1, 1, 1), ("a", 2, 1, 1), ("<i>c</i>", 1, 0, 0),
    ]  # fmt: skip
    assert (rows[1]["mean"], rows[1]["most"]) == (pytest.approx(0.3), 0.5)
    assert metrics.confusion(metrics.call(TEST, 0.5)).tolist() == [[1, 1], [1, 1]]


def test_a_name_from_the_data_is_text_and_never_markup(figures):
    assert "<i>c</i>" not in report(figures) and "&lt;i&gt;c&lt;/i&gt;" in report(figures)


def test_the_page_says_what_positive_is(figures):
    assert "class <code>malignant</code> is positive" in report(figures)


def test_measures_of_a_test_set_without_a_leak_are_drawn_once(figures):
    whole = figures["evaluate"]
    part = whole | {"test_unseen": whole["test_unseen"] | {"images": 200}}
    for drawn, lines in ((whole, 1), (part, 2)):
        axis = pyplot.figure().subplots()
        plots._intervals(axis, drawn)
        defined = [entry for entry in drawn["test"].values() if isinstance(entry, dict)]
        drawn_lines = [line for line in axis.lines if len(line.get_xdata()) == 2]
        assert len(drawn_lines) == lines * 2 * len(defined)  # of the model, and of the recipe
        assert (axis.get_legend() is not None) == (lines == 2)
        pyplot.close()


def test_a_part_of_the_test_set_that_leaks_is_shown_with_both_figures(figures):
    assert "Claimed against believed" not in report(figures)
    leaky = copy.deepcopy(figures)
    fresh = leaky["evaluate"]["test_unseen"]
    recipe = {"low": 0.3, "high": 0.9, "luck": 0.2}
    fresh |= {"images": 200, "roc_auc": {"value": 0.6, "low": 0.4, "high": 0.8, "recipe": recipe},
              "f1": {"value": None, "low": None, "high": None, "recipe": recipe,
                     "reason": "there is no positive"}}  # fmt: skip
    page, auc = report(leaky), figures["evaluate"]["test"]["roc_auc"]
    assert (
        "Claimed against believed" in page
        and f"{auc['value']:.3f} ({auc['low']:.3f} to {auc['high']:.3f})</td><td>0.600 (0.400 to 0.800)" in page
    )
    assert "not defined: there is no positive" in page and "The test set leaks." in page


def test_a_validation_set_of_one_class_leaves_the_operating_points_undefined(figures):
    points = figures["evaluate"]["operating_points"]
    figures["evaluate"]["operating_points"] = {key: {"threshold": None, "reason": "one class only"} for key in points}
    assert "not defined: one class only" in report(figures)


def test_where_patients_are_not_known_the_page_says_so(figures):
    unknown = copy.deepcopy(figures)
    for block in (unknown["evaluate"]["test"], unknown["evaluate"]["test_unseen"], unknown["audit"]):
        block["patients"] = block["positive_patients"] = None
    unknown["evaluate"]["test_patients"] = None
    page = report(unknown, TEST.assign(patient=pd.array([None] * 4, dtype="string")))
    assert "not known, not known" in page and "Scores by patient" not in page
