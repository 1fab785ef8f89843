"""Measure the time to decode large JPEGs, relative to plain Pillow, and what decoding at a reduced size would change.

    python benchmarks/decoding.py [--images 2000] [--side 224]

Draws 20 SYNTHETIC photographs of 4,000 x 3,000 pixels, in colour and in grey, and decodes each of them several times,
on all cores:
  plain Pillow   open, convert, resize: the pixels for training
  predict        the same by core.images.decoder, with its checks
  prepare        as predict, with a thumbnail and the SHA-256 of all pixels, by which exact copies are found
  draft          Pillow's draft mode: libjpeg decodes at a half to an eighth of the size, so some pixels are not decoded
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
    buffer = io.BytesIO()
    Image.fromarray(noisy).convert(mode).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def decode_with_pillow(content: bytes, side: int, draft: bool = False) -> np.ndarray:
    image = Image.open(io.BytesIO(content))
    mode = image.mode
    if draft:
        image.draft(mode, (2 * side, 2 * side))
    return np.asarray(image.convert(mode).resize((side, side), Image.Resampling.BILINEAR))


def seconds(decode: Callable[[bytes], object], contents: list[bytes], count: int) -> float:
    start = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda number: decode(contents[number % len(contents)]) is None, range(count)))
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--side", type=int, default=224)
    args = parser.parse_args()
    spec = Preparation(args.side)
    decoders = {
        "plain Pillow": partial(decode_with_pillow, side=args.side),
        "predict": partial(decoder.pixels, spec=spec),
        "prepare": partial(decoder.picture, spec=spec),
        "draft": partial(decode_with_pillow, side=args.side, draft=True),
    }
    for mode, colour in (("RGB", "colour"), ("L", "grey")):
        contents = [photograph(seed, mode) for seed in range(DISTINCT)]
        times = {name: seconds(decode, contents, args.images) for name, decode in decoders.items()}
        print(f"{args.images:,} JPEGs of {WIDTH} x {HEIGHT} in {colour} to {args.side} pixels, all cores")
        for name, value in times.items():
            print(f"  {name:14}{value:8.1f} s   {value / times['plain Pillow']:.2f}")
        difference = np.abs(
            [
                decode_with_pillow(content, args.side).astype(int) - decode_with_pillow(content, args.side, draft=True)
                for content in contents
            ]
        )
        print(f"  draft differs by {difference.max()} at most, {difference.mean():.2f} on average", flush=True)


if __name__ == "__main__":
    main()
