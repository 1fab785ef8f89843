"""Measure the decoding of large JPEGs against plain Pillow, and what decoding at a reduced size would change.

    python benchmarks/decoding.py [--images 2000] [--side 224]

Draws 20 SYNTHETIC photographs of 4,000 x 3,000 pixels, in colour and in grey, and decodes each of them several times,
on all cores:
  plain Pillow   open, convert, resize: the pixels for training
  predict        the same by core.images.decoder, with its checks
  prepare        the same, a thumbnail and the SHA-256 of all pixels, which finds exact copies
  draft          Pillow's draft mode: libjpeg decodes an eighth to a half of the pixels. All of them are then not known
Prints seconds, ratios to plain Pillow, and the largest and the mean difference of the pixels of draft, in grey levels.
"""

import argparse
import io
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.images import decoder
from core.images.preparation import Preparation

DISTINCT, WIDTH, HEIGHT = 20, 4000, 3000


def photograph(seed: int, mode: str) -> bytes:
    """Smooth structures with noise."""
    random = np.random.RandomState(seed)
    coarse = Image.fromarray(random.randint(0, 256, (75, 100, 3)).astype(np.uint8))
    fine = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).astype(np.int16)
    noisy = np.clip(fine + random.randint(-8, 9, (HEIGHT, WIDTH, 1)), 0, 255).astype(np.uint8)
    written = io.BytesIO()
    Image.fromarray(noisy).convert(mode).save(written, "JPEG", quality=90)
    return written.getvalue()


def plain(content: bytes, side: int, draft: bool = False) -> np.ndarray:
    image = Image.open(io.BytesIO(content))
    mode = image.mode
    if draft:
        image.draft(mode, (2 * side, 2 * side))
    return np.asarray(image.convert(mode).resize((side, side), Image.Resampling.BILINEAR))


def seconds(decode: Callable[[bytes], object], contents: list[bytes], count: int) -> float:
    began = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda number: decode(contents[number % len(contents)]) is None, range(count)))
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--side", type=int, default=224)
    asked = parser.parse_args()
    to = Preparation(asked.side)
    ways = {
        "plain Pillow": partial(plain, side=asked.side),
        "predict": partial(decoder.pixels, spec=to),
        "prepare": partial(decoder.picture, spec=to),
        "draft": partial(plain, side=asked.side, draft=True),
    }
    for mode, words in (("RGB", "colour"), ("L", "grey")):
        contents = [photograph(seed, mode) for seed in range(DISTINCT)]
        took = {name: seconds(way, contents, asked.images) for name, way in ways.items()}
        print(f"{asked.images:,} JPEGs of {WIDTH} x {HEIGHT} in {words} to {asked.side} pixels, all cores")
        for name, value in took.items():
            print(f"  {name:14}{value:8.1f} s   {value / took['plain Pillow']:.2f}")
        both = [(plain(each, asked.side), plain(each, asked.side, True)) for each in contents]
        apart = np.abs([one.astype(int) - other for one, other in both])
        print(f"  draft differs by {apart.max()} at most, {apart.mean():.2f} on average", flush=True)


if __name__ == "__main__":
    main()
