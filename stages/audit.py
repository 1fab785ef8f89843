"""Look for what would make a result look better than it is: copies, contradictions, too few patients.

Reads   data/raw/labels.csv, data/prepared/index.csv, data/prepared/thumbnails.npy
Writes  data/audit/clusters.csv, data/audit/findings.csv, metrics/audit.json, plots/audit/
Alone   python stages/audit.py
"""

from core import auditing, files, imaging, running, tables

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
    grey = imaging.grey_levels(thumbnails)

    near, rejected = auditing.find_near_copies(index, grey)
    clusters = auditing.cluster(index, near)
    findings = auditing.find(index, clusters, grey, list(labelled[~labelled.isin(index["file"])]))
    figures = auditing.summarise(index, clusters, near, findings)

    auditing.draw(index, clusters, rejected, thumbnails, SHEETS)
    tables.write(clusters, CLUSTERS, tables.CLUSTERS)
    tables.write(findings, FINDINGS, tables.FINDINGS)
    files.write_json(METRICS, figures)
    print(auditing.explain(figures, findings))


if __name__ == "__main__":
    running.stage(main)
