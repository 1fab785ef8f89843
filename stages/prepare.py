"""Decode every image once: an array for training, thumbnails and hashes for finding copies.

Reads   data/raw/images.zip, data/raw/labels.csv, params.yaml (prepare, data.unusable)
Writes  data/prepared/images.npy, data/prepared/thumbnails.npy, data/prepared/index.csv
Alone   python stages/prepare.py
"""

from zipfile import BadZipFile, ZipFile

from tqdm import tqdm

from core.audit import hashes
from core.images import decoder
from core.pipeline import entrypoint, files, params, tables
from core.pipeline.errors import Mistake, some

ARCHIVE = "data/raw/images.zip"
LABELS = "data/raw/labels.csv"
IMAGES = "data/prepared/images.npy"
THUMBNAILS = "data/prepared/thumbnails.npy"
INDEX = "data/prepared/index.csv"


def main() -> None:
    chosen = params.load("prepare", "data.unusable")
    labels = tables.read(LABELS, tables.LABELS)
    side, count = chosen.prepare.image_size, len(labels)

    rows, unreadable = [], []
    with (
        files.undamaged(ARCHIVE, BadZipFile) as stored,
        ZipFile(stored) as archive,
        files.whole(IMAGES) as images,
        files.whole(THUMBNAILS) as thumbnails,
    ):
        large, small = decoder.Stack(images, count, side), decoder.Stack(thumbnails, count, decoder.THUMBNAIL)
        pictures = decoder.decode_all(list(labels["file"]), archive.read, decoder.picture, side)
        for entry, picture in zip(labels.itertuples(), tqdm(pictures, "decode", count, disable=None), strict=True):
            if isinstance(picture, decoder.Unreadable):
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

    shape = " x ".join(map(str, large.array.shape))
    print(f"{len(rows):,} images as {shape} (uint8, {large.array.nbytes / 1e6:,.0f} MB); {len(unreadable):,} dropped")


if __name__ == "__main__":
    entrypoint.stage(main)
