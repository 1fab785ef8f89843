"""How decoded images become squares of 8-bit pixels: the same for every image of a set, and for new ones later."""

from typing import Any, NamedTuple

from core.images import messages

import numpy as np
from PIL import Image

LOWEST, LEVELS = -(1 << 15), 1 << 17  # of the grey values in images of more than 8 bits: the least, and how many
PADDING = -LEVELS  # the value of what is no part of the image: black
INVERTED = ("MONOCHROME1", "WhiteIsZero")  # modes that begin so: low values are bright
MAX_PIXELS = 179_000_000  # as Pillow allows
MOST_VALUES = 1 << 19  # in a histogram that are no integers
OVERVIEW = 256  # pixels, the longer side of an image in which the breast is searched, up to twice this
OPENING = 5  # pixels of this reduced image: what is thinner, such as letters and scratches, is no breast
MIN_BREAST = 0.02  # of the area of an image: a smaller part is no breast, but a label
WINDOW = "window"  # for levels: the first VOI window of each DICOM file

# The grey values that become black and white, WINDOW, or None for images of 8 bits
Levels = tuple[float, float] | str | None


class DecodeError(ValueError):
    """The file can't be decoded as an image; the message says why."""


class Preparation(NamedTuple):
    side: int  # pixels
    fit: str = "stretch"  # how images become square: stretch, pad, crop, breast
    levels: Levels = None

    @classmethod
    def of(cls, description: dict[str, Any]) -> "Preparation":
        """From models/model.json, or from data/prepared/preparation.json."""
        levels = description.get("levels")
        pair = (levels[0], levels[1]) if isinstance(levels, list) else levels
        return cls(description["image_size"], description.get("fit", "stretch"), pair)

    def description(self) -> dict[str, Any]:
        return {"image_size": self.side, "fit": self.fit, "levels": self.levels}


def square(image: Image.Image, side: int, fit: str = "stretch") -> np.ndarray:
    """Resize to ``side`` x ``side`` (bilinear, antialiased).

    "stretch" changes the shape of what is shown; "pad" adds black on two sides; "crop" keeps the central square;
    "breast" pads the box around the breast, or the image where none is found. Pillow resizes 8-bit images with
    integers, so the result has the same bytes on every machine.

    Returns
    -------
    (side, side, 1 or 3) uint8
    """
    if fit == "breast":
        image, fit = crop_to_breast(image)[0], "pad"
    width, height = image.size
    if fit == "crop" and width != height:
        least = min(width, height)
        left, top = (width - least) // 2, (height - least) // 2
        image = image.crop((left, top, left + least, top + least))
    shape = (side, side)
    if fit == "pad":
        most = max(width, height)
        shape = max(1, (width * side + most // 2) // most), max(1, (height * side + most // 2) // most)
    pixels = np.atleast_3d(np.asarray(image.resize(shape, Image.Resampling.BILINEAR)))
    if shape == (side, side):
        return pixels
    top, left = (side - shape[1]) // 2, (side - shape[0]) // 2
    return np.pad(pixels, ((top, side - shape[1] - top), (left, side - shape[0] - left), (0, 0)))


def crop_to_breast(image: Image.Image) -> tuple[Image.Image, float | None]:
    """The box around the breast, and its share of the area; all of the image and None if no breast is found.

    The breast is the largest connected part of what is brighter than the background, with the pectoral muscle and
    whatever touches it. An image whose four corners are bright has no background.
    """
    from scipy import ndimage  # slow to import

    step = max(1, max(image.size) // OVERVIEW)
    grey = np.asarray(image.convert("L").reduce(step))
    bright = ndimage.binary_opening(grey > _otsu(grey), np.ones((OPENING, OPENING)))
    parts = ndimage.label(bright)[0]
    areas = np.bincount(parts.ravel())[1:]
    if not len(areas) or areas.max() < MIN_BREAST * grey.size or bright[[0, 0, -1, -1], [0, -1, 0, -1]].all():
        return image, None
    rows, columns = ndimage.find_objects(parts)[areas.argmax()]
    # A pixel more on each side, because opening rounds off the edge
    left, top = max(0, columns.start - 1) * step, max(0, rows.start - 1) * step
    right, bottom = min(image.width, (columns.stop + 1) * step), min(image.height, (rows.stop + 1) * step)
    return image.crop((left, top, right, bottom)), (right - left) * (bottom - top) / (image.width * image.height)


def _otsu(grey: np.ndarray) -> int:
    """Otsu's threshold between two classes of grey levels, uint8 (H, W), on the fourth root of the levels: an implant
    or a label is so bright that it would be a class of its own. Square roots round alike on every machine."""
    counts = np.bincount(grey.ravel(), minlength=256)
    below, total = counts.cumsum(), (counts * np.sqrt(np.sqrt(np.arange(256)))).cumsum()
    variance = (total[-1] * below - total * below[-1]) ** 2 / np.maximum(below * (below[-1] - below), 1)
    return int(variance.argmax())


def check_size(width: int, height: int) -> None:
    """Raise DecodeError for an image of more pixels than Pillow allows."""
    if not width or not height:
        raise DecodeError(messages.EMPTY_IMAGE.format(width=width, height=height))
    if width * height > MAX_PIXELS:
        raise DecodeError(messages.TOO_MANY_PIXELS.format(width=width, height=height))


def check_range(values: np.ndarray) -> None:
    """Raise DecodeError for values, beside PADDING, out of the range of LOWEST and LEVELS.

    Parameters
    ----------
    values : (H, W) or (H, W, 3), int64 or float64
    """
    low, high = values.min(), values.max()
    low = values.min(where=values != PADDING, initial=0) if low == PADDING else low
    if not (low >= LOWEST and high < LOWEST + LEVELS):
        limits = {"lowest": LOWEST, "highest": LOWEST + LEVELS - 1}
        raise DecodeError(messages.OUT_OF_RANGE.format(low=low, high=high, **limits))


def scale(values: np.ndarray, levels: tuple[float, float]) -> np.ndarray:
    """Values as 8 bits: the lower of ``levels`` and below becomes 0, the upper and above 255.

    Parameters
    ----------
    values : (H, W) or (H, W, 3), int64 or float64

    Returns
    -------
    uint8, of the shape of ``values``
    """
    low, high = levels
    if values.dtype == np.int64 and isinstance(low, int) and isinstance(high, int):
        scaled = (values - low) * 255 // (high - low)
    else:
        scaled = np.floor(((values - low) / (high - low) * 255).round(6))  # without the error of the division
    return np.clip(scaled, 0, 255).astype(np.uint8)


class Count(NamedTuple):
    """How often each grey value occurs in an image, without PADDING."""

    values: np.ndarray  # int64 or float64, sorted
    times: np.ndarray
    inverted: bool  # whether low values are bright

    @classmethod
    def of(cls, values: np.ndarray, mode: str) -> "Count":
        """Count the values of an image of this mode.

        Parameters
        ----------
        values : (H, W) or (H, W, 3), int64 or float64
        """
        values = values[values != PADDING] if values.min() == PADDING else values.ravel()
        if values.dtype != np.int64:
            return cls(*np.unique(values, return_counts=True), mode.startswith(INVERTED))
        counts = np.bincount(values - LOWEST)
        present = np.flatnonzero(counts)
        return cls(present + LOWEST, counts[present], mode.startswith(INVERTED))


class Histogram:
    """How often each grey value occurs in a set of images."""

    def __init__(self) -> None:
        self.counts = np.zeros(LEVELS, np.int64)  # of integers, from LOWEST on
        self.values, self.times = np.zeros(0), np.zeros(0)  # of other numbers
        self.images = self.inverted = 0

    def add(self, count: Count) -> None:
        self.images += 1
        self.inverted += count.inverted
        if count.values.dtype == np.int64:
            self.counts[count.values - LOWEST] += count.times
            return
        self.values, where = np.unique(np.append(self.values, count.values), return_inverse=True)
        self.times = np.bincount(where, np.append(self.times, count.times)).astype(np.float64)
        if len(self.values) > MOST_VALUES:  # many images with a slope of their own: join neighbours
            self.times = np.add.reduceat(self.times, np.arange(0, len(self.times), 2))
            self.values = self.values[::2]

    def percentiles(self, low: float, high: float) -> tuple[float, float] | None:
        """The values at two percentiles of brightness, the lower value first; None without any value."""
        present = np.flatnonzero(self.counts)
        values = np.append(present + LOWEST, self.values)
        times = np.append(self.counts[present], self.times)
        sign = -1 if 2 * self.inverted > self.images else 1  # what is bright in most images
        order = np.argsort(sign * values)
        up_to = np.cumsum(times[order])
        if not len(order):
            return None
        ranks = [max(1, np.ceil(up_to[-1] * percent / 100)) for percent in (low, high)]
        dark, bright = ((sign * values)[order][np.searchsorted(up_to, rank)].item() for rank in ranks)
        lower, upper = sorted((sign * dark, sign * (bright if bright > dark else dark + 1)))
        return int(lower) if lower == int(lower) else lower, int(upper) if upper == int(upper) else upper
