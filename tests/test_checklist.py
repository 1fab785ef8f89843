"""The checklists in the report: every item has a row, and docs/checklist.md names the file and key of each figure."""

import copy
import functools
import itertools
import json
import re

from core.evidence import metrics, verdict
from core.pipeline.schemas import params_yaml
from core.report import html

import pytest

from conftest import TOP

pytestmark = pytest.mark.usefixtures("compiled_once")
CLAIM = [str(number) for number in range(1, 45)]
TRIPOD = re.findall(
    r"\w+",
    "1 2 3a 3b 3c 4 5a 5b 6a 6b 6c 7 8a 8b 8c 9a 9b 9c 10 11 12a 12b 12c 12d 12e 12f 12g 13 14 15 16 17 18a 18b 18c "
    "18d 18e 18f 19 20a 20b 20c 21 22 23a 23b 24 25 26 27a 27b 27c",
)
ENTRY = {"value": 0.81, "ci_low": 0.7, "ci_high": 0.9}
SOURCE = {
    "source": "folder", "location": "images", "version": None, "sha256": None, "licence": None, "images": 1200,
    "patients": 30, "classes": {"benign": 815}, "left_out": {"class not used (normal)": 3}, "files": 1203,
    "other_files": {}, "labels_without_image": 0,
}  # fmt: skip


def read_details():
    """What the committed run measured, with a group, original classes and an external set."""
    details = {stage: json.loads((TOP / f"metrics/detail/{stage}.json").read_text()) for stage in
               ("audit", "split", "train", "evaluate")}  # fmt: skip
    evaluate = details["evaluate"]
    level = evaluate["test"] | {"difference": {name: {"value": -0.1, "p": 0.2} for name in metrics.PREVALENCE_FREE}}
    shortcut = {"p": 0.2, "group_only_auc": ENTRY, "within_group_auc": ENTRY}
    evaluate["groups"] = {"site": {"unknown": 3, "levels": {"A": level}, "shortcut": shortcut}}
    evaluate["worst"] = {"group": "site", "level": "A", "measure": "roc_auc", "difference": -0.1, "p": 0.2}
    of_class = {"side": "negative", "images": 5, "patients": 2, "wrong": 1, "quartiles": [0.1, 0.2, 0.3]}
    evaluate["test_classes"] = {"cyst": of_class | {"accuracy": ENTRY}}
    common = {"images": 300, "exact_copies": 40, "near_copies": 20, "of_known_patients": 7, "patients": "other"}
    drop = dict.fromkeys(metrics.MEASURES, ENTRY)
    external = evaluate | {"common": common, "drop": drop, "mean_probability": 0.4, "ood_share": ENTRY}
    return details | {"external": copy.deepcopy(external)}


def render(details):
    """The rows of the checklist on the page: by subject, the items and the text of the answer."""
    parameters = params_yaml.load(TOP / "params.yaml").model_dump(mode="json", warnings=False)
    parameters["report"] |= {"planning": True, "checklist": True}
    page = html.report(
        details, verdict.render_verdict(details["evaluate"]), parameters=parameters, source=SOURCE, plots={},
        pictures=[], patients=[], findings={}, versions={}, confusion=[[1, 1], [1, 1]], hashes={}, python="3",
        preparation={"image_size": 64, "fit": "stretch", "levels": None}, wrong_labels=[],
    )  # fmt: skip
    page = page.partition('<h2 id="checklist">')[2].partition("</section>")[0]
    rows = re.findall(r'<tr><th scope="row">(.*?)</th><td>(.*?)</td><td>(.*?)</td>', page, re.DOTALL)
    people = re.findall(r"<li>(.*): (.*)</li>", page)
    return {subject: (items, answer) for subject, items, answer in [*rows, *((*row, "") for row in people)]}


def items_of(text):
    """The items of CLAIM and of TRIPOD+AI in the second column."""
    items = dict(re.findall(r"(CLAIM|TRIPOD\+AI) ([\w, ]+)", text))
    return items.get("CLAIM", ""), items.get("TRIPOD+AI", "")


def read_page():
    """The rows of docs/checklist.md: by subject, the items of CLAIM, those of TRIPOD+AI, and where the answer is."""
    lines = re.findall(r"^\| (.*) \|$", (TOP / "docs/checklist.md").read_text(), re.MULTILINE)
    rows = [[cell.strip() for cell in f"{line}|".split("|")] for line in lines if not line.startswith("subject")]
    return {subject: (claim, tripod, place) for subject, claim, tripod, place, *_ in rows}


def replace(value, count=7654, share=0.4321):
    """``value`` with other numbers: an int or a float, or an iterator of them."""
    if isinstance(value, dict):
        return {name: replace(entry, count, share) for name, entry in value.items()}
    if isinstance(value, list):
        return [replace(entry, count, share) for entry in value]
    if isinstance(value, str | bool | None):
        return value
    number = count if isinstance(value, int) else share
    return number if isinstance(number, int | float) else next(number)


def test_every_item_of_both_checklists_is_in_one_row_of_the_report_and_of_the_page():
    report = {subject: items_of(items) for subject, (items, _) in render(read_details()).items()}
    assert list(report.items()) == [(subject, row[:2]) for subject, row in read_page().items()]
    for column, expected in enumerate((CLAIM, TRIPOD)):
        items = [item for row in report.values() for item in row[column].split(", ") if item]
        assert sorted(items) == sorted(expected)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["audit", "split", "train", "evaluate", "external"])
def test_an_answer_shows_the_figures_of_the_details_and_the_page_names_their_file_and_key(stage):
    details, page = read_details(), read_page()
    before, file = (
        render(details),
        "metrics/detail/evaluate.json" if stage == "external" else f"metrics/detail/{stage}.json",
    )
    shown = set()
    for key, value in details[stage].items():
        after = render(details | {stage: details[stage] | {key: replace(value)}})
        for subject in (subject for subject in before if after[subject] != before[subject]):
            named = re.search(rf"`{'FOLDER/' * (stage == 'external')}{file}`(: [^;]*\b{key}\b|;|$)", page[subject][2])
            assert named, f"{subject}: {file}, {key}"
            # 100 %: the share of positives, where positives and images are the same number.
            assert re.search(r"7,?654|0\.432|43\.2 %|43 %|100 %", after[subject][1]), (subject, key, after[subject][1])
            shown.add(key)
    assert shown


@pytest.mark.parametrize(
    ("subject", "words", "keys"),
    [
        ("Performance", "Test: ROC AUC", "evaluate test roc_auc"),
        ("Performance", ", accuracy", "evaluate test accuracy"),
        ("Performance", "By patient, mean over the images: ROC AUC", "evaluate test_patients mean roc_auc"),
        ("Accuracy and calibration", "Sensitivity", "evaluate test sensitivity"),
        ("Accuracy and calibration", "Brier score", "evaluate test brier"),
        ("Uncertainty and robustness", "new training: ROC AUC", "evaluate test roc_auc recipe"),
        ("External validation", "with a positive image: ROC AUC", "external test_unseen roc_auc"),
        ("Study size", "copies count as one:", "evaluate test positive_components"),
        ("Preprocessing and quality checks", "pairs of near copies:", "audit near_pairs"),
        ("Training, validation and test split", "with an exact copy in training:", "split leak test_copies_in_train"),
        ("Interpretation and limitations", "Mean loss:", "train train_loss"),
    ],
)
def test_the_figure_after_these_words_is_that_of_the_details(subject, words, keys):
    details = replace(read_details(), itertools.count(1000), (n / 1000 for n in itertools.count(1)))  # each number once
    entry = functools.reduce(dict.__getitem__, keys.split(), details)
    if isinstance(entry, dict):
        interval = f"{entry['ci_low']:.3f} to {entry['ci_high']:.3f}"
        text = f"{entry['value']:.3f} ({interval})" if "value" in entry else interval
    else:
        text = f"{entry:,}" if isinstance(entry, int) else f"{entry:.3f}"
    assert f"{words} {text}" in render(details)[subject][1]
