"""The tables that stages exchange, and how they are read and written.

Files are UTF-8 with ``\\n`` line ends, and floats read back exactly. File names, patients and hashes are
text even if they look like numbers. ``patient`` and ``cluster`` are missing if they are not known.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from core.pipeline import files, messages

import numpy as np
import pandas as pd

SYNTHETIC = "synthetic-phantom/"  # prefix of every phantom's file name, so that each table shows that it is synthetic

CHUNK_ROWS = 8192  # rows in memory of a table that is read or written in chunks
FEW_PATIENTS = 10  # per class; with fewer, intervals are wide and a figure says little about other patients
# Per class: a sign test on fewer patients can't reject chance at 5 %, even if all agree (2 / 2**5 > 0.05).
MIN_PATIENTS = 6
TOO_FEW = "too few"  # patients of a class, as the reason why there is no p

INVENTORY = ["path", "kind", "bytes", "use", "why"]
LABELS = ["file", "label", "patient", "class"]
LISTED = ["file", "split"]
INDEX = ["row", "file", "label", "patient", "width", "height", "mode", "bytes_sha256", "pixels_sha256", "phash"]
# core.images.properties says what they are.
PROPERTIES = ["row", "format", "bytes", "brightness", "border", "jpeg_quality", "window_center", "window_width"]
CROP = "crop"  # a column of properties with fit: breast: the share of the image in it; missing if no breast is found
CLUSTERS = ["file", "cluster", "kind", "distance", "correlation"]
FINDINGS = ["file", "finding", "detail"]
SPLIT = ["row", "file", "label", "patient", "cluster", "component", "split"]
BREAST = "breast"  # a column of the table of groups, if data.breast is known: the breast of the patient
GROUP = "group_"  # prefix of the columns with the groups that data.groups names
MEMBER = "member_"  # prefix of the columns of predictions with the probability by each member, before calibration
PREDICTIONS = ["row", "file", "patient", "label", "split", "probability", "copy_in_train", "patient_in_train"]

_KINDS = {
    "row": "int64", "label": "int64", "width": "int64", "height": "int64", "cluster": "Int64", "component": "Int64",
    "distance": "Int64", "correlation": "float64", "probability": "float64", "copy_in_train": "boolean",
    "patient_in_train": "boolean", "bytes": "int64", "brightness": "float64", "border": "float64",
    "crop": "float64",
    "jpeg_quality": "Int64", "window_center": "float64", "window_width": "float64",
}  # fmt: skip
# Only an empty cell is a missing value: a file or a patient can be called NA or null.
_MISSING: dict[str, Any] = {"keep_default_na": False, "na_values": [""]}


def kind(column: str) -> str:
    """The type of a column in pandas."""
    return _KINDS.get(column, "string")


def _kinds(columns: list[str]) -> dict[str, str]:
    return {column: kind(column) for column in columns}


def read(path: str | Path, columns: list[str]) -> pd.DataFrame:
    """Read a table; ``columns`` is one of the lists above. Raises PipelineError if the file is missing or damaged."""
    with files.undamaged(path, ValueError) as file, file.open(encoding="utf-8", newline="") as text:
        return parse(text, columns)


def parse(text: TextIO, columns: list[str]) -> pd.DataFrame:
    """Read ``columns`` of CSV text, and those of members, groups and breasts if there are any. Raises ValueError if a
    column is missing or a value is not of its type."""
    names = header(text, columns)
    text.seek(0)
    extra = [name for name in names if (name == BREAST or name.startswith((MEMBER, GROUP))) and name not in columns]
    kinds = _kinds([*columns, *(name for name in extra if not name.startswith(MEMBER))])
    table = pd.read_csv(text, usecols=[*columns, *extra], dtype=kinds, **_MISSING)
    return table[[*columns, *members(table), *extras(table)]]


def header(text: TextIO, columns: list[str]) -> list[str]:
    """The names of all columns of CSV text. Raises ValueError if it lacks one of ``columns``."""
    names = next(csv.reader(text), [])
    if missing := set(columns) - set(names):
        raise ValueError(messages.MISSING_COLUMNS.format(columns=", ".join(sorted(missing))))
    return names


def chunks(path: str | Path, columns: list[str]) -> Iterator[pd.DataFrame]:
    """``columns`` of a table, CHUNK_ROWS rows at a time. Raises PipelineError if the file is missing or damaged."""
    with files.undamaged(path, ValueError) as file:
        yield from pd.read_csv(file, usecols=columns, dtype=_kinds(columns), chunksize=CHUNK_ROWS, **_MISSING)


def members(table: pd.DataFrame) -> list[str]:
    return [name for name in table.columns if name.startswith(MEMBER)]


def groups(table: pd.DataFrame) -> list[str]:
    return [name for name in table.columns if name.startswith(GROUP)]


def extras(table: pd.DataFrame) -> list[str]:
    """The columns of ``groups``, and that of the breast."""
    return [*groups(table), *([BREAST] if BREAST in table else [])]


def of_members(probabilities: np.ndarray) -> pd.DataFrame:
    """The probabilities by each member as a table with a column for each member.

    Parameters
    ----------
    probabilities : (N, members) float64, in [0, 1]
    """
    return pd.DataFrame(probabilities).rename(columns=lambda index: f"{MEMBER}{index + 1}")


def write(table: pd.DataFrame, path: str | Path, columns: list[str]) -> None:
    """Write ``columns`` of a table atomically, in the order of its rows."""
    with files.atomic_write(path) as unfinished:
        append(table, unfinished, columns)


def append(table: pd.DataFrame, path: Path, columns: list[str]) -> None:
    """Add rows to a table that is being written; the first ones get the names of the columns."""
    header = path.stat().st_size == 0
    table[columns].to_csv(path, mode="a", header=header, index=False, lineterminator="\n", encoding="utf-8")


def classes(labels: str | Path, images: pd.DataFrame) -> "pd.Series[str]":
    """The original class of each of ``images``, on their index; ``labels`` is the path of data/raw/labels.csv."""
    return images["file"].map(read(labels, LABELS).set_index("file")["class"])


def number(table: pd.DataFrame) -> int:
    """How many images a table has: those in its column images, or one per row."""
    return int(table["images"].sum()) if "images" in table else len(table)


def counts(table: pd.DataFrame) -> dict[str, int | None]:
    """Images, positives, patients and positive patients; the latter two are null if patients are not known."""
    positive = table[table["label"] == 1]
    has_patients = table["patient"].notna().any()
    return {
        "images": number(table),
        "positives": number(positive),
        "patients": table["patient"].nunique() if has_patients else None,
        "positive_patients": positive["patient"].nunique() if has_patients else None,
    }


def is_synthetic(table: pd.DataFrame) -> bool:
    """Whether all images of a table are phantoms. Every result must say so."""
    return len(table) > 0 and bool(table["file"].str.startswith(SYNTHETIC).all())


def frame(rows: list[tuple[object, ...]], columns: list[str]) -> pd.DataFrame:
    """A table in memory with the same column types as ``read`` returns."""
    return pd.DataFrame(rows, columns=columns).astype(_kinds(columns))
