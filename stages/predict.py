"""Predict the probability of the positive class for new images, and flag out-of-distribution images. Research only.

Reads   models/ (written by dvc repro, or fetched by dvc pull), images or folders of images
Writes  a table to the screen, or to --out as .csv or .json; with --heatmap, one heatmap per image
Alone   python stages/predict.py IMAGE_OR_FOLDER ... [--out predictions.csv] [--heatmap FOLDER] [--device cpu]
"""

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

BATCH_BYTES = 2**28  # decoded images in memory
COLUMNS = ["file", "probability", "ood_score", "error"]


def main() -> None:
    parser = entrypoint.argument_parser()
    parser.add_argument("paths", nargs="+", type=Path, metavar="IMAGE_OR_FOLDER", help="folders include subfolders")
    parser.add_argument("--models", type=Path, default="models", help="the folder with the model")
    parser.add_argument("--out", type=Path, help="a .csv or .json file; default: print the table")
    parser.add_argument("--heatmap", type=Path, metavar="FOLDER", help="write heatmaps of the predicted class here")
    parser.add_argument("--temperature", type=float, help="instead of the one in decision.json; 1 changes nothing")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    args = parser.parse_args()
    if args.temperature is not None and not args.temperature > 0:
        raise PipelineError(f"--temperature {args.temperature:g}: it must be above 0; 1 changes no probability")
    if args.out and args.out.suffix not in (".csv", ".json"):
        raise PipelineError(f"--out {args.out}: the name must end in .csv or .json")

    paths = inventory.expand(args.paths)
    model = prediction.Model(args.models, args.device, args.temperature)
    rows: list[tuple[str, float | None, float | None, str]] = []
    bar = tqdm(total=len(paths), unit=" images", disable=None)
    size = max(1, min(1024, BATCH_BYTES // (model.preparation.side**2 * model.channels)))
    pictures = decoder.decode_all(paths, lambda name: Path(name).read_bytes(), decoder.pixels, model.preparation)
    for start in range(0, len(paths), size):
        batch = paths[start : start + size]
        stack, errors = model.fit(list(islice(pictures, len(batch))))
        valid = np.array([index for index, error in enumerate(errors) if not error], dtype=np.int64)
        scores = dict(zip(valid, zip(*model.scores(stack, valid), strict=True), strict=True)) if len(valid) else {}
        rows += [(name, *scores.get(index, (None, None)), errors[index]) for index, name in enumerate(batch)]
        if args.heatmap:
            for index, (probability, _) in scores.items():
                path = Path(batch[index])
                parts = [part for part in path.parts if part not in ("..", path.anchor)]
                with files.atomic_write(args.heatmap.joinpath(*parts[:-1], parts[-1] + ".png")) as unfinished:
                    model.heatmap(stack[index], probability).save(unfinished)
        bar.update(len(batch))
    bar.close()

    table = pd.DataFrame(rows, columns=COLUMNS)
    text = table.to_csv(index=False, lineterminator="\n")
    if args.out and args.out.suffix == ".json":
        records = table.astype(object).where(table.notna(), None).to_dict("records")
        text = json.dumps(records, indent=1, ensure_ascii=False) + "\n"
    if args.out:
        files.write_text(args.out, text)
    else:
        sys.stdout.write(text)
    if model.synthetic:
        print("This model was trained on SYNTHETIC images: it says nothing about patients.", file=sys.stderr)
    if count := int((table["ood_score"] > 1).sum()):
        print(
            f"{count:,} of {len(rows):,} images are out of distribution (ood_score above 1): ", end="", file=sys.stderr
        )
        print(messages.out_of_distribution(ood.IN_DISTRIBUTION), file=sys.stderr)
    for path in filter(None, (args.out, args.heatmap)):
        if files.seen_by_git(path):
            print(f"{path} names or shows patients, and git does not ignore it: do not commit it", file=sys.stderr)
    if failed := sum(1 for row in rows if row[-1]):
        raise PipelineError(f"{failed:,} of {len(rows):,} images have no probability: see the column error")


if __name__ == "__main__":
    entrypoint.script(main)
