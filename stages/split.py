"""Assign every image to train, validation, test or dropped, keeping patients and copies together.

Reads   data/raw/lists.csv, data/prepared/index.csv, data/audit/clusters.csv, params.yaml (split, seed)
Writes  data/split.csv, metrics/split.json, data/detail/split.json
Alone   python stages/split.py
"""

from pathlib import Path

from core.pipeline import entrypoint, files, params, tables
from core.pipeline.errors import PipelineError
from core.pipeline.schemas.base import Section, Seed
from core.pipeline.schemas.split import Split
from core.split import assignment, leakage, queries

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
    chosen = params.load(Params)
    clusters = tables.read(CLUSTERS, tables.CLUSTERS)
    with queries.opened(Path(SPLIT).parent) as known:
        known.add_file("images", INDEX, tables.INDEX[:4])
        known.add_file("listed", LISTS, tables.LISTED)
        known.add("clusters", clusters)
        images = queries.condensed(known) if assignment.gathers(chosen.split) else queries.singly(known)
        synthetic = queries.are_synthetic(known)

    split = assignment.assign(images, clusters, chosen.split, params.either(chosen.split.seed, chosen.seed))
    leak = leakage.explain(split, clusters)
    if leak and chosen.split.on_leak == "fail":
        raise PipelineError(
            f"The split is refused, because the test result would be too good.\n{leak}\n"
            "To separate them: split.strategy: patient and split.duplicates: together. "
            "To measure the effect of the leak: split.on_leak: report"
        )
    figures = assignment.summarise(split, chosen.split) | {"leak": leakage.measure(split, clusters)}
    with files.whole(SPLIT) as unfinished:
        for some in tables.chunks(INDEX, tables.INDEX[:4]):
            rows = queries.spread(some, split, ["cluster", "component", "split"])
            tables.append(rows, unfinished, tables.SPLIT)
    files.write_json(METRICS, assignment.headline(figures))
    files.write_json(DETAIL, {"synthetic": synthetic} | figures)

    print(assignment.describe(figures))
    if chosen.split.strategy == "stable" and (said := leakage.left_out(split)):
        print(said)
    print(f"LEAK (split.on_leak: report):\n{leak}" if leak else leakage.assure(split))


if __name__ == "__main__":
    entrypoint.stage(main)
