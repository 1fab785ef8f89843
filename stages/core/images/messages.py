"""What this package, and the stages download and prepare, say to people."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.pipeline.text import pluralise, shorten

if TYPE_CHECKING:
    from core.pipeline.schemas.data import Data

PLAIN = "or write patients as they are: data.dicom.patient: plain"


# Sources


def no_folder(folder: Path, is_file: bool) -> str:
    hint = ": it is a file; for an archive set data.source: archive" if is_file else ""
    return f"data.location: there is no folder {folder}{hint}"


def no_subdir(subdir: str | None, location: str | None) -> str:
    return f"data.subdir: there is no folder {subdir!r} in {location}"


def no_archive(archive: Path) -> str:
    return f"data.location: there is no archive {archive}"


def wrong_sha256(location: str, actual: str, expected: str) -> str:
    return f"{location} has the sha256 {actual}, but data.sha256 is {expected}: it is a different file"


def no_images(location: str | None, extensions: Collection[str], archives: list[str]) -> str:
    hint = f"; it contains archives, unpack them first: {shorten(archives)}" if archives else ""
    return f"{location} contains no image ({', '.join(sorted(extensions))}){hint}"


def bad_images(data: "Data", faults: Mapping[str, list[str]], extension: str | None) -> str:
    """``faults``: the names of the files with each fault; ``extension``: what the names in the table lack."""
    lines = [f"{data.location}: {len(names):,} {fault}: {shorten(names)}" for fault, names in faults.items()]
    if extension:
        lines.append(f"{data.labels} gives file names without their extension: add {extension} to them")
    return "\n".join([*lines, "Fix the source, or leave these images out: data.on_bad_image: drop"])


def unknown_tag(keyword: str) -> str:
    return f"data.labels, data.patient or data.groups: DICOM has no tag with the keyword {keyword!r}"


def undecodable_file(path: Path, reason: Exception) -> str:
    return f"{path}: {reason}. Remove the file from the source"


def kaggle_failed(location: str, error: Exception) -> str:
    reason = str(error).strip().partition("\n")[0].partition(" (Caused by")[0]
    return (
        f"Kaggle's data set {location} can't be downloaded ({type(error).__name__}: {reason}). "
        "Without a network: download it elsewhere, and use data.source: archive"
    )


def too_few_images(images: int, patients: int) -> str:
    return f"{images} images are too few for {patients} patients: each needs 4 or more"


# Files and folders


def link_outside(path: Path, base: Path) -> str:
    return f"{path} is a link to a file outside of {base}, which is not followed: copy the file there"


def unprintable_name(base: Path, file: str) -> str:
    return f"{base} contains a file whose name is not printable: {file!a}. Rename it"


def not_a_regular_file(path: Path) -> str:
    return f"{path} is not a regular file (a broken link, or a pipe). Remove it"


def no_image_or_folder(path: Path) -> str:
    return f"there is no image or folder {path}"


def no_images_in(paths: list[Path], extensions: Collection[str]) -> str:
    return f"there is no image in {shorten([str(path) for path in paths])} ({', '.join(sorted(extensions))})"


# Archives


def not_an_archive(archive: Path) -> str:
    return f"{archive} is neither a zip nor a tar (gz, xz)"


def damaged_archive(archive: Path, error: Exception) -> str:
    return f"{archive} is damaged: {error}"


def damaged_header(error: Exception) -> str:
    return f"a member's {error}, or the archive is cut off there"


def unsafe_path(archive: Path, name: str) -> str:
    return f"{archive}: the path {name!r} leaves the archive, so the archive is not used"


def symbolic_link(archive: Path, name: str) -> str:
    return f"{archive}: {name} is a symbolic link, which is not followed"


def special_member(archive: Path, name: str) -> str:
    return f"{archive}: {name} is a symbolic link or a device, which is not followed"


def link_to_missing_member(archive: Path, name: str, target: str) -> str:
    return f"{archive}: {name} links to {target}, which is not in the archive before it"


def encrypted_member(archive: Path, name: str) -> str:
    return f"{archive}: {name} is encrypted: use an archive without a password"


def duplicate_member(archive: Path, name: str) -> str:
    return f"{archive} contains {name} twice"


def too_many_files(archive: Path, limit: int) -> str:
    return f"{archive} contains more than {limit:,} files"


def too_many_bytes(archive: Path) -> str:
    return f"{archive} unpacks to more than the free disk space, or to more than 1 TiB"


def truncated_header() -> str:
    return "it ends within a header"


def wrong_crc(name: str) -> str:
    return f"Bad CRC-32 for file {name!r}"


def no_directory() -> str:
    return "it has no directory"


# Decoding


def decoder_failed(error: Exception) -> str:
    reason = "not an image" if "cannot identify" in str(error) else " ".join(str(error).split())
    return reason or type(error).__name__


def wrong_depth(mode: str, deep: bool) -> str:
    depth, expected = ("more than 8 bits", "8") if deep else ("8 bits", "more")
    return f"{depth} a pixel ({mode}), where {expected} are expected"


def float_pixels() -> str:
    return "floating-point pixels have no known range"


def more_than_16_bits(low: int, high: int) -> str:
    return f"grey values from {low} to {high} don't fit into 16 bits"


def colour_for_grey_model() -> str:
    return "a colour image, but the model was trained on grey images"


# DICOM. The messages of what the header lacks are in provenance.json, and therefore in core.images.dicom.


def no_pixels() -> str:
    return "a DICOM file without pixels"


def several_frames(frames: Any) -> str:
    return f"{frames} frames in one file (data.dicom.frames: split)"


def empty_image(width: Any, height: Any) -> str:
    return f"an image of {width} x {height} pixels"


def too_many_pixels(width: Any, height: Any) -> str:
    return f"an image of {width} x {height} pixels is too large"


def deep_colour(bits: int) -> str:
    return f"colour of {bits} bits"


def frames_not_at_bytes() -> str:
    return "its frames do not end at whole bytes"


def no_voi_window() -> str:
    return "it has no VOI window (WindowCenter): set prepare.levels to percentiles"


def out_of_range(low: int, high: int, lowest: int, highest: int) -> str:
    return f"grey values from {low} to {high} are outside of {lowest} to {highest}"


def no_key() -> str:
    return (
        "data.patient is a DICOM tag, and is written as a keyed hash. Write a secret to a file outside of git "
        f"(openssl rand -hex 32 > ../patients.key) and set data.dicom.key to its path, {PLAIN}"
    )


def empty_key(path: Path) -> str:
    return f"data.dicom.key: {path} is missing or empty. Write a secret to it, {PLAIN}"


def wrong_key(expected: str | None, actual: str) -> str:
    difference = "is not set: set it to" if expected is None else f"is {expected}, but the key there now has"
    return (
        f"data.dicom.key_check {difference} {actual}, so that another key is noticed. With another key, every patient "
        "would get another name"
    )


# Tables of labels, lists and groups


def ambiguous_name(name: str, files: list[str]) -> str:
    return f"the name {name} matches {len(files)} images: {shorten(files)}. Give more of the path in the table"


def ambiguous_table(key: str, name: str, files: list[str]) -> str:
    return f"{key}: the source contains {name} {len(files)} times: {shorten(files)}. Give more of its path"


def no_table(key: str, name: str, path: Path, tables: list[str]) -> str:
    hint = f"; the source contains {shorten(tables)}" if tables else ""
    return f"{key}: {name} is neither in the source nor at {path}{hint}"


def not_csv(path: Path, error: Exception) -> str:
    return f"{path} can't be read as a CSV in UTF-8: {error}"


def too_many_cells(path: Path) -> str:
    return f"{path}: rows have more cells than the header (is there a comma at the end of each row?)"


def no_column(path: str, column: str, key: str, columns: list[str]) -> str:
    hint = ""
    if len(columns) == 1 and re.search(r"[;\t]", columns[0]):
        hint = ". Separate the columns with commas"
    elif key == "data.patient" and re.search(r"[()^*+\\]", column):
        hint = ". A pattern needs a group (?P<patient>...)"
    return f"{path} has no column {column!r} ({key}); it has {', '.join(map(repr, columns))}{hint}"


def wrong_classes(data: "Data", classes: Mapping[str, str], counts: Mapping[str, int]) -> str:
    """``classes``: the class of each file; ``counts``: the number of files of each class, most frequent first."""
    listed = shorten([f"{name!r} ({pluralise(count, 'image')})" for name, count in counts.items()], 8)
    if data.labels is None:
        where, hint = "the folders of the images", ". If the labels are in a table, set data.labels"
    elif data.labels_are_pattern or data.label_tag:
        where, hint = f"data.labels = {data.labels!r}", ""
    else:
        where, hint = f"column {data.label_column!r} of {data.labels}", ""
    named = [*data.positives, *(data.negatives or [])]
    if data.negative is None and len(counts) > 2:
        rare = list(counts)[-1]
        hint = f"; {rare!r}: {shorten([file for file, name in classes.items() if name == rare], 3)}{hint}"
        hint += ". Of more classes, name those that are negative in data.negative: one, a list, or rest"
    elif len({name.casefold() for name in (*named, *counts)}) < len({*named, *counts}):
        hint = ". Upper and lower case differ"
    positive = f"data.positive = {data.positive!r}"
    if data.negative is None:
        rule = f"must contain two classes, one of them {positive}"
    else:
        rule = f"must contain each class that {positive} and data.negative = {data.negative!r} name"
    return f"{data.location}: {where} {rule}; found {listed or 'none'}{hint}"


def unknown_entries(split: str, name: str, unknown: list[str], total: int) -> str:
    return (
        f"data.lists.{split}: {len(unknown):,} of {total:,} entries of {name} are neither an image nor a "
        f"patient: {shorten(unknown)}. Fix the list, or ignore these entries: data.on_bad_image: drop"
    )


def images_in_two_lists(files: list[str]) -> str:
    return f"data.lists: {len(files):,} images are in two lists: {shorten(files)}"


def group_without_values(name: str) -> str:
    return f"data.groups: {name} has no value in any image"


def edges_without_numbers(name: str, words: list[str]) -> str:
    return f"data.groups: {name} has edges, but {shorten([repr(word) for word in words], 3)} are no numbers"


def words_among_numbers(name: str, words: list[str]) -> str:
    return (
        f"data.groups: {name} is a number in most images, but {shorten([repr(word) for word in words], 3)} is none. "
        "Leave unknown cells empty"
    )


def group_of_one_level(name: str, level: str) -> str:
    return f"data.groups: {name} has one value, {level!r}: there is nothing to compare. Leave it out"


def too_many_levels(name: str, levels: list[str], patients: int, images: int) -> str:
    """``patients`` is 0 if they are unknown."""
    total = pluralise(patients, "patient") if patients else pluralise(images, "image")
    return (
        f"data.groups: {name} has {len(levels):,} values for {total}, such as {shorten(levels, 2)}: a group needs "
        "several patients"
    )


# The stage download


def unwatched_source() -> str:
    return "DVC will not notice when the content of data.location changes: set data.watch to the same path"


def no_watched_path(path: Path) -> str:
    return f"data.watch: there is no file or folder {path}"


def fewer_files(path: Path, count: int, before: int) -> str:
    return (
        f"{path} has {pluralise(count, 'file')} of any kind, {before - count:,} fewer than when it was last read "
        "(dvc.lock). If they were removed on purpose: dvc repro --force download"
    )


def changed_source(path: Path) -> str:
    return f"{path} changed while it was read. Run it again when nothing is being copied"


def download_summary(provenance: Mapping[str, Any], without_level: Mapping[str, int]) -> str:
    """``provenance`` as in provenance.json; ``without_level``: the number of images without a value of each group."""
    patients = (
        f" of {provenance['patients']:,} patients" if provenance["patients"] is not None else ", patients unknown"
    )
    images = f"{provenance['images']:,} {'SYNTHETIC ' if provenance['synthetic'] else ''}images"
    lines = [f"{images}{patients}, {provenance['positives']:,} positive"]
    lines += [
        f"left out: {pluralise(count, 'image')} of the class {name!r}, which is neither positive nor negative"
        for name, count in provenance["left_out"].items()
    ]
    lines += [f"dropped: {count:,} {fault}" for fault, count in provenance["dropped"].items()]
    lines += [
        f"{pluralise(count, 'image')} without a value of {name} are in no group of it"
        for name, count in without_level.items()
        if count
    ]
    return "\n".join(lines)


# The stage prepare


def image_not_in_table(table: str, name: str, archive: str) -> str:
    return f"{table} does not list {name}, which {archive} has: dvc repro --force download"


def different_images(archive: str, table: str) -> str:
    return f"{archive} and {table} do not have the same images: dvc repro --force download"


def undecodable_images(reasons: list[str], total: int) -> str:
    return (
        f"{len(reasons):,} of {total:,} images can't be decoded: {shorten(reasons)}\n"
        "Fix them in the source, or leave them out: data.on_bad_image: drop"
    )


def prepare_summary(shape: tuple[int, ...], nbytes: int, dropped: int, levels: tuple[int, int] | str | None) -> str:
    """``shape`` and ``nbytes`` of the array of images; ``levels``: the grey values that become black and white."""
    size = f"{' x '.join(map(str, shape))} (uint8, {nbytes / 1e6:,.0f} MB)"
    line = f"{shape[0]:,} images as {size}; {dropped:,} dropped"
    if isinstance(levels, tuple):
        line += f"\nMore than 8 bits: the grey values {levels[0]:,} to {levels[1]:,} are scaled to 0 to 255"
    return line


def like_option() -> str:
    return "prepare as this file says, a preparation.json of other images"
