"""Contact sheets: rows of images with a heading, to check the figures by eye.

They show patients' images, so they are in DVC's cache and never in git.
"""

from pathlib import Path
from typing import NamedTuple

from core.pipeline import files

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TILE = 128  # pixels, the side of each image
GAP, HEADING, CAPTION = 8, 20, 16  # pixels
LONGEST = 200  # rows; larger pages are hard to open


class Row(NamedTuple):
    """A heading, and below it images uint8 (H, H, 1 or 3), each with a caption of one or more lines."""

    heading: str
    images: list[np.ndarray]
    captions: list[str]


def save(title: str, rows: list[Row], path: str | Path, synthetic: bool) -> None:
    """Write a PNG of the first LONGEST ``rows`` below ``title``, and the number of rows that are left out."""
    shown, rest = rows[:LONGEST], len(rows) - LONGEST
    title = f"SYNTHETIC images. {title}" if synthetic else title
    font, small = ImageFont.load_default(14), ImageFont.load_default(11)
    across = max((len(row.images) for row in shown), default=0)
    longest = max(font.getlength(text) for text in (title, *(row.heading for row in shown)))
    width = max(across * (TILE + GAP) + GAP, int(longest) + 2 * GAP)
    lines = max((caption.count("\n") + 1 for row in shown for caption in row.captions), default=0)
    tall = HEADING + TILE + CAPTION * lines + GAP
    page = Image.new("RGB", (width, 2 * HEADING + GAP + tall * len(shown) + (HEADING if rest > 0 else 0)), "white")
    pen = ImageDraw.Draw(page)
    pen.text((GAP, GAP), title, "black", font)
    top = 2 * HEADING
    for row in shown:
        pen.text((GAP, top), row.heading, "black", font)
        for place, (image, caption) in enumerate(zip(row.images, row.captions, strict=True)):
            left = GAP + place * (TILE + GAP)
            tile = Image.fromarray(image if image.shape[-1] == 3 else image[..., 0]).convert("RGB")
            page.paste(tile.resize((TILE, TILE), Image.Resampling.BICUBIC), (left, top + HEADING))
            for line, text in enumerate(caption.split("\n")):
                pen.text((left, top + HEADING + TILE + 1 + CAPTION * line), _short(text, small), "dimgray", small)
        top += tall
    if rest > 0:
        pen.text((GAP, top), f"and {rest:,} more", "black", font)
    with files.atomic_write(path) as unfinished:
        page.save(unfinished)


def _short(text: str, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont") -> str:
    """``text`` shortened in the middle to the width of a tile."""
    short, keep = text, len(text) // 2
    while font.getlength(short) > TILE:
        short, keep = f"{text[:keep]}…{text[-keep:]}", keep - 1
    return short
