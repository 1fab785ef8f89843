"""The class and the patient of each image, from a table, from its path, or from its folder."""

import re
from collections.abc import Iterable
from pathlib import Path

from core.images import messages
from core.images.inventory import Use
from core.pipeline import tables
from core.pipeline.errors import PipelineError
from core.pipeline.messages import not_utf8
from core.pipeline.schemas.data import REST, Data

import pandas as pd

LABELS_WITHOUT_IMAGE = "labels without an image"
Tags = dict[str, dict[str, str]]  # of each DICOM file, the values of its tags
Faults = dict[str, list[str]]  # the names of the files of each Use, and of LABELS_WITHOUT_IMAGE


class _Names:
    """Finds the image for a name in a table: a path, or the end of a path if it is unique."""

    def __init__(self, images: list[str]) -> None:
        self.images = set(images)
        self.by_name: dict[str, list[str]] = {}
        for file in images:
            self.by_name.setdefault(file.rpartition("/")[2], []).append(file)

    def find(self, name: str) -> str | None:
        name = name.replace("\\", "/").removeprefix("./")
        if name in self.images:
            return name
        ends = [file for file in self.by_name.get(name.rpartition("/")[2], []) if file.endswith("/" + name)]
        if len(ends) > 1:
            raise PipelineError(messages.listing(messages.AMBIGUOUS_NAME, ends, name=name))
        return ends[0] if ends else None


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        rows = pd.read_csv(path, dtype="string", keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True)
    except (ValueError, pd.errors.ParserError) as error:  # UnicodeDecodeError is a ValueError
        raise PipelineError(messages.NOT_CSV.format(path=path, error=error)) from None
    if not isinstance(rows.index, pd.RangeIndex):  # pandas used the first column as row names, which shifts the others
        raise PipelineError(messages.TOO_MANY_CELLS.format(path=path))
    rows.columns = [str(column).strip() for column in rows.columns]
    return rows


def _column(rows: pd.DataFrame, column: str, key: str, path: str) -> "pd.Series[str]":
    if column not in rows.columns:
        raise PipelineError(messages.no_column(path, column, key, list(rows.columns)))
    return rows[column].str.strip()


def classes(
    images: list[str], table: Path | None, data: Data, tags: Tags, faults: Faults
) -> tuple[dict[str, str], pd.DataFrame | None]:
    """The class of each image that has one, and the rows of the table of labels, if there is one, with their file.

    The class is in ``table``, in the path (a pattern), in the DICOM ``tags`` of the file, or the name of the folder.
    Labels without an image and names that are twice in the table are added to ``faults``.
    """
    if data.labels is None:
        return {file: name for file in images if (name := Path(file).parent.name)}, None
    if data.labels_are_pattern:
        return _search(data.labels, "label", images), None
    if data.label_tag:
        return _tag_values(data.label_tag, images, tags), None
    return _match_labels(_labelled_rows(table, data), images, data, faults)


def class_to_label(classes: dict[str, str], data: Data) -> dict[str, int]:
    """1 or 0 for each class that data.positive or data.negative names; other classes are left out.

    Raises PipelineError if one of them has no image, or if data.negative is null and there are several others.
    """
    counts = pd.Series(list(classes.values()), dtype="string").value_counts()
    others = [name for name in counts.index if name not in data.positives]
    negatives = data.negatives
    if negatives is None and (len(others) == 1 or data.negative == REST):
        negatives = others
    named = [*data.positives, *(negatives or [])]
    if not negatives or any(name not in counts.index for name in named):
        numbers = {str(name): int(count) for name, count in counts.items()}
        raise PipelineError(messages.wrong_classes(data, classes, numbers))
    return dict.fromkeys(negatives, 0) | dict.fromkeys(data.positives, 1)


def _search(pattern: str, group: str, files: Iterable[str]) -> dict[str, str]:
    """What the group of a regular expression finds in the name of each file, or, with a / in it, in its path."""
    expression, in_path = re.compile(pattern), "/" in pattern
    matches = {file: expression.search(file if in_path else file.rpartition("/")[2]) for file in files}
    return {file: match[group] for file, match in matches.items() if match and match[group]}


def _tag_values(keyword: str, files: Iterable[str], tags: Tags) -> dict[str, str]:
    """The value of a DICOM tag in each file that has one."""
    return {file: value for file in files if (value := tags.get(file, {}).get(keyword, ""))}


def _cells(rows: pd.DataFrame | None, column: str) -> dict[str, str]:
    """The cell of each file in a column of the table of labels, if it is not empty."""
    assert rows is not None  # checked by the schema
    return {file: cell for file, cell in zip(rows["file"], rows[column], strict=True) if cell}


def _labelled_rows(table: Path | None, data: Data) -> pd.DataFrame:
    assert table is not None and data.labels is not None
    rows = _read_csv(table)
    columns = {"name": (data.file_column, "data.file_column"), "class": (data.label_column, "data.label_column")}
    if data.patient is not None and data.patient_is_column:
        columns["patient"] = data.patient, "data.patient"
    for group in data.grouping:
        if group.kind == "column":
            columns[tables.GROUP + group.name] = group.name, "data.groups"
    return pd.DataFrame({name: _column(rows, *column, data.labels) for name, column in columns.items()})


def _match_labels(
    rows: pd.DataFrame, images: list[str], data: Data, faults: Faults
) -> tuple[dict[str, str], pd.DataFrame]:
    """The class of each image that has a label in the table, and the rows of the table with their file."""
    names = _Names(images)
    rows = rows.assign(file=pd.array([names.find(name) for name in rows["name"]], dtype="string"))
    faults[LABELS_WITHOUT_IMAGE] = sorted(rows.loc[rows["file"].isna(), "name"])
    rows = rows[rows["file"].notna()]
    faults[Use.TWICE] = sorted(set(rows.loc[rows["file"].duplicated(), "file"]))
    labelled = rows[rows["class"] != ""].drop_duplicates("file")
    return dict(zip(labelled["file"], labelled["class"], strict=True)), labelled


def patients(
    classes: dict[str, str], rows: pd.DataFrame | None, data: Data, tags: Tags, faults: Faults
) -> dict[str, str]:
    """The patient of each image, empty if data.patient is null. Images without one are added to ``faults``."""
    if data.patient is None:
        return {}
    if data.patient_is_pattern:
        patient_of = _search(data.patient, "patient", classes)
    elif data.patient_tag:
        patient_of = _tag_values(data.patient_tag, classes, tags)
    else:
        patient_of = _cells(rows, "patient")
    faults[Use.NO_PATIENT] = sorted(set(classes) - set(patient_of))
    return patient_of


def group_values(files: Iterable[str], rows: pd.DataFrame | None, data: Data, tags: Tags) -> dict[str, dict[str, str]]:
    """For each group of data.groups, its name, and the value of each image that has one, as it is written there."""
    values: dict[str, dict[str, str]] = {}
    for group in data.grouping:
        if group.kind == "pattern":
            values[group.name] = _search(group.source, group.name, files)
        elif group.kind == "tag":
            values[group.name] = _tag_values(group.source, files, tags)
        else:
            values[group.name] = _cells(rows, tables.GROUP + group.name)
    return values


def read_lists(table: pd.DataFrame, paths: dict[str, Path], data: Data) -> pd.DataFrame:
    """The split of each image in the user's lists, whose ``paths`` are given by key: the columns of tables.LISTED. A
    patient in a list means all images of the patient."""
    names = _Names(list(table["file"]))
    of_patient = table.groupby("patient")["file"].apply(list).to_dict()
    rows: list[tuple[str, str]] = []
    for split, name in data.lists.paths().items():
        path = paths[f"data.lists.{split}"]
        if path.suffix.lower() == ".csv":
            entries = list(_column(_read_csv(path), data.file_column, "data.file_column", name))
        else:
            try:
                lines = path.read_text(encoding="utf-8-sig").splitlines()
            except UnicodeDecodeError as error:
                raise PipelineError(not_utf8(path, error)) from None
            entries = [line.strip() for line in lines if line.strip()]
        unknown = []
        for entry in dict.fromkeys(entries):
            file = names.find(entry)
            matches = [file] if file else of_patient.get(entry, [])
            rows += [(file, split) for file in matches]
            if not matches:
                unknown.append(entry)
        if unknown and data.on_bad_image == "fail":
            template, total = messages.UNKNOWN_ENTRIES, len(entries)
            raise PipelineError(messages.listing(template, unknown, split=split, name=name, total=total))
    listed = pd.DataFrame(rows, columns=tables.LISTED).drop_duplicates().sort_values("file", kind="stable")
    twice = listed.loc[listed["file"].duplicated(), "file"]
    if len(twice):
        raise PipelineError(messages.listing(messages.IMAGES_IN_TWO_LISTS, list(twice.unique())))
    return listed
