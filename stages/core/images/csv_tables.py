"""CSV files as people save them: any of four separators, in UTF-8 or, with its mark, UTF-16."""

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from core.images import messages
from core.images.identity import clean, normal_form, visible
from core.pipeline.errors import PipelineError

import pandas as pd

ENDINGS = (".csv", ".tsv")
SEPARATORS = ",;\t|"
FIELDS = re.compile(r"\{([^{}]+)\}")  # of a format of several columns, such as {site}_{number}.png
HEADER = 1 << 16  # characters that are read to choose the separator
_MARKS = {  # UTF-32 first: the mark of UTF-16 is its beginning
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
_OTHERS = {
    b"PK\x03\x04": "xlsx or zip", b"\xd0\xcf\x11\xe0": "xls", b"PAR1": "Parquet", b"\x1f\x8b": "gzip",
    b"SQLite format 3": "SQLite", b"%PDF": "PDF", b"ARROW1": "Feather", b"\x89HDF": "HDF5",
}  # fmt: skip


def read_text(path: Path) -> str:
    """The text of a file, with lines that end with \\n. Raises PipelineError if it is none, or in another encoding."""
    content = path.read_bytes()
    for start, kind in _OTHERS.items():
        if content.startswith(start):
            raise PipelineError(messages.NOT_TEXT.format(path=path, kind=kind))
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    text = content.decode(encoding, "replace").replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        raise PipelineError(messages.NUL_BYTES.format(path=path, line=text.count("\n", 0, text.index("\0")) + 1))
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        values = {
            "encoding": encoding.upper().removesuffix("-SIG"),
            "line": text.count("\n", 0, text.find("\ufffd")) + 1,
        }
        raise PipelineError(messages.WRONG_ENCODING.format(path=path, **values)) from None
    return text


def read(path: Path, names: Collection[str]) -> pd.DataFrame:
    """The rows of a table as text, without space around the cells; blank rows are left out.

    The separator is the one that gives most columns of ``names``, then most columns, unless a line sep= names it, as
    Excel writes it. Raises PipelineError, also for a row with more or fewer cells than the header.
    """
    text = read_text(path)
    hint = re.match("sep=(.)\n", text, re.IGNORECASE)
    text = text[hint.end() - 1 :] if hint else text  # a blank line remains, so that lines keep their numbers
    starts = {key: next(_rows(text[:HEADER], key), (0, []))[1] for key in (hint[1] if hint else SEPARATORS)}
    separator = max(starts, key=lambda key: (len({*names} & {*starts[key]}), len(starts[key])))
    rows: list[list[str]] = []
    line = 0
    try:
        for line, cells in _rows(text, separator, strict=True):
            if rows and len(cells) != len(rows[0]):
                values = {"line": line, "cells": len(cells), "columns": len(rows[0]), "separator": separator}
                raise PipelineError(messages.RAGGED_ROW.format(path=path, **values))
            rows.append(cells)
    except csv.Error as error:
        raise PipelineError(messages.NOT_CSV.format(path=path, line=line + 1, error=error)) from None
    if len(rows) < 2:
        raise PipelineError(messages.NO_ROWS.format(path=path))
    return pd.DataFrame(rows[1:], columns=rows[0], dtype="string")


def _rows(text: str, separator: str, strict: bool = False) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row that is not blank, and the number of its last line."""
    reader = csv.reader(io.StringIO(text, "\n"), delimiter=separator, skipinitialspace=True, strict=strict)
    strip = str.strip if text.isascii() else clean
    for row in reader:
        if any(cells := [*map(strip, row)]):
            yield reader.line_num, cells


def column(rows: pd.DataFrame, name: str, key: str, path: str, mode: str) -> "pd.Series[str]":
    """The column that the parameter ``key`` names. Raises PipelineError if there is none, or more than one, also of
    another spelling unless ``mode``, which is data.alike, is keep."""
    if name not in rows.columns:
        raise PipelineError(messages.no_column(path, name, key, list(rows.columns)))
    form = normal_form(name)
    same = [other for other in rows.columns if other == name or (mode != "keep" and normal_form(other) == form)]
    if len(same) > 1:
        raise PipelineError(messages.COLUMN_TWICE.format(path=path, names=visible(same), key=key))
    values = rows[name]
    if (lost := values.str.contains("\ufffd", regex=False)).any():
        raise PipelineError(messages.LOST_LETTERS.format(path=path, name=name, cell=values[lost].iloc[0]))
    if key.startswith("data.patient") and (rounded := values.str.fullmatch(r"\d[.,]\d+[eE]\+\d+")).any():
        raise PipelineError(messages.LOST_DIGITS.format(path=path, name=name, cell=values[rounded].iloc[0]))
    return values
