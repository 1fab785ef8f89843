"""Measure how well the audit finds near copies: recall and precision for each modification, and the time.

python benchmarks/planted_copies.py                      phantoms (SYNTHETIC)
python benchmarks/planted_copies.py FOLDER [--images N]  the images below a folder
python benchmarks/planted_copies.py --growth             seconds by number of phantoms
"""

import argparse
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.audit import copies, hashes
from core.images import decoder, inventory, phantom, preparation

Change = Callable[[Image.Image], Image.Image]


def recompress(image: Image.Image, quality: int = 75) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def resize_by(factor: float) -> Change:
    return lambda image: image.resize(
        (round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC
    )


def crop(left: float, top: float, right: float, bottom: float) -> Change:
    """Cut off these shares of the width (left, right) and of the height (top, bottom)."""
    return lambda image: image.crop(
        (round(left * image.width), round(top * image.height),
         round((1 - right) * image.width), round((1 - bottom) * image.height))
    )  # fmt: skip


def pad(image: Image.Image) -> Image.Image:
    return ImageOps.expand(image, round(0.04 * image.width), 0)


CHANGES: dict[str, Change] = {
    "recompressed, JPEG 75": recompress,
    "resized to 80 %": resize_by(0.8),
    "brightness + 15 %": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "brightness - 15 %": lambda image: ImageEnhance.Brightness(image).enhance(0.85),
    "contrast + 15 %": lambda image: ImageEnhance.Contrast(image).enhance(1.15),
    "contrast - 15 %": lambda image: ImageEnhance.Contrast(image).enhance(0.85),
    "cropped by 4 %, 2 % per side": crop(0.02, 0.02, 0.02, 0.02),
    "cropped by 4 % per side": crop(0.04, 0.04, 0.04, 0.04),
    "cropped by 4 % at one corner": crop(0.04, 0.04, 0, 0),
    "padded by 4 % per side": pad,
    "mirrored": ImageOps.mirror,
    "turned by 90 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "turned by 180 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_180),
    "turned by 270 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_270),
}


def thumbnails(images: list[Image.Image]) -> np.ndarray:
    """Grey thumbnails as in stages/prepare.py: uint8 (N, 64, 64)."""
    return np.stack([decoder.grey_levels(preparation.square(image, decoder.THUMBNAIL)[None])[0] for image in images])


def search(grey: np.ndarray) -> tuple[set[tuple[int, int]], np.ndarray]:
    """The pairs found, and the correlations of the closest rejected pairs."""
    phash = hashes.bits(hashes.coefficients(grey))
    pairs, rejected = copies.near_pairs(grey, phash, np.flatnonzero(copies.levels(grey)[1] >= copies.MIN_STD))
    return set(zip(pairs["first"], pairs["second"], strict=True)), rejected["correlation"].to_numpy()


def plant(
    grey: np.ndarray, own: set[tuple[int, int]], images: list[Image.Image], change: Change, sources: np.ndarray
) -> tuple[float, float]:
    """Recall and precision after adding modified copies of the images numbered ``sources`` to ``images``.

    ``grey`` are the thumbnails of ``images``; ``own`` are the pairs found among them before adding copies. Recall and
    precision ignore these pairs, since they can be real copies.
    """
    pairs, _ = search(np.concatenate([grey, thumbnails([change(images[number]) for number in sources])]))
    source = np.concatenate([np.arange(len(images)), sources])
    planted = {(int(number), len(images) + copy) for copy, number in enumerate(sources)}
    # A modified copy of one image of a pair in ``own`` is also a copy of the other image.
    false_positives = [
        pair
        for pair in pairs - planted
        if source[pair[0]] != source[pair[1]] and tuple(sorted(source[list(pair)])) not in own
    ]
    hits = len(pairs & planted)
    return hits / len(planted), hits / max(hits + len(false_positives), 1)


def phantoms(count: int) -> list[Image.Image]:
    """Phantoms without exact copies among them."""
    seen = {patch.pixels.tobytes(): patch.pixels for patch in phantom.draw(count, max(3, count // 20), 64, 1)}
    return [Image.fromarray(pixels) for pixels in seen.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--images", type=int, default=300, help="number of images to copy and modify (default: 300)")
    parser.add_argument("--growth", action="store_true")
    args = parser.parse_args()
    if args.growth:
        print("phantoms   seconds   microseconds per pair")
        for count in (1000, 2000, 4000, 8000, 16000):
            images = thumbnails(phantoms(count))
            start = time.perf_counter()
            search(images)
            seconds = time.perf_counter() - start
            print(f"{len(images):8,} {seconds:9.1f} {2e6 * seconds / len(images) ** 2:12.3f}")
        return

    if args.folder:
        contents = {path: Path(path).read_bytes() for path in inventory.expand([args.folder])}
        paths = {content: path for path, content in reversed(contents.items())}  # keep the first of equal files
        images = [decoder.decode(content)[0] for content in sorted(paths, key=paths.__getitem__)]
    else:
        images = phantoms(1200)
    start = time.perf_counter()
    grey = thumbnails(images)
    own, rejected = search(grey)
    seconds = time.perf_counter() - start
    print(f"{len(images):,} {'images' if args.folder else 'SYNTHETIC images'}: {len(own)} pairs in {seconds:.1f} s")
    print("highest correlations of rejected pairs:", *rejected[:5].round(3))
    sources = np.random.RandomState(2).permutation(len(images))[: args.images]
    print(f"{'modification':30}  recall  precision")
    for name, change in CHANGES.items():
        recall, precision = plant(grey, own, images, change, sources)
        print(f"{name:30} {recall:7.3f} {precision:10.3f}")


if __name__ == "__main__":
    main()
