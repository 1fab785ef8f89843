"""Groups of images whose results are compared: sites, scanners, ages. Numbers are cut into ranges."""

import re
from itertools import pairwise

from core.images import identity, messages
from core.pipeline import tables
from core.pipeline.errors import PipelineError
from core.pipeline.schemas.data import Group

import numpy as np
import pandas as pd

RANGES = 3  # into which numbers are cut, if no edges are given
MAX_LEVELS = 8  # a group of more different numbers is cut into ranges; of fewer, such as a grade from 1 to 3, it is not
AGE = re.compile(r"(\d{3})([DWMY])")  # a DICOM age (PS3.5 6.2, AS)
# 12,5 and 0,125, but not 1,234, which can be a thousand
DECIMAL_COMMA = re.compile(r"(?<=0)(?<!\d0),(?=\d+$)|(?<=\d),(?!\d{3}$)(?=\d+$)")
YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}


def table(images: pd.DataFrame, values: dict[str, dict[str, str]], groups: list[Group], mode: str) -> pd.DataFrame:
    """``images`` with a column for each group, with the prefix tables.GROUP. An image without a value is in no group.

    Parameters
    ----------
    images : DataFrame with the columns file and patient
    values : the values of each group by file (labels.group_values)

    Raises
    ------
    PipelineError
        If a group has one value, or about as many as there are patients, or edges but no numbers, or values that only
        spelling tells apart and ``mode``, which is data.alike, is fail.
    """
    columns = {}
    for group in groups:
        texts = {file: " ".join(value.split()) for file, value in values[group.name].items()}
        column = images["file"].map(texts).astype("string")
        columns[tables.GROUP + group.name] = _levels(group, column, images["patient"], mode)
    return images.assign(**columns)


def _levels(group: Group, values: "pd.Series[str]", patients: "pd.Series[str]", mode: str) -> "pd.Series[str]":
    if values.isna().all():
        raise PipelineError(messages.GROUP_WITHOUT_VALUES.format(name=group.name))
    numbers = values.fillna("").map(_number).astype(float)
    words = [repr(word) for word in sorted(values[values.notna() & numbers.isna()].unique())]
    if group.edges and words:
        raise PipelineError(messages.listing(messages.EDGES_WITHOUT_NUMBERS, words, 3, group=group.name))
    if words and numbers.nunique() > MAX_LEVELS:
        raise PipelineError(messages.listing(messages.WORDS_AMONG_NUMBERS, words, 3, group=group.name))
    if group.edges or (not words and values.nunique() > MAX_LEVELS):
        values = _cut(numbers, group.edges, patients)
    else:
        values = values.replace(identity.spellings(identity.alike(values.dropna()), "data.groups", mode))
    if values.nunique() == 1:
        level = values.dropna().iloc[0]
        raise PipelineError(messages.GROUP_OF_ONE_LEVEL.format(name=group.name, level=level))
    if values.nunique() > (patients.nunique() or len(patients)) / 2:
        levels = sorted(values.dropna().unique())
        raise PipelineError(messages.too_many_levels(group.name, levels, patients.nunique(), len(patients)))
    return values


def _number(text: str) -> float:
    age = AGE.fullmatch(text)
    try:
        return int(age[1]) * YEARS[age[2]] if age else float(DECIMAL_COMMA.sub(".", text))
    except ValueError:
        return float("nan")


def _cut(numbers: "pd.Series[float]", edges: list[float] | None, patients: "pd.Series[str]") -> "pd.Series[str]":
    """The range of each number, in words; without edges, each range has about as many patients (or images)."""
    if edges is None:
        medians = numbers.groupby(patients).median() if patients.notna().any() else numbers
        shares = np.arange(1, RANGES) / RANGES
        low = float(medians.min())
        edges = sorted({float(edge) for edge in np.nanquantile(medians, shares, method="higher")} - {low})
        edges = edges or [float(numbers[numbers > low].min())]
    ends = [f"{edge:.10g}" for edge in edges]
    names = [f"under {ends[0]}", *(f"{low} to under {high}" for low, high in pairwise(ends))]
    names.append(f"{ends[-1]} and over")
    place = np.searchsorted(edges, numbers.fillna(-np.inf), side="right")
    return pd.Series(np.array(names, dtype=object)[place], numbers.index, dtype="string").mask(numbers.isna())
