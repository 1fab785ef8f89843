"""What this package, and the stages download and prepare, say to people."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.pipeline.text import pluralise, shorten

if TYPE_CHECKING:
    from core.pipeline.schemas.data import Data

# Sources
NO_SUBDIR = "data.subdir: there is no folder {subdir!r} in {location}"
NO_ARCHIVE = "data.location: there is no archive {archive}"
WRONG_SHA256 = "{location} has the sha256 {actual}, but data.sha256 is {expected}: it is a different file"
UNKNOWN_TAG = "data.labels, data.patient, data.breast or data.groups: DICOM has no tag with the keyword {keyword!r}"
TOO_FEW_IMAGES = "{images} images are too few for {patients} patients: each needs 4 or more"
# Files and folders
LINK_OUTSIDE = (
    "{path} is a link out of the source, which is not followed: copy what it leads to, or leave it out (data.exclude)"
)
UNPRINTABLE_NAME = "{base} contains a file whose name is not printable: {file}. Rename it"
NOT_A_REGULAR_FILE = "{path} is not a regular file (a broken link, or a pipe). Remove it"
NO_IMAGE_OR_FOLDER = "there is no image or folder {path}"
WRONG_EXCLUDE = "data.exclude: {error}"
PACKED = ("zip", "tar", "gzip", "bzip2", "xz", "zstd", "7z", "rar")
_FAULTS = {  # by the use of a file in the inventory; a name in braces is a parameter of data, or the reason there
    "mask": "files that look like masks or annotation ({why})",
    "not supported": "files of the kind {why}, which can be images but can't be read",
    "damaged": "files whose name is that of an image, but not their content ({why})",
    "unreadable": "files that can't be read ({why})",
    "several frames": "files of several frames or pages "
    "(data.frames: first uses the first one, split makes an image of each)",
    "no image": "DICOM files without an image",
    "named twice": "names given twice in {labels}",
    "contradicting labels": "images with contradicting labels",
    "no label": "images without a label",
    "no patient": "images without a patient (data.patient: {patient})",
    "no breast": "images without a breast (data.breast: {breast})",
}
# Archives
NOT_AN_ARCHIVE = "{archive} is neither a zip nor a tar (gz, xz)"
DAMAGED_ARCHIVE = "{archive} is damaged: {error}"
DAMAGED_HEADER = "a member's {error}, or the archive is cut off there"
UNSAFE_PATH = "{archive}: the path {name!r} leaves the archive, so the archive is not used"
SYMBOLIC_LINK = "{archive}: {name} is a symbolic link, which is not followed"
SPECIAL_MEMBER = "{archive}: {name} is a symbolic link or a device, which is not followed"
LINK_TO_MISSING_MEMBER = "{archive}: {name} links to {target}, which is not in the archive before it"
ENCRYPTED_MEMBER = "{archive}: {name} is encrypted: use an archive without a password"
DUPLICATE_MEMBER = "{archive} contains {name} twice"
TOO_MANY_FILES = "{archive} contains more than {limit:,} files"
TOO_MANY_BYTES = "{archive} unpacks to more than the free disk space, or to more than 1 TiB"
TRUNCATED_HEADER = "it ends within a header"
WRONG_CRC = "Bad CRC-32 for file {name!r}"
NO_DIRECTORY = "it has no directory"
# Decoding
TOO_DEEP = "more than 8 bits a pixel ({mode}), where 8 are expected"
NOT_DEEP = "8 bits a pixel ({mode}), where more are expected"
OVERVIEW = "its page is a small copy of an image in another form, as in raw files of cameras: save that image as TIFF"
AFTER_THE_PIXELS = "something follows its pixels, such as a second image: split the file"
VOLUME = "a volume of {depth} planes in one page: write each plane to a file"
FLOAT_PIXELS = "floating-point pixels have no known range"
COLOUR_FOR_GREY_MODEL = "a colour image, but the model was trained on grey images"
# DICOM. The messages of what the header lacks are in provenance.json, and therefore in core.images.dicom.
NO_PIXELS = "a DICOM file without pixels"
SEVERAL_FRAMES = "{frames} frames in one file (data.frames: first or split)"
EMPTY_IMAGE = "an image of {width} x {height} pixels"
TOO_MANY_PIXELS = "an image of {width} x {height} pixels is too large"
DEEP_COLOUR = "colour of {bits} bits ({kind}), which is read only as RGB"
FRAMES_NOT_AT_BYTES = "its frames do not end at whole bytes"
WRONG_BITS = "the tags BitsStored ({stored}) and HighBit ({high}) do not fit BitsAllocated ({size})"
NO_VOI_WINDOW = "it has no VOI window (WindowCenter): set prepare.levels to percentiles"
OUT_OF_RANGE = "grey values from {low} to {high} are outside of {lowest} to {highest}"
_PLAIN = "or write patients as they are: data.dicom.patient: plain"
NO_KEY = (
    "data.patient is a DICOM tag, and is written as a keyed hash. Write a secret to a file outside of git "
    f"(openssl rand -hex 32 > ../patients.key) and set data.dicom.key to its path, {_PLAIN}"
)
EMPTY_KEY = f"data.dicom.key: {{path}} is missing or empty. Write a secret to it, {_PLAIN}"
_ANOTHER_KEY = "so that another key is noticed. With another key, every patient would get another name"
NO_KEY_CHECK = f"data.dicom.key_check is not set: set it to {{actual}}, {_ANOTHER_KEY}"
WRONG_KEY = f"data.dicom.key_check is {{expected}}, but the key there now has {{actual}}, {_ANOTHER_KEY}"
# Tables of labels, lists and groups. {n} and {names} are of ``listing``.
AMBIGUOUS_NAME = "the name {name} matches {n} images: {names}. Give more of the path in the table"
AMBIGUOUS_TABLE = "{key}: the source contains {name} {n} times: {names}. Give more of its path"
UNKNOWN_ENTRIES = (
    "data.lists.{split}: {n:,} of {total:,} entries of {name} are neither an image nor a patient: {names}. "
    "Fix the list, or ignore these entries: data.on_bad_image: drop"
)
EMPTY_LIST = "data.lists.{split}: no image of {name} is in the source"
IMAGES_IN_TWO_LISTS = "data.lists: {n:,} images are in two lists: {names}"
EDGES_WITHOUT_NUMBERS = "data.groups: {group} has edges, but {names} are no numbers"
WORDS_AMONG_NUMBERS = "data.groups: {group} is a number in most images, but {names} is none. Leave unknown cells empty"
NOT_TEXT = "{path} is {kind}, not a CSV, whatever its name says: save it as CSV (UTF-8)"
WRONG_ENCODING = "{path} is not {encoding}: line {line} has letters in another encoding. Save it as CSV (UTF-8)"
NUL_BYTES = "{path}, line {line}, has NUL bytes: it is damaged, or UTF-16 without a mark. Save it as CSV (UTF-8)"
LOST_LETTERS = "{path}: {cell!r} ({name}) has lost letters, by an earlier wrong encoding: save the table anew"
LOST_DIGITS = "{path}: {cell!r} ({name}) has lost digits in a spreadsheet: save the table anew, as text"
NOT_CSV = "{path}, line {line}, can't be read as a CSV: {error}. Is a quote missing?"
RAGGED_ROW = (
    "{path}, line {line}, has {cells} cells, but the header {columns} (separator {separator!r}). "
    "Remove a separator at the end of rows, and put quotes around cells that contain it"
)
NO_ROWS = "{path} can't be read as a CSV: it has no row below a header"
COLUMN_TWICE = (
    "{path} names a column twice: {names} ({key}). Rename one of them; where only spelling differs, data.alike: keep "
    "uses the one of the very name"
)
CONTRADICTING_ROWS = (
    "{table} contradicts itself in {n:,} images: {names}. Mend it, remove columns with the opinion of one of several "
    "readers, or leave these images out: data.on_bad_image: drop"
)
_JOIN_OR_KEEP = "Correct the source, or set data.alike to join (they are the same) or keep (they are different)"
ALIKE = f"{{key}}: {{n:,}} names are spelled in several ways: {{names}}. {_JOIN_OR_KEEP}"
ALIKE_FILES = f"{{n:,}} names of images differ from those of files in spelling alone: {{names}}. {_JOIN_OR_KEEP}"
ALIKE_CLASSES = (
    "data.negative: {negative} would take classes that are spelled like one that is named: {names}. Name each of them "
    "in data.positive or data.negative, or set data.alike to join"
)
GROUP_WITHOUT_VALUES = "data.groups: {name} has no value in any image"
GROUP_OF_ONE_LEVEL = "data.groups: {name} has one value, {level!r}: there is nothing to compare. Leave it out"
# The stages download and prepare
UNWATCHED_SOURCE = "DVC will not notice when the content of data.location changes: set data.watch to the same path"
NO_WATCHED_PATH = "data.watch: there is no file or folder {path}"
CHANGED_SOURCE = "{path} changed while it was read. Run it again when nothing is being copied"
IMAGE_NOT_IN_TABLE = "{table} does not list {name}, which {archive} has: dvc repro --force download"
DIFFERENT_IMAGES = "{archive} and {table} do not have the same images: dvc repro --force download"
UNDECODABLE_IMAGES = (
    "{n:,} of {total:,} images can't be decoded: {names}\n"
    "Fix them in the source, or leave them out: data.on_bad_image: drop"
)
NO_BREAST = "prepare.fit: no breast was found in {n:,} of {total:,} images, which are used whole: {names}"
LIKE_OPTION = "prepare as this file says, a preparation.json of other images"


def listing(template: str, names: list[str], most: int = 5, **values: object) -> str:
    """``template`` with the number of ``names`` and the first of them."""
    return template.format(n=len(names), names=shorten(names, most), **values)


def no_folder(folder: Path) -> str:
    hint = ": it is a file; name its folder, or for an archive set data.source: archive" if folder.is_file() else ""
    return f"data.location: there is no folder {folder}{hint}"


def _counted(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in numbers.items())


def no_images(location: str | None, kinds: Collection[str], left_out: Mapping[str, int]) -> str:
    hint = f"; left out: {_counted(left_out)}" if left_out else ""
    return f"{location} contains no image ({', '.join(sorted(kinds))}){hint}"


def no_images_in(paths: list[Path], kinds: Collection[str]) -> str:
    return f"there is no image in {shorten([str(path) for path in paths])} ({', '.join(sorted(kinds))})"


def bad_images(
    data: "Data",
    faults: Mapping[tuple[str, str], list[str]],
    patterns: Mapping[tuple[str, str], list[str]],
    missing: list[str],
    ending: str | None,
) -> str:
    """``faults``: the files of each use and reason; ``patterns``: those for data.exclude that match them; ``missing``:
    labels without an image; ``ending``: what the names in the table lack."""
    lines = []
    for (use, why), names in faults.items():
        levels = {
            level: f"{name}, a column of {data.labels}" if data.kind(level) == "column" else name
            for level, name in data.levels().items()
        }
        fault = _FAULTS[use].format(why=why, labels=data.labels, **levels)
        hint = ". Unpack them, or leave" if why in PACKED else ". Leave"
        hint = f"{hint} them out: data.exclude: {patterns[use, why]}" if (use, why) in patterns else ""
        keep = f", or keep them as images: {[f'!{name}' for name in patterns[use, why]]}" if use == "mask" else ""
        lines.append(f"{data.location}: {len(names):,} {fault}: {shorten(names)}{hint}{keep}")
    if missing:
        lines.append(f"{data.location}: {len(missing):,} labels without an image: {shorten(missing)}")
    if ending:
        lines.append(f"{data.labels} gives file names without their extension: add {ending} to them")
    if missing or any(use != "mask" for use, _ in faults):
        lines.append("Fix the source, or leave these images out: data.on_bad_image: drop")
    return "\n".join(lines)


def kaggle_failed(location: str, error: Exception) -> str:
    reason = str(error).strip().partition("\n")[0].partition(" (Caused by")[0]
    return (
        f"Kaggle's data set {location} can't be downloaded ({type(error).__name__}: {reason}). "
        "Without a network: download it elsewhere, and use data.source: archive"
    )


def decoder_failed(error: Exception) -> str:
    reason = "not an image" if "cannot identify" in str(error) else " ".join(str(error).split())
    return reason or type(error).__name__


def no_table(key: str, name: str, path: Path, tables: list[str]) -> str:
    hint = f"; the source contains {shorten(tables)}" if tables else ""
    return f"{key}: {name} is neither in the source nor at {path}{hint}"


def no_column(path: str, column: str, key: str, columns: list[str]) -> str:
    """``key``: the parameter, and, if it names several columns, its value."""
    hint = ""
    level = next((level for level in ("patient", "breast") if key.startswith(f"data.{level}")), None)
    if level and re.search(r"[()^*+\\]", key + column):
        hint = f". A pattern needs a group (?P<{level}>...)"
    return f"{path} has no column {column!r} ({key}); it has {', '.join(map(repr, columns))}{hint}"


def wrong_classes(data: "Data", classes: Mapping[str, str], counts: Mapping[str, int]) -> str:
    """``classes``: the class of each file; ``counts``: the number of files of each class, most frequent first."""
    listed = shorten([f"{name!r} ({pluralise(count, 'image')})" for name, count in counts.items()], 8)
    if data.labels_are_folders:
        where, hint = "the folders of the images", ". If the labels are in a table, set data.labels"
    elif data.labels_are_pattern or data.label_tag:
        where, hint = f"data.labels = {data.labels!r}", ""
    else:
        where, hint = f"column {data.label_column!r} of {data.labels}", ""
    rule = f"must contain each class that data.positive = {data.positive!r} and data.negative = {data.negative!r} name"
    if data.negative is None:
        rule = f"must contain two classes, one of them data.positive = {data.positive!r}"
    if data.negative is None and len(counts) > 2:
        rare = list(counts)[-1]
        hint = f"; {rare!r}: {shorten([file for file, name in classes.items() if name == rare], 3)}{hint}"
        hint += ". Of more classes, name those that are negative in data.negative: one, a list, or rest"
    return f"{data.location}: {where} {rule}; found {listed or 'none'}{hint}"


def too_many_levels(name: str, levels: list[str], patients: int, images: int) -> str:
    """``patients`` is 0 if they are unknown."""
    total = pluralise(patients, "patient") if patients else pluralise(images, "image")
    values = f"{len(levels):,} values for {total}, such as {shorten(levels, 2)}"
    return f"data.groups: {name} has {values}: a group needs several patients"


def fewer_files(path: Path, count: int, before: int) -> str:
    return (
        f"{path} has {pluralise(count, 'file')} of any kind, {before - count:,} fewer than when it was last read "
        "(dvc.lock). If they were removed on purpose: dvc repro --force download"
    )


def download_summary(provenance: Mapping[str, Any], without_level: Mapping[str, int]) -> str:
    """``provenance`` as in provenance.json; ``without_level``: the number of images without a value of each group."""
    patients = ", patients unknown" if provenance["patients"] is None else f" of {provenance['patients']:,} patients"
    synthetic = "SYNTHETIC " if provenance["synthetic"] else ""
    lines = [f"{provenance['images']:,} {synthetic}images{patients}, {provenance['positives']:,} positive"]
    left_out = provenance["left_out"]
    if left_out:
        lines.append(f"left out: {pluralise(sum(left_out.values()), 'file')} of {provenance['files']:,}")
        lines += [f"  {count:,} {reason}" for reason, count in left_out.items()]
    if provenance["other_files"]:
        lines.append(f"neither images nor tables: {_counted(provenance['other_files'])}")
    if provenance["labels_without_image"]:
        lines.append(f"labels without an image: {provenance['labels_without_image']:,}")
    if provenance["patients"] in (1, provenance["images"]):
        patients = "one patient" if provenance["patients"] == 1 else "as many patients as images"
        lines.append(f"There are {patients}: does data.patient name the patient? If it is unknown, set it to null")
    for name, count in without_level.items():
        if count:
            lines.append(f"{pluralise(count, 'image')} without a value of {name} are in no group of it")
    return "\n".join(lines)


def prepare_summary(shape: tuple[int, ...], nbytes: int, dropped: int, levels: tuple[float, float] | str | None) -> str:
    """``shape`` and ``nbytes`` of the array of images; ``levels``: the grey values that become black and white."""
    size = f"{' x '.join(map(str, shape))} (uint8, {nbytes / 1e6:,.0f} MB)"
    line = f"{shape[0]:,} images as {size}; {dropped:,} dropped"
    if isinstance(levels, tuple):
        line += f"\nMore than 8 bits: the grey values {levels[0]:,.6g} to {levels[1]:,.6g} are scaled to 0 to 255"
    return line
