"""Fetch images, labels and patients from their source and store them as one archive and one table.

Reads   the source that params.yaml names (data, seed)
Writes  data/raw/images.zip, data/raw/labels.csv, data/raw/lists.csv, data/raw/provenance.json
Alone   python stages/download.py
"""

from core.images import decoder, sources
from core.pipeline import entrypoint, files, params, tables
from core.pipeline.errors import many

IMAGES = "data/raw/images.zip"
LABELS = "data/raw/labels.csv"
LISTS = "data/raw/lists.csv"
PROVENANCE = "data/raw/provenance.json"


def main() -> None:
    chosen = params.load("data", "seed")
    seed = params.either(chosen.data.phantom.seed, chosen.seed)
    with sources.gather(chosen.data, seed, files.root()) as raw, files.whole(IMAGES) as unfinished:
        decoder.pack(raw.labels["file"], raw.content, unfinished)
    tables.write(raw.labels, LABELS, tables.LABELS)
    tables.write(raw.listed, LISTS, tables.LISTED)
    files.write_json(PROVENANCE, raw.provenance)

    what = raw.provenance
    of = f" of {what['patients']:,} patients" if what["patients"] is not None else ", patients unknown"
    print(f"{what['images']:,} {'SYNTHETIC ' if what['synthetic'] else ''}images{of}, {what['positives']:,} positive")
    for name, count in what["left_out"].items():
        print(f"left out: {many(count, 'image')} of the class {name!r}, which is neither positive nor negative")
    for fault, count in what["dropped"].items():
        print(f"dropped: {count:,} {fault}")


if __name__ == "__main__":
    entrypoint.stage(main)
