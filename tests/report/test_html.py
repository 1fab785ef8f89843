import copy
import json
import re

from core.evidence import metrics, verdict
from core.report import html, plots

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot

from conftest import TOP


@pytest.fixture
def figures():
    """What the committed pipeline measured."""
    return {stage: json.loads((TOP / f"metrics/detail/{stage}.json").read_text()) for stage in
            ("audit", "split", "train", "evaluate")}  # fmt: skip


COMPARED = ("roc_auc", "sensitivity", "specificity")  # that parts are compared in
TEST = pd.DataFrame({
    "patient": ["b", "a", "a", "<i>c</i>"], "label": [1, 0, 1, 0], "probability": [0.9, 0.5, 0.1, 0.2],
})  # fmt: skip


def report(figures, patients=TEST, **content):
    given = {
        "plots": {}, "pictures": [], "patients": html.by_patient(patients, 0.5), "findings": {}, "versions": {},
        "confusion": [[1, 1], [1, 1]], "made": {}, "external": None, "source": {}, "preparation": {}, "python": "3",
        "parameters": {"seed": 1, "data": {"positive": "malignant"}, "model": {"backbone": "b", "weights": "none"},
                       "report": {"planning": False, "checklist": False}},
    }  # fmt: skip
    return html.report(figures, verdict.render_verdict(figures["evaluate"]), **given | content)


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
    recipe = {"ci_low": 0.3, "ci_high": 0.9, "seed_variance_share": 0.2}
    fresh |= {"images": 200, "roc_auc": {"value": 0.6, "ci_low": 0.4, "ci_high": 0.8, "recipe": recipe},
              "f1": {"value": None, "ci_low": None, "ci_high": None, "recipe": recipe,
                     "reason": "there is no positive"}}  # fmt: skip
    page, auc = report(leaky), figures["evaluate"]["test"]["roc_auc"]
    assert (
        "Claimed against believed" in page
        and f"{auc['value']:.3f} ({auc['ci_low']:.3f} to {auc['ci_high']:.3f})</td><td>0.600 (0.400 to 0.800)" in page
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


def section(page, name):
    """The text of a section of the page, without tags."""
    found = re.search(rf'<section aria-labelledby="{name}">(.*?)</section>', page, re.DOTALL)
    return found and " ".join(re.sub("<[^>]*>", " ", found[1]).split())


def test_what_is_off_is_not_on_the_page(figures):
    page = report(figures)
    assert [section(page, name) for name in ("groups", "external", "planning", "checklist")] == [None] * 4


def test_planning_says_how_many_patients_each_width_needs(figures):
    needed = {goal: {"patients": 1200, "ci_low": 800, "ci_high": 3000} for goal in ("0.2", "0.1", "0.05")}
    plan = {"width": 0.271, "doubled": 0.166, "needed": needed}
    figures["evaluate"]["planning"] = {"patients": 12, "roc_auc": plan, "sensitivity": plan,
                                       "specificity": {"reason": "all resamples agree"}}  # fmt: skip
    parameters = {"seed": 1, "data": {"positive": "1"}, "model": {"backbone": "b", "weights": "none"}}
    page = report(figures, parameters=parameters | {"report": {"planning": True, "checklist": False}})
    said = section(page, "planning")
    assert "the 12 patients tested" in said and "ROC AUC 0.27 0.17 1,200 (800 to 3,000)" in said
    assert "specificity not known: all resamples agree" in said


def test_groups_show_every_measure_of_every_part_and_what_is_too_few(figures):
    block = figures["evaluate"]["test"]
    few = {name: {"value": 0.1, "p": 0.0004} for name in COMPARED} | {
        "roc_auc": {"value": 0.1, "p": None, "reason": "too few"}
    }
    part = block | {"difference": few}
    entry = {"value": 0.81, "ci_low": 0.7, "ci_high": 0.9}
    shortcut = {"p": 0.2, "group_only_auc": entry, "within_group_auc": entry}
    content = {"unknown": 3, "levels": {"A": part, "<i>B</i>": part}, "shortcut": shortcut}
    figures["evaluate"]["groups"] = {"<b>site</b>": content}
    figures["evaluate"]["worst"] = None
    page = report(figures)
    said = section(page, "groups")
    assert "<b>site" not in page and "<i>B" not in page
    assert "3 images have no value" in said and said.count("too few") == 3 and said.count("p &lt; 0.001") == 4
    assert "alone, without any image, has ROC AUC 0.810 (0.700 to 0.900)" in said


def test_a_dollar_in_a_name_is_no_formula(figures):
    test = TEST.assign(patient=["$x^$", "a", "a", "$"], **{"class": "1"})
    curves = {kind: {part: pd.DataFrame({"x": [0.0, 1], "y": [0.0, 1]}) for part in ("val", "test")} for kind in
              ("roc", "pr")}  # fmt: skip
    bins = pd.DataFrame({"probability": [0.5], "negatives": [1], "positives": [1]})
    reliability = pd.DataFrame({"probability": [0.5], "positive_share": [0.5], "images": [2]})
    judged = plots.Judged(test, curves, test, np.eye(2), bins, reliability)
    parts = {"$y^$": figures["evaluate"]["test"]}
    drawn = plots.vectors(judged, figures["evaluate"] | {"groups": {"site": {"levels": parts}}})
    assert "$x^$" in drawn["patients"] and "site: $y^$" in drawn["groups"]


def test_another_set_stands_beside_the_first_with_its_drop(figures):
    whole = figures["evaluate"]
    drop = {name: {"value": 0.12, "ci_low": 0.02, "ci_high": 0.2} for name in metrics.MEASURES}
    common = {"images": 300, "exact_copies": 40, "near_copies": 20, "of_known_patients": 7, "patients": "not known"}
    other = whole | {"common": common, "drop": drop, "mean_probability": 0.4, "unlike": drop["f1"]}
    said = section(report(figures, external=other), "external")
    area = whole["test_unseen"]["roc_auc"]
    text = f"{area['value']:.3f} ({area['ci_low']:.3f} to {area['ci_high']:.3f})"
    assert f"ROC AUC {text} {text} 0.120 (0.020 to 0.200)" in said
    assert (
        "Of 300 images, 60 are left out" in said
        and "40 exact copies, 20 near copies, 7 other" in said
        and "so there may be more" in said
    )
