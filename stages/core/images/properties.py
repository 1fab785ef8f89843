"""What a file says about its image besides the picture: format, bytes, brightness, border, JPEG quality, window.

All are computed on what the file stores, before prepare.levels and prepare.image_size.
"""

import io
import operator
from typing import NamedTuple

from core.images import dicom, kinds
from core.images.preparation import PADDING

import numpy as np
from PIL import Image

BORDER_TOLERANCE = 8  # of 255 grey levels: lossy compression leaves a black border with values up to about this
STRIP = 64  # lines that are compared at a time
FRACTION = 1 << 16  # values that are no whole numbers are measured in parts of this
GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in core.images.decoder
# The luminance table of ITU-T T.81, table K.1, in rows.
LUMINANCE = np.array([
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
])  # fmt: skip


class Properties(NamedTuple):
    """
    Attributes
    ----------
    format : str
        By content, of DICOM with the transfer syntax.
    bytes : int
        The size of the file.
    brightness : float
        The mean grey value: 0 to 255 for images of 8 bits, otherwise at full depth.
    border : float
        The share of the area in uniform rows and columns at the four sides, 0 to 1.
    jpeg_quality : int or None
        From 1 to 100, of JPEG files.
    window_center, window_width : float or None
        The first VOI window of DICOM files that have one.
    """

    format: str
    bytes: int
    brightness: float
    border: float
    jpeg_quality: int | None
    window_center: float | None
    window_width: float | None


def measure(content: bytes, image: Image.Image, values: np.ndarray) -> Properties:
    """The properties of a file that could be decoded.

    Parameters
    ----------
    content : bytes of the file
    image : Pillow image of mode "L" or "RGB", as from decoder.decode
    values : (H, W) or (H, W, 3), uint8: the pixels of ``image``; or int or float: those of one of more than 8 bits
    """
    kind, quality, center, width = kinds.kind(content).upper(), None, None, None
    if kind == "JPEG":
        with Image.open(io.BytesIO(content)) as file:  # reads only the header
            quality = jpeg_quality(getattr(file, "quantization", {}))
    if kind.lower() in kinds.DICOM:
        syntax, center, width = dicom.encoding(content)
        kind = f"DICOM {syntax}"
    part = FRACTION if values.dtype.kind == "f" else 1
    if values.dtype != np.uint8 and (part > 1 or (values == PADDING).any()):
        visible, values = values != PADDING, np.rint(values * part).astype(np.int64)
        values = np.where(visible, values, values.min(where=visible, initial=0))
    return Properties(kind, len(content), _brightness(image, values) / part, border(values), quality, center, width)


def _brightness(image: Image.Image, values: np.ndarray) -> float:
    """The mean, from sums of integers, so that it is equal on every machine."""
    if values.dtype != np.uint8:
        return int(values.sum(dtype=np.int64)) / values.size
    sums = np.array(image.histogram()).reshape(-1, 256) @ np.arange(256)
    means = [int(channel) / (image.width * image.height) for channel in sums]
    return means[0] if len(means) == 1 else sum(map(operator.mul, GREY_WEIGHTS, means))


def border(values: np.ndarray) -> float:
    """The share of the area in rows and columns, from each side inwards, of the value of the outermost one.

    Values that differ by BORDER_TOLERANCE or less are equal; of images of more than 8 bits, by the same share of the
    range of the image. 1.0 for an image of one value.

    Parameters
    ----------
    values : (H, W) or (H, W, C), uint8, or another integer dtype for more than 8 bits
    """
    tolerance = BORDER_TOLERANCE
    if values.dtype != np.uint8:
        tolerance = BORDER_TOLERANCE * (int(values.max()) - int(values.min())) // 255
    height, width = values.shape[:2]
    top = _uniform_lines(values, tolerance)
    if top == height:
        return 1.0
    values = values[top : height - _uniform_lines(values[::-1], tolerance)]
    columns = values.swapaxes(0, 1)
    left = _uniform_lines(columns, tolerance)
    right = _uniform_lines(columns[::-1], tolerance) if left < width else 0
    return 1 - values.shape[0] * (width - left - right) / (height * width)


def _uniform_lines(values: np.ndarray, tolerance: int) -> int:
    """How many lines along the first axis have the value of the first pixel."""
    edge = values[0] if values.ndim == 2 else values[0, :, 1]
    if int(edge.max()) - int(edge.min()) > 2 * tolerance:  # most images have no border
        return 0
    first, limits = values[0, 0].astype(np.int64), np.iinfo(values.dtype)
    low, high = (
        np.clip(end, limits.min, limits.max).astype(values.dtype) for end in (first - tolerance, first + tolerance)
    )
    across = tuple(range(1, values.ndim))
    for start in range(0, len(values), STRIP):
        lines = values[start : start + STRIP]
        other = ((lines < low) | (lines > high)).any(axis=across)
        if other.any():
            return start + int(other.argmax())
    return len(values)


def jpeg_quality(tables: dict[int, list[int]]) -> int | None:
    """The quality at which libjpeg's tables are closest to the first quantisation table of a file. None without one.

    Other encoders use other tables, for which the result is the quality of about the same loss.
    """
    if 0 not in tables or len(tables[0]) != 64:
        return None
    return 1 + int(np.abs(_STANDARD - np.array(tables[0])).sum(axis=1).argmin())


def _standard_tables() -> np.ndarray:
    """The luminance tables of libjpeg (jpeg_quality_scaling) for the qualities 1 to 100: int (100, 64)."""
    qualities = np.arange(1, 101)
    percent = np.where(qualities < 50, 5000 // qualities, 200 - 2 * qualities)
    return np.clip((LUMINANCE * percent[:, None] + 50) // 100, 1, 255)


_STANDARD = _standard_tables()
