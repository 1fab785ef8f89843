"""Decode images of any format to 8-bit grey or RGB once, and compute what later stages need."""

import hashlib
import io
import struct
import time
import warnings
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from os import cpu_count
from pathlib import Path
from typing import NamedTuple, TypeVar

from core.images import deep, dicom, kinds, messages, preparation, properties
from core.images.preparation import PADDING, WINDOW, DecodeError, Levels, Preparation
from core.images.properties import Properties
from core.pipeline import files

import numpy as np
from PIL import Image, ImageOps

THUMBNAIL = 64  # pixels; the side of the square images that the audit compares
QUICK = 0.0005  # seconds per image; below this, threads mostly wait for Python's global lock
STRIP = 64  # rows that are compared at a time to see whether an image is grey
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can store
EXACT = {"i": "<i4", "f": "<f8"}  # the types of values that are hashed
HEADER = struct.Struct("<4s4xH4xI4xIHH")  # of a file in a zip: signature, method, CRC-32, size, lengths


class Picture(NamedTuple):
    """A decoded image. The hashes are hexadecimal."""

    pixels: np.ndarray  # uint8 (side, side, C), with C = 1 for grey and 3 for RGB; the thumbnail, too
    thumbnail: np.ndarray
    width: int  # of the file, as height and mode
    height: int
    mode: str
    bytes_sha256: str
    pixels_sha256: str
    properties: Properties
    crop: np.ndarray | None  # with prepare.fit: breast, a thumbnail of the breast's box, if a breast was found
    crop_share: float | None  # of the image's area


def pack(names: Iterable[str], content: Callable[[str], bytes], path: str | Path) -> dict[str, str]:
    """Write a zip with equal bytes for equal images: sorted names, a constant time, no compression.

    Returns the names for which ``content`` raised DecodeError, which are left out, and why.
    """
    failures = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(names):
            try:
                image = content(name)
            except DecodeError as reason:
                failures[name] = str(reason)
                continue
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3
            archive.writestr(entry, image)
    return failures


def contents(path: str | Path) -> Iterator[tuple[str, bytes]]:
    """The name and the bytes of each file in a zip that ``pack`` wrote, in its order. Raises zipfile.BadZipFile.

    zipfile would first read the directory at its end, which takes 6 GB of memory for ten million files.
    """
    with open(path, "rb") as archive:
        while (header := archive.read(HEADER.size))[:4] == b"PK\x03\x04":
            if len(header) < HEADER.size:
                raise zipfile.BadZipFile(messages.TRUNCATED_HEADER)
            _, method, crc, size, name_length, extra_length = HEADER.unpack(header)
            name = archive.read(name_length).decode()
            archive.seek(extra_length, 1)
            content = archive.read(size)
            if method != zipfile.ZIP_STORED or len(content) != size or zlib.crc32(content) != crc:
                raise zipfile.BadZipFile(messages.WRONG_CRC.format(name=name))
            yield name, content
        if header[:4] not in (b"PK\x01\x02", b"PK\x05\x06"):  # the directory, or the end of an empty zip
            raise zipfile.BadZipFile(messages.NO_DIRECTORY)


def decode(content: bytes, levels: Levels = None) -> tuple[Image.Image, str, np.ndarray | None]:
    """Decode an image file to 8-bit grey or RGB, upright.

    RGB with equal channels becomes grey. Transparency is dropped. Of an animation, only the first frame is used.

    Returns
    -------
    image : Pillow image of mode "L" or "RGB"
    mode : of the file
    values : (H, W) or (H, W, 3), int64 or float64, or None
        Those of an image of more than 8 bits, negated if low values are bright.

    Raises
    ------
    DecodeError
        If the file can't be decoded, or its depth is not that of ``levels``.
    """
    image, mode = _open_image(content, levels == WINDOW)
    if isinstance(image, np.ndarray):
        if not isinstance(levels, tuple):
            raise DecodeError(messages.TOO_DEEP.format(mode=mode))
        if mode.startswith(preparation.INVERTED):
            image, levels = np.where(image == PADDING, PADDING, -image), (-levels[1], -levels[0])
        return Image.fromarray(preparation.scale(image, levels)), mode, image
    if isinstance(levels, tuple):
        raise DecodeError(messages.NOT_DEEP.format(mode=mode))
    target = "L" if image.mode in ("1", "L", "LA") else "RGB"
    image = image if image.mode == target else image.convert(target)
    return image.getchannel(0) if target == "RGB" and _is_grey(image) else image, mode, None


def _is_grey(colour: Image.Image) -> bool:
    """Whether the channels are equal. Most colour images show in their first rows that they are not."""
    boxes = ((0, top, colour.width, min(top + STRIP, colour.height)) for top in range(0, colour.height, STRIP))
    strips = (np.asarray(colour.crop(box)) for box in boxes)
    return all((rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 0] == rgb[..., 2]).all() for rgb in strips)


def _open_image(content: bytes, window: bool) -> tuple[Image.Image | np.ndarray, str]:
    """The image, or the values of one of more than 8 bits, int64 or float64, and its mode. Raises DecodeError."""
    kind = kinds.kind(content)
    if kind in kinds.DICOM:
        values, mode = dicom.decode(content, window)
    else:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow warns above 89 megapixels and refuses above twice that
                values, mode = deep.read(content, kind) or _open_shallow(content)
        except DecodeError:
            raise
        except Exception as error:  # each decoder raises its own errors
            raise DecodeError(messages.decoder_failed(error)) from None
    if isinstance(values, np.ndarray):
        preparation.check_range(values)
    return values, mode


def _open_shallow(content: bytes) -> tuple[Image.Image, str]:
    image: Image.Image = Image.open(io.BytesIO(content))
    mode = image.mode
    if mode == "F":
        raise DecodeError(messages.FLOAT_PIXELS)
    image = ImageOps.exif_transpose(image)
    image.load()
    return image, mode


def grey_histogram(content: bytes, spec: Preparation) -> preparation.Count | None:
    """How often each value of an image of more than 8 bits occurs, or None if it has 8 bits. Raises DecodeError.
    ``spec`` is not used: the signature is that of ``picture``."""
    image, mode = _open_image(content, window=False)
    return preparation.Count.of(image, mode) if isinstance(image, np.ndarray) else None


def grey_levels(images: np.ndarray) -> np.ndarray:
    """Images as grey, with the weights of Pillow (ITU-R BT.601).

    Parameters
    ----------
    images : (N, H, W, 1 or 3) uint8

    Returns
    -------
    (N, H, W) uint8
    """
    if images.shape[-1] == 1 or not images.size:
        return images[..., 0]
    count, height, width, channels = images.shape
    column = Image.fromarray(images.reshape(count * height, width, channels))  # one call for all images
    return np.asarray(column.convert("L")).reshape(count, height, width)


class Grey:
    """Stacks of images, one after another; indexing gives them as grey (n, H, W) uint8.

    Parameters
    ----------
    stacks : (N, H, W, 1 or 3) uint8, for example memory maps
    """

    def __init__(self, *stacks: np.ndarray) -> None:
        self.stacks = stacks

    def __len__(self) -> int:
        return sum(len(stack) for stack in self.stacks)

    def __getitem__(self, rows: "slice | np.ndarray") -> np.ndarray:
        if len(self.stacks) == 1:
            return grey_levels(np.asarray(self.stacks[0][rows]))
        indices = np.arange(len(self))[rows]
        grey, start = np.empty((len(indices), *self.stacks[0].shape[1:3]), np.uint8), 0
        for stack in self.stacks:
            in_stack = np.flatnonzero((indices >= start) & (indices < start + len(stack)))
            grey[in_stack] = grey_levels(np.asarray(stack[indices[in_stack] - start]))
            start += len(stack)
        return grey


def picture(content: bytes, spec: Preparation) -> Picture:
    """Decode an image file to pixels, thumbnail, size, mode and hashes. Raises DecodeError."""
    image, mode, values = decode(content, spec.levels)
    # Different 12-bit images can be equal after scaling, so compare them at full depth.
    exact = np.ascontiguousarray(image) if values is None else values.astype(EXACT[values.dtype.kind])
    digest = hashlib.sha256(f"{image.mode} {image.width} {image.height} ".encode())
    digest.update(exact.data)
    squares = preparation.square(image, spec.side, spec.fit), preparation.square(image, THUMBNAIL)
    box, share = preparation.crop_to_breast(image) if spec.fit == "breast" else (image, None)
    crop = None if share is None else preparation.square(box, THUMBNAIL)
    hashes = hashlib.sha256(content).hexdigest(), digest.hexdigest()
    measured = properties.measure(content, image, exact)
    return Picture(*squares, image.width, image.height, mode, *hashes, measured, crop, share)


def pixels(content: bytes, spec: Preparation) -> np.ndarray:
    """Decode an image file.

    Returns
    -------
    (side, side, 1 or 3) uint8

    Raises
    ------
    DecodeError
    """
    return preparation.square(decode(content, spec.levels)[0], spec.side, spec.fit)


def fit_into(target: np.ndarray, image: np.ndarray | DecodeError) -> str:
    """Copy an image to ``target``. Return "", or why that is not possible.

    Parameters
    ----------
    target : (side, side, C) uint8
    image : (side, side, 1 or 3) uint8, or the DecodeError instead of it
    """
    if isinstance(image, DecodeError):
        return str(image)
    if image.shape[-1] > target.shape[-1]:
        return messages.COLOUR_FOR_GREY_MODEL
    target[:] = image  # grey is broadcast over three channels
    return ""


Name = TypeVar("Name")
Result = TypeVar("Result")


def decode_all(
    names: Iterable[Name],
    read: Callable[[Name], bytes],
    convert: Callable[[bytes, Preparation], Result],
    spec: Preparation,
) -> Iterator[Result | DecodeError]:
    """Decode images on all cores, in bounded memory.

    Yields ``convert(read(name), spec)`` for each name, in order, or the DecodeError that it raised; ``convert`` is
    ``picture``, ``pixels`` or ``grey_histogram``. An OSError of ``read`` becomes a DecodeError.
    """

    def decode_one(name: Name) -> Result | DecodeError:
        try:
            return convert(read(name), spec)
        except DecodeError as reason:
            return reason
        except OSError as error:
            return DecodeError(error.strerror or str(error))

    def decode_chunk(chunk: list[Name]) -> list[Result | DecodeError]:
        return [decode_one(name) for name in chunk]

    cores = cpu_count() or 1
    size = max(1, min(64, 2**20 // spec.side**2))
    remaining = iter(names)
    chunks = iter(lambda: list(islice(remaining, size)), [])
    for chunk in chunks:
        start = time.perf_counter()
        yield from (results := decode_chunk(chunk))
        if time.perf_counter() - start > QUICK * len(results):
            break
    futures: deque[Future[list[Result | DecodeError]]] = deque()
    with ThreadPoolExecutor(cores) as pool:
        for chunk in chunks:
            futures.append(pool.submit(decode_chunk, chunk))
            if len(futures) > 2 * cores:
                yield from futures.popleft().result()
        while futures:
            yield from futures.popleft().result()


def decode_packed(
    path: str, convert: Callable[[bytes, Preparation], Result], spec: Preparation
) -> Iterator[tuple[str, Result | DecodeError]]:
    """The name of each file in a zip that ``pack`` wrote, and its decoded image, as from ``decode_all``."""
    names: deque[str] = deque()

    def read(packed: Path) -> Iterator[bytes]:
        for name, content in contents(packed):
            names.append(name)
            yield content

    with files.undamaged(path, zipfile.BadZipFile, UnicodeDecodeError) as packed:
        for result in decode_all(read(packed), bytes, convert, spec):
            yield names.popleft(), result


class Stack:
    """Writes images of one size to a .npy file: uint8 (N, side, side, C); the first colour image changes C from 1 to
    3."""

    def __init__(self, path: Path, capacity: int, side: int) -> None:
        self.path, self.side, self.count = path, side, 0
        self.array = self._create(path, capacity, 1)

    def _create(self, path: Path, capacity: int, channels: int) -> np.memmap:
        array = np.lib.format.open_memmap(path, "w+", np.uint8, (capacity, self.side, self.side, channels))
        files.reserve(path)
        return array

    def add(self, pixels: np.ndarray) -> None:
        """Append an image.

        Parameters
        ----------
        pixels : (side, side, 1 or 3) uint8, or (1, 1, 1) for an image of one colour
        """
        if pixels.shape[-1] > self.array.shape[-1]:
            self._resize(len(self.array), 3)
        self.array[self.count] = pixels  # grey is broadcast over three channels
        self.count += 1

    def finish(self) -> None:
        """Shrink the file to the images that were added."""
        if self.count < len(self.array):
            self._resize(self.count, self.array.shape[-1])
        self.array.flush()

    def _resize(self, capacity: int, channels: int) -> None:
        old, path = self.array, self.path.with_suffix(".wider.npy")
        self.array = self._create(path, capacity, channels)
        self.array[: self.count] = old[: self.count]
        path.replace(self.path)
