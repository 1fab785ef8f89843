"""Decode every image once: an array for training, thumbnails and hashes for finding copies.

Reads   data/raw/images.zip, data/raw/labels.csv, params.yaml (prepare, data.unusable)
Writes  data/prepared/images.npy, data/prepared/thumbnails.npy, data/prepared/index.csv,
        data/prepared/preparation.json
Alone   python stages/prepare.py
"""

from collections.abc import Callable
from zipfile import BadZipFile, ZipFile

from core.audit import hashes
from core.images import decoder, preparation
from core.images.preparation import Preparation, Unreadable
from core.pipeline import entrypoint, files, params, tables
from core.pipeline.errors import Mistake, some

import numpy as np
from tqdm import tqdm

ARCHIVE = "data/raw/images.zip"
LABELS = "data/raw/labels.csv"
IMAGES = "data/prepared/images.npy"
THUMBNAILS = "data/prepared/thumbnails.npy"
INDEX = "data/prepared/index.csv"
PREPARATION = "data/prepared/preparation.json"


def main(like: str | None = None) -> None:
    chosen = params.load("data.unusable") if like else params.load("prepare", "data.unusable")
    labels = tables.read(LABELS, tables.LABELS)
    count = len(labels)

    rows, unreadable = [], []
    with (
        files.undamaged(ARCHIVE, BadZipFile) as stored,
        ZipFile(stored) as archive,
        files.whole(IMAGES) as images,
        files.whole(THUMBNAILS) as thumbnails,
    ):
        names = list(labels["file"])
        if like:
            to = Preparation.of(files.read_json(like))
        else:
            to = Preparation(chosen.prepare.image_size, chosen.prepare.fit)
            to = to._replace(levels=levels(names, archive.read, to, chosen.prepare.levels))
        large, small = decoder.Stack(images, count, to.side), decoder.Stack(thumbnails, count, decoder.THUMBNAIL)
        pictures = decoder.decode_all(names, archive.read, decoder.picture, to)
        for entry, picture in zip(labels.itertuples(), tqdm(pictures, "decode", count, disable=None), strict=True):
            if isinstance(picture, Unreadable):
                unreadable.append(f"{entry.file} ({picture})")
                continue
            large.add(picture.pixels)
            small.add(picture.thumbnail)
            rows.append((len(rows), entry.file, entry.label, entry.patient, *picture[2:]))
        if unreadable and (chosen.data.unusable == "fail" or not rows):
            raise Mistake(
                f"{len(unreadable):,} of {count:,} images can't be decoded: {some(unreadable)}\n"
                "Fix them in the source, or leave them out: data.unusable: drop"
            )
        large.finish()
        small.finish()
        phash = hashes.words(hashes.bits(hashes.coefficients(decoder.Grey(small.array))))
    tables.write(tables.frame(rows, tables.INDEX[:-1]).assign(phash=phash), INDEX, tables.INDEX)
    files.write_json(PREPARATION, to.description())

    shape = " x ".join(map(str, large.array.shape))
    print(f"{len(rows):,} images as {shape} (uint8, {large.array.nbytes / 1e6:,.0f} MB); {len(unreadable):,} dropped")
    if isinstance(to.levels, tuple):
        print(f"More than 8 bits: the grey values {to.levels[0]:,} to {to.levels[1]:,} are scaled to 0 to 255")


def levels(
    names: list[str], read: Callable[[str], bytes], to: Preparation, asked: list[float] | str
) -> tuple[int, int] | str | None:
    """The grey values of the set that become black and white, or None if its first image has 8 bits. ``asked`` is
    prepare.levels."""
    if isinstance(asked, str):
        return asked
    counts = None
    every = decoder.decode_all(names, read, decoder.grey_values, to)
    for found in tqdm(every, "grey values", len(names), leave=False, disable=None):
        if found is None and counts is None:
            return None
        if isinstance(found, np.ndarray):
            counts = found if counts is None else counts + found
    if counts is None:  # none can be decoded
        return None
    return preparation.percentiles(counts, *asked)


if __name__ == "__main__":
    entrypoint.stage(main, like="prepare as this file says, a preparation.json of other images")
