"""Images of more than 8 bits that are not DICOM. Pillow would read their colours, and some greys, in 8 bits."""

import io
import logging
import math
import re
from typing import IO, TYPE_CHECKING

from core.images import messages, preparation
from core.images.preparation import DecodeError

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from tifffile import TiffFile

PNG_MODES = {0: "I;16", 2: "RGB;16", 4: "LA;16", 6: "RGBA;16"}  # by colour type (PNG, 11.2.1)
NETPBM = re.compile(rb"P([2356])" + rb"(?:\s|#[^\n]*\n)+(\d+)" * 3 + rb"\s")
CODESTREAM = b"\xff\x4f\xff\x51"  # of JPEG 2000
ORIENTATION = 274  # the tag of EXIF and TIFF


def read(content: bytes, kind: str) -> tuple[np.ndarray, str] | None:
    """The values of an image, upright, and its mode; None if it has 8 bits or fewer.

    Returns
    -------
    values : (H, W) or (H, W, 3) int64
    mode : str

    Raises
    ------
    DecodeError, and what each decoder raises
    """
    if (image := stored(content, kind)) is None:
        return None
    values, mode, turn = image
    values = values.astype(np.int64)
    if values.ndim == 3:
        values = values[..., 0] if values.shape[2] < 3 else values[..., :3]  # without transparency
        values = values[..., 0] if values.ndim == 3 and (values == values[..., :1]).all() else values
    values = values.swapaxes(0, 1) if turn >= 5 else values
    values = values[::-1] if turn in (3, 4, 7, 8) else values
    return values[:, ::-1] if turn in (2, 3, 6, 7) else values, mode


def stored(content: bytes, kind: str, frame: int | None = None) -> tuple[np.ndarray, str, int] | None:
    """The values of an image as they are stored; None if it has 8 bits or fewer.

    Parameters
    ----------
    frame : the page or frame, numbered from 1; None: the file has one

    Returns
    -------
    values : (H, W) or (H, W, C), of any integer dtype
    mode : str
    turn : int, its ORIENTATION
    """
    if kind in ("png", "tiff"):
        return (_png if kind == "png" else _tiff)(content, frame)
    return {"jpeg2000": _jpeg2000, "netpbm": _netpbm}[kind](content) if kind in ("jpeg2000", "netpbm") else None


def _png(content: bytes, frame: int | None) -> tuple[np.ndarray, str, int] | None:
    if content[24:25] != b"\x10":
        return None
    import imagecodecs

    image = Image.open(io.BytesIO(content))  # it also refuses too many pixels, and is faster where it keeps 16 bits
    image.seek((frame or 1) - 1)
    values = np.asarray(image) if image.mode == "I;16" else imagecodecs.apng_decode(content, index=(frame or 1) - 1)
    return values, PNG_MODES[content[25]], image.getexif().get(ORIENTATION, 1)


def _jpeg2000(content: bytes) -> tuple[np.ndarray, str, int] | None:
    size = content[content.find(CODESTREAM) :]
    bits = (size[42] & 127) + 1  # of the first component (ITU-T T.800, A.5.1)
    if bits <= 8:
        return None
    import imagecodecs

    Image.open(io.BytesIO(content))
    values = imagecodecs.jpeg2k_decode(content)
    return values, f"{'I' if values.ndim == 2 else 'RGB'};{bits}", 1


def _netpbm(content: bytes) -> tuple[np.ndarray, str, int] | None:
    match = NETPBM.match(content)
    if match is None:
        return None
    width, height, most = map(int, match.groups()[1:])
    shape = (height, width) if match[1] in b"25" else (height, width, 3)
    if match[1] in b"56" and content[match.end() + math.prod(shape) * (1 if most <= 255 else 2) :].strip():
        raise DecodeError(messages.AFTER_THE_PIXELS)
    if most <= 255:
        return None
    preparation.check_size(width, height)
    if match[1] in b"56":
        values = np.frombuffer(content, ">u2", math.prod(shape), match.end())
    else:
        values = np.array(re.sub(rb"#[^\n]*", b"", content[match.end() :]).split(), np.int64)
    return values.reshape(shape), f"{'I' if len(shape) == 2 else 'RGB'};{most.bit_length()}", 1


def open_tiff(file: IO[bytes]) -> "TiffFile":
    import tifffile  # takes 0.2 seconds to import

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # the DecodeError says it once
    return tifffile.TiffFile(file)


def _tiff(content: bytes, frame: int | None) -> tuple[np.ndarray, str, int] | None:
    from tifffile import PHOTOMETRIC, SAMPLEFORMAT, TiffPage

    with open_tiff(io.BytesIO(content)) as file:
        if frame is None and len(file.pages) > 1:
            raise DecodeError(messages.SEVERAL_FRAMES.format(frames=len(file.pages)))
        page = file.pages[(frame or 1) - 1]
        assert isinstance(page, TiffPage)  # and no TiffFrame, unless one sets useframes
        if page.imagedepth > 1:
            raise DecodeError(messages.VOLUME.format(depth=page.imagedepth))
        if frame is None and page.subfiletype & 1:
            raise DecodeError(messages.OVERVIEW)
        if page.sampleformat == SAMPLEFORMAT.IEEEFP:
            raise DecodeError(messages.FLOAT_PIXELS)
        if page.bitspersample <= 8:
            return None
        preparation.check_size(page.imagewidth, page.imagelength)
        if page.photometric not in (0, 1, 2):
            name = PHOTOMETRIC(page.photometric).name
            raise DecodeError(messages.DEEP_COLOUR.format(bits=page.bitspersample, kind=name))
        values = page.asarray()
        turn = page.tags.get(ORIENTATION)
        values = np.moveaxis(values, 0, -1) if values.ndim == 3 and page.planarconfig == 2 else values
        name = ("WhiteIsZero", "I", "RGB")[page.photometric]
        return values, f"{name};{page.bitspersample}", turn.value if turn else 1


def write_tiff(file: IO[bytes], values: np.ndarray, mode: str, turn: int) -> None:
    """Write what ``stored`` returns, without compression and transparency.

    Parameters
    ----------
    values : (H, W) or (H, W, C), of any integer dtype
    """
    import tifffile

    name, _, bits = mode.partition(";")
    colour = name.startswith("RGB")
    if values.ndim == 3:
        values = values[..., :3] if colour else values[..., 0]
    photometric = 2 if colour else int(name != "WhiteIsZero")
    tags = [(ORIENTATION, "H", 1, turn, True)]
    tifffile.imwrite(
        file, values, photometric=photometric, bitspersample=int(bits), extratags=tags, metadata=None, software=False
    )
