"""Train the classifier and keep the weights of its best epoch. A killed training resumes from its last checkpoint.

Reads   data/prepared/images.npy, data/split.csv, params.yaml (model, train, seed)
Writes  models/ (model.safetensors, model.json, novelty.safetensors), metrics/train.json, data/curves/;
        .checkpoints/ while it runs
Alone   python stages/train.py
"""

import hashlib
import sys
from collections.abc import Callable

import numpy as np
from dvclive import Live
from safetensors.torch import save

from core.network import checkpoints, devices, inference, networks, novelty, ranks, state, training
from core.pipeline import entrypoint, files, params, provenance, tables

IMAGES = "data/prepared/images.npy"
SPLIT = "data/split.csv"
WEIGHTS = "models/model.safetensors"
MODEL = "models/model.json"
NOVELTY = "models/novelty.safetensors"
METRICS = "metrics/train.json"
CURVES = "data/curves"


def main() -> None:
    chosen = params.load("model", "train", "seed")
    images = files.read_array(IMAGES)
    split = tables.read(SPLIT, tables.SPLIT)
    rows = {part: split.loc[split["part"] == part, "row"].to_numpy() for part in ("train", "val")}
    labels = np.zeros(len(images), dtype=np.int64)
    labels[split["row"]] = split["label"]

    count = ranks.wanted(chosen.train.processes, chosen.train.device)
    if ranks.number() is None and (count > 1 or ranks.machines()):
        ranks.launch(count)
        sys.exit()  # the first process has written the outputs

    device = devices.choose(chosen.train.device)
    devices.repeatable(chosen.seed, chosen.train.deterministic)
    classifier = networks.build(
        chosen.model.backbone, chosen.model.head, images.shape[1], chosen.model.weights, files.root()
    )
    task = (classifier, images, rows, labels, chosen.train, chosen.seed)
    with ranks.joined(device, chosen.train.checkpoint_minutes) as together:
        together.agree(fingerprint(), "Parameters, data or code")
        if together.rank > 0:
            with entrypoint.postponed() as stop:
                training.fit(*task, lambda epoch: None, None, stop, together)
            return
        count = sum(parameter.numel() for parameter in classifier.parameters())
        print(f"{chosen.model.backbone}: {count:,} parameters, {len(rows['train']):,} images to train on")
        first = hashlib.sha256(
            save(classifier.state_dict())
        ).hexdigest()  # covers the content of the file that model.weights names
        begun = provenance.fingerprint([fingerprint(), first])
        with checkpoints.opened(files.root() / ".checkpoints", begun, provenance.computing()) as store:
            if checkpoints.forced():
                store.clear()
            with entrypoint.postponed() as stop, Live(CURVES, dvcyaml=None, save_dvc_exp=False, report=None) as live:
                fitted = training.fit(*task, reporting(live), store, stop, together)

            with files.whole(WEIGHTS) as unfinished:
                unfinished.write_bytes(save(fitted.state))
            synthetic = {"synthetic": tables.is_synthetic(split)}
            files.write_json(MODEL, classifier.description | {"channels": images.shape[3]} | synthetic)
            classifier.load_state_dict(fitted.state)
            some = {part: novelty.some(rows[part], chosen.seed) for part in rows}
            known = {part: inference.features(classifier, images, some[part], device)[1] for part in rows}
            with files.whole(NOVELTY) as unfinished:
                views = classifier.views(known["train"].shape[1])
                unfinished.write_bytes(save(novelty.fit(**known, views=views)._asdict()))
            files.write_json(METRICS, synthetic | training.summarise(fitted) | {"parameters": count})
            store.clear()
        print(f"Kept {fitted.best.line()}")


def fingerprint() -> str:
    """The fingerprint of parameters, data and code. train.checkpoint_minutes is left out: it does not affect the
    result."""
    known = provenance.inputs("train")
    train = {key: value for key, value in known["parameters"]["train"].items() if key != "checkpoint_minutes"}
    return provenance.fingerprint(known | {"parameters": known["parameters"] | {"train": train}})


def reporting(live: Live) -> Callable[[state.Epoch], None]:
    """A function that logs an epoch to the curves, and prints it if there is no progress bar."""

    def report(epoch: state.Epoch) -> None:
        live.step = epoch.number
        live.log_metric("train/loss", epoch.train_loss)
        live.log_metric("val/loss", epoch.val_loss)
        live.log_metric("train/accuracy", epoch.train_accuracy)
        live.log_metric("val/accuracy", epoch.val_accuracy)
        live.log_metric("lr", epoch.lr)
        live.next_step()
        if not sys.stderr.isatty():
            print(epoch.line(), flush=True)

    return report


if __name__ == "__main__":
    entrypoint.stage(main)
