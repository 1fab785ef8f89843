"""Fetch images, labels and patients from their source and store them as one archive and one table.

Reads   the source that params.yaml names (data, seed)
Writes  data/raw/ (images.zip, inventory.csv, labels.csv, lists.csv, groups.csv, provenance.json)
Alone   python stages/download.py
"""

from collections.abc import Iterator
from contextlib import contextmanager

from core.images import decoder, inventory, messages, sources
from core.pipeline import entrypoint, files, params, provenance, tables
from core.pipeline.errors import PipelineError
from core.pipeline.schemas.base import Section, Seed
from core.pipeline.schemas.data import UNWATCHED, Data

IMAGES = "data/raw/images.zip"
INVENTORY = "data/raw/inventory.csv"
LABELS = "data/raw/labels.csv"
LISTS = "data/raw/lists.csv"
GROUPS = "data/raw/groups.csv"
PROVENANCE = "data/raw/provenance.json"


class Params(Section):
    seed: Seed
    data: Data


def main() -> None:
    cfg = params.load(Params)
    seed = params.either(cfg.data.phantom.seed, cfg.seed)
    with (
        unchanged(cfg.data),
        sources.open_source(cfg.data, seed, files.root()) as raw,
        files.atomic_write(IMAGES) as archive,
    ):
        if (failures := decoder.pack(raw.labels["file"], raw.content, archive)) and raw.without:
            raw = raw.without(failures)
            decoder.pack(raw.labels["file"], raw.content, archive)
    tables.write(raw.inventory, INVENTORY, tables.INVENTORY)
    tables.write(raw.labels, LABELS, tables.LABELS)
    tables.write(raw.listed, LISTS, tables.LISTED)
    tables.write(raw.groups, GROUPS, list(raw.groups.columns))
    files.write_json(PROVENANCE, raw.provenance)

    without_level = {
        name.removeprefix(tables.GROUP): int(raw.groups[name].isna().sum()) for name in tables.groups(raw.groups)
    }
    print(messages.download_summary(raw.provenance, without_level))


@contextmanager
def unchanged(data: Data) -> Iterator[None]:
    """Print a line if DVC does not watch the source. Raise PipelineError if a watched folder has fewer files than when
    it was last read, as where a share is not mounted, or if it changes while it is read: DVC records its content at
    the end, which would then not be the content that was read."""
    if data.watch == UNWATCHED:
        if data.local:
            print(messages.UNWATCHED_SOURCE)
        yield
        return
    path = files.root() / data.watch
    if not path.exists():
        raise PipelineError(messages.NO_WATCHED_PATH.format(path=path))
    files_before, content = provenance.files_before("download", path), inventory.content(path)
    if content.files < files_before and not files.forced():
        raise PipelineError(messages.fewer_files(path, content.files, files_before))
    yield
    if inventory.content(path) != content:
        raise PipelineError(messages.CHANGED_SOURCE.format(path=path))


if __name__ == "__main__":
    entrypoint.stage(main)
