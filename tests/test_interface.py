"""DVC's own commands show few figures, in an order and form that a person reads."""

import csv
import io
import json
import shutil

import pytest

from conftest import Clone
from test_docs import blocks

pytestmark = pytest.mark.slow
MOST = 40  # numbers that are registered
MOST_CHANGED = 30  # rows of dvc metrics diff and columns of dvc exp show --only-changed, after one changed parameter


@pytest.mark.parametrize(
    ("key", "command"),
    [
        pytest.param("train.lr", "dvc exp run --name strict -S train.lr=0.0005", marks=pytest.mark.long),
        ("evaluate.threshold", blocks("branches")[2].replace("make exps", "make -o .venv/ready exps")),
    ],
    ids=["train.lr", "evaluate.threshold"],
)
def test_a_run_with_one_changed_parameter_differs_in_few_rows_and_columns(clone, tmp_path, key, command):
    """The second is that of the commands on experiments in docs/branches.md, which run as they stand there."""
    # A copy of its own: the experiments of other tests would add columns.
    clone = Clone(shutil.copytree(clone.template, tmp_path / "clone", symlinks=True))
    text = clone.run("bash", "-ec", command)
    if "make" in command:
        row = next(line for line in text.splitlines() if line.startswith("  strict "))
        assert "evaluate.threshold=0.6" in row and "evaluate.threshold: 0.5 -> 0.6" in text
    changed = json.loads(clone.run("dvc", "metrics", "diff", "--json", "main", "strict"))
    assert 0 < sum(map(len, changed.values())) <= MOST_CHANGED
    shown = clone.run("dvc", "exp", "show", "--only-changed", "--csv")
    columns = next(csv.reader(io.StringIO(shown)))
    assert len(columns) <= MOST_CHANGED and key in columns


def test_at_most_40_numbers_are_registered_and_no_sentence_and_each_once(clone):
    shown = json.loads(clone.run("dvc", "metrics", "show", "--json"))[""]["data"]
    files = {path: content["data"] for path, content in shown.items()}
    assert list(files) == [f"metrics/{stage}.json" for stage in ("audit", "split", "train", "evaluate")]
    names = [name for figures in files.values() for name in figures]
    values = [value for figures in files.values() for value in figures.values()]
    assert len(names) == len(set(names)) <= MOST
    assert {type(value) for value in values} <= {int, float}  # nothing nested, no text, and none null here
    assert next(iter(files["metrics/evaluate.json"])) == "roc_auc"


def test_every_registered_number_is_one_of_the_details(clone):
    """So that metrics and details never say two different things."""
    for stage in ("audit", "train"):
        registered = json.loads((clone.folder / f"metrics/{stage}.json").read_text())
        assert registered.items() <= clone.metrics(stage).items()
    figures = clone.metrics("evaluate")
    registered = json.loads((clone.folder / "metrics/evaluate.json").read_text())
    unseen = figures["test_unseen"]
    for name in ("roc_auc", "sensitivity", "specificity", "pr_auc", "brier"):
        assert registered[name] == unseen[name]["value"]
    assert [registered[f"roc_auc_ci_{end}"] for end in ("low", "high")] == [
        unseen["roc_auc"][f"ci_{end}"] for end in ("low", "high")
    ]
    assert registered["roc_auc_inflation"] == figures["test"]["roc_auc"]["value"] - unseen["roc_auc"]["value"]


def test_the_details_in_git_are_those_of_the_run(clone):
    for stage in ("audit", "split", "train", "evaluate"):
        assert json.loads((clone.folder / f"metrics/detail/{stage}.json").read_text()) == clone.metrics(stage)


def test_the_deciding_metrics_fit_a_screen(clone):
    lines = clone.run("dvc", "metrics", "show", "metrics/evaluate.json").splitlines()
    assert max(map(len, lines)) <= 160


def test_a_slow_stage_comes_back_from_the_run_cache_when_its_outputs_are_gone(clone):
    for name in ("data", "models", "metrics"):
        clone.run("git", "clean", "-fdxq", name)
    clone.run("rm", "-rf", "data/prepared", "data/split.csv", "data/detail", "models", "metrics", "dvc.lock")
    output = clone.run("dvc", "repro", "evaluate")
    for stage in ("download", "prepare", "audit", "split", "train", "evaluate"):
        assert f"Stage '{stage}' is cached" in output and f"Running stage '{stage}'" not in output
    clone.run("git", "checkout", "-q", ".")
    assert not clone.run("git", "status", "--short")
