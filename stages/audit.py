"""Look for what would make a result look better than it is: copies, contradictions, too few patients.

Reads   data/raw/labels.csv, data/prepared/index.csv, data/prepared/thumbnails.npy
Writes  data/audit/clusters.csv, data/audit/findings.csv, metrics/audit.json, plots/audit/
Alone   python stages/audit.py
"""

from core import auditing, copies, files, imaging, running, tables

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
    grey = imaging.Grey(thumbnails)
    levels = copies.levels(grey)

    near, rejected = auditing.find_near_copies(index, grey, levels[1])
    clusters = auditing.cluster(index, near)
    conflicts = auditing.conflicts(index, clusters)
    findings = auditing.find(index, clusters, conflicts, levels, list(labelled[~labelled.isin(index["file"])]))
    figures = auditing.summarise(index, clusters, near, conflicts, findings)

    auditing.draw(index, clusters, conflicts, rejected, thumbnails, SHEETS)
    tables.write(clusters, CLUSTERS, tables.CLUSTERS)
    tables.write(findings, FINDINGS, tables.FINDINGS)
    files.write_json(METRICS, figures)
    print(auditing.explain(figures, findings))


if __name__ == "__main__":
    running.stage(main)
