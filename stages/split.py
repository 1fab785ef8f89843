"""Assign every image to train, validation, test or dropped, keeping patients and copies together.

Reads   data/raw/lists.csv, data/prepared/index.csv, data/audit/clusters.csv, params.yaml (split, seed)
Writes  data/split.csv, metrics/split.json
Alone   python stages/split.py
"""

from core import files, params, running, splitting, tables
from core.errors import Mistake

LISTS = "data/raw/lists.csv"
INDEX = "data/prepared/index.csv"
CLUSTERS = "data/audit/clusters.csv"
SPLIT = "data/split.csv"
METRICS = "metrics/split.json"


def main() -> None:
    chosen = params.load("split", "seed")
    index = tables.read(INDEX, tables.INDEX)
    clusters = tables.read(CLUSTERS, tables.CLUSTERS)
    listed = tables.read(LISTS, tables.LISTED)

    split = splitting.assign(index, clusters, listed, chosen.split, chosen.seed)
    leak = splitting.explain_leak(split, clusters)
    if leak and chosen.split.on_leak == "fail":
        raise Mistake(
            f"The split is refused: a result on it would measure memory.\n{leak}\n"
            "Keep them apart: split.strategy: patient and split.duplicates: together. "
            "To see what the leak does to the figures: split.on_leak: report"
        )
    figures = splitting.summarise(split, chosen.split)
    tables.write(split, SPLIT, tables.SPLIT)
    files.write_json(
        METRICS, {"synthetic": tables.is_synthetic(split)} | figures | {"leak": splitting.measure_leak(split, clusters)}
    )

    print(splitting.describe(figures))
    print(f"LEAK, reported as split.on_leak asks:\n{leak}" if leak else splitting.assure(split))


if __name__ == "__main__":
    running.stage(main)
