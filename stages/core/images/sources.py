"""Read images, labels and patients from any source into one form."""

import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from core.images import archives, phantom
from core.pipeline import files, tables, web
from core.pipeline.errors import Mistake, many, some
from core.pipeline.params import Data

IMAGES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif"}
PACKED = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"}
LOST = "labels without an image"
MOST_DOWNLOADED = 1 << 38  # bytes


class Raw(NamedTuple):
    """The content of a source. ``labels`` has the columns of tables.LABELS, sorted by file; ``listed`` has those of
    tables.LISTED; ``content`` returns the bytes of a file in ``labels``."""

    labels: pd.DataFrame
    listed: pd.DataFrame
    content: Callable[[str], bytes]
    provenance: dict[str, Any]


@contextmanager
def gather(data: Data, seed: int, root: Path) -> Iterator[Raw]:
    """Open the source that ``data`` describes. Relative locations are relative to ``root``.

    Raises Mistake for a missing source, no network, a wrong hash, an unsafe archive, or labels and images that do not
    match.
    """
    with files.scratch("data", "download") as scratch:  # not in /tmp, which is often small
        if data.source == "phantom":
            yield _phantom(data, seed, scratch)
            return
        assert data.location is not None  # checked by the schema
        local = root / Path(data.location).expanduser()
        if data.source == "kaggle":
            folder, known = _kaggle(data.location)
        elif data.source == "folder":
            folder, known = local, {}
            if not folder.is_dir():
                packed = ": it is a file; for an archive set data.source: archive" if folder.is_file() else ""
                raise Mistake(f"data.location: there is no folder {folder}{packed}")
        else:
            archive = local
            if "://" in data.location:
                archive = scratch / "archive"
                web.fetch(data.location, archive, MOST_DOWNLOADED)
            if not archive.is_file():
                raise Mistake(f"data.location: there is no archive {archive}")
            found = files.sha256(archive)
            if data.sha256 is not None and found != data.sha256:
                where = web.public(data.location)
                raise Mistake(
                    f"{where} has the sha256 {found}, but data.sha256 is {data.sha256}: it is a different file"
                )
            folder, known = scratch / "unpacked", {"sha256": found}
            folder.mkdir()
            archives.unpack(archive, folder)
        yield collect(folder, data, root, known)


def collect(folder: Path, data: Data, root: Path, known: dict[str, Any]) -> Raw:
    """Read labels, patients and lists of a folder, and match them with its images."""
    base = folder / data.within if data.within else folder
    if not base.is_dir():
        raise Mistake(f"data.within: there is no folder {data.within!r} in {data.location}")
    images, others = walk(base)
    if not images:
        packed = [file for file in others if Path(file).suffix.lower() in PACKED]
        inside = f"; it contains archives, unpack them first: {some(packed)}" if packed else ""
        raise Mistake(f"{data.location} contains no image ({', '.join(sorted(IMAGES))}){inside}")

    faults: dict[str, list[str]] = {}
    if data.labels is None:
        classes = {file: Path(file).parent.name for file in images}
        classes = {file: name for file, name in classes.items() if name}
        rows = None
    else:
        rows = _labelled_rows(base, folder, data, root)
        classes, rows = _match_labels(rows, images, data, faults)
    faults["images without a label"] = sorted(set(images) - set(classes))
    patients = _patients(classes, rows, data, faults)

    bad = {file for names in faults.values() for file in names}
    kept = sorted(set(classes) - bad)
    faults = {what: names for what, names in faults.items() if names}
    if faults and data.unusable == "fail":
        said = [f"{data.location}: {len(names):,} {what}: {some(names)}" for what, names in faults.items()]
        lost = set(faults.get(LOST, []))
        ends = sorted(Path(image).suffix for image in images if Path(image).stem in lost)
        if ends:
            said.append(f"{data.labels} gives file names without their extension: add {ends[0]} to them")
        raise Mistake("\n".join([*said, "Fix the source, or leave these images out: data.unusable: drop"]))
    table = pd.DataFrame(
        {
            "file": kept,
            "label": _binary({file: classes[file] for file in kept}, data),
            "patient": pd.array([patients.get(file) for file in kept], dtype="string"),
        }
    )
    known = {"licence": _licence(others, base)} | known
    dropped = {what: len(names) for what, names in faults.items()}
    provenance = _provenance(data, table, known, len(others), dropped)
    listed = _listed(table, base, folder, data, root)
    return Raw(table, listed, lambda file: (base / file).read_bytes(), provenance)


def _phantom(data: Data, seed: int, scratch: Path) -> Raw:
    made = data.phantom
    # Keep the images on disk until they are packed: large numbers of phantoms do not fit into memory.
    pixels = np.lib.format.open_memmap(scratch / "pixels.npy", "w+", np.uint8, (made.images, made.side, made.side, 3))
    files.reserve(scratch / "pixels.npy")
    drawn = []
    for row, patch in enumerate(phantom.draw(made.images, made.patients, made.side, seed)):
        pixels[row] = patch.pixels
        drawn.append((patch.name, patch.label, patch.patient))
    place = {name: row for row, (name, *_) in enumerate(drawn)}
    labels = tables.frame(sorted(drawn), tables.LABELS)

    def content(file: str) -> bytes:
        written = io.BytesIO()
        # BMP is not compressed. The bytes of a PNG would depend on the version of zlib.
        Image.fromarray(pixels[place[file]]).save(written, "BMP")
        return written.getvalue()

    licence = {"licence": "none: synthetic images, drawn by stages/core/images/phantom.py"}
    provenance = _provenance(data, labels, licence, other_files=0, dropped={})
    return Raw(labels, pd.DataFrame(columns=tables.LISTED), content, provenance)


def _provenance(
    data: Data, labels: pd.DataFrame, known: dict[str, Any], other_files: int, dropped: dict[str, int]
) -> dict[str, Any]:
    """The origin of the images; ``known`` can contain version, sha256 and licence."""
    counts = tables.counts(labels)
    return {
        "source": data.source,
        "synthetic": data.source == "phantom",
        "location": web.public(data.location) if data.location else None,
        "version": known.get("version"),
        "sha256": known.get("sha256"),
        "licence": known.get("licence"),
        "images": counts["images"],
        "positives": counts["positives"],
        "patients": counts["patients"],
        "other_files": other_files,
        "dropped": dropped,
    }


def _kaggle(location: str) -> tuple[Path, dict[str, Any]]:
    import kagglehub  # takes two seconds to import

    try:
        folder = Path(kagglehub.dataset_download(location))
    except Exception as error:  # kagglehub raises its own errors, and those of requests and urllib3
        reason = str(error).strip().partition("\n")[0].partition(" (Caused by")[0]
        raise Mistake(
            f"Kaggle's data set {location} can't be downloaded ({type(error).__name__}: {reason}). "
            "Without a network: download it elsewhere, and use data.source: archive"
        ) from None
    return folder, {"version": folder.name if folder.parent.name == "versions" else None}


def walk(base: Path) -> tuple[list[str], list[str]]:
    """Images and other files below ``base``, as sorted paths relative to it, with /."""
    images: list[str] = []
    others: list[str] = []
    inside = base.resolve()
    for at, folders, names in os.walk(base):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        for name in folders + names:
            path = Path(at, name)
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                raise Mistake(
                    f"{path} is a link to a file outside of {base}, which is not followed: copy the file there"
                )
        for name in names:
            if not name.startswith("."):
                file = Path(at, name).relative_to(base).as_posix()
                if not file.isprintable():  # bytes that are not UTF-8 become surrogates, which are not printable
                    raise Mistake(f"{base} contains a file whose name is not printable: {file!a}. Rename it")
                if not Path(at, name).is_file():
                    raise Mistake(f"{Path(at, name)} is not a regular file (a broken link, or a pipe). Remove it")
                (images if Path(name).suffix.lower() in IMAGES else others).append(file)
    return sorted(images), sorted(others)


def expand(paths: list[Path]) -> list[str]:
    """The given files, and the images below the given folders. Raises Mistake if there are none."""
    found: list[str] = []
    for path in paths:
        if path.is_dir():
            found += [(path / file).as_posix() for file in walk(path)[0]]
        elif path.is_file():
            found.append(path.as_posix())
        else:
            raise Mistake(f"there is no image or folder {path}")
    if not found:
        raise Mistake(f"there is no image in {some([str(path) for path in paths])} ({', '.join(sorted(IMAGES))})")
    return found


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
            raise Mistake(
                f"the name {name} matches {len(ends)} images: {some(ends)}. Give more of the path in the table"
            )
        return ends[0] if ends else None


def _table_path(name: str, key: str, base: Path, folder: Path, root: Path) -> Path:
    """The path of a table: inside the source, found by the end of its path, or elsewhere on this machine."""
    for inside in (base, folder):
        if (inside / name).is_file():
            return inside / name
        found = [file for file in walk(inside)[1] if file.endswith("/" + name)]
        if len(found) > 1:
            raise Mistake(f"{key}: the source contains {name} {len(found)} times: {some(found)}. Give more of its path")
        if found:
            return inside / found[0]
    if (root / name).is_file():
        return root / name
    tables_there = [file for file in walk(folder)[1] if file.lower().endswith((".csv", ".txt"))]
    known = f"; the source contains {some(tables_there)}" if tables_there else ""
    raise Mistake(f"{key}: {name} is neither in the source nor at {(root / name).resolve()}{known}")


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        rows = pd.read_csv(path, dtype="string", keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True)
    except (ValueError, pd.errors.ParserError) as error:  # UnicodeDecodeError is a ValueError
        raise Mistake(f"{path} can't be read as a CSV in UTF-8: {error}") from None
    if not isinstance(rows.index, pd.RangeIndex):  # pandas used the first column as row names, which shifts the others
        raise Mistake(f"{path}: rows have more cells than the header (is there a comma at the end of each row?)")
    rows.columns = [str(column).strip() for column in rows.columns]
    return rows


def _column(rows: pd.DataFrame, column: str, key: str, path: str) -> "pd.Series[str]":
    if column not in rows.columns:
        hint = ""
        if len(rows.columns) == 1 and re.search(r"[;\t]", rows.columns[0]):
            hint = ". Separate the columns with commas"
        elif key == "data.patient" and re.search(r"[()^*+\\]", column):
            hint = ". A pattern needs a group (?P<patient>...)"
        raise Mistake(f"{path} has no column {column!r} ({key}); it has {', '.join(map(repr, rows.columns))}{hint}")
    return rows[column].str.strip()


def _labelled_rows(base: Path, folder: Path, data: Data, root: Path) -> pd.DataFrame:
    assert data.labels is not None
    rows = _read_csv(_table_path(data.labels, "data.labels", base, folder, root))
    chosen = {
        "name": _column(rows, data.file_column, "data.file_column", data.labels),
        "class": _column(rows, data.label_column, "data.label_column", data.labels),
    }
    if data.patient is not None and not data.patient_is_pattern:
        chosen["patient"] = _column(rows, data.patient, "data.patient", data.labels)
    return pd.DataFrame(chosen)


def _match_labels(
    rows: pd.DataFrame, images: list[str], data: Data, faults: dict[str, list[str]]
) -> tuple[dict[str, str], pd.DataFrame]:
    """The class of each image that has a label in the table, and the rows of the table with their file."""
    names = _Names(images)
    rows = rows.assign(file=pd.array([names.find(name) for name in rows["name"]], dtype="string"))
    faults[LOST] = sorted(rows.loc[rows["file"].isna(), "name"])
    rows = rows[rows["file"].notna()]
    faults[f"names given twice in {data.labels}"] = sorted(set(rows.loc[rows["file"].duplicated(), "file"]))
    labelled = rows[rows["class"] != ""].drop_duplicates("file")
    return dict(zip(labelled["file"], labelled["class"], strict=True)), labelled


def _patients(
    classes: dict[str, str], rows: pd.DataFrame | None, data: Data, faults: dict[str, list[str]]
) -> dict[str, str]:
    if data.patient is None:
        return {}
    if data.patient_is_pattern:
        pattern = re.compile(data.patient)
        whole = "/" in data.patient
        matches = {file: pattern.search(file if whole else file.rpartition("/")[2]) for file in classes}
        found = {file: match["patient"] for file, match in matches.items() if match and match["patient"]}
    else:
        assert rows is not None
        found = {file: patient for file, patient in zip(rows["file"], rows["patient"], strict=True) if patient}
    faults[f"images without a patient (data.patient: {data.patient})"] = sorted(set(classes) - set(found))
    return found


def _binary(classes: dict[str, str], data: Data) -> list[int]:
    counts = pd.Series(list(classes.values()), dtype="string").value_counts()
    where = f"column {data.label_column!r} of {data.labels}" if data.labels else "the folders of the images"
    found = some([f"{name!r} ({many(int(count), 'image')})" for name, count in counts.items()], 8)
    if len(counts) != 2 or data.positive not in counts.index:
        hint = "" if data.labels else ". If the labels are in a table, set data.labels"
        if len(counts) > 2:
            rare = str(counts.index[-1])
            hint = f"; {rare!r}: {some([file for file, name in classes.items() if name == rare], 3)}{hint}"
        elif len({name.casefold() for name in (data.positive, *counts.index)}) == len(counts):
            hint = ". Upper and lower case differ"
        raise Mistake(
            f"{data.location}: {where} must contain two classes, one of them data.positive = {data.positive!r}; "
            f"found {found or 'none'}{hint}"
        )
    return [int(name == data.positive) for name in classes.values()]


def _listed(table: pd.DataFrame, base: Path, folder: Path, data: Data, root: Path) -> pd.DataFrame:
    """The part of each image in the user's lists. A patient in a list means all images of the patient."""
    names = _Names(list(table["file"]))
    of_patient = table.groupby("patient")["file"].apply(list).to_dict()
    rows: list[tuple[str, str]] = []
    for part, name in data.lists.given().items():
        path = _table_path(name, f"data.lists.{part}", base, folder, root)
        if path.suffix.lower() == ".csv":
            entries = list(_column(_read_csv(path), data.file_column, "data.file_column", name))
        else:
            try:
                lines = path.read_text(encoding="utf-8-sig").splitlines()
            except UnicodeDecodeError as error:
                raise Mistake(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None
            entries = [line.strip() for line in lines if line.strip()]
        unknown = []
        for entry in dict.fromkeys(entries):
            file = names.find(entry)
            found = [file] if file else of_patient.get(entry, [])
            rows += [(file, part) for file in found]
            if not found:
                unknown.append(entry)
        if unknown and data.unusable == "fail":
            raise Mistake(
                f"data.lists.{part}: {len(unknown):,} of {len(entries):,} entries of {name} are neither an image nor a "
                f"patient: {some(unknown)}. Fix the list, or ignore these entries: data.unusable: drop"
            )
    listed = pd.DataFrame(rows, columns=tables.LISTED).drop_duplicates().sort_values("file", kind="stable")
    twice = listed[listed["file"].duplicated(keep=False)]
    if len(twice):
        raise Mistake(
            f"data.lists: {twice['file'].nunique():,} images are in two lists: {some(list(twice['file'].unique()))}"
        )
    return listed


def _licence(others: list[str], base: Path) -> str | None:
    for file in others:
        if re.fullmatch(r"licen[cs]e(\.(txt|md))?", file, re.IGNORECASE):
            lines = (base / file).read_text(encoding="utf-8", errors="replace").split("\n")
            return next((line.strip() for line in lines if line.strip()), None)
    return None
