"""Decode every image once: an array for training, thumbnails and hashes for finding copies.

Reads   data/raw/images.zip, data/raw/labels.csv, params.yaml (prepare, data.on_bad_image)
Writes  data/prepared/images.npy, data/prepared/thumbnails.npy, data/prepared/crops.npy, data/prepared/index.csv,
        data/prepared/properties.csv, data/prepared/preparation.json
Alone   python stages/prepare.py
"""

from core.audit import hashes
from core.images import decoder, messages, preparation
from core.images.preparation import DecodeError, Levels, Preparation
from core.pipeline import entrypoint, files, params, tables
from core.pipeline.errors import PipelineError
from core.pipeline.schemas.base import Section
from core.pipeline.schemas.prepare import BadImages, Prepare

import numpy as np
from tqdm import tqdm

ARCHIVE = "data/raw/images.zip"
LABELS = "data/raw/labels.csv"
IMAGES = "data/prepared/images.npy"
THUMBNAILS = "data/prepared/thumbnails.npy"
CROPS = "data/prepared/crops.npy"  # thumbnails of the crops; empty without fit: breast
INDEX = "data/prepared/index.csv"
PROPERTIES = "data/prepared/properties.csv"
PREPARATION = "data/prepared/preparation.json"


class LikeParams(Section):
    data: BadImages


class Params(LikeParams):
    prepare: Prepare


def main(like: str | None = None) -> None:
    count = sum(len(chunk) for chunk in tables.chunks(LABELS, ["file"]))
    if like:
        cfg = params.load(LikeParams)
        spec = Preparation.of(files.read_json(like))
    else:
        cfg = params.load(Params)
        spec = Preparation(cfg.prepare.image_size, cfg.prepare.fit)
        spec = spec._replace(levels=levels(count, spec, cfg.prepare.levels))

    cropped = spec.fit == "breast"
    columns = [*tables.PROPERTIES, *([tables.CROP] if cropped else [])]
    kept, unreadable, uncropped = 0, [], []
    with (
        files.atomic_write(IMAGES) as images,
        files.atomic_write(THUMBNAILS) as thumbnails,
        files.atomic_write(CROPS) as crops,
        files.atomic_write(INDEX) as index,
        files.atomic_write(PROPERTIES) as properties,
    ):
        large, small = decoder.Stack(images, count, spec.side), decoder.Stack(thumbnails, count, decoder.THUMBNAIL)
        boxes, black = decoder.Stack(crops, count * cropped, decoder.THUMBNAIL), np.zeros((1, 1, 1), np.uint8)
        pictures = iter(tqdm(decoder.decode_packed(ARCHIVE, decoder.picture, spec), "decode", count, disable=None))
        for labels in tables.chunks(LABELS, tables.LABELS):
            rows, measured = [], []
            for entry, (name, picture) in zip(labels.itertuples(), pictures, strict=False):
                if name != entry.file:
                    raise PipelineError(messages.IMAGE_NOT_IN_TABLE.format(table=LABELS, name=name, archive=ARCHIVE))
                if isinstance(picture, DecodeError):
                    unreadable.append(f"{entry.file} ({picture})")
                    continue
                large.add(picture.pixels)
                small.add(picture.thumbnail)
                measured.append((kept + len(rows), *picture.properties, picture.crop_share))
                rows.append((kept + len(rows), entry.file, entry.label, entry.patient, *picture[2:-3]))
                if cropped:
                    boxes.add(black if picture.crop is None else picture.crop)
                    uncropped += [entry.file] if picture.crop is None else []
            grey = decoder.Grey(small.array[kept : kept + len(rows)])
            phash = hashes.words(hashes.bits(hashes.coefficients(grey)))
            tables.append(tables.frame(rows, tables.INDEX[:-1]).assign(phash=phash), index, tables.INDEX)
            tables.append(tables.frame(measured, [*tables.PROPERTIES, tables.CROP]), properties, columns)
            kept += len(rows)
        if kept + len(unreadable) < count or next(pictures, None):
            raise PipelineError(messages.DIFFERENT_IMAGES.format(archive=ARCHIVE, table=LABELS))
        if unreadable and (cfg.data.on_bad_image == "fail" or not kept):
            raise PipelineError(messages.listing(messages.UNDECODABLE_IMAGES, unreadable, total=count))
        large.finish()
        small.finish()
        boxes.finish()
    files.write_json(PREPARATION, spec.description())

    if uncropped:
        print(messages.listing(messages.NO_BREAST, uncropped, total=kept))
    print(messages.prepare_summary(large.array.shape, large.array.nbytes, len(unreadable), spec.levels))


def levels(count: int, spec: Preparation, percents: list[float] | str) -> Levels:
    """The grey values that become black and white: the percentiles of all images, or None if the first image has 8
    bits. ``percents`` is prepare.levels; if it is text, it is returned."""
    if isinstance(percents, str):
        return percents
    histogram = preparation.Histogram()
    packed = decoder.decode_packed(ARCHIVE, decoder.grey_histogram, spec)
    for _, counted in tqdm(packed, "grey values", count, leave=False, disable=None):
        if counted is None and not histogram.images:
            return None
        if isinstance(counted, preparation.Count):
            histogram.add(counted)
    return histogram.percentiles(*percents)


if __name__ == "__main__":
    entrypoint.stage(main, like=messages.LIKE_OPTION)
