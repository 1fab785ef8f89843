"""The pages of a TIFF, and the frames of an animated GIF, PNG or WebP."""

import io
import struct
from pathlib import Path
from typing import IO, NamedTuple

from core.images import messages
from core.images.preparation import DecodeError

from PIL import Image


class _Page(NamedTuple):
    """Where a TIFF has the offset of a page, that offset, and where it has the offset of the next page."""

    at: int
    offset: int
    next_at: int


def several(kind: str, start: bytes) -> bool:
    """Whether a file of this kind that starts like this can have several pages or frames."""
    if kind == "png":
        return b"acTL" in start or b"IDAT" not in start
    return kind in ("tiff", "gif") or (kind == "webp" and start[12:16] == b"VP8X" and bool(start[20] & 2))


def count(path: Path, kind: str) -> int:
    """The number of pages or frames. It is 1 if the file is damaged, which the decoder explains."""
    try:
        with path.open("rb") as file:
            if kind == "tiff":
                return len(_pages(file)[1]) or 1
            return int(getattr(Image.open(file), "n_frames", 1))
    except Exception:  # each decoder of Pillow raises its own errors
        return 1


def extract(content: bytes, kind: str, number: int) -> bytes:
    """A file with only one page or frame, numbered from 1. The page of a TIFF keeps its bytes; the others are lost only
    to the list of pages. A frame becomes a TIFF without compression."""
    if kind != "tiff":
        try:
            image, written = Image.open(io.BytesIO(content)), io.BytesIO()
            image.seek(number - 1)
            image.save(written, "TIFF")
        except Exception as error:  # each decoder raises its own errors
            raise DecodeError(messages.decoder_failed(error)) from None
        return written.getvalue()
    pointer, pages = _pages(io.BytesIO(content))
    page, changed = pages[number - 1], bytearray(content)
    struct.pack_into(pointer, changed, pages[0].at, page.offset)
    struct.pack_into(pointer, changed, page.next_at, 0)
    return bytes(changed)


def _pages(file: IO[bytes]) -> tuple[str, list[_Page]]:
    """The format of an offset in a TIFF, and its pages (TIFF 6.0, section 2; in a BigTIFF, offsets have 8 bytes)."""

    def read(at: int, form: str) -> int:
        file.seek(at)
        return int(struct.unpack(form, file.read(struct.calcsize(form)))[0])

    file.seek(0)
    order = "<" if file.read(2) == b"II" else ">"
    big = read(2, f"{order}H") == 43
    pointer, size, entry, at = (f"{order}Q", f"{order}Q", 20, 8) if big else (f"{order}I", f"{order}H", 12, 4)
    pages: list[_Page] = []
    while (offset := read(at, pointer)) and offset not in {page.offset for page in pages}:
        next_at = offset + struct.calcsize(size) + entry * read(offset, size)
        pages.append(_Page(at, offset, next_at))
        at = next_at
    return pointer, pages
