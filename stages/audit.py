"""Check the images for problems that make a result look too good: copies, contradicting labels, shortcuts.

Reads   data/raw/labels.csv, data/raw/groups.csv, data/prepared/index.csv, data/prepared/properties.csv,
        data/prepared/thumbnails.npy, data/prepared/crops.npy
Writes  data/audit/clusters.csv, data/audit/findings.csv, metrics/audit.json, data/detail/audit.json, plots/audit/
Alone   python stages/audit.py
"""

from pathlib import Path

from core.audit import copies, messages, quality, shortcuts
from core.images import decoder
from core.pipeline import entrypoint, files, queries, tables

LABELS = "data/raw/labels.csv"
GROUPS = "data/raw/groups.csv"
INDEX = "data/prepared/index.csv"
PROPERTIES = "data/prepared/properties.csv"
THUMBNAILS = "data/prepared/thumbnails.npy"
CROPS = "data/prepared/crops.npy"
CLUSTERS = "data/audit/clusters.csv"
FINDINGS = "data/audit/findings.csv"
METRICS = "metrics/audit.json"
DETAIL = "data/detail/audit.json"
SHEETS = "plots/audit"


def main() -> None:
    thumbnails, crops = files.read_array(THUMBNAILS), files.read_array(CROPS)
    grey = decoder.Grey(thumbnails)
    folder = str(Path(CLUSTERS).parent)
    with queries.open_database(folder) as database:
        levels = copies.levels(grey, folder)
        database.add_file("images", INDEX, tables.INDEX)
        database.add_file("labelled", LABELS, ["file", "class"])
        images, near, rejected = quality.find_copies(database, grey, levels[1], folder, crops)
        images = quality.with_classes(database, images)
        clusters = quality.cluster(images, near)
        database.add("clusters", clusters)
        database.add_file("properties", PROPERTIES, tables.PROPERTIES, others=True)
        database.add_file("groups", GROUPS, ["file"], others=True)
        conflicts = quality.conflicts(images, clusters)
        findings = quality.find(database, images, clusters, conflicts, levels, folder)
        figures = quality.summarise(database, images, clusters, near, conflicts, findings)
        tested, telling = shortcuts.find(database, clusters)
        quality.draw_crops(database, thumbnails, crops, figures["synthetic"], f"{SHEETS}/crops.png")
        count = None if tested["reason"] == tables.TOO_FEW else len(tested["shortcuts"])
        figures |= {"shortcut_properties": count, "shortcuts": tested}

    quality.draw(images, clusters, conflicts, rejected, thumbnails, figures["synthetic"], SHEETS)
    shortcuts.draw(tested, telling, thumbnails, figures["synthetic"], f"{SHEETS}/shortcuts.png")
    tables.write(clusters, CLUSTERS, tables.CLUSTERS)
    tables.write(findings, FINDINGS, tables.FINDINGS)
    files.write_json(METRICS, {name: figures[name] for name in (*quality.HEADLINE, "shortcut_properties")})
    files.write_json(DETAIL, figures)
    print(
        messages.summary(figures, findings, tables.FEW_PATIENTS, copies.MIN_STD),
        messages.shortcuts(tested, figures["shortcut_properties"]),
        sep="\n",
    )


if __name__ == "__main__":
    entrypoint.stage(main)
