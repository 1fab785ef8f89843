"""Measure the cost of checkpoints in training.

    python benchmarks/checkpoints.py [--epochs 5] [--rounds 5]

Trains on the images of data/prepared with the parameters of params.yaml (run dvc repro first). Each round runs every
variant once. Prints the time of each variant, in seconds per epoch, and its ratio to training without checkpoints in
the same round.
"""

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from ratios import spread

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from core.network import checkpoints, devices, networks, training
from core.pipeline import files, tables
from core.pipeline.schemas import params_yaml

VARIANTS = ("without checkpoints", "a checkpoint per epoch", "a checkpoint every 10 s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    params = params_yaml.load()
    images = files.read_array("data/prepared/images.npy")
    split = tables.read("data/split.csv", tables.SPLIT)
    rows = {part: split.loc[split["split"] == part, "row"].to_numpy() for part in ("train", "val")}
    labels = np.zeros(len(images), dtype=np.int64)
    labels[split["row"]] = split["label"]

    def seconds(variant: str) -> float:
        minutes = 1 / 6 if variant.endswith("10 s") else 1e9
        cfg = params.train.model_copy(update={"epochs": args.epochs})
        devices.seed_everything(params.seed, threads=params.train.threads)
        classifier = networks.Classifier(params.model.backbone, params.model.head, images.shape[1])
        with tempfile.TemporaryDirectory(dir=".", prefix=".benchmark-") as folder:
            context = checkpoints.opened(Path(folder), "a", "m") if "checkpoint " in variant else nullcontext()
            with context as store:
                start = time.perf_counter()
                data = training.Data(images, labels, rows)
                training.fit(classifier, data, cfg, params.seed, store=store, checkpoint_minutes=minutes)
                return (time.perf_counter() - start) / args.epochs

    seconds(VARIANTS[0])  # warm-up: torch loads some of its parts in the first run
    times = [{variant: seconds(variant) for variant in VARIANTS} for _ in range(args.rounds)]
    print(f"{'':26} {'s/epoch':>10}   ratio, median (min to max)")
    for variant in VARIANTS:
        ratios = [round_[variant] / round_[VARIANTS[0]] for round_ in times]
        median = statistics.median(round_[variant] for round_ in times)
        print(f"{variant:26} {median:10.3f}   {spread(ratios)}")


if __name__ == "__main__":
    main()
