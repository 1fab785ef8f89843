"""Give the probability of being positive for new images. Research only: no medical device.

Reads   models/model.safetensors, models/model.json, and the images or folders named
Writes  a CSV (file, probability, error) to the screen, or to --out
Alone   python stages/predict.py IMAGE_OR_FOLDER ... [--out predictions.csv] [--temperature T]
"""

import argparse
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from core import calibration, files, imaging, networks, running, sources, training
from core.errors import Mistake

AT_ONCE = 2**28  # bytes of images in memory


def main() -> None:
    parser = argparse.ArgumentParser(description="The probability of being positive for new images. Research only.")
    parser.add_argument("paths", nargs="+", type=Path, metavar="IMAGE_OR_FOLDER", help="a folder with all below it")
    parser.add_argument("--models", type=Path, default="models", help="folder of model.safetensors and model.json")
    parser.add_argument("--out", type=Path, help="CSV to write; without it the table goes to the screen")
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        help="that of metrics/evaluate.json, where evaluate.calibration uses it",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    asked = parser.parse_args()
    if not asked.temperature > 0:
        raise Mistake(f"--temperature {asked.temperature:g}: it must be above 0; 1 leaves probabilities as they are")

    paths = sources.expand(asked.paths)
    model = files.read_json(asked.models / "model.json")
    classifier = networks.restore(asked.models / "model.safetensors", model)
    device = training.choose_device(asked.device)
    side = model["image_size"]

    rows: list[tuple[str, float | None, str]] = []
    bar = tqdm(total=len(paths), unit=" images", disable=None)
    size = max(1, min(1024, AT_ONCE // (side * side * model["channels"])))
    pictures = imaging.decode_all(paths, lambda name: Path(name).read_bytes(), imaging.pixels, side)
    for start in range(0, len(paths), size):
        some = paths[start : start + size]
        read = list(islice(pictures, len(some)))
        stack = np.zeros((len(some), side, side, model["channels"]), np.uint8)
        why = [imaging.fit_into(stack[at], pixels) for at, pixels in enumerate(read)]
        good = np.array([at for at, reason in enumerate(why) if not reason], dtype=np.int64)
        raw = training.probabilities(classifier, stack, good, device)
        chances = dict(zip(good, calibration.tempered(raw, asked.temperature), strict=True))
        rows += [(name, chances.get(at), why[at]) for at, name in enumerate(some)]
        bar.update(len(some))
    bar.close()

    table = pd.DataFrame(rows, columns=["file", "probability", "error"]).to_csv(index=False, lineterminator="\n")
    if asked.out:
        files.write_text(asked.out, table)
    else:
        sys.stdout.write(table)
    if model["synthetic"]:
        print("This model was trained on SYNTHETIC images: it says nothing about patients.", file=sys.stderr)
    failed = sum(1 for row in rows if row[2])
    if failed:
        raise Mistake(f"{failed:,} of {len(rows):,} images have no probability: the column error says why")


if __name__ == "__main__":
    running.script(main)
