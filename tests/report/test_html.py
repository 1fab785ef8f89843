import copy
import json
import re
from typing import get_args

from core.evidence import curves, metrics, verdict
from core.pipeline.schemas import params_yaml
from core.pipeline.schemas.train import Augment
from core.report import html, plots

import pandas as pd
import pytest
from matplotlib import pyplot

from conftest import TOP

pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture
def figures():
    """What the committed pipeline measured."""
    return {stage: json.loads((TOP / f"metrics/detail/{stage}.json").read_text()) for stage in
            ("audit", "split", "train", "evaluate")}  # fmt: skip


COMPARED = ("roc_auc", "sensitivity", "specificity")  # the measures that levels are compared in
TEST = pd.DataFrame({
    "patient": ["b", "a", "a", "<i>c</i>"], "label": [1, 0, 1, 0], "probability": [0.9, 0.5, 0.1, 0.2],
})  # fmt: skip


def report(figures, patients=TEST, **content):
    defaults = {
        "plots": {}, "pictures": [], "patients": html.by_patient(patients, 0.5), "findings": {}, "versions": {},
        "confusion": [[1, 1], [1, 1]], "hashes": {}, "external": None, "source": {"left_out": {}},
        "preparation": {}, "python": "3", "wrong_labels": [],
        "parameters": {"seed": 1, "data": {"positive": "malignant"}, "model": {"backbone": "b", "weights": "none"},
                       "report": {"planning": False, "checklist": False}},
    }  # fmt: skip
    return html.report(figures, verdict.render_verdict(figures["evaluate"]), **defaults | content)


def test_patients_and_classes_are_counted_as_by_hand():
    rows = html.by_patient(TEST, 0.5)
    assert [(row["patient"], row["images"], row["positives"], row["predicted"]) for row in rows] == [
        ("b", 1, 1, 1), ("a", 2, 1, 1), ("<i>c</i>", 1, 0, 0),
    ]  # fmt: skip
    assert (rows[1]["mean"], rows[1]["max"]) == (pytest.approx(0.3), 0.5)
    assert curves.confusion(curves.predicted_classes(TEST, 0.5)).tolist() == [[1, 1], [1, 1]]


def test_a_name_from_the_data_is_text_and_never_markup(figures):
    assert "<i>c</i>" not in report(figures) and "&lt;i&gt;c&lt;/i&gt;" in report(figures)


def test_report_and_verdict_name_the_same_files_that_are_left_out_and_the_same_contradicting_labels(figures):
    source = SOURCE | {"left_out": {"class not used (normal)": 1300, "excluded (data.exclude: *_mask*)": 34}}
    audit = figures["audit"] | {"unreadable": 2, "label_conflicts": 15}
    left_out = html.left_out(source, audit)
    text = verdict.render_verdict(figures["evaluate"], left_out=left_out, conflicts=audit["label_conflicts"])
    counts = "class not used: 1,300, excluded: 34, can't be decoded: 2"  # in git, so without names of folders
    assert f"Left out: 1,336 files of the source ({counts})" in text
    assert "**Contradicting labels**: 15 clusters of copies with several classes" in text
    page = section(report(figures | {"audit": audit}, source=source, findings={"conflict": 40, "blank": 1}), "data")
    assert (
        "left out 1,336; class not used (normal): 1,300; excluded (data.exclude: *_mask*): 34; can't"
        in page.replace("&#39;", "'")
    )
    assert "of different classes, images in them 15, 40" in page and "finding conflict" not in page


def test_the_page_says_what_positive_is(figures):
    assert "class <code>malignant</code> is positive" in report(figures)


def test_measures_of_a_test_set_without_a_leak_are_drawn_once(figures):
    clean = figures["evaluate"]
    leaking = clean | {"test_unseen": clean["test_unseen"] | {"images": 200}}
    for details, blocks in ((clean, 1), (leaking, 2)):
        axis = pyplot.figure().subplots()
        plots._intervals(axis, details)
        measures = [entry for entry in details["test"].values() if isinstance(entry, dict)]
        lines = [line for line in axis.lines if len(line.get_xdata()) == 2]
        assert len(lines) == blocks * 2 * len(measures)  # of the model, and of the recipe
        assert (axis.get_legend() is not None) == (blocks == 2)
        pyplot.close()


def test_a_test_set_that_leaks_is_shown_with_and_without_the_leaking_images(figures):
    title = "All test images and non-leaking test images"
    assert title not in report(figures)
    leaky = copy.deepcopy(figures)
    non_leaking = leaky["evaluate"]["test_unseen"]
    recipe = {"ci_low": 0.3, "ci_high": 0.9, "seed_variance_share": 0.2}
    non_leaking |= {"images": 200, "roc_auc": {"value": 0.6, "ci_low": 0.4, "ci_high": 0.8, "recipe": recipe},
              "f1": {"value": None, "ci_low": None, "ci_high": None, "recipe": recipe,
                     "reason": "there is no positive"}}  # fmt: skip
    page, auc = report(leaky), figures["evaluate"]["test"]["roc_auc"]
    assert (
        title in page
        and f"{auc['value']:.3f} ({auc['ci_low']:.3f} to {auc['ci_high']:.3f})</td><td>0.600 (0.400 to 0.800)" in page
    )
    assert "not defined: there is no positive" in page and "The test set leaks." in page
    assert "Not searched, because the ROC AUC is not shown to be better than chance" in section(page, "labels")


def test_a_validation_set_of_one_class_leaves_the_operating_points_undefined(figures):
    points = figures["evaluate"]["operating_points"]
    figures["evaluate"]["operating_points"] = {key: {"threshold": None, "reason": "one class only"} for key in points}
    assert "not defined: one class only" in report(figures)


def test_the_figure_in_which_each_patient_weighs_the_same_is_beside_that_by_image(figures):
    equal = copy.deepcopy(figures)
    bounds = {"value": 0.612, "ci_low": 0.512, "ci_high": 0.712}
    equal["evaluate"]["test_equal_patients"] = dict.fromkeys(("roc_auc", "sensitivity", "specificity"), bounds)
    text = section(report(equal), "measures")
    assert "each patient weighs the same" in text and text.count("0.612 (0.512 to 0.712)") == 3
    equal["evaluate"]["test_equal_patients"] = None  # patients are unknown
    assert "each patient weighs the same" not in section(report(equal), "measures")


def test_the_page_says_that_patients_are_unknown(figures):
    unknown = copy.deepcopy(figures)
    for block in (unknown["evaluate"]["test"], unknown["evaluate"]["test_unseen"], unknown["audit"]):
        block["patients"] = block["positive_patients"] = None
    unknown["evaluate"]["test_patients"] = None
    page = report(unknown, TEST.assign(patient=pd.array([None] * 4, dtype="string")))
    assert "unknown, unknown" in page and "by patient, as a table" not in page


def section(page, name):
    """The text of a section of the page, without tags."""
    match = re.search(rf'<section aria-labelledby="{name}">(.*?)</section>', page, re.DOTALL)
    return match and " ".join(re.sub("<[^>]*>", " ", match[1]).split())


def test_sections_that_are_turned_off_are_not_on_the_page(figures):
    page = report(figures)
    assert [section(page, name) for name in ("groups", "external", "planning", "checklist")] == [None] * 4


def test_the_page_shows_how_many_patients_each_width_needs(figures):
    needed = {goal: {"patients": 1200, "ci_low": 800, "ci_high": 3000} for goal in ("0.2", "0.1", "0.05")}
    plan = {"width": 0.271, "doubled": 0.166, "needed": needed}
    figures["evaluate"]["planning"] = {"patients": 12, "roc_auc": plan, "sensitivity": plan,
                                       "specificity": {"reason": "it is the same without each patient"}}  # fmt: skip
    parameters = {"seed": 1, "data": {"positive": "1"}, "model": {"backbone": "b", "weights": "none"}}
    page = report(figures, parameters=parameters | {"report": {"planning": True, "checklist": False}})
    text = section(page, "planning")
    assert "the 12 patients with non-leaking test images" in text and "ROC AUC 0.27 0.17 1,200 (800 to 3,000)" in text
    assert "specificity unknown: it is the same without each patient" in text


def test_the_page_shows_every_measure_of_every_subgroup_and_which_have_too_few_patients(figures):
    block = figures["evaluate"]["test"]
    few = {name: {"value": 0.1, "p": 0.0004} for name in COMPARED} | {
        "roc_auc": {"value": 0.1, "p": None, "reason": "too few"}
    }
    level = block | {"difference": few}
    entry = {"value": 0.81, "ci_low": 0.7, "ci_high": 0.9}
    shortcut = {"p": 0.2, "group_only_auc": entry, "within_group_auc": entry}
    content = {"unknown": 3, "levels": {"A": level, "<i>B</i>": level}, "shortcut": shortcut}
    figures["evaluate"]["groups"] = {"<b>site</b>": content}
    figures["evaluate"]["worst"] = None
    page = report(figures)
    text = section(page, "groups")
    assert "<b>site" not in page and "<i>B" not in page
    assert "3 images have no value" in text and text.count("too few") == 2 and text.count("p &lt; 0.001") == 4
    assert "alone, without any image, predicts the class with ROC AUC 0.810 (0.700 to 0.900)" in text


LEVELS = [("<b>PNG", 0.25), ("JPEG", 1.0)]
TESTED = {
    "unit": "patient", "units": 60, "positive_units": 27, "mixed_units": 5, "permutations": 1999, "level": 0.01,
    "compared": 2, "reason": None, "shortcuts": ["image_width"],
    "properties": {
        "image_width": {"auc": 0.97, "p": 0.0005, "medians": {"positive": 640.0, "negative": 512.0}},
        "file_format": {"auc": 0.61, "p": 0.3, "levels": [
            {"level": level, "weight": 9.0, "positive_share": share} for level, share in LEVELS
        ]},
        "bit_depth": {"auc": None, "p": None, "reason": "does not vary", "medians": {"positive": 8.0, "negative": 8.0}},
    },
}  # fmt: skip


def test_the_page_shows_how_well_each_property_of_the_files_predicts_the_class(figures):
    figures["audit"]["shortcuts"] = TESTED
    page = section(report(figures), "shortcuts")
    text = " ".join(page.split())
    assert "60 patients, 27 with a positive image, 5 with images of both classes" in text
    assert re.search("image width ?: p below 0.01", text) and "image width 0.970 p &lt; 0.001 640 512" in text
    assert "&lt;b&gt;PNG 0.25, JPEG 1.00" in text and "bit depth" not in text
    figures["audit"]["shortcuts"] = TESTED | {"shortcuts": []}
    assert "does not prove that there is no shortcut" in section(report(figures), "shortcuts")
    figures["audit"]["shortcuts"] = TESTED | {"shortcuts": [], "reason": "too few"}
    assert "Not testable with 60 patients" in section(report(figures), "shortcuts")


def test_the_page_lists_likely_wrong_labels_and_says_that_none_is_changed(figures):
    wrong = TEST.assign(file=["<i>1", "2", "3", "4"]).astype({"patient": "string"})
    figures["evaluate"]["likely_wrong_labels"] = 21
    text = section(report(figures, wrong_labels=html.first_rows(wrong, 3)), "labels")
    assert "21 of 240 test images" in text and "No label is changed" in text
    assert "The first 3, likeliest first" in text and "&lt;i&gt;1 b 1 0.900" in text and " 4 " not in text


def test_calibration_net_benefit_and_points_of_the_roc_curve_are_on_the_page(figures):
    entry, evaluate = {"value": -0.25, "ci_low": -0.5, "ci_high": 0.75}, figures["evaluate"]
    evaluate["calibration_line"] = dict.fromkeys(("slope", "in_the_large"), entry)
    evaluate["net_benefit"] = {"0.3": dict.fromkeys(("model", "all", "difference"), entry)}
    evaluate["roc_points"] = dict.fromkeys(evaluate["operating_points"], entry)
    text = section(report(figures), "measures")
    assert text.count("-0.250 (-0.500 to 0.750)") == 2 + 3 + 4


def test_plots_take_a_dollar_in_a_name_for_no_formula_and_need_no_non_leaking_image(figures):
    test = TEST.assign(patient=["$x^$", "a", "a", "$"], **{"class": "1"})
    splits = {"val": test, "test": test.assign(copy_in_train=True, patient_in_train=True)}
    data = plots.PlotData(**curves.for_plots(splits, 0.5))
    levels = {"$y^$": figures["evaluate"]["test"]}
    vectors = plots.vectors(data, figures["evaluate"] | {"groups": {"site": {"levels": levels}}})
    assert "$x^$" in vectors["patients"] and "site: $y^$" in vectors["groups"]
    assert "net benefit per image" in vectors["net_benefit"]


def test_an_external_set_is_shown_beside_the_first_with_its_drop(figures):
    first = figures["evaluate"]
    drop = {name: {"value": 0.12, "ci_low": 0.02, "ci_high": 0.2} for name in metrics.MEASURES}
    common = {"images": 300, "exact_copies": 40, "near_copies": 20, "of_known_patients": 7, "patients": "not known"}
    external = first | {"common": common, "drop": drop, "mean_probability": 0.4, "ood_share": drop["f1"]}
    page = section(report(figures, external=external), "external")
    area = first["test_unseen"]["roc_auc"]
    text = f"{area['value']:.3f} ({area['ci_low']:.3f} to {area['ci_high']:.3f})"
    assert f"ROC AUC {text} {text} 0.120 (0.020 to 0.200)" in page
    assert "It has 300 images." in page and "also in the first set: 60" in page
    assert "40 exact copies, 20 near copies, 7 other" in page and "so there can be more" in page


SOURCE = {
    "source": "folder", "location": "images", "version": None, "sha256": None, "licence": None, "images": 1200,
    "patients": None, "classes": {"benign": 815, "malignant": 385},
    "left_out": {"class not used (normal)": 3}, "files": 1203, "other_files": {}, "labels_without_image": 0,
}  # fmt: skip


@pytest.mark.parametrize("geometry", get_args(Augment.model_fields["geometry"].annotation))
@pytest.mark.parametrize("has_patients", [True, False], ids=["patients", "unknown"])
def test_the_checklists_have_an_answer_for_every_value_of_the_parameters(figures, geometry, has_patients):
    evaluate, audit = figures["evaluate"], figures["audit"]
    entry = {"value": 0.81, "ci_low": 0.7, "ci_high": 0.9}
    level = evaluate["test"] | {"difference": {name: {"value": -0.1, "p": 0.0004} for name in COMPARED}}
    shortcut = {"p": 0.2, "group_only_auc": entry, "within_group_auc": entry}
    evaluate["groups"] = {"site": {"unknown": 3, "levels": {"A": level}, "shortcut": shortcut}}
    evaluate["worst"] = {"group": "site", "level": "A", "measure": "roc_auc", "difference": -0.1, "p": 0.0004}
    evaluate["test_classes"] = {
        "cyst": {"side": "negative", "images": 5, "patients": 2, "wrong": 1, "quartiles": [0.1, 0.2, 0.3],
                 "accuracy": {"value": 0.8, "ci_low": 0.4, "ci_high": 0.9}},
    }  # fmt: skip
    parameters = params_yaml.load(TOP / "params.yaml").model_dump(mode="json", warnings=False)
    parameters["report"] |= {"planning": True, "checklist": True}
    parameters["train"]["augment"]["geometry"] = geometry
    if not has_patients:
        evaluate["test_patients"] = None
        evaluate["calibration"] |= {"applied": True, "temperature": 1.5}
        parameters["train"] |= {"schedule": "plateau", "pos_weight": 2.0, "grad_clip_norm": 1.0}
        for block in (evaluate["test"], evaluate["test_unseen"], audit):
            block["patients"] = block["positive_patients"] = None
    drop = dict.fromkeys(metrics.MEASURES, entry)
    common = {"images": 300, "exact_copies": 40, "near_copies": 20, "of_known_patients": 7, "patients": "other"}
    external = evaluate | {"common": common, "drop": drop, "mean_probability": 0.4, "ood_share": entry}
    preparation = {"image_size": 64, "fit": "stretch", "levels": None}
    page = report(figures, parameters=parameters, source=SOURCE, preparation=preparation, external=external)
    text = section(page, "checklist")
    words = {"none": "no flips", "hflip": "left-right flips;", "flips": "top-bottom flips", "d4": "eight symmetries"}
    assert words[geometry] in text and "stretched to 64 x 64" in text
    assert "site A: ROC AUC differs from the others by -0.100" in text
    assert "of the variance comes from the random seed" in text and "Class cyst: 1 of 5 wrong" in text
    assert ("patients unknown" in text) == (not has_patients)
