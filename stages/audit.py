"""Check the images for problems that make a result look too good: copies, contradicting labels, too few patients.

Reads   data/raw/labels.csv, data/prepared/index.csv, data/prepared/thumbnails.npy
Writes  data/audit/clusters.csv, data/audit/findings.csv, metrics/audit.json, plots/audit/
Alone   python stages/audit.py
"""

from core.audit import copies, quality
from core.images import decoder
from core.pipeline import entrypoint, files, tables

LABELS = "data/raw/labels.csv"
INDEX = "data/prepared/index.csv"
THUMBNAILS = "data/prepared/thumbnails.npy"
CLUSTERS = "data/audit/clusters.csv"
FINDINGS = "data/audit/findings.csv"
METRICS = "metrics/audit.json"
SHEETS = "plots/audit"


def main() -> None:
    index = tables.read(INDEX, tables.INDEX)
    labelled = tables.read(LABELS, tables.LABELS)["file"]
    thumbnails = files.read_array(THUMBNAILS)
    grey = decoder.Grey(thumbnails)
    levels = copies.levels(grey)

    near, rejected = quality.find_near_copies(index, grey, levels[1])
    clusters = quality.cluster(index, near)
    conflicts = quality.conflicts(index, clusters)
    findings = quality.find(index, clusters, conflicts, levels, list(labelled[~labelled.isin(index["file"])]))
    figures = quality.summarise(index, clusters, near, conflicts, findings)

    quality.draw(index, clusters, conflicts, rejected, thumbnails, SHEETS)
    tables.write(clusters, CLUSTERS, tables.CLUSTERS)
    tables.write(findings, FINDINGS, tables.FINDINGS)
    files.write_json(METRICS, figures)
    print(quality.explain(figures, findings))


if __name__ == "__main__":
    entrypoint.stage(main)
