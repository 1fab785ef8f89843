"""Predict the probability of the positive class for new images, and flag out-of-distribution images. Research only.

Reads   models/ (written by dvc repro, or fetched by dvc pull), images or folders of images
Writes  a table to the screen, or to --out as .csv or .json; with --heatmap, one heatmap per image
Alone   python stages/predict.py IMAGE_OR_FOLDER ... [--out predictions.csv] [--heatmap FOLDER] [--device cpu]
"""

import argparse
import json
import sys
from itertools import islice
from pathlib import Path

from core.commands import prediction
from core.images import decoder, inventory
from core.network import messages, ood
from core.pipeline import entrypoint, files
from core.pipeline.errors import PipelineError

import numpy as np
import pandas as pd
from tqdm import tqdm

AT_ONCE = 2**28  # bytes of decoded images in memory
COLUMNS = ["file", "probability", "ood_score", "error"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Predict the probability of the positive class for new images. Research only."
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="IMAGE_OR_FOLDER", help="a folder includes its subfolders"
    )
    parser.add_argument("--models", type=Path, default="models", help="the folder with the model")
    parser.add_argument("--out", type=Path, help="a .csv or .json file; default: print the table")
    parser.add_argument("--heatmap", type=Path, metavar="FOLDER", help="write heatmaps of the predicted class here")
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        help="the temperature in metrics/detail/evaluate.json, if evaluate.calibration uses it",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    asked = parser.parse_args()
    if not asked.temperature > 0:
        raise PipelineError(
            f"--temperature {asked.temperature:g}: it must be above 0; 1 does not change the probabilities"
        )
    if asked.out and asked.out.suffix not in (".csv", ".json"):
        raise PipelineError(f"--out {asked.out}: the name must end in .csv or .json")

    paths = inventory.expand(asked.paths)
    model = prediction.Model(asked.models, asked.device, asked.temperature)
    rows: list[tuple[str, float | None, float | None, str]] = []
    bar = tqdm(total=len(paths), unit=" images", disable=None)
    size = max(1, min(1024, AT_ONCE // (model.preparation.side**2 * model.channels)))
    pictures = decoder.decode_all(paths, lambda name: Path(name).read_bytes(), decoder.pixels, model.preparation)
    for start in range(0, len(paths), size):
        some = paths[start : start + size]
        stack, why = model.fit(list(islice(pictures, len(some))))
        good = np.array([at for at, reason in enumerate(why) if not reason], dtype=np.int64)
        scores = dict(zip(good, zip(*model.scores(stack, good), strict=True), strict=True)) if len(good) else {}
        rows += [(name, *scores.get(at, (None, None)), why[at]) for at, name in enumerate(some)]
        if asked.heatmap:
            for at, (probability, _) in scores.items():
                below = [part for part in Path(some[at]).parts if part not in ("..", Path(some[at]).anchor)]
                with files.atomic_write(asked.heatmap.joinpath(*below[:-1], below[-1] + ".png")) as unfinished:
                    model.heatmap(stack[at], probability >= 0.5).save(unfinished)
        bar.update(len(some))
    bar.close()

    table = pd.DataFrame(rows, columns=COLUMNS)
    if asked.out and asked.out.suffix == ".json":
        known = table.astype(object).where(table.notna(), None)
        files.write_text(asked.out, json.dumps(known.to_dict("records"), indent=1, ensure_ascii=False) + "\n")
    elif asked.out:
        files.write_text(asked.out, table.to_csv(index=False, lineterminator="\n"))
    else:
        sys.stdout.write(table.to_csv(index=False, lineterminator="\n"))
    if model.synthetic:
        print("This model was trained on SYNTHETIC images: it says nothing about patients.", file=sys.stderr)
    strange = int((table["ood_score"] > 1).sum())
    if strange:
        print(
            f"{strange:,} of {len(rows):,} images are out of distribution (ood_score above 1): "
            f"{messages.out_of_distribution(ood.IN_DISTRIBUTION)}",
            file=sys.stderr,
        )
    for written in (asked.out, asked.heatmap):
        if written and files.seen_by_git(written):
            print(f"{written} names or shows patients, and git does not ignore it: do not commit it", file=sys.stderr)
    failed = sum(1 for row in rows if row[-1])
    if failed:
        raise PipelineError(f"{failed:,} of {len(rows):,} images have no probability: see the column error")


if __name__ == "__main__":
    entrypoint.script(main)
