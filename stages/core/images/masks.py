"""Find masks and annotation among images: by their names, and by images with few grey levels."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from core.images import decoder
from core.images.preparation import DecodeError

import numpy as np
from PIL import Image

# _LONG: also without a separator: img1mask
_LONG = r"masks?|masked|segmentations?|annotations?|ground[\W_]?truth|heatmaps?|thumbnails?|labelmaps?|segmaps?"
_SHORT = r"msk|seg|segm|segmented|gt|annot|annotated|contours?|outlines?|overlay|labels?(?![\W_]*\d)"
_SHORT += r"|lbl|anno|marked|delineation|boundary|bbox|rois?|binary|thumb|preview"
WORD = re.compile(rf"(?<![a-z])(?:{_LONG})|(?:{_LONG})(?![a-z])|(?<![a-z])(?:{_SHORT})(?![a-z])")
COUNTER = re.compile(r"(?<=\0)[\W_]*\d{1,2}$")  # after such a word: benign (1)_mask_1.png
PICTURE = {"image", "images", "img", "imgs", "im", "original", "originals", "orig", "input", "inputs", "photo", "scan"}
TAGS = ["Modality", "SeriesDescription"]  # of DICOM
FEW = 8  # grey levels or colours; a map of more labels than this looks like an image
JPEG_BITS = 0.2  # bits of a JPEG for each pixel of a mask, at most: a block of one level has 6 for 64 pixels
SIZE = {
    kind: re.compile(pattern, re.DOTALL)
    for kind, pattern in (("png", rb"IHDR(.{4})(.{4})"), ("jpeg", rb"\xff[\xc0-\xc2]\0[\x0b\x11]\x08(..)(..)"))
}
HEADER = 512  # bytes of a compressed file that are not pixels, at most
SAMPLE = 4096  # bytes of a file that is not compressed, at most
PLAIN = ("bmp", "netpbm", "tiff", "dicom", "dicom without preamble")  # kinds whose pixels are often not compressed


def by_name(files: list[str]) -> dict[str, str]:
    """The files whose name is another's with a word such as mask (a_mask.png, mask_a.png, masks/a.png), and why."""
    plain = [file for file in files if not WORD.search(file.casefold())]
    if len(plain) == len(files):
        return {}
    paths = {_tokens(_stem(file)) for file in plain}
    names = {_tokens(_stem(file).rpartition("/")[2]) for file in plain}
    masks = {}
    for file in sorted(set(files) - set(plain)):
        stem = WORD.sub("\0", _stem(file))
        folder, _, name = stem.rpartition("/")
        others = names if "\0" in folder else paths
        text = name if "\0" in folder else stem
        if any(key and key in others for key in (_tokens(text), _tokens(COUNTER.sub("", text)))):
            masks[file] = "another image has this name without mask"
    return masks


def by_tags(tags: dict[str, dict[str, str]]) -> dict[str, str]:
    """The DICOM files whose tags say that they are segmentations, and why."""
    return {
        file: "their tags say so"
        for file, values in tags.items()
        if values["Modality"] == "SEG" or WORD.search(values["SeriesDescription"].casefold())
    }


def by_pixels(base: Path, files: list[str], flat: list[str]) -> dict[str, str]:
    """The files of two grey levels, and those of few levels beside a sibling of the same size and more levels, and why.

    ``flat``: those of ``files``, the images below ``base``, that ``is_flat`` proposes.
    """
    by_stem: dict[str, list[str]] = {}
    for file in files if flat else []:
        by_stem.setdefault(PurePosixPath(file).stem, []).append(file)
    masks = {}
    for file in flat:
        levels, size = _levels(base / file)
        if levels == 2:
            masks[file] = "two grey levels"
        elif 2 < levels <= FEW and any(
            other_size == size and others > FEW
            for others, other_size in (_levels(base / sibling) for sibling in _siblings(file, by_stem))
        ):
            masks[file] = "few grey levels, and another image of this name and size"
    return masks


def pixels(kind: str, start: bytes) -> int:
    """The number of pixels, by the header of a PNG or JPEG; 0 if it is not known."""
    header = SIZE[kind].search(start) if kind in SIZE else None
    return int.from_bytes(header[1]) * int.from_bytes(header[2]) if header else 0


def is_flat(path: Path, kind: str, size: int, pixels: int) -> bool:
    """Whether the file can have few grey levels, by its size in bytes: without decoding it. ``pixels``: their number if
    it is known, otherwise 0."""
    if kind == "jpeg":
        return (size - HEADER) * 8 <= pixels * JPEG_BITS
    if kind in PLAIN:
        with path.open("rb") as file:
            file.seek(size * 7 // 8)  # after a palette, before a list of tags
            if len(set(file.read(min(SAMPLE, size // 16)))) <= 4:
                return True
    if not pixels and not kind.startswith("dicom"):
        try:
            with Image.open(path) as image:
                pixels = image.width * image.height
        except Exception:  # each decoder of Pillow raises its own errors
            return False
    return (size - HEADER) * 8 <= pixels


def _stem(file: str) -> str:
    return re.sub(r"\.[^./]*$", "", file).casefold()


def _tokens(text: str) -> tuple[str, ...]:
    return tuple(word for word in re.findall(r"[^\W\d_]+|\d+", text) if word not in PICTURE)


def _siblings(file: str, by_stem: dict[str, list[str]]) -> Iterator[str]:
    """Files of the same stem elsewhere, and files in this folder whose stem this one continues after a separator."""
    path = PurePosixPath(file)
    yield from (other for other in by_stem[path.stem] if other != file)
    for separator in re.finditer(r"[\W_]+", path.stem):
        stem = path.stem[: separator.start()]
        yield from (other for other in by_stem.get(stem, []) if PurePosixPath(other).parent == path.parent)


def _levels(path: Path) -> tuple[int, tuple[int, int]]:
    """The number of different pixels, FEW + 1 for more, and the size; 0 levels if the file can't be decoded."""
    content = path.read_bytes()
    for levels in (None, (0, 65535)):
        try:
            image, _, values = decoder.decode(content, levels)
        except DecodeError:
            continue
        if content[:2] == b"\xff\xd8":  # its two levels are spread a little by the compression
            shares = np.asarray(image.convert("L").histogram()) / (image.width * image.height)
            if min(shares[:32].sum(), shares[-32:].sum()) > 0 and shares[32:-32].sum() < 0.01:
                return 2, image.size
        colours = image.getcolors(FEW) if values is None else np.unique(values)
        return FEW + 1 if colours is None else min(len(colours), FEW + 1), image.size
    return 0, (0, 0)
