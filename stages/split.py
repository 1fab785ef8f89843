"""Assign every image to train, validation, test or dropped, keeping patients and copies together.

Reads   data/raw/lists.csv, data/prepared/index.csv, data/audit/clusters.csv, params.yaml (split, seed)
Writes  data/split.csv, metrics/split.json
Alone   python stages/split.py
"""

from core.pipeline import entrypoint, files, params, tables
from core.pipeline.errors import Mistake
from core.split import assignment, leakage

LISTS = "data/raw/lists.csv"
INDEX = "data/prepared/index.csv"
CLUSTERS = "data/audit/clusters.csv"
SPLIT = "data/split.csv"
METRICS = "metrics/split.json"


def main() -> None:
    chosen = params.load("split", "seed")
    index = tables.read(INDEX, tables.INDEX[:4])
    clusters = tables.read(CLUSTERS, tables.CLUSTERS)
    listed = tables.read(LISTS, tables.LISTED)

    split = assignment.assign(index, clusters, listed, chosen.split, params.either(chosen.split.seed, chosen.seed))
    leak = leakage.explain(split, clusters)
    if leak and chosen.split.on_leak == "fail":
        raise Mistake(
            f"The split is refused, because the test result would be too good.\n{leak}\n"
            "To separate them: split.strategy: patient and split.duplicates: together. "
            "To measure the effect of the leak: split.on_leak: report"
        )
    figures = assignment.summarise(split, chosen.split)
    tables.write(split, SPLIT, tables.SPLIT)
    files.write_json(
        METRICS,
        {"synthetic": tables.is_synthetic(split)} | figures | {"leak": leakage.measure(split, clusters)},
    )

    print(assignment.describe(figures))
    if chosen.split.strategy == "stable" and (said := leakage.left_out(split)):
        print(said)
    print(f"LEAK (split.on_leak: report):\n{leak}" if leak else leakage.assure(split))


if __name__ == "__main__":
    entrypoint.stage(main)
