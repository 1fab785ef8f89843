"""The table of make exps, from JSON as DVC writes it, and from real DVC."""

import json

from core.commands import experiments

import pytest

import exps
from conftest import call

FIGURES = {"roc_auc": 0.829, "roc_auc_ci_low": 0.7551, "roc_auc_ci_high": 0.9, "sensitivity": 0.75, "specificity": 1.0}


def entry(name, changes=None, figures=FIGURES, error=None):
    params = {
        "seed": 1,
        "data": {"source": "folder"},
        "prepare": {"levels": [0, 100]},
        "train": {"lr": 0.003, "seed": None},
    }
    for key, value in (changes or {}).items():
        section, _, leaf = key.partition(".")
        params[section] = params[section] | {leaf: value}
    data = {"params": {"params.yaml": {"data": params}}, "metrics": {experiments.METRICS: {"data": figures}}}
    return {"rev": f"{name}-hash", "name": name, "data": data, "error": error}


def experiment(name, changes=None, state=None, **options):
    executor = state and {"state": state, "name": "dvc-task"}
    return {"name": name, "executor": executor, "revs": [entry(name, changes, **options)]}


def lines(*runs, workspace=None):
    head = entry("main") | {"experiments": list(runs)}
    text = experiments.table([workspace or entry(None), head], "main", "main-hash")
    assert all(len(line) <= 120 for line in text.splitlines())
    return text.splitlines()


def test_a_row_has_the_changed_parameters_and_the_figures_with_their_interval():
    header, workspace, main, slow = lines(
        experiment("slow", {"train.lr": 1e-06, "train.seed": 3, "prepare.levels": [1, 99]}), workspace=entry(None)
    )[:4]
    assert header.split("  ")[0] == "experiment" and "ROC AUC (95 % interval)" in header
    assert workspace.split() == ["workspace", "0.829", "(0.755", "to", "0.900)", "0.750", "1.000"]
    assert main.split()[0] == "main" and "=" not in main
    assert slow.startswith("  slow") and "0.829 (0.755 to 0.900)" in slow
    assert "prepare.levels=[1, 99], train.lr=1e-06, train.seed=3" in slow


def test_experiments_that_wait_or_failed_say_so_instead_of_the_figures_of_their_commit():
    runs = [
        experiment("later", state="queued"),
        experiment("now", state="running"),
        experiment("done", state="success"),
    ]
    runs.append(experiment("broken", state="failed", error={"msg": "Experiment run failed", "type": ""}))
    text = "\n".join(lines(*runs))
    assert "  later      " in text and text.count("0.829") == 3  # workspace, main and done
    assert "queued" in text and "running" in text and text.split("failed: dvc queue logs\n")[1].split()[0] == "broken"


def test_figures_that_are_not_defined_are_dashes():
    undefined = {"roc_auc": None, "roc_auc_ci_low": None, "roc_auc_ci_high": None, "sensitivity": 0.5}
    no_interval = {"roc_auc": 0.5, "roc_auc_ci_low": None, "roc_auc_ci_high": None, "sensitivity": None}
    rows = lines(experiment("a", figures=undefined), experiment("b", figures=no_interval))
    assert rows[3].split() == ["a", "-", "0.500", "-"]
    assert rows[4].split() == ["b", "0.500", "(no", "interval)", "-", "-"]


def test_long_names_and_many_parameters_go_on_in_the_next_line():
    changes = {f"train.parameter_{number}": "x" * 20 for number in range(6)} | {"data.location": "/a" * 90}
    rows = lines(experiment("a-name-" * 9, changes))
    text = "\n".join(rows)
    names = "".join(row[:24].strip() for row in rows)
    assert all(f"parameter_{number}" in text for number in range(6)) and names.count("a-name-") == 9
    assert "".join(text.split()).count("/a") > 80


def test_a_commit_is_compared_with_the_target_and_the_workspace_with_the_last_commit():
    head = entry("change", {"train.lr": 0.1}) | {
        "experiments": [experiment("more", {"train.lr": 0.1, "train.seed": 2})]
    }
    workspace = entry(None, {"train.lr": 0.2})
    text = experiments.table(
        [workspace, head, entry("other") | {"experiments": None}], "main", "other-hash"
    ).splitlines()
    assert text[4].startswith("main ")  # other is a second branch at the same commit
    assert ["train.lr=0.2" in text[1], "train.lr=0.1" in text[2], "train" in text[4]] == [True, True, False]
    assert "train.seed=2" in text[3] and "train.lr" not in text[3]


def test_a_revision_that_cannot_be_read_is_named():
    rows = lines(
        workspace={"rev": "workspace", "name": None, "data": None, "error": {"msg": "params.yaml is not YAML"}}
    )
    assert "params.yaml is not YAML" in rows[1] and "can't be read" in rows[1]


@pytest.mark.slow
def test_make_exps_lists_what_ran_waits_and_failed(clone):
    clone.run("git", "checkout", "-q", "-B", "listed")
    (clone.folder / experiments.METRICS).write_text(json.dumps(FIGURES))
    clone.run("git", "commit", "-qam", "Flat metrics")
    clone.run("dvc", "exp", "run", "--queue", "--name", "broken", "-S", "train.epochs=0")
    clone.run_queue()
    clone.run("dvc", "exp", "run", "--queue", "--name", "waiting", "-S", "train.lr=0.02", "-S", "prepare.fit=pad")
    text = clone.run("make", "-o", ".venv/ready", "--no-print-directory", "exps", "TARGET=main")
    clone.run("dvc", "queue", "remove", "--all")
    rows = {line.split()[0]: line for line in reversed(text.splitlines()) if line}
    assert all(len(line) <= 120 for line in text.splitlines()), text
    assert "0.829 (0.755 to 0.900)" in rows["listed"] and "main" in rows and "SYNTHETIC" in text, text
    assert "train.epochs=0" in rows["broken"] and "failed: dvc queue logs" in rows["broken"]
    assert "prepare.fit=pad, train.lr=0.02" in rows["waiting"] and "queued" in rows["waiting"]
    assert "nowhere is not a commit, branch or tag here" in call(exps, clone.folder, "nowhere", good=False)
