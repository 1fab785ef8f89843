"""Measure how often planted shortcuts are found, how often there are false alarms, and the seconds for many images.

    python benchmarks/shortcuts.py [--sets 40] [--patients 100] [--images 277524]

A set has 100 patients, half of them positive, with 4 images each: smooth SYNTHETIC noise that is equal in both classes.
Each is stored as a JPEG and decoded as in the stage prepare. Patients differ in brightness (standard deviation 15 grey
levels, and 10 between the images of a patient), width and height (62 to 82 pixels), border, file-name ending and JPEG
quality. In a set with a planted shortcut, one of these depends on the class of the patient:

    brightness     30 grey levels more in positive images
    size           10 pixels more
    border         of 5 pixels, in 75 % of the positive and 15 % of the negative patients (else in 45 % of both)
    ending         .jpg for 80 % of the positive and 20 % of the negative patients (else 50 %), all with equal content
    JPEG quality   85, 90 or 95 for 80 % of the positive and 20 % of the negative patients, 70, 75 or 80 for the others

There are three kinds of sets without a shortcut: patients with images of one class; patients with images of both; and
unknown patients, where a tenth of the images has five copies, which are passed as the audit would find them. The last
two lines are the time and memory for a table of --images images, of patients with 1,000 images each and of unknown
patients.
"""

import argparse
import io
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.audit import shortcuts
from core.images import decoder
from core.images.preparation import Preparation
from core.pipeline import queries, tables

SPEC = Preparation(32)
PER_PATIENT = 4
EXPECTED = {
    "brightness": {"mean_brightness"}, "size": {"image_width", "image_height"}, "border": {"uniform_border"},
    "ending": {"file_name_ending"}, "quality": {"jpeg_quality"},
}  # fmt: skip
CLEAN = ["patients of one class", "patients of both", "unknown patients, copies"]
CLUSTERS = tables.frame([], tables.CLUSTERS)


def noise(random: np.random.Generator, width: int, height: int) -> np.ndarray:
    coarse = Image.fromarray(random.integers(0, 256, (9, 9), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=float) / 4


def draw(number: int, patients: int, planted: str | None, mixed: bool = False) -> pd.DataFrame:
    """The images of a set: label, patient, name and content."""
    random = np.random.default_rng([number, list(EXPECTED).index(planted) if planted else 99])
    positive = random.permutation(np.arange(patients) < patients // 2)
    rows = []
    for patient in range(patients):
        shortcut = planted if positive[patient] else None
        width = int(random.integers(62, 83)) + (10 if shortcut == "size" else 0)
        height = int(random.integers(62, 83)) + (10 if shortcut == "size" else 0)
        level = 100 + 15 * random.standard_normal() + (30 if shortcut == "brightness" else 0)
        high_quality = random.random() < ((0.8 if positive[patient] else 0.2) if planted == "quality" else 0.5)
        quality = int(random.choice([85, 90, 95] if high_quality else [70, 75, 80]))
        border = random.random() < ((0.75 if positive[patient] else 0.15) if planted == "border" else 0.45)
        is_jpg = random.random() < ((0.8 if positive[patient] else 0.2) if planted == "ending" else 0.5)
        for image in range(PER_PATIENT):
            pixels = np.clip(noise(random, width, height) + level + 10 * random.standard_normal(), 1, 255)
            if border:
                pixels[:5] = pixels[-5:] = 0
                pixels[:, :5] = pixels[:, -5:] = 0
            buffer = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=quality)
            label = int(random.integers(2)) if mixed else int(positive[patient])
            name = f"{patient:04d}_{image}.{'jpg' if is_jpg else 'jpeg'}"
            rows.append((label, f"p{patient}", name, buffer.getvalue()))
    return pd.DataFrame(rows, columns=["label", "patient", "file", "content"])


def find(images: pd.DataFrame, clusters: pd.DataFrame = CLUSTERS) -> dict:
    pictures = [decoder.picture(content, SPEC) for content in images["content"]]
    rows = zip(range(len(images)), images["file"], images["label"], images["patient"], strict=True)
    index = [(*row, picture.width, picture.height, picture.mode) for row, picture in zip(rows, pictures, strict=True)]
    properties = [(row, *picture.properties) for row, picture in enumerate(pictures)]
    return search(tables.frame(index, tables.INDEX[:7]), tables.frame(properties, tables.PROPERTIES), clusters)


def search(index: pd.DataFrame, properties: pd.DataFrame, clusters: pd.DataFrame) -> dict:
    with tempfile.TemporaryDirectory() as folder, queries.open_database(folder) as database:
        tables.write(index, f"{folder}/index.csv", list(index.columns))
        tables.write(properties, f"{folder}/properties.csv", tables.PROPERTIES)
        tables.write(index, f"{folder}/groups.csv", ["file"])
        database.add_file("images", f"{folder}/index.csv", list(index.columns))
        database.add_file("properties", f"{folder}/properties.csv", tables.PROPERTIES)
        database.add_file("groups", f"{folder}/groups.csv", ["file"])
        database.add("clusters", clusters)
        return shortcuts.find(database, clusters)[0]


def find_in_clean_set(number: int, patients: int, kind: str) -> dict:
    """What is found in a set without a shortcut; ``kind`` is one of CLEAN."""
    images = draw(number, patients, None, mixed=kind == CLEAN[1])
    if kind != CLEAN[2]:
        return find(images)
    random = np.random.default_rng(number)
    images = images.drop_duplicates("patient").assign(patient=None)  # the images of a patient are alike
    originals = images[random.random(len(images)) < 0.1]
    copies = [originals.assign(file=[f"copy{copy}_{name}" for name in originals["file"]]) for copy in range(5)]
    images = pd.concat([images, *copies], ignore_index=True)
    source = images["file"].str.replace(r"^copy\d_", "", regex=True)
    clusters = pd.DataFrame({"file": images["file"], "cluster": pd.factorize(source)[0]})
    clusters = clusters[clusters["cluster"].map(clusters["cluster"].value_counts()) > 1]
    clusters = clusters.assign(kind="exact", distance=0, correlation=1.0)
    return find(images, clusters[tables.CLUSTERS])


def measure_cost(count: int, with_patients: bool) -> str:
    """Time and memory of the search in a table of ``count`` images, as text."""
    random = np.random.default_rng(0)
    rows = np.arange(count)
    index = pd.DataFrame(
        {
            "row": rows, "file": [f"images/{row:08d}.png" for row in rows], "label": random.integers(2, size=count),
            "patient": [f"p{row // 1000}" for row in rows] if with_patients else None,
            "width": 50, "height": 50, "mode": "RGB",
        }
    ).astype({"file": "string", "patient": "string"})  # fmt: skip
    properties = pd.DataFrame(
        {
            "row": rows, "format": "PNG", "bytes": random.integers(4000, 8000, count),
            "brightness": random.normal(150, 20, count), "border": random.random(count).round(2),
            "jpeg_quality": pd.array([None] * count, "Int64"), "window_center": np.nan, "window_width": np.nan,
        }
    )  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    figures = search(index, properties, CLUSTERS)
    seconds = time.perf_counter() - start
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6
    return f"{count:,} images, {figures['units']:,} units: {seconds:.1f} s, {memory:.2f} GB more"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=40)
    parser.add_argument("--patients", type=int, default=100)
    parser.add_argument("--images", type=int, default=277_524)
    args = parser.parse_args()
    for kind, properties in EXPECTED.items():
        results = [find(draw(number, args.patients, kind)) for number in range(args.sets)]
        hits = sum(bool(properties & set(figures["shortcuts"])) for figures in results)
        others = sum(bool(set(figures["shortcuts"]) - properties) for figures in results)
        aucs = [max(figures["properties"][name]["auc"] for name in properties) for figures in results]
        print(f"{kind}: found in {hits} of {args.sets}, mean AUC {np.mean(aucs):.3f}; another one in {others}")
    for kind in CLEAN:
        results = [find_in_clean_set(number, args.patients, kind) for number in range(args.sets)]
        alarms = sum(bool(figures["shortcuts"]) for figures in results)
        least = [min(entry["p"] or 1 for entry in figures["properties"].values()) for figures in results]
        print(f"none ({kind}): one named in {alarms} of {args.sets}; p below 0.05 in {sum(p < 0.05 for p in least)}")
    figures = find(draw(0, 12, "brightness"))
    print(f"12 patients: {figures['reason']}")
    for with_patients in (True, False):
        print(measure_cost(args.images, with_patients))


if __name__ == "__main__":
    main()
