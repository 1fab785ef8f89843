"""The class, the patient and the breast of each image, from a table, from its path, or from its folder."""

import re
import unicodedata
from collections.abc import Iterable
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from core.images import csv_tables, identity, messages
from core.images.inventory import Use
from core.pipeline import tables
from core.pipeline.errors import PipelineError
from core.pipeline.schemas.data import REST, TAG, Data

import pandas as pd

LABELS_WITHOUT_IMAGE = "labels without an image"
LABEL_NAMES = re.compile(r"\b(labels?|class(es)?|diagnos[ie]s|pathology|target|malignan(t|cy)|cancer|truth|y)\b")
MOST_CLASSES = 50  # spellings of classes, so that columns of names are not searched
AGREEMENT = 0.7  # of a column and the labels, above which the column is one of labels: the share, or Cohen's kappa
CLASS_FOLDER = "class folder"
Tags = dict[str, dict[str, str]]  # of each DICOM file, the values of its tags
Faults = dict[str, list[str]]  # the names of the files of each Use, and of LABELS_WITHOUT_IMAGE


class _Names:
    """Finds the image for a name in a table: a path, or the end of a path if it is unique.

    Accents are equal in both forms of Unicode. ``mode``, which is data.alike, is for names of another normal form.
    """

    def __init__(self, images: Iterable[str], mode: str) -> None:
        self.mode, self.images = mode, list(images)
        self.by_path: dict[str, list[str]] = {}
        self.by_name: dict[str, list[str]] = {}
        for file in self.images:
            for names, key in ((self.by_path, _nfc(file)), (self.by_name, _nfc(file.rpartition("/")[2]))):
                names.setdefault(key, []).append(file)

    def match(self, names: Iterable[str]) -> dict[str, str]:
        """The image of each name that has one. Raises PipelineError for a name that fits several images, and, if
        data.alike is fail, for one that is alike that of an image without a name."""
        names = list(dict.fromkeys(names))
        files = {name: file for name in names if (file := self._find(name))}
        if self.mode == "keep" or len(files) == len(names):
            return files
        forms: dict[str, list[tuple[str, str]]] = {}
        for file in sorted({*self.images} - {*files.values()}):
            form = identity.path_form(file)
            forms.setdefault(form.rpartition("/")[2], []).append((f"/{form}", file))
        similar = {}
        for name in names:
            form = identity.path_form(_path(name))
            ends = [file for path, file in forms.get(form.rpartition("/")[2], []) if path.endswith(f"/{form}")]
            if ends and name not in files:
                similar[name] = self._only(name, ends) if self.mode == "join" else identity.visible([name, *ends])
        if similar and self.mode == "fail":
            raise PipelineError(messages.listing(messages.ALIKE_FILES, list(similar.values())))
        return files | similar

    def _find(self, name: str) -> str | None:
        path = _nfc(_path(name))
        files = self.by_path.get(path) or [
            file for file in self.by_name.get(path.rpartition("/")[2], []) if _nfc(file).endswith(f"/{path}")
        ]
        return _path(name) if _path(name) in files else self._only(name, files) if files else None

    def _only(self, name: str, files: list[str]) -> str:
        if len(files) > 1:
            raise PipelineError(messages.listing(messages.AMBIGUOUS_NAME, files, name=name))
        return files[0]


def _path(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def classes(
    images: list[str], table: Path | None, data: Data, tags: Tags, faults: Faults
) -> tuple[dict[str, str], pd.DataFrame | None]:
    """The class of each image that has one, and the rows of the table of labels, if there is one, with their file.

    The class is in ``table``, in the path (a pattern), in the DICOM ``tags`` of the file, or the name of the folder.
    Labels without an image, names that are twice in the table and labels that contradict are added to ``faults``.
    """
    names, rows = {file: Path(file).parent.name for file in images}, None
    if data.labels is not None and data.labels_are_pattern:
        names = _search(data.labels, "label", images)
    elif data.label_tag:
        names = _tag_values(data.label_tag, images, tags)
    elif data.labels is not None:
        rows = _match_labels(*_labelled_rows(table, data), images, data, faults)
        if data.label_column is not None:
            names = _cells(rows, "class")
    return _one_spelling(identity.present(names, data, data.named), data), rows


def _one_spelling(classes: dict[str, str], data: Data) -> dict[str, str]:
    """The classes, in one spelling with data.alike: join. Raises PipelineError if only spelling tells two apart, unless
    data names both on one side; with keep, only if data.negative takes what is alike a class that data names."""
    sides = [set(data.positives), set(data.negatives or [])]
    groups = [group for group in identity.alike(classes.values(), data.named) if not any(map({*group}.__le__, sides))]
    swallowed = [group for group in groups if data.negatives is None and group[0] in data.named]
    if data.alike == "keep" and any(not {*group} <= {*data.named} for group in swallowed):
        names = [identity.visible(group) for group in swallowed]
        raise PipelineError(messages.listing(messages.ALIKE_CLASSES, names, negative=data.negative))
    spelling = identity.spellings(groups, "data.labels", data.alike)
    return {file: spelling.get(name, name) for file, name in classes.items()}


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
    return {file: cell for file, cell in zip(rows["file"].tolist(), rows[column].tolist(), strict=True) if cell}


def _labelled_rows(table: Path | None, data: Data) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The columns of the table of labels that ``data`` names, and the others."""
    assert table is not None and data.labels is not None
    columns = {"name": (data.file_column, "data.file_column")}
    if data.label_column is not None:
        columns["class"] = data.label_column, "data.label_column"
    for level, name in data.levels().items():
        if data.kind(level) == "column":
            columns[level] = name, f"data.{level}"
    for group in data.grouping:
        if group.kind == "column":
            columns[tables.GROUP + group.name] = group.name, "data.groups"
    names = [field for name, _ in columns.values() for field in csv_tables.FIELDS.findall(name) or [name]]
    rows = csv_tables.read(table, names)
    cells = {name: _column(rows, *column, data.labels, data) for name, column in columns.items()}
    return pd.DataFrame(cells), rows.loc[:, [bool(name) and name not in names for name in rows.columns]]


def _column(rows: pd.DataFrame, name: str, key: str, path: str, data: Data) -> "pd.Series[str]":
    """A column, or the text that a format of several columns makes of each row: empty if a cell is missing."""
    parts: list[Any] = csv_tables.FIELDS.split(name)  # text, column, text, ...
    if len(parts) == 1:
        return csv_tables.column(rows, name, key, path, data.alike)
    for place in range(1, len(parts), 2):
        cells = csv_tables.column(rows, parts[place], f"{key}: {name}", path, data.alike)
        parts[place] = pd.Series(identity.present(cells.to_dict(), data), cells.index, dtype="string")
    return reduce(add, parts).fillna("")


def _match_labels(
    rows: pd.DataFrame, others: pd.DataFrame, images: list[str], data: Data, faults: Faults
) -> pd.DataFrame:
    """The rows of the table that are of an image, with their file."""
    files = _Names(images, data.alike).match(rows["name"].tolist())
    rows = rows.assign(file=rows["name"].map(files).astype("string"))
    faults[LABELS_WITHOUT_IMAGE] = sorted(rows.loc[rows["file"].isna(), "name"])
    rows = rows[rows["file"].notna()]
    if data.label_column is None:
        rows = rows.assign(**{"class": _folders(rows)})
    twice = rows[rows["file"].duplicated(keep=False)]
    wrong = _contradictions(rows, others, data)
    for file, cells in twice.drop(columns="name").groupby("file"):
        cells = cells.loc[:, [len({*map(identity.normal_form, cells[name])}) > 1 for name in cells.columns]]
        wrong |= {str(file): " / ".join(map(repr, cells[name])) for name in cells.columns}
    if wrong and data.on_bad_image == "fail":
        names = [f"{file} ({cells})" for file, cells in sorted(wrong.items())]
        raise PipelineError(messages.listing(messages.CONTRADICTING_ROWS, names, table=data.labels))
    faults[Use.CONTRADICTING] = sorted(wrong)
    faults[Use.TWICE] = sorted({*twice["file"]} - {*wrong})
    return rows.drop_duplicates("file")


def _contradictions(rows: pd.DataFrame, others: pd.DataFrame, data: Data) -> dict[str, str]:
    """The files whose class is another one in another column, and both cells.

    A column is one of classes if it has the same words, or, if its name says so (LABEL_NAMES), if each of its values is
    one class in most rows. The names of the folders are such a column, too.
    """
    wrong: dict[str, str] = {}

    def present(column: "pd.Series[str]") -> "pd.Series[str]":
        cells = {cell: cell for cell in column.dropna().unique()}
        return column.map(identity.present(cells, data, data.named)).dropna()

    label = present(rows["class"])
    words = {name: identity.normal_form(name) for name in label.unique()}
    columns = [(str(name), others.iloc[:, place]) for place, name in enumerate(others.columns)]
    for name, column in [*columns, (CLASS_FOLDER, _folders(rows))]:
        column = column.reindex(label.index)
        if not 1 < column.nunique() <= MOST_CLASSES:
            continue
        values = present(column)
        classes = label[values.index]
        forms = {value: identity.normal_form(value) for value in values.unique()}
        same = {*forms.values()} == {*words.values()} and not all(form.isdecimal() for form in forms.values())
        if same:
            expected, actual = classes.map(words), values.map(forms)
            chance = sum((expected == form).mean() * (actual == form).mean() for form in words.values())
            kappa = ((actual == expected).mean() - chance) / (1 - chance) if chance < 1 else 0.0
            if name != CLASS_FOLDER and kappa < AGREEMENT:  # of another column with these words, such as yes and no
                continue
        elif LABEL_NAMES.search(identity.normal_form(name)) and 1 < len(forms) == len(words):
            most = pd.crosstab(values, classes).idxmax(axis=1)
            expected, actual = classes, values.map(most)
            if not most.is_unique or (actual == expected).mean() < AGREEMENT:
                continue
        else:
            continue
        for row in values.index[actual != expected]:
            wrong.setdefault(str(rows.loc[row, "file"]), f"{label[row]!r}, but {name} {values[row]!r}")
    return wrong


def _folders(rows: pd.DataFrame) -> "pd.Series[str]":
    """The name of the folder of each file."""
    return rows["file"].str.extract("([^/]+)/[^/]*$", expand=False)


def patients_or_breasts(
    level: str, classes: dict[str, str], rows: pd.DataFrame | None, data: Data, tags: Tags, faults: Faults
) -> dict[str, str]:
    """The patient or the breast (``level``) of each image, empty if ``data`` does not name it. Images without one are
    added to ``faults``."""
    source = data.levels().get(level)
    if source is None:
        return {}
    match data.kind(level):
        case "pattern":
            names = _search(source, level, classes)
        case "tag":
            names = _tag_values(source.removeprefix(TAG), classes, tags)
        case _:
            names = {file: cell for file, cell in _cells(rows, level).items() if file in classes}
    names = identity.present(names, data)
    spelling = identity.spellings(identity.alike(names.values()), f"data.{level}", data.alike)
    faults[f"no {level}"] = sorted(set(classes) - set(names))
    return {file: spelling.get(name, name) for file, name in names.items()}


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
    return {name: identity.present(texts, data) for name, texts in values.items()}


def read_lists(table: pd.DataFrame, paths: dict[str, Path], data: Data) -> pd.DataFrame:
    """The split of each image in the user's lists, whose ``paths`` are given by key: the columns of tables.LISTED. A
    patient in a list means all images of the patient."""
    names = _Names(table["file"], data.alike)
    of_patient = {str(patient): list(files) for patient, files in table.groupby("patient")["file"]}
    rows: list[tuple[str, str]] = []
    for split, name in data.lists.paths().items():
        path = paths[f"data.lists.{split}"]
        if path.suffix.lower() in csv_tables.ENDINGS:
            cells = csv_tables.read(path, csv_tables.FIELDS.findall(data.file_column) or [data.file_column])
            entries = list(_column(cells, data.file_column, "data.file_column", name, data))
        else:
            entries = list(filter(None, map(identity.clean, csv_tables.read_text(path).split("\n"))))
        strangers = [entry for entry in dict.fromkeys(entries) if entry not in of_patient]
        files = names.match(strangers)
        others = [entry for entry in strangers if entry not in files]
        groups = [group for group in identity.alike(others, of_patient) if group[0] in of_patient] if others else []
        spelling = identity.spellings(groups, f"data.lists.{split}", data.alike)
        unknown, before = [], len(rows)
        for entry in dict.fromkeys(entries):
            matches = [files[entry]] if entry in files else of_patient.get(spelling.get(entry, entry), [])
            rows += [(file, split) for file in matches]
            if not matches:
                unknown.append(entry)
        if unknown and data.on_bad_image == "fail":
            template, total = messages.UNKNOWN_ENTRIES, len(entries)
            raise PipelineError(messages.listing(template, unknown, split=split, name=name, total=total))
        if len(rows) == before:
            raise PipelineError(messages.EMPTY_LIST.format(split=split, name=name))
    if data.lists.test == REST:
        rows += [(file, "test") for file in sorted({*table["file"]} - {file for file, _ in rows})]
    listed = pd.DataFrame(rows, columns=tables.LISTED).drop_duplicates().sort_values("file", kind="stable")
    twice = listed.loc[listed["file"].duplicated(), "file"]
    if len(twice):
        raise PipelineError(messages.listing(messages.IMAGES_IN_TWO_LISTS, list(twice.unique())))
    return listed
