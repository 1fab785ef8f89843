"""Fetch images, labels and patients from their source and store them as one archive and one table.

Reads   the source that params.yaml names (data, seed)
Writes  data/raw/images.zip, data/raw/labels.csv, data/raw/lists.csv, data/raw/provenance.json
Alone   python stages/download.py
"""

from core.images import decoder, sources
from core.pipeline import entrypoint, files, params, tables

IMAGES = "data/raw/images.zip"
LABELS = "data/raw/labels.csv"
LISTS = "data/raw/lists.csv"
PROVENANCE = "data/raw/provenance.json"


def main() -> None:
    chosen = params.load("data", "seed")
    with sources.gather(chosen.data, chosen.seed, files.root()) as raw, files.whole(IMAGES) as unfinished:
        decoder.pack(raw.labels["file"], raw.content, unfinished)
    tables.write(raw.labels, LABELS, tables.LABELS)
    tables.write(raw.listed, LISTS, tables.LISTED)
    files.write_json(PROVENANCE, raw.provenance)

    what = raw.provenance
    of = f" of {what['patients']:,} patients" if what["patients"] is not None else ", patients unknown"
    print(f"{what['images']:,} {'SYNTHETIC ' if what['synthetic'] else ''}images{of}, {what['positives']:,} positive")
    for fault, count in what["dropped"].items():
        print(f"dropped: {count:,} {fault}")


if __name__ == "__main__":
    entrypoint.stage(main)
