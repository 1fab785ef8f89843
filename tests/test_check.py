"""Each gate passes on what is good, and fails on a planted fault for the right reason."""

import json
import os
import re
import subprocess

from core.commands import comparison, gates
from core.pipeline.errors import PipelineError

import pytest

import check as check_script
import comparison as simulation
from conftest import TOP, Clone, call, change_parameters

METRICS = {"evaluate": {"threshold": 0.5, "test": {"roc_auc": {"value": 0.8, "ci_low": 0.7}, "f1": {"value": None}}}}


def test_a_figure_under_its_floor_or_not_defined_is_named():
    assert gates.below(METRICS, {"evaluate.test.roc_auc": 0.8, "evaluate.threshold": 0.1}) == []
    assert gates.below(METRICS, {"evaluate.test.roc_auc": 0.81, "evaluate.test.f1": 0.1}) == [
        "evaluate.test.roc_auc is 0.800, but its floor in gates.yaml is 0.81",
        "evaluate.test.f1 is not defined, but its floor in gates.yaml is 0.1",
    ]
    with pytest.raises(PipelineError, match="metrics/ has no figure evaluate.test.auc"):
        gates.below(METRICS, {"evaluate.test.auc": 0.5})


def test_a_figure_farther_from_the_committed_one_than_allowed_is_named():
    changed = json.loads(json.dumps(METRICS))
    changed["evaluate"]["test"]["roc_auc"]["value"] = 0.85
    assert gates.far(METRICS, changed, {"evaluate.test.roc_auc": 0.06}) == []
    assert gates.far(METRICS, changed, {"evaluate.test.roc_auc": 0.04}) == [
        "evaluate.test.roc_auc is 0.850 here and 0.800 in the commit; the tolerance in gates.yaml is 0.04"
    ]


def test_a_truly_worse_model_is_told_apart_and_an_equal_one_is_not():
    """Models of a simulation: the distance of the classes is 2.5 and 1.5 standard deviations, or 1.5 for both."""
    worse, images = simulation.runs(1, (simulation.BETTER, simulation.EQUAL))
    output = gates.worse(comparison.measure(worse, images), "main")
    assert any("roc_auc is 0.9" in line and "on main: significantly worse, -0.0" in line for line in output)
    assert any(line.startswith("brier is") and ", +0.0" in line for line in output)  # where less is better
    for distances in ((simulation.EQUAL, simulation.BETTER), (simulation.EQUAL, simulation.EQUAL)):
        runs, images = simulation.runs(1, distances)
        assert gates.worse(comparison.measure(runs, images), "main") == []


def test_the_first_output_and_the_first_figure_with_other_bytes_are_named():
    changed = json.loads(json.dumps(METRICS))
    changed["evaluate"]["test"]["roc_auc"]["value"] = 0.85
    assert gates.other_figure(METRICS, METRICS) == []
    assert gates.other_figure(METRICS, changed) == [
        "1 of 4 figures differ from the commit, first evaluate.test.roc_auc.value: 0.85 here, 0.8 there"
    ]
    locks = [
        {"stages": {stage: {"outs": [{"path": f"{stage}.csv", "md5": md5}]} for stage in ("split", "train")}}
        for md5 in ("a", "b")
    ]
    assert gates.other_bytes(locks[0], locks[0], ["split", "train"]) == []
    assert gates.other_bytes(*locks, ["split", "train"]) == [
        "2 of 2 outputs differ from dvc.lock, first split.csv of stage split"
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [("floors: {}\naccepted: {}", "tolerance is missing"), ("[", "gates.yaml, line 1: "),
     ("floors: {auc: 0.5}\ntolerance: {}\naccepted: {}", "floors = 'auc': string should match"),
     ("floors: {}\ntolerance: {a.b: -1}\naccepted: {}", "tolerance = -1: input should be greater")],
)  # fmt: skip
def test_a_mistake_in_gates_yaml_is_one_line(tmp_path, text, says):
    (tmp_path / "gates.yaml").write_text(text)
    with pytest.raises(PipelineError, match=says) as caught:
        gates.limits(str(tmp_path / "gates.yaml"))
    assert "\n" not in str(caught.value)


@pytest.fixture
def bare(clone, tmp_path):
    """What CI checks out: the committed files, and nothing of DVC's cache."""
    clone.run("git", "clone", "-q", ".", tmp_path / "bare")
    return Clone(tmp_path / "bare")


def check(clone, *arguments, good=True):
    return call(check_script, clone.folder, *arguments, good=good)


@pytest.mark.slow
def test_fresh_passes_without_a_cache_and_fails_for_code_parameters_data_and_metrics(bare, clone):
    assert "fresh passes: dvc.lock matches" in check(bare, "fresh")
    for path, old, new, stages in (
        ("params.yaml", "threshold: 0.5", "threshold: 0.4", "evaluate would run"),
        ("stages/core/split/assignment.py", '"""', '"""Changed. ', "split"),
        ("metrics/evaluate.json", '"threshold": 0.5', '"threshold": 0.6', "evaluate would run"),
        ("dvc.lock", "data.on_bad_image: fail", "data.on_bad_image: drop", "prepare"),
        ("dvc.lock", "  split:", "  spilt:", "split"),
    ):
        file = bare.folder / path
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))
        output = check(bare, "fresh", good=False)
        assert "fresh FAILS: dvc.lock does not match code, parameters or data: " in output and stages in output
        file.write_text(text)
    with (clone.folder / "data/split.csv").open("a") as file:  # where the data are at hand
        file.write("1\n")
    assert "fresh FAILS" in check(clone, "fresh", good=False)


@pytest.mark.long
@pytest.mark.slow
def test_repeat_passes_for_the_committed_bytes_and_fails_for_others(bare):
    assert "repeat passes: every output has the committed bytes" in check(bare, "repeat")
    # As if it had been committed on another machine, with another split and too good a figure.
    for path, old, new in (
        ("metrics/provenance/train.json", '"threads": ', '"threads": 9'),
        ("metrics/detail/evaluate.json", '"brier": {\n      "value": 0', '"brier": {\n      "value": 9'),
    ):
        file = bare.folder / path
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))
    lock = bare.folder / "dvc.lock"
    md5 = next(line for line in lock.read_text().split("data/split.csv")[1].splitlines() if "md5: " in line)
    lock.write_text(lock.read_text().replace(md5.strip(), "md5: " + "f" * 32))
    bare.run("git", "config", "user.email", "a@b")
    bare.run("git", "config", "user.name", "a")
    bare.run("git", "commit", "-qam", "Planted")
    output = check(bare, "repeat", good=False)
    assert "outputs differ from dvc.lock, first data/split.csv of stage split" in output
    assert (
        "repeat FAILS: evaluate.test.brier is 0." in output
        and "in the commit; the tolerance in gates.yaml is 0.04" in output
    )


@pytest.mark.slow
def test_better_fails_under_a_floor_and_where_the_target_cannot_be_read(clone, bare):
    (clone.folder / "gates.yaml").write_text("floors: {evaluate.test.brier: 0.0}\ntolerance: {}\naccepted: {}\n")
    assert "better passes: no figure is below its floor, and none is significantly worse than on main" in check(
        clone, "better"
    )
    (clone.folder / "gates.yaml").write_text("floors: {evaluate.test.brier: 0.99}\ntolerance: {}\naccepted: {}\n")
    assert "better FAILS: evaluate.test.brier is 0." in check(clone, "better", good=False)
    assert "nowhere is not a commit, branch" in check(clone, "better", "--target", "nowhere", good=False)
    assert "is neither in the local DVC cache nor in a remote" in check(bare, "better", good=False)
    assert "unknown gate best: the gates are fresh, repeat, better" in check(clone, "best", good=False)


@pytest.mark.long
@pytest.mark.slow
def test_a_pull_request_is_compared_on_one_machine_and_fails_with_its_gate(clone):
    clone.run("git", "checkout", "-q", "-b", "change")
    change_parameters(clone.folder / "params.yaml", {"evaluate.threshold": 0.4})
    (clone.folder / "gates.yaml").write_text("floors: {evaluate.test.roc_auc: 1.01}\ntolerance: {}\naccepted: {}\n")
    clone.run("git", "commit", "-qam", "Change")
    process = subprocess.run(
        ["bash", ".ci/compare", "main"], cwd=clone.folder, capture_output=True, text=True,
        env=os.environ | {"RAW": "https://host/raw"},
    )  # fmt: skip
    assert process.returncode == 1, process.stderr
    linked = re.findall(r"!\[\w+\]\(https://host/raw/(\w{40})/(\S+?)\)", process.stdout)
    assert len(linked) == 4 and len({commit for commit, _ in linked}) == 2
    for commit, path in linked:
        clone.run("git", "cat-file", "-e", f"{commit}:{path}")
    assert "threshold 0.4" in (clone.folder / "reports/report.html").read_text()
    assert "| ROC AUC (primary) |" in process.stdout and "`evaluate.threshold: 0.5 -> 0.4`" in process.stdout
    assert (
        "better FAILS: evaluate.test.roc_auc is 0." in process.stdout
        and "its floor in gates.yaml is 1.01" in process.stdout
    )


def test_the_committed_figures_hold_the_committed_floors():
    metrics = {name: json.loads((TOP / f"metrics/detail/{name}.json").read_text()) for name in ("train", "evaluate")}
    limits = gates.limits(str(TOP / "gates.yaml"))
    assert gates.below(metrics, limits.floors) == [] and gates.far(metrics, metrics, limits.tolerance) == []
