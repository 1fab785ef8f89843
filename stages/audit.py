"""Look for what would make a result look better than it is: copies, contradictions, too few patients.

Reads   data/raw/labels.csv, data/prepared/index.csv, data/prepared/thumbnails.npy
Writes  data/audit/clusters.csv, metrics/audit.json, plots/audit/copies.png
Alone   python stages/audit.py
"""

from core import auditing, drawing, files, tables

LABELS = "data/raw/labels.csv"
INDEX = "data/prepared/index.csv"
THUMBNAILS = "data/prepared/thumbnails.npy"
CLUSTERS = "data/audit/clusters.csv"
METRICS = "metrics/audit.json"
COPIES = "plots/audit/copies.png"


def main() -> None:
    index = tables.read(INDEX, tables.INDEX)
    unreadable = len(tables.read(LABELS, tables.LABELS)) - len(index)

    clusters = auditing.find_copies(index)
    figures = auditing.summarise(index, clusters, unreadable)

    tables.write(clusters, CLUSTERS, tables.CLUSTERS)
    files.write_json(METRICS, figures)
    drawing.copies(index, clusters, files.read_array(THUMBNAILS), COPIES)
    print(auditing.explain(figures, auditing.conflicts(index, clusters)))


if __name__ == "__main__":
    main()
