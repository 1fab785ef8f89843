import codecs
import json
import sys

from core.commands import judging
from core.evidence import metrics
from core.pipeline import entrypoint, tables
from core.pipeline.errors import PipelineError

import numpy as np
import pandas as pd
import pytest

import evaluate
import judge
from conftest import CALIBRATED, call, change_parameters


def scores(count=120, each=6, shift=1.5, seed=0):
    random = np.random.RandomState(seed)
    patient = np.arange(count) // each
    score = shift * (patient % 2 - 0.5) + random.standard_normal(count)
    return pd.DataFrame(
        {
            "file": [f"i{number}.png" for number in range(count)], "label": patient % 2,
            "probability": 1 / (1 + np.exp(-score)), "patient": [f"p{number}" for number in patient],
        }
    )  # fmt: skip


def write(folder, table, name="scores.csv"):
    table.to_csv(folder / name, index=False)
    return folder / name


def judged(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["judge.py", *map(str, arguments)])
    entrypoint.script(judge.main)


def test_the_figures_are_those_of_the_same_table_in_the_pipeline(tmp_path):
    table = scores()
    details = judging.evaluate(judging.read(write(tmp_path, table)), 0.5, 1)
    rows = table.assign(unit=table["patient"], copy_in_train=False, patient_in_train=False)
    expected = metrics.summarise(rows.astype({"patient": "string"}), rows[:0], 0.5, 0.5, 1)
    assert {name: details[name] for name in expected} == expected
    assert details["training"] == "unknown"


def test_everything_is_written_and_the_page_is_complete(tmp_path, monkeypatch, capsys):
    table = scores().assign(group_site=["A", "B"] * 60, split=["val"] * 24 + ["test"] * 96)
    out = tmp_path / "out"
    judged(monkeypatch, write(tmp_path, table), "--out", out, "--threshold", "validation")
    names = ["detail.json", "evaluate.json", "likely_wrong_labels.csv", "report.html", "verdict.md"]
    assert sorted(path.name for path in out.iterdir()) == names
    detail = json.loads((out / "detail.json").read_text())
    assert detail["test"]["images"] == 96 and list(detail["groups"]) == ["site"]
    assert detail["calibration"]["temperature"] is not None
    assert len(pd.read_csv(out / names[2])) == detail["likely_wrong_labels"] > 0
    text, page = (out / "verdict.md").read_text(), (out / "report.html").read_text()
    assert text in capsys.readouterr().out and "Training images are unknown" in text
    sections = ("ROC curve", "Subgroups", "Sample size", "Decision curve", "Likely wrong labels", "Confusion matrix")
    for words in (*sections, "SHA-256 of the scores (scores.csv)"):
        assert words in page
    for words in ("Audit of the data", "make repro", 'id="training"', 'id="split"'):
        assert words not in page


def test_two_models_are_compared_on_the_same_images_in_any_order(tmp_path, monkeypatch, capsys):
    first, second = scores(shift=0.5), scores(shift=4, seed=1).drop(columns="patient")
    pair = write(tmp_path, first), write(tmp_path, second.iloc[::-1], "other.csv")
    judged(monkeypatch, pair[0], "--other", pair[1])
    text = capsys.readouterr().out
    assert "differ significantly" in text and "other.csv is higher" in text and "Parameters" not in text
    assert "Test images in both: 120 (60 positive), of 20 patients" in text
    write(tmp_path, second[second["file"] != "i0.png"], "other.csv")
    with pytest.raises(SystemExit, match="the test sets differ: 1 images only in .* --shared"):
        judged(monkeypatch, pair[0], "--other", pair[1])
    judged(monkeypatch, pair[0], "--other", pair[1], "--shared", "--primary", "sensitivity")
    text = capsys.readouterr().out
    assert "Test images in both: 119" in text and "sensitivity (primary)" in text and "AUC (primary)" not in text


def test_names_of_columns_can_be_those_of_others_and_what_is_unknown_may_be_missing(tmp_path):
    table = judging.read(write(tmp_path, scores()[["label", "probability"]]))
    assert list(table["file"][:2]) == ["row 1", "row 2"] and table["unit"].nunique() == 120
    indexed = scores().drop(columns="file").rename(columns={"probability": " probability"})
    indexed.to_csv(tmp_path / "indexed.csv")
    assert list(judging.read(tmp_path / "indexed.csv")["file"][:2]) == ["0", "1"]


def test_members_give_the_interval_of_a_new_training_also_after_a_temperature(tmp_path):
    table = scores(split := 240)
    members = np.column_stack([scores(split, seed=seed)["probability"] for seed in (2, 3, 4)])
    table = table.assign(member_1=members[:, 0], member_2=members[:, 1], member_3=members[:, 2])
    table = table.assign(probability=members.mean(axis=1), split=["val"] * 120 + ["test"] * 120)
    details = judging.evaluate(judging.read(write(tmp_path, table)), 0.5, 1)
    assert details["test"]["roc_auc"]["recipe"]["ci_low"] is not None and not details["calibration"]["applied"]
    temperature = details["calibration"]["temperature"]
    logits = np.log(table["probability"] / (1 - table["probability"])) / temperature
    cooled = judging.evaluate(
        judging.read(write(tmp_path, table.assign(probability=1 / (1 + np.exp(-logits))))), 0.5, 1
    )
    assert cooled["calibration"]["applied"] and cooled["calibration"]["temperature"] == pytest.approx(temperature)
    foreign = judging.evaluate(judging.read(write(tmp_path, table.assign(probability=0.5))), 0.5, 1)
    assert foreign["test"]["roc_auc"]["recipe"]["ci_low"] is None  # of other networks


@pytest.mark.parametrize(("separator", "encoding"), [(";", "utf-8-sig"), ("\t", "utf-16"), ("|", "utf-8")])
def test_a_table_may_be_saved_with_other_separators_and_in_utf_16(tmp_path, separator, encoding):
    expected = judging.read(write(tmp_path, scores()))
    scores().to_csv(tmp_path / "other.csv", index=False, sep=separator, encoding=encoding)
    assert judging.read(tmp_path / "other.csv").equals(expected)


def test_probabilities_are_read_to_the_last_bit(tmp_path):
    table = scores(2000, 5)
    assert judging.read(write(tmp_path, table))["probability"].tolist() == table["probability"].tolist()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "has no row below a header"),
        (b"label,probability\n", "has no row below a header"),
        (b"label,score\n1,0.5\n", "has no column probability; its columns are label, score"),
        (codecs.BOM_UTF8 + b"file,label,probability\n\xe9,1,0.5\n", "is not UTF-8: line 2 has letters in another"),
        (b"label,probability\n1,0.5\n0,1.2\n", "probability '1.2' is outside 0 to 1.*row 2"),
        (b"label,probability\n1,0.5\n0,inf\n", "probability 'inf' is outside 0 to 1"),
        (b"label,probability\n1,nan\n0,0.1\n", r"probability 'nan' is no number \(row 1\)"),
        (b"label,probability\n1,\n0,0.1\n", "probability an empty cell is no number"),
        (b"label,probability\n1,high\n0,0.1\n", "probability 'high' is no number"),
        (b"label,probability\ncancer,0.5\n0,0.1\n", "label 'cancer' is neither 0 nor 1: write 1 for positive"),
        (b"label,probability\n1,0.5\n1,0.1\n", "all test images have label 1"),
        (b"label,probability,split\n1,0.5,val\n0,0.1,val\n", "no row is of the split test"),
        (b"label,probability,split\n1,0.5,dev\n0,0.1,test\n", "split 'dev' is not one of train, val, test"),
        (b"file,label,probability\na,1,0.5\na,0,0.1\n", r"file 'a' is there twice.*\(row 2\)"),
        (b"file,label,probability\na,1,0.5\n,0,0.1\n", "file an empty cell is missing"),
        (b"label,label,probability\n1,1,0.5\n", "has two columns label"),
        (b"label,probability,group,group_group\n1,0.5,a,b\n0,0.1,a,b\n", "has both group and group_group: rename one"),
        (b"label,probability\n1,0.5,7,8\n0,0.1\n", "line 2, has 4 cells, but the header 2"),
        (b"label,probability,patient,breast\n1,0.5,a,L\n0,0.1,a,\n", r"breast an empty cell is missing.*\(row 2\)"),
        (b"label,probability,copy_in_train\n1,0.5,maybe\n0,0.1,true\n", "copy_in_train 'maybe' is neither true nor"),
    ],
)
def test_a_mistake_in_the_table_is_one_line_with_its_row_and_what_mends_it(tmp_path, monkeypatch, content, says):
    path = tmp_path / "scores.csv"
    path.write_bytes(content)
    with pytest.raises(SystemExit, match=says) as ended:
        judged(monkeypatch, path, "--out", tmp_path / "out")
    assert "\n" not in str(ended.value) and str(path) in str(ended.value)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_missing_or_no_parquet_and_a_wrong_threshold_are_one_line(tmp_path):
    with pytest.raises(PipelineError, match="nothing.csv is not a file"):
        judging.read(tmp_path / "nothing.csv")
    (tmp_path / "scores.parquet").write_text("label,probability\n")
    with pytest.raises(PipelineError, match=r"pip install pyarrow|is no Parquet file"):
        judging.read(tmp_path / "scores.parquet")
    for text in ("1.5", "nan", "best"):
        with pytest.raises(PipelineError, match=f"--threshold {text}: give a number from 0 to 1"):
            judging.threshold(text)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, CALIBRATED], ids=["main", "calibrated"])
def test_our_own_predictions_are_judged_to_the_byte(clone, changes):
    """The figures of the run, from its table of predictions alone."""
    change_parameters(clone.folder / "params.yaml", changes)
    if changes:
        call(evaluate, clone.folder)
    threshold = changes.get("evaluate.threshold", 0.5)
    call(judge, clone.folder, "data/predictions.csv", "--out", "data/judged", "--threshold", threshold)
    for written, of_run in (("evaluate.json", "metrics/evaluate.json"), ("detail.json", "data/detail/evaluate.json")):
        assert (clone.folder / "data/judged" / written).read_bytes() == (clone.folder / of_run).read_bytes()
    assert tables.read(clone.folder / "data/predictions.csv", tables.PREDICTIONS)["file"].is_unique
