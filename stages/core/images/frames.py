"""The pages of a TIFF, and the frames of an animated GIF, PNG or WebP."""

import io
import warnings
from pathlib import Path

from core.images import deep, messages
from core.images.preparation import DecodeError

from PIL import Image, ImageOps


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
                with deep.open_tiff(file) as tiff:
                    return len(tiff.pages) or 1
            return int(getattr(Image.open(file), "n_frames", 1))
    except Exception:  # each decoder raises its own errors
        return 1


def extract(content: bytes, kind: str, number: int) -> bytes:
    """One page or frame, numbered from 1, as a TIFF without compression that has only the tags which its pixels need.

    Other pages can show the name of a patient, so no byte of them is kept. Raises DecodeError.
    """
    written = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about sizes that it does not refuse
            stored = deep.stored(content, kind, number)
            if stored is None:
                image: Image.Image = Image.open(io.BytesIO(content))
                image.seek(number - 1)
                image = ImageOps.exif_transpose(image)
                image.info = {}  # with it, Pillow would compress a page as before, or write its comments
                image.save(written, "TIFF")
            else:
                deep.write_tiff(written, *stored)
    except DecodeError:
        raise
    except Exception as error:  # each decoder raises its own errors
        raise DecodeError(messages.decoder_failed(error)) from None
    return written.getvalue()
