"""Train the classifier and keep the weights of its best epoch.

Reads   data/prepared/images.npy, data/split.csv, params.yaml (model, train, seed)
Writes  models/model.safetensors, models/model.json, metrics/train.json, plots/train/
Alone   python stages/train.py
"""

import sys

import numpy as np
from dvclive import Live
from safetensors.torch import save_file

from core import files, networks, params, tables, training

IMAGES = "data/prepared/images.npy"
SPLIT = "data/split.csv"
WEIGHTS = "models/model.safetensors"
MODEL = "models/model.json"
METRICS = "metrics/train.json"
PLOTS = "plots/train"


def main() -> None:
    chosen = params.load("model", "train", "seed")
    images = files.read_array(IMAGES)
    split = tables.read(SPLIT, tables.SPLIT)
    rows = {part: split.loc[split["part"] == part, "row"].to_numpy() for part in ("train", "val")}
    labels = np.zeros(len(images), dtype=np.int64)
    labels[split["row"]] = split["label"]

    training.repeatable(chosen.seed)
    architecture = {"backbone": chosen.model.backbone, "head": chosen.model.head, "image_size": images.shape[1]}
    classifier = networks.build(**architecture, weights=chosen.model.weights, root=files.root())
    count = sum(parameter.numel() for parameter in classifier.parameters())
    print(f"{chosen.model.backbone}: {count:,} parameters, {len(rows['train']):,} images to train on")

    with Live(PLOTS, dvcyaml=None, save_dvc_exp=False, report=None) as live:

        def report(epoch: training.Epoch) -> None:
            live.step = epoch.number
            live.log_metric("train/loss", epoch.train_loss)
            live.log_metric("val/loss", epoch.val_loss)
            live.log_metric("train/accuracy", epoch.train_accuracy)
            live.log_metric("val/accuracy", epoch.val_accuracy)
            live.log_metric("lr", epoch.lr)
            live.next_step()
            if not sys.stderr.isatty():  # there the bar shows it
                print(epoch.line(), flush=True)

        fitted = training.fit(classifier, images, rows, labels, chosen.train, chosen.seed, report)

    with files.whole(WEIGHTS) as unfinished:
        save_file(fitted.state, unfinished)
    synthetic = {"synthetic": tables.is_synthetic(split)}
    files.write_json(MODEL, architecture | {"channels": images.shape[3]} | synthetic)
    figures = {"best_epoch": fitted.best.number, "epochs": fitted.epochs, "stopped_early": fitted.stopped_early}
    best = {name: getattr(fitted.best, name) for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy")}
    files.write_json(METRICS, synthetic | figures | best | {"parameters": count})
    print(f"Kept {fitted.best.line()}")


if __name__ == "__main__":
    main()
