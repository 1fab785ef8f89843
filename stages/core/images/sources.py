"""Read images, labels and patients from any source into one form."""

import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from core.images import archives, dicom, grouping, labels, messages, phantom
from core.images.folders import IMAGES, walk
from core.images.preparation import DecodeError
from core.pipeline import addresses, files, tables, web
from core.pipeline.errors import PipelineError
from core.pipeline.schemas.data import Data

import numpy as np
import pandas as pd
from PIL import Image

PACKED = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"}
MAX_DOWNLOAD = 1 << 38  # bytes


class Raw(NamedTuple):
    """The content of a source. Its tables are sorted by file."""

    labels: pd.DataFrame  # tables.LABELS
    listed: pd.DataFrame  # tables.LISTED
    groups: pd.DataFrame  # the groups of each image; no row if data.groups is empty
    content: Callable[[str], bytes]  # the bytes of a file in labels
    provenance: dict[str, Any]


@contextmanager
def open_source(data: Data, seed: int, root: Path) -> Iterator[Raw]:
    """Open the source that ``data`` describes, below ``root`` if its location is relative. Raises PipelineError for a
    missing source, no network, a wrong hash, an unsafe archive, or labels and images that do not match."""
    with files.scratch("data", "download") as scratch:  # not in /tmp, which is often small
        if data.source == "phantom":
            yield _draw_phantom(data, seed, scratch)
            return
        assert data.location is not None  # checked by the schema
        local = root / Path(data.location).expanduser()
        if data.source == "kaggle":
            folder, origin = _download_kaggle(data.location)
        elif data.source == "folder":
            folder, origin = local, {}
            if not folder.is_dir():
                raise PipelineError(messages.no_folder(folder))
        else:
            archive = local
            if "://" in data.location:
                archive = scratch / "archive"
                web.fetch(data.location, archive, MAX_DOWNLOAD)
            if not archive.is_file():
                raise PipelineError(messages.NO_ARCHIVE.format(archive=archive))
            sha256 = files.sha256(archive)
            if data.sha256 is not None and sha256 != data.sha256:
                names = {"location": addresses.public(data.location), "actual": sha256, "expected": data.sha256}
                raise PipelineError(messages.WRONG_SHA256.format(**names))
            folder, origin = scratch / "unpacked", {"sha256": sha256}
            folder.mkdir()
            archives.unpack(archive, folder)
        yield collect(folder, data, root, origin)


def collect(folder: Path, data: Data, root: Path, origin: dict[str, Any]) -> Raw:
    """Read labels, patients and lists of a folder, and match them with its images."""
    base = folder / data.subdir if data.subdir else folder
    if not base.is_dir():
        raise PipelineError(messages.NO_SUBDIR.format(subdir=data.subdir, location=data.location))
    images, others = walk(base)
    if not images:
        packed = [file for file in others if Path(file).suffix.lower() in PACKED]
        raise PipelineError(messages.no_images(data.location, IMAGES, packed))

    faults: labels.Faults = {}  # its keys are written to provenance.json, so they are not in the messages
    frames, tags = _read_headers(base, images, data, faults)
    unusable = {file for files in faults.values() for file in files}
    images = [file for file in images if file not in unusable]
    classes, rows = labels.classes(images, base, folder, data, root, tags, faults)
    faults["images without a label"] = sorted(set(images) - set(classes))
    used = {file: name for file, name in classes.items() if data.takes(name)}
    patients = labels.patients(used, rows, data, tags, faults)

    bad = {file for names in faults.values() for file in names}
    kept = sorted(set(used) - bad)
    faults = {what: names for what, names in faults.items() if names}
    if faults and data.on_bad_image == "fail":
        stems = set(faults.get(labels.LABELS_WITHOUT_IMAGE, []))
        extensions = sorted(Path(image).suffix for image in images if Path(image).stem in stems)
        raise PipelineError(messages.bad_images(data, faults, extensions[0] if extensions else None))
    if data.patient_tag and data.dicom.patient == "hash":
        patients = dicom.pseudonyms(data.dicom.key, data.dicom.key_check, patients, root)
    label_of = labels.class_to_label({file: name for file, name in classes.items() if file not in bad}, data)
    left_out = Counter(name for name in classes.values() if name not in label_of)
    entries = [(file, label_of[classes[file]], patients.get(file), classes[file]) for file in kept]
    table = pd.DataFrame(entries, columns=tables.LABELS).astype({"patient": "string"})
    if data.groups:
        table = grouping.table(table, labels.group_values(kept, rows, data, tags), data.grouping, data.alike)
    table = _split_frames(table, frames).sort_values("file", ignore_index=True)
    origin = {"licence": _find_licence(others, base)} | origin
    left = {"left_out": dict(sorted(left_out.items())), "other_files": len(others)}
    left["dropped"] = {what: len(names) for what, names in faults.items()}
    provenance = _provenance(data, table, origin, left)
    listed = labels.read_lists(table, base, folder, data, root)
    groups = table[["file", *tables.groups(table)]][: len(table) if data.groups else 0]
    return Raw(table[tables.LABELS], listed, groups, lambda file: _read_content(base, file, frames), provenance)


def _read_headers(
    base: Path, images: list[str], data: Data, faults: labels.Faults
) -> tuple[dict[str, int], labels.Tags]:
    """Of each DICOM file, the number of its frames, and the tags that ``data`` names. Those that are no image, or have
    several frames where that is not allowed, are added to ``faults``."""
    frames: dict[str, int] = {}
    tags: labels.Tags = {}
    several = "DICOM files of several frames (data.dicom.frames: split makes an image of each)"
    for file in images:
        if Path(file).suffix.lower() not in IMAGES:
            try:
                frames[file], tags[file] = dicom.read_header(base / file, data.tags())
            except DecodeError as reason:
                faults.setdefault(f"files that can't be read ({reason})", []).append(file)
    faults["DICOM files without an image"] = [file for file, count in frames.items() if not count]
    if data.dicom.frames == "fail":
        faults[several] = [file for file, count in frames.items() if count > 1]
    for name in data.tags():
        if not dicom.is_keyword(name):
            raise PipelineError(messages.UNKNOWN_TAG.format(keyword=name))
    return frames, tags


def _split_frames(table: pd.DataFrame, frames: dict[str, int]) -> pd.DataFrame:
    """One row for each frame instead of each file of several: FILE#0001, FILE#0002, ..."""
    counts = table["file"].map(frames).fillna(1).astype(int)
    if not (counts > 1).any():
        return table
    rows = table.loc[table.index.repeat(counts)]
    number = rows.groupby("file").cumcount() + 1
    several = counts.loc[rows.index] > 1
    frame_names = rows["file"] + [f"#{frame:04d}" for frame in number]
    return rows.assign(file=rows["file"].where(~several, frame_names)).reset_index(drop=True)


def _read_content(base: Path, file: str, frames: dict[str, int]) -> bytes:
    """The bytes of an image; of a DICOM file, without the tags that it does not need."""
    path, _, number = file.rpartition("#")
    try:
        if frames.get(path, 1) > 1 and file not in frames:
            return dicom.deidentify((base / path).read_bytes(), int(number))
        content = (base / file).read_bytes()
        return dicom.deidentify(content, None) if file in frames else content
    except DecodeError as reason:
        raise PipelineError(messages.UNDECODABLE_FILE.format(path=base / file, reason=reason)) from None


def _draw_phantom(data: Data, seed: int, scratch: Path) -> Raw:
    cfg = data.phantom
    # Keep the images on disk until they are packed: large numbers of phantoms do not fit into memory.
    pixels = np.lib.format.open_memmap(scratch / "pixels.npy", "w+", np.uint8, (cfg.images, cfg.side, cfg.side, 3))
    files.reserve(scratch / "pixels.npy")
    drawn = []
    for row, patch in enumerate(phantom.draw(cfg.images, cfg.patients, cfg.side, seed)):
        pixels[row] = patch.pixels
        drawn.append((patch.name, patch.label, patch.patient, str(patch.label)))
    place = {name: row for row, (name, *_) in enumerate(drawn)}
    table = tables.frame(sorted(drawn), tables.LABELS)

    def content(file: str) -> bytes:
        buffer = io.BytesIO()
        # BMP is not compressed. The bytes of a PNG would depend on the version of zlib.
        Image.fromarray(pixels[place[file]]).save(buffer, "BMP")
        return buffer.getvalue()

    licence = {"licence": "none: synthetic images, drawn by stages/core/images/phantom.py"}
    provenance = _provenance(data, table, licence, {"left_out": {}, "other_files": 0, "dropped": {}})
    return Raw(table, pd.DataFrame(columns=tables.LISTED), pd.DataFrame(columns=["file"]), content, provenance)


def _provenance(data: Data, table: pd.DataFrame, origin: dict[str, Any], left: dict[str, Any]) -> dict[str, Any]:
    """The content of provenance.json. ``origin`` can contain version, sha256 and licence; ``left`` has the number of
    images of each class that is neither positive nor negative, of other files, and of images with each fault."""
    counts = tables.counts(table)
    return {
        "source": data.source,
        "synthetic": data.source == "phantom",
        "location": addresses.public(data.location) if data.location else None,
        **{key: origin.get(key) for key in ("version", "sha256", "licence")},
        **{key: counts[key] for key in ("images", "positives", "patients")},
        "classes": dict(sorted(Counter(table["class"]).items())),
        **left,
    }


def _download_kaggle(location: str) -> tuple[Path, dict[str, Any]]:
    import kagglehub  # takes two seconds to import

    try:
        folder = Path(kagglehub.dataset_download(location))
    except Exception as error:  # kagglehub raises its own errors, and those of requests and urllib3
        raise PipelineError(messages.kaggle_failed(location, error)) from None
    return folder, {"version": folder.name if folder.parent.name == "versions" else None}


def _find_licence(others: list[str], base: Path) -> str | None:
    for file in others:
        if re.fullmatch(r"licen[cs]e(\.(txt|md))?", file, re.IGNORECASE):
            lines = (base / file).read_text(encoding="utf-8", errors="replace").split("\n")
            return next((line.strip() for line in lines if line.strip()), None)
    return None
