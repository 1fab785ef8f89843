"""Drawn mammograms, whose breast has a known box: SYNTHETIC."""

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

SIDE = 256


def draw(shape: int, tissue: int, contrast: float = 25.0, implant: bool = False) -> tuple[Image.Image, tuple[int, ...]]:
    """A breast at the left edge with a nipple, on film with noise, a bright label beside it; and its box: left, top,
    right, bottom. The seed ``shape`` is that of the outline, ``tissue`` that of all that is inside it."""
    outline, random = np.random.default_rng(shape), np.random.default_rng(tissue)
    down, along = np.mgrid[:SIDE, :SIDE]
    middle, wide, tall = outline.uniform((0.4, 0.3, 0.22), (0.6, 0.5, 0.34)) * SIDE
    depth = 1 - (along / wide) ** 2 - ((down - middle) / tall) ** 2
    breast = (depth > 0) | (np.hypot(along - wide, down - middle) < 5)
    grey = np.where(breast, 60 + 90 * np.clip(depth, 0, 1) ** 0.4, 6)
    texture = sum(width * gaussian_filter(random.normal(size=depth.shape), width) for width in (1, 2, 4))
    grey += contrast * texture / texture.std() * gaussian_filter(breast * 1.0, 3) * breast
    if implant:
        grey[depth > 0.5] = 250
    grey[12:24, 190:240] = 255  # the label
    rows, columns = np.flatnonzero(breast.any(axis=1)), np.flatnonzero(breast.any(axis=0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    noisy = np.clip(grey + random.normal(0, 2, grey.shape), 0, 255)
    return Image.fromarray(noisy.astype(np.uint8)), tuple(map(int, box))
