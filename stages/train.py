"""Train the networks of the ensemble. A killed training resumes from its last checkpoints.

Reads   data/prepared/images.npy, data/prepared/preparation.json, data/split.csv, params.yaml (model, train, seed)
Writes  models/ (model.safetensors, model.json, ood.safetensors), metrics/train.json, data/detail/train.json,
        data/curves/; .checkpoints/ while it runs, and there the features of frozen backbones
Alone   python stages/train.py
"""

import sys

from core.network import devices, members, messages, ood, ranks, training
from core.network.ensemble import Ensemble
from core.network.state import Epoch, TrainResult
from core.pipeline import entrypoint, files, params, provenance, tables
from core.pipeline.schemas.base import Section, Seed
from core.pipeline.schemas.params_yaml import Runtime
from core.pipeline.schemas.train import Model, Train

import numpy as np
from dvclive import Live
from safetensors.torch import save

IMAGES = "data/prepared/images.npy"
PREPARATION = "data/prepared/preparation.json"
SPLIT = "data/split.csv"
WEIGHTS = "models/model.safetensors"
MODEL = "models/model.json"
OOD = "models/ood.safetensors"
METRICS = "metrics/train.json"
DETAIL = "data/detail/train.json"
HEADLINE = ("val_loss", "val_accuracy", "train_loss", "train_accuracy", "epochs")
CURVES = "data/curves"
LIVE = {"dvcyaml": None, "save_dvc_exp": False, "report": None}


class Params(Section):
    seed: Seed
    model: Model
    train: Train
    runtime: Runtime  # changes no byte, so dvc.yaml does not name it


def main() -> None:
    cfg = params.load(Params)
    images = files.read_array(IMAGES)
    split = tables.read(SPLIT, tables.SPLIT)
    rows = {name: split.loc[split["split"] == name, "row"].to_numpy() for name in ("train", "val")}
    labels = np.zeros(len(images), dtype=np.int64)
    labels[split["row"]] = split["label"]
    nproc = ranks.resolve_nproc(cfg.train.nproc_per_node, cfg.train.device, cfg.train.ensemble_size)
    if ranks.global_rank() is None and (nproc > 1 or ranks.multi_node()):
        ranks.launch(nproc)
        sys.exit()  # the first process has written the outputs
    device = devices.get_device(cfg.train.device)
    devices.check(cfg.train, device)
    seeds = members.seeds(params.either(cfg.train.seed, cfg.seed), cfg.train.ensemble_size)
    inputs, minutes = provenance.inputs("train"), cfg.runtime.checkpoint_minutes
    fingerprint, fixed = (provenance.fingerprint(part) for part in (inputs, [inputs["code"], inputs["data"]]))
    features = files.root() / f".checkpoints/features-{fixed[:32]}"  # whatever the parameters, but for those in a name
    job = members.TrainJob(
        cfg.model, cfg.train, seeds, IMAGES, labels, rows, files.root(), checkpoint_minutes=minutes, features=features
    )
    with ranks.process_group(device, minutes) as dist:
        dist.check_equal(fingerprint)
        if dist.rank > 0:
            with entrypoint.deferred_signals() as should_stop:
                members.train(job, training.Callbacks(should_stop=should_stop), dist)
            return
        ensemble = Ensemble([members.build_member(job, index) for index in range(cfg.train.ensemble_size)])
        parameters = sum(parameter.numel() for parameter in ensemble.members[0].parameters())
        print(messages.start(cfg.model.backbone, cfg.train.ensemble_size, parameters, len(rows["train"])))
        print(devices.describe_determinism(cfg.train, device))
        machine = provenance.fingerprint(provenance.machine())
        with members.open_stores(files.root() / ".checkpoints", fingerprint, machine, ensemble, seeds) as stores:
            results = train(job._replace(stores=tuple(store.folder for store in stores)), dist)
            for member, result in zip(ensemble.members, results, strict=True):
                member.load_state_dict(result.best_state)
            detector = ood.fit_ensemble(ensemble, images, rows, seeds[0], device)
            synthetic = {"synthetic": tables.is_synthetic(split)}
            for path, tensors in ((WEIGHTS, ensemble.contents()), (OOD, detector._asdict())):
                with files.atomic_write(path) as unfinished:
                    unfinished.write_bytes(save(tensors))
            preparation = files.read_json(PREPARATION)
            files.write_json(MODEL, ensemble.description | {"channels": images.shape[3]} | preparation | synthetic)
            operations = sorted({name for result in results for name in result.nondeterministic})
            computed = {"precision": devices.precision(cfg.train.precision, device), "nondeterministic": operations}
            figures = members.summarise(results, seeds) | {"parameters": parameters} | computed
            files.write_json(METRICS, {name: figures[name] for name in HEADLINE})
            files.write_json(DETAIL, synthetic | figures)
            for store in stores:
                store.clear()
        print(messages.finished(map(job.name, range(len(results))), results, operations))


def train(job: members.TrainJob, dist: ranks.DistributedContext) -> list[TrainResult]:
    """Train all members; log the mean of each epoch to the curves, and write all epochs to a table beside them."""
    progress = entrypoint.progress_bar(len(job.seeds) * job.cfg.epochs * len(job.rows["train"]))
    with entrypoint.deferred_signals() as should_stop, progress as bar, Live(CURVES, **LIVE) as live:

        def log(epoch: Epoch) -> None:
            live.step = epoch.number
            for name, value in zip(Epoch._fields[1:], epoch[1:], strict=True):
                live.log_metric(name.replace("_", "/"), value)  # train/loss
            live.next_step()

        averager = members.EpochAverager(len(job.seeds), log)

        def on_epoch_end(index: int, epoch: Epoch) -> None:
            averager.on_epoch_end(index, epoch)
            if not sys.stderr.isatty():
                print(f"{job.name(index)}{messages.epoch(epoch)}", flush=True)

        results = members.train(job, training.Callbacks(on_epoch_end, bar, should_stop), dist)
        averager.flush()
    tables.write(table := averager.table(results), f"{CURVES}/members.csv", list(table.columns))
    return results


if __name__ == "__main__":
    entrypoint.stage(main)
