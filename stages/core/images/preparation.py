"""How decoded images become squares of 8-bit pixels: the same for every image of a set, and for new ones later."""

from typing import Any, NamedTuple

import numpy as np
from PIL import Image

LOWEST, LEVELS = -(1 << 15), 1 << 17  # of the grey values in images of more than 8 bits: the least, and how many
WINDOW = "window"  # for levels: the first VOI window of each DICOM file


class DecodeError(ValueError):
    """The file can't be decoded as an image; the message says why."""


class Preparation(NamedTuple):
    side: int  # pixels
    fit: str = "stretch"  # how images that are not square become so: stretch, pad, crop
    # The grey values that become black and white, WINDOW, or None for images of 8 bits
    levels: tuple[int, int] | str | None = None

    @classmethod
    def of(cls, description: dict[str, Any]) -> "Preparation":
        """From models/model.json, or from data/prepared/preparation.json."""
        levels = description.get("levels")
        pair = (levels[0], levels[1]) if isinstance(levels, list) else levels
        return cls(description["image_size"], description.get("fit", "stretch"), pair)

    def description(self) -> dict[str, Any]:
        return {"image_size": self.side, "fit": self.fit, "levels": self.levels}


def square(image: Image.Image, side: int, fit: str = "stretch") -> np.ndarray:
    """Resize to ``side`` x ``side`` (bilinear, antialiased): uint8 (side, side, C).

    "stretch" changes the shape of what is shown; "pad" adds black on two sides; "crop" keeps the central square. Pillow
    resizes 8-bit images with integers, so the result has the same bytes on every machine.
    """
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


def scale(values: np.ndarray, levels: tuple[int, int]) -> np.ndarray:
    """Grey values, int64, as uint8: the lower of ``levels`` and below becomes 0, the upper and above 255."""
    low, high = levels
    return np.clip((values - low) * 255 // (high - low), 0, 255).astype(np.uint8)


def histogram(values: np.ndarray) -> np.ndarray:
    """How often each grey value from LOWEST on occurs: int64 (LEVELS,)."""
    return np.bincount(values.ravel() - LOWEST, minlength=LEVELS)


def percentiles(counts: np.ndarray, low: float, high: float) -> tuple[int, int]:
    """The grey values at two percentiles of a ``histogram``; the upper is at least one above the lower."""
    up_to = np.cumsum(counts)
    ranks = [max(1, np.ceil(up_to[-1] * percent / 100)) for percent in (low, high)]
    bounds = [int(np.searchsorted(up_to, rank)) + LOWEST for rank in ranks]
    return bounds[0], max(bounds[1], bounds[0] + 1)
