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

from core.images import dicom, messages, preparation
from core.images.preparation import WINDOW, Preparation, Unreadable
from core.pipeline import files

import numpy as np
from PIL import Image, ImageOps

THUMBNAIL = 64  # pixels; the side of the square images that the audit compares
QUICK = 0.0005  # seconds per image; below this, threads mostly wait for Python's global lock
STRIP = 64  # rows that are compared at a time to see whether an image is grey
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can store
HEADER = struct.Struct("<4s4xH4xI4xIHH")  # of a file in a zip: signature, method, CRC-32, size, lengths


class Picture(NamedTuple):
    """A decoded image. ``pixels`` and ``thumbnail`` are uint8 (side, side, C) with C = 1 for grey and 3 for RGB;
    ``width``, ``height`` and ``mode`` are those of the file; the hashes are hexadecimal."""

    pixels: np.ndarray
    thumbnail: np.ndarray
    width: int
    height: int
    mode: str
    bytes_sha256: str
    pixels_sha256: str


def pack(names: Iterable[str], content: Callable[[str], bytes], path: str | Path) -> None:
    """Write a zip with equal bytes for equal images: sorted names, a constant time, no compression."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(names):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3
            archive.writestr(entry, content(name))


def contents(path: str | Path) -> Iterator[tuple[str, bytes]]:
    """The name and the bytes of each file in a zip that ``pack`` wrote, in its order.

    zipfile would first read the directory at its end, which takes 6 GB of memory for ten million files. Raises
    zipfile.BadZipFile for a file that is damaged or cut off.
    """
    with open(path, "rb") as archive:
        while (start := archive.read(HEADER.size))[:4] == b"PK\x03\x04":
            if len(start) < HEADER.size:
                raise zipfile.BadZipFile(messages.truncated_header())
            _, method, check, size, of_name, of_extra = HEADER.unpack(start)
            name = archive.read(of_name).decode()
            archive.seek(of_extra, 1)
            content = archive.read(size)
            if method != zipfile.ZIP_STORED or len(content) != size or zlib.crc32(content) != check:
                raise zipfile.BadZipFile(messages.wrong_crc(name))
            yield name, content
        if start[:4] not in (b"PK\x01\x02", b"PK\x05\x06"):  # the directory, or the end of an empty zip
            raise zipfile.BadZipFile(messages.no_directory())


def decode(content: bytes, levels: tuple[int, int] | str | None = None) -> tuple[Image.Image, str, np.ndarray | None]:
    """Decode an image: 8-bit grey ("L") or RGB, upright; the mode of the file; and the grey values at full depth, int64
    (H, W), of one of more than 8 bits, otherwise None.

    RGB with equal channels becomes grey. Transparency is dropped. Of an animation, only the first frame is used. Grey
    of more than 8 bits is scaled by ``levels`` (core.images.preparation). Raises Unreadable, also if the depth is not
    that of ``levels``.
    """
    image, mode = _opened(content, levels == WINDOW)
    deep = isinstance(image, np.ndarray)
    if deep != isinstance(levels, tuple):
        raise Unreadable(messages.wrong_depth(mode, deep))
    if isinstance(image, np.ndarray) and isinstance(levels, tuple):
        return Image.fromarray(preparation.scaled(image, levels)), mode, image
    assert isinstance(image, Image.Image)
    wanted = "L" if image.mode in ("1", "L", "LA") else "RGB"
    image = image if image.mode == wanted else image.convert(wanted)
    return image.getchannel(0) if wanted == "RGB" and _is_grey(image) else image, mode, None


def _is_grey(colour: Image.Image) -> bool:
    """Whether the channels are equal. Most colour images show in their first rows that they are not."""
    for top in range(0, colour.height, STRIP):
        values = np.asarray(colour.crop((0, top, colour.width, min(top + STRIP, colour.height))))
        if (values[..., 0] != values[..., 1]).any() or (values[..., 0] != values[..., 2]).any():
            return False
    return True


def _opened(content: bytes, window: bool) -> tuple[Image.Image | np.ndarray, str]:
    """The image, or the grey values int64 (H, W) of one of more than 8 bits, and its mode. Raises Unreadable."""
    if dicom.found(content):
        return dicom.opened(content, window)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns above 89 megapixels and refuses above twice that
            image: Image.Image = Image.open(io.BytesIO(content))
            mode = image.mode
            image = ImageOps.exif_transpose(image)
            image.load()
    except Exception as error:  # each decoder of Pillow raises its own errors
        raise Unreadable(messages.decoder_failed(error)) from None
    if mode == "F":
        raise Unreadable(messages.float_pixels())
    if not mode.startswith("I"):
        return image, mode
    values = np.asarray(image, dtype=np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise Unreadable(messages.more_than_16_bits(values.min(), values.max()))
    return values, mode


def grey_values(content: bytes, to: Preparation) -> np.ndarray | None:
    """The histogram of an image of more than 8 bits, or None if it has 8. Raises Unreadable."""
    image, _ = _opened(content, window=False)
    return preparation.histogram(image) if isinstance(image, np.ndarray) else None


def grey_levels(images: np.ndarray) -> np.ndarray:
    """Images uint8 (N, H, W, 1 or 3) as grey uint8 (N, H, W), with the weights of Pillow (ITU-R BT.601)."""
    if images.shape[-1] == 1 or not images.size:
        return images[..., 0]
    count, height, width, channels = images.shape
    tall = Image.fromarray(images.reshape(count * height, width, channels))  # one call for all images
    return np.asarray(tall.convert("L")).reshape(count, height, width)


class Grey:
    """One or more stacks of images uint8 (N, H, W, 1 or 3), for example memory maps, one after another; indexing gives
    them as grey uint8 (n, H, W)."""

    def __init__(self, *stacks: np.ndarray) -> None:
        self.stacks = stacks

    def __len__(self) -> int:
        return sum(len(stack) for stack in self.stacks)

    def __getitem__(self, rows: "slice | np.ndarray") -> np.ndarray:
        if len(self.stacks) == 1:
            return grey_levels(np.asarray(self.stacks[0][rows]))
        at = np.arange(len(self))[rows]
        found, start = np.empty((len(at), *self.stacks[0].shape[1:3]), np.uint8), 0
        for stack in self.stacks:
            here = np.flatnonzero((at >= start) & (at < start + len(stack)))
            found[here] = grey_levels(np.asarray(stack[at[here] - start]))
            start += len(stack)
        return found


def picture(content: bytes, to: Preparation) -> Picture:
    """Decode one file. Raises Unreadable."""
    image, mode, deep = decode(content, to.levels)
    # Different 12-bit images can be equal after scaling, so compare them at full depth.
    exact = np.ascontiguousarray(image) if deep is None else deep.astype("<i4")
    hashed = hashlib.sha256(f"{image.mode} {image.width} {image.height} ".encode())
    hashed.update(exact.data)
    return Picture(
        pixels=preparation.square(image, to.side, to.fit),
        thumbnail=preparation.square(image, THUMBNAIL),
        width=image.width,
        height=image.height,
        mode=mode,
        bytes_sha256=hashlib.sha256(content).hexdigest(),
        pixels_sha256=hashed.hexdigest(),
    )


def pixels(content: bytes, to: Preparation) -> np.ndarray:
    """Decode one file to uint8 (side, side, C). Raises Unreadable."""
    return preparation.square(decode(content, to.levels)[0], to.side, to.fit)


def fit_into(place: np.ndarray, found: np.ndarray | Unreadable) -> str:
    """Copy an image to its place (side, side, C) in a stack and return "", or return why that is not possible."""
    if isinstance(found, Unreadable):
        return str(found)
    if found.shape[-1] > place.shape[-1]:
        return messages.colour_for_grey_model()
    place[:] = found  # grey is broadcast over three channels
    return ""


Given = TypeVar("Given")
Made = TypeVar("Made")


def decode_all(
    names: Iterable[Given], read: Callable[[Given], bytes], make: Callable[[bytes, Preparation], Made], to: Preparation
) -> Iterator[Made | Unreadable]:
    """Yield ``make(read(name), to)`` for each name in order, or Unreadable: on all cores, in bounded memory."""

    def block(some: list[Given]) -> list[Made | Unreadable]:
        return [one(name) for name in some]

    def one(name: Given) -> Made | Unreadable:
        try:
            return make(read(name), to)
        except Unreadable as reason:
            return reason
        except OSError as error:
            return Unreadable(error.strerror or str(error))

    cores = cpu_count() or 1
    size = max(1, min(64, 2**20 // to.side**2))
    left = iter(names)
    blocks = iter(lambda: list(islice(left, size)), [])
    for some in blocks:
        began = time.perf_counter()
        yield from (found := block(some))
        if time.perf_counter() - began > QUICK * len(found):
            break
    waiting: deque[Future[list[Made | Unreadable]]] = deque()
    with ThreadPoolExecutor(cores) as pool:
        for some in blocks:
            waiting.append(pool.submit(block, some))
            if len(waiting) > 2 * cores:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def decode_packed(
    path: str, make: Callable[[bytes, Preparation], Made], to: Preparation
) -> Iterator[tuple[str, Made | Unreadable]]:
    """The name of each file in a zip that ``pack`` wrote, and what ``make`` gives for its bytes, as ``decode_all``."""
    names: deque[str] = deque()

    def read(packed: Path) -> Iterator[bytes]:
        for name, content in contents(packed):
            names.append(name)
            yield content

    with files.undamaged(path, zipfile.BadZipFile, UnicodeDecodeError) as packed:
        for made in decode_all(read(packed), bytes, make, to):
            yield names.popleft(), made


class Stack:
    """Writes images of one size to a .npy file on disk: uint8 (N, side, side, C).

    C is 1 until the first colour image, which converts the file to C = 3.
    """

    def __init__(self, path: Path, most: int, side: int) -> None:
        self.path, self.most, self.side = path, most, side
        self.count = 0
        self.array = self._open(path, 1)

    def _open(self, path: Path, channels: int) -> np.memmap:
        array = np.lib.format.open_memmap(path, "w+", np.uint8, (self.most, self.side, self.side, channels))
        files.reserve(path)
        return array

    def add(self, pixels: np.ndarray) -> None:
        if pixels.shape[-1] > self.array.shape[-1]:
            self._resize(self.most, 3)
        self.array[self.count] = pixels  # grey is broadcast over three channels
        self.count += 1

    def finish(self) -> None:
        """Shrink the file to the images that were added."""
        if self.count < self.most:
            self._resize(self.count, self.array.shape[-1])
        self.array.flush()

    def _resize(self, most: int, channels: int) -> None:
        old, beside = self.array, self.path.with_suffix(".wider.npy")
        self.most = most
        self.array = self._open(beside, channels)
        for start in range(0, self.count, 1024):
            self.array[start : min(start + 1024, self.count)] = old[start : min(start + 1024, self.count)]
        beside.replace(self.path)
