"""Judge scores from elsewhere: read a table of them, evaluate it as stages/evaluate.py does, and write the report."""

import argparse
import math
import platform
from pathlib import Path
from typing import Any

from core.commands.comparison import Run
from core.evidence import calibration, curves, intervals, metrics, sample_size, seed_variance, subgroups, utility
from core.images import csv_tables
from core.pipeline import components, files, provenance, tables
from core.pipeline.errors import PipelineError
from core.pipeline.text import shorten
from core.report import html, plots
from core.split import leakage

import numpy as np
import pandas as pd

NAMES = ("file", "image", "id", "index", "")  # of the column that names the image: the first of these
SPLITS = ("train", "val", "test", "dropped")
IN_TRAIN = ("copy_in_train", "patient_in_train")
LABELS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
TRUTHS = {"true": True, "false": False, "1": True, "0": False}
VALIDATION = "validation"


def read(path: Path) -> pd.DataFrame:
    """The validation and test images of a table of scores. Without a column split, all are test images.

    Returns
    -------
    DataFrame with the columns of tables.PREDICTIONS, members, groups, breast and ``unit``

    Raises
    ------
    PipelineError
        For what is no such table.
    """
    table = _text(path)
    name = next((column for column in NAMES if column in table), None)
    if {"group", f"{tables.GROUP}group"} <= set(table):
        raise PipelineError(f"{path} has both group and {tables.GROUP}group: rename one")
    table = table.rename(columns={name: "file", "group": f"{tables.GROUP}group"})
    if missing := [column for column in ("label", "probability") if column not in table]:
        others = shorten(list(map(str, table)), 10)
        raise PipelineError(
            f"{path} has no column {' and no column '.join(missing)}; its columns are {others}. "
            "Needed: label (0 or 1) and probability (of label 1); docs/judge.md has the others"
        )
    if table.empty:
        raise PipelineError(f"{path} has no row below the names of its columns")
    if "file" not in table:
        table["file"] = [f"row {number}" for number in range(1, len(table) + 1)]
    split = table.get("split", pd.Series("test", index=table.index))
    _refuse(path, "split", split, ~split.isin(SPLITS), f"is not one of {', '.join(SPLITS)}")
    for column in {"patient", *IN_TRAIN} - set(table):
        table[column] = pd.NA
    table = table.assign(split=split)[split.isin(["val", "test"])]
    repeated = table["file"].duplicated()
    _refuse(path, "file", table["file"], table["file"].isna(), "is missing: every image needs a name")
    _refuse(path, "file", table["file"], repeated, "is there twice: each image may have one row")
    if tables.BREAST in table:
        where = "is missing: give the breast of every image, or leave this column out"
        _refuse(path, tables.BREAST, table[tables.BREAST], table[tables.BREAST].isna(), where)
    labels, numbers = table["label"].map(LABELS), [*tables.members(table), "probability"]
    _refuse(path, "label", table["label"], labels.isna(), "is neither 0 nor 1: write 1 for positive, 0 for negative")
    values = {column: _probabilities(path, table[column]) for column in numbers}
    table = table.assign(label=labels.astype("int64"), row=range(len(table)), **values)
    for column in IN_TRAIN:
        truths = table[column].str.lower().map(TRUTHS) if table[column].notna().any() else table[column]
        _refuse(path, column, table[column], table[column].notna() & truths.isna(), "is neither true nor false")
        table[column] = truths.astype("boolean")
    classes = table.loc[table["split"] == "test", "label"].unique()
    if len(classes) < 2:
        reason = f"all test images have label {classes[0]}" if len(classes) else "no row is of the split test"
        raise PipelineError(f"{path}: {reason}. A classifier can only be judged on images of both classes")
    names = tables.extras(table)
    table = table.astype(dict.fromkeys(["file", "patient", "split", *names], "string")).reset_index(drop=True)
    table = table[[*tables.PREDICTIONS, *tables.members(table), *names]]
    clusters = pd.array([pd.NA] * len(table), "Int64")
    return table.assign(unit=components.union(table, [table["patient"]]), cluster=clusters)


def _text(path: Path) -> pd.DataFrame:
    """All cells as text, a missing one as NA."""
    if not path.is_file():
        raise PipelineError(f"{path} is not a file: give a .csv or .parquet file with a row for each image")
    if path.suffix == ".parquet":
        try:
            table = pd.read_parquet(path)
        except ImportError:
            raise PipelineError(f"{path}: pandas reads .parquet with pyarrow: pip install pyarrow") from None
        except (ValueError, OSError) as error:
            raise PipelineError(f"{path} is no Parquet file: {str(error).splitlines()[0]}") from None
        table = table.reset_index() if table.index.name else table
        texts = {column: [None if pd.isna(cell) else str(cell) for cell in table[column]] for column in table}
        return pd.DataFrame(texts, dtype="string").rename(columns=str)
    table = csv_tables.read(path, ["label", "probability", *NAMES])
    if twice := list(table.columns[table.columns.duplicated()]):
        raise PipelineError(f"{path} has two columns {twice[0]}: each name may occur once")
    return table.replace("", pd.NA)


def _refuse(path: Path, column: str, cells: "pd.Series[Any]", wrong: "pd.Series[bool]", what: str) -> None:
    """Raise PipelineError for the first of the ``wrong`` cells, if any, with its row and the number of others."""
    if wrong.any():
        rows = [f"row {number + 1:,}" for number in wrong.index[wrong]]
        cell = cells[wrong].iloc[0]
        text = "an empty cell" if pd.isna(cell) else repr(str(cell))
        raise PipelineError(f"{path}: {column} {text} {what} ({shorten(rows, 3)})")


def _probabilities(path: Path, cells: "pd.Series[str]") -> np.ndarray:
    """The numbers in cells, which must be in [0, 1]: float64 (N,), read exactly."""
    name = str(cells.name)
    _refuse(path, name, cells, pd.to_numeric(cells, errors="coerce").isna(), "is no number")
    values = np.array([float(cell) for cell in cells])
    outside = pd.Series(~((values >= 0) & (values <= 1)), index=cells.index)
    _refuse(path, name, cells, outside, "is outside 0 to 1: give probabilities, not logits or percentages")
    return values


def threshold(text: str) -> float | str:
    """The value of --threshold: a number from 0 to 1, or "validation"."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if text != VALIDATION and not 0 <= value <= 1:
        raise PipelineError(f"--threshold {text}: give a number from 0 to 1, or validation")
    return text if text == VALIDATION else value


def _raw(table: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray, float | None]:
    """The table, the probabilities before calibration, and the temperature that ``probability`` has been divided by
    (None: none). Members that do not give ``probability`` are left out."""
    members, probability = tables.members(table), table["probability"].to_numpy()
    if not members:
        return table, probability, None
    raw = table[members].to_numpy().mean(axis=1)
    if np.allclose(raw, probability, rtol=0, atol=1e-6):
        return table, raw, None
    val = (table["split"] == "val").to_numpy(dtype=bool)
    temperature = calibration.fit_temperature(table["label"].to_numpy()[val], raw[val])
    if temperature and np.allclose(calibration.apply_temperature(raw, temperature), probability, rtol=0, atol=1e-6):
        return table, raw, temperature
    return table.drop(columns=members), probability, None


def evaluate(table: pd.DataFrame, strategy: float | str, seed: int) -> dict[str, Any]:
    """The details of evaluate, from a table of ``read``. Raises PipelineError if a threshold can't be chosen.

    Without columns on what training has seen, ``training`` is "unknown".
    """
    table, raw, temperature = _raw(table)
    scored = seed_variance.add_leave_one_out(table, temperature or 1.0)
    val, test = (scored[scored["split"] == name] for name in ("val", "test"))
    value = metrics.choose_threshold(strategy, val)
    details: dict[str, Any] = {"synthetic": tables.is_synthetic(table), "threshold": value}
    non_leaking = metrics.non_leaking(test)
    scores = metrics.scores(non_leaking, value)
    left_out = intervals.jackknife(scores, seed) if len(non_leaking) else {}  # takes most of the time: only once
    details |= metrics.summarise(test, val, value, strategy, seed, left_out)
    details |= subgroups.summarise(non_leaking, table[:0], value, seed)
    details["planning"] = sample_size.plan(scores, seed, left_out)
    details |= utility.summarise(scores)
    labels, rows = test["label"].to_numpy(), (table["split"] == "test").to_numpy(dtype=bool)
    fitted = temperature or calibration.fit_temperature(val["label"].to_numpy(), raw[~rows])
    details |= {"test_in_val": len(leakage.in_val(table))}
    details["calibration"] = calibration.summarise(labels, raw[rows], fitted, temperature is not None)
    details["likely_wrong_labels"] = len(utility.likely_wrong(non_leaking, details["test_unseen"]["roc_auc"]))
    if table[list(IN_TRAIN)].isna().all(axis=None):
        details["training"] = "unknown"
    return details


def html_report(table: pd.DataFrame, details: dict[str, Any], wrong: pd.DataFrame, text: str, path: Path) -> str:
    """The report, as one page of HTML. ``wrong``: of utility.likely_wrong."""
    splits = {name: table[table["split"] == name] for name in ("val", "test")}
    data = plots.PlotData(**curves.for_plots(splits, details["threshold"]))
    parameters = {"data": {"positive": "1"}, "report": {"planning": True, "checklist": False}}
    return html.report(
        {"evaluate": details, "audit": None, "split": None, "train": None, "external": None}, text,
        plots=plots.vectors(data, details), pictures=[], wrong_labels=html.first_rows(wrong),
        patients=html.by_patient(data.test, details["threshold"]),
        confusion=data.confusion.tolist(), findings={}, parameters=parameters, source={}, preparation={},
        hashes={f"scores ({path.name})": files.sha256(path)}, versions=provenance.installed(),
        python=platform.python_version(),
    )  # fmt: skip


def runs(table: pd.DataFrame, args: argparse.Namespace) -> tuple[Run, Run]:
    """Both tables as runs to compare. If only one of them has patients, they are those of both."""
    scores = [table, read(args.other)]
    for number, others in enumerate(reversed(scores)):
        if scores[number]["patient"].isna().all():
            patients = scores[number]["file"].map(others.set_index("file")["patient"])
            scores[number] = scores[number].assign(patient=patients.astype("string"))
    both = []
    for path, rows in zip((args.scores, args.other), scores, strict=True):
        rows, _, temperature = _raw(rows)
        value = metrics.choose_threshold(threshold(args.threshold), rows[rows["split"] == "val"])
        both.append(Run(str(path), rows.assign(pixels_sha256=""), rows, value, {}, temperature or 1.0))
    return both[0], both[1]
