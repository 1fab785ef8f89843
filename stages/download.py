"""Fetch images, labels and patients from their source and store them as one archive and one table.

Reads   the source that params.yaml names (data, seed)
Writes  data/raw/images.zip, data/raw/labels.csv, data/raw/lists.csv, data/raw/groups.csv, data/raw/provenance.json
Alone   python stages/download.py
"""

from collections.abc import Iterator
from contextlib import contextmanager

from core.images import decoder, folders, sources
from core.pipeline import entrypoint, files, params, provenance, tables
from core.pipeline.errors import PipelineError
from core.pipeline.schemas.base import Section, Seed
from core.pipeline.schemas.data import UNWATCHED, Data
from core.pipeline.text import pluralise

IMAGES = "data/raw/images.zip"
LABELS = "data/raw/labels.csv"
LISTS = "data/raw/lists.csv"
GROUPS = "data/raw/groups.csv"
PROVENANCE = "data/raw/provenance.json"


class Params(Section):
    seed: Seed
    data: Data


def main() -> None:
    chosen = params.load(Params)
    seed = params.either(chosen.data.phantom.seed, chosen.seed)
    with unchanged(chosen.data), sources.gather(chosen.data, seed, files.root()) as raw, files.whole(IMAGES) as whole:
        decoder.pack(raw.labels["file"], raw.content, whole)
    tables.write(raw.labels, LABELS, tables.LABELS)
    tables.write(raw.listed, LISTS, tables.LISTED)
    tables.write(raw.groups, GROUPS, list(raw.groups.columns))
    files.write_json(PROVENANCE, raw.provenance)

    what = raw.provenance
    of = f" of {what['patients']:,} patients" if what["patients"] is not None else ", patients unknown"
    print(f"{what['images']:,} {'SYNTHETIC ' if what['synthetic'] else ''}images{of}, {what['positives']:,} positive")
    for name, count in what["left_out"].items():
        print(f"left out: {pluralise(count, 'image')} of the class {name!r}, which is neither positive nor negative")
    for fault, count in what["dropped"].items():
        print(f"dropped: {count:,} {fault}")
    for name in tables.groups(raw.groups):
        if missing := int(raw.groups[name].isna().sum()):
            print(
                f"{pluralise(missing, 'image')} without a value of {name.removeprefix(tables.GROUP)} are in no group of it"
            )


@contextmanager
def unchanged(data: Data) -> Iterator[None]:
    """Say if DVC does not watch the source. Raise PipelineError if a watched folder has fewer files than when it was last
    read, as where a share is not mounted, or if it changes meanwhile: DVC would take what it holds at the end for what
    was read."""
    if data.watch == UNWATCHED:
        if data.local:
            print("DVC will not notice when the content of data.location changes: set data.watch to the same path")
        yield
        return
    path = files.root() / data.watch
    if not path.exists():
        raise PipelineError(f"data.watch: there is no file or folder {path}")
    before, found = provenance.files_before("download", path), folders.content(path)
    if found.files < before and not files.forced():
        raise PipelineError(
            f"{path} has {pluralise(found.files, 'file')} of any kind, {before - found.files:,} fewer than when it was last "
            "read (dvc.lock). If they were removed on purpose: dvc repro --force download"
        )
    yield
    if folders.content(path) != found:
        raise PipelineError(f"{path} changed while it was read. Run it again when nothing is being copied")


if __name__ == "__main__":
    entrypoint.stage(main)
