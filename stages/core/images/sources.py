"""Read images, labels and patients from any source into one form."""

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from core.images import archives, dicom, frames, grouping, inventory, kinds, labels, messages, phantom
from core.images.inventory import IMAGES, Inventory, Use
from core.pipeline import addresses, files, tables, web
from core.pipeline.errors import PipelineError
from core.pipeline.schemas.data import Data

import numpy as np
import pandas as pd
from PIL import Image

MAX_DOWNLOAD = 1 << 38  # bytes


class Raw(NamedTuple):
    """The content of a source. Its tables are sorted by file."""

    inventory: pd.DataFrame  # tables.INVENTORY
    labels: pd.DataFrame  # tables.LABELS
    listed: pd.DataFrame  # tables.LISTED
    groups: pd.DataFrame  # the groups of each image; no row if data.groups is empty
    content: Callable[[str], bytes]  # the bytes of a file in labels; raises DecodeError
    provenance: dict[str, Any]
    without: Callable[[dict[str, str]], "Raw"] | None = None  # the same without files in labels that can't be read


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
            archives.check(archive)
            sha256 = files.sha256(archive)
            if data.sha256 is not None and sha256 != data.sha256:
                names = {"location": addresses.public(data.location), "actual": sha256, "expected": data.sha256}
                raise PipelineError(messages.WRONG_SHA256.format(**names))
            folder, origin = scratch / "unpacked", {"sha256": sha256}
            folder.mkdir()
            archives.unpack(archive, folder)
        yield collect(folder, data, root, origin)


def collect(folder: Path, data: Data, root: Path, origin: dict[str, Any], unreadable: Mapping[str, str] = {}) -> Raw:
    """Decide for each file of a folder what becomes of it, one rule after another, and read the labels and patients of
    its images. ``unreadable``: images that can't be read, and why."""
    if not (folder / (data.subdir or "")).is_dir():
        raise PipelineError(messages.NO_SUBDIR.format(subdir=data.subdir, location=data.location))
    stock = Inventory(folder, data.subdir)
    paths = {key: stock.find_table(name, key, root) for key, name in data.tables().items()}
    stock.leave_out(data.subdir, data.exclude)
    stock.refuse_odd()
    origin = {"licence": stock.find_licence()} | origin
    stock.by_kind()
    frame_counts, tags = stock.read_headers(data, unreadable)
    stock.find_masks(tags)
    images = stock.paths("")
    if not images:
        stock.refuse(data, [])
        raise PipelineError(messages.no_images(data.location, IMAGES, inventory.left_out(stock.rows)))

    faults: labels.Faults = {}
    classes, rows = labels.classes(images, paths.get("data.labels"), data, tags, faults)
    missing = faults.pop(labels.LABELS_WITHOUT_IMAGE, [])
    faults[Use.NO_LABEL] = sorted(set(images) - set(classes))
    used = {file: name for file, name in classes.items() if data.takes(name)}
    patients, breasts = (
        labels.patients_or_breasts(level, used, rows, data, tags, faults) for level in ("patient", "breast")
    )
    for use, names in faults.items():
        key = {Use.NO_PATIENT: "patient", Use.NO_BREAST: "breast"}.get(Use(use), "labels")
        value = getattr(data, key)
        stock.mark(names, Use(use), f"data.{key}: {value}" if value else "the name of its folder is no class")
    stock.refuse(data, missing)
    if data.patient_tag and data.dicom.patient == "hash":
        patients = dicom.pseudonyms(data.dicom.key, data.dicom.key_check, patients, root)
    good = set(stock.paths(""))
    classes = {file: name for file, name in classes.items() if file in good}
    label_of = labels.class_to_label(classes, data)
    stock.mark({file: name for file, name in classes.items() if name not in label_of}, Use.CLASS)
    stock.mark_images()

    kept = stock.paths(Use.IMAGE)
    entries = [(file, label_of[classes[file]], patients.get(file), classes[file]) for file in kept]
    table = pd.DataFrame(entries, columns=tables.LABELS).astype({"patient": "string"})
    if data.groups:
        table = grouping.table(table, labels.group_values(kept, rows, data, tags), data.grouping, data.alike)
    if data.breast:
        table[tables.BREAST] = table["file"].map(breasts).astype("string")
    split = frame_counts if data.frames == "split" else {}
    table = _split_frames(table, split).sort_values("file", ignore_index=True)
    provenance = _provenance(data, table, stock.rows, origin, len(missing))
    listed = labels.read_lists(table, paths, data)
    groups = table[["file", *tables.extras(table)]][: len(table) if data.groups or data.breast else 0]

    def place(name: str) -> tuple[str, int | None]:
        file, _, number = name.rpartition("#")
        return (file, int(number)) if file in split else (name, 1 if name in frame_counts else None)

    def content(name: str) -> bytes:
        file, frame = place(name)
        return _read_content(stock.base / file, frame)

    def without(reasons: dict[str, str]) -> Raw:
        return collect(folder, data, root, origin, {place(name)[0]: reason for name, reason in reasons.items()})

    return Raw(stock.table(), table[tables.LABELS], listed, groups, content, provenance, without)


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


def _read_content(path: Path, frame: int | None) -> bytes:
    """The bytes of an image, or of one of its frames; of a DICOM file, without the tags that it does not need. Raises
    DecodeError."""
    content = path.read_bytes()
    kind = kinds.kind(content)
    if kind in kinds.DICOM:
        return dicom.deidentify(content, frame)
    return frames.extract(content, kind, frame) if frame else content


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
    size = len(content(drawn[0][0]))
    drawn_files = tables.frame([(file, "bmp", size, Use.IMAGE.value, "") for file in table["file"]], tables.INVENTORY)
    provenance = _provenance(data, table, drawn_files, licence, 0)
    listed, groups = pd.DataFrame(columns=tables.LISTED), pd.DataFrame(columns=["file"])
    return Raw(drawn_files, table, listed, groups, content, provenance)


def _provenance(
    data: Data, table: pd.DataFrame, stock: pd.DataFrame, origin: dict[str, Any], missing: int
) -> dict[str, Any]:
    """The content of provenance.json. ``stock``: a row for each file; ``origin`` can contain version, sha256 and
    licence; ``missing``: the number of labels without an image."""
    counts = tables.counts(table)
    return {
        "source": data.source,
        "synthetic": data.source == "phantom",
        "location": addresses.public(data.location) if data.location else None,
        **{key: origin.get(key) for key in ("version", "sha256", "licence")},
        **{key: counts[key] for key in ("images", "positives", "patients")},
        "classes": dict(sorted(Counter(table["class"]).items())),
        "files": len(stock),
        "left_out": inventory.left_out(stock),
        "other_files": inventory.others(stock),
        "labels_without_image": missing,
    }


def _download_kaggle(location: str) -> tuple[Path, dict[str, Any]]:
    import kagglehub  # takes two seconds to import

    try:
        folder = Path(kagglehub.dataset_download(location))
    except Exception as error:  # kagglehub raises its own errors, and those of requests and urllib3
        raise PipelineError(messages.kaggle_failed(location, error)) from None
    return folder, {"version": folder.name if folder.parent.name == "versions" else None}
