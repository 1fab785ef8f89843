"""Assign every image to train, validation, test or dropped, keeping patients and copies together.

Reads   data/raw/lists.csv, data/prepared/index.csv, data/audit/clusters.csv, params.yaml (split, seed)
Writes  data/split.csv, metrics/split.json, data/detail/split.json
Alone   python stages/split.py
"""

from pathlib import Path

from core.pipeline import entrypoint, files, params, queries, tables
from core.pipeline.errors import PipelineError
from core.pipeline.schemas.base import SPLITS, Section, Seed
from core.pipeline.schemas.split import Split
from core.split import assignment, leakage, messages

LISTS = "data/raw/lists.csv"
INDEX = "data/prepared/index.csv"
CLUSTERS = "data/audit/clusters.csv"
SPLIT = "data/split.csv"
METRICS = "metrics/split.json"
DETAIL = "data/detail/split.json"


class Params(Section):
    seed: Seed
    split: Split


def main() -> None:
    cfg = params.load(Params)
    clusters = tables.read(CLUSTERS, tables.CLUSTERS)
    with queries.open_database(Path(SPLIT).parent) as database:
        database.add_file("images", INDEX, tables.INDEX[:4])
        database.add_file("listed", LISTS, tables.LISTED)
        database.add("clusters", clusters)
        by_patient = assignment.keeps_patients_together(cfg.split)
        images = queries.by_patient(database) if by_patient else queries.by_image(database)
        synthetic = queries.are_synthetic(database)
        lists = database.frame("select distinct listed.split as split from listed order by 1")["split"]

    if cfg.split.strategy == "predefined" and (empty := set(lists) - set(images["listed"])):
        # Without this, validation patients would be drawn, although there is a list of them.
        raise PipelineError(messages.EMPTY_LIST.format(split=min(empty)))
    split = assignment.assign(images, clusters, cfg.split, params.either(cfg.split.seed, cfg.seed))
    leak = leakage.explain(split, clusters)
    if leak and cfg.split.on_leak == "fail":
        raise PipelineError(messages.REFUSED.format(leaks=leak))
    figures = assignment.summarise(split, cfg.split) | {"leak": leakage.measure(split, clusters)}
    with files.atomic_write(SPLIT) as unfinished:
        for chunk in tables.chunks(INDEX, tables.INDEX[:4]):
            rows = queries.expand(chunk, split, ["cluster", "component", "split"])
            tables.append(rows, unfinished, tables.SPLIT)
    files.write_json(METRICS, assignment.headline(figures))
    files.write_json(DETAIL, {"synthetic": synthetic} | figures)

    print(messages.summary(figures, SPLITS))
    if cfg.split.strategy == "stable" and (dropped := leakage.left_out(split)):
        print(dropped)
    print(messages.REPORTED.format(leaks=leak) if leak else leakage.assure(split))


if __name__ == "__main__":
    entrypoint.stage(main)
