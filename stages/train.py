"""Train the networks of the ensemble. A killed training resumes from its last checkpoints.

Reads   data/prepared/images.npy, data/prepared/preparation.json, data/split.csv, params.yaml (model, train, seed)
Writes  models/ (model.safetensors, model.json, ood.safetensors), metrics/train.json, data/detail/train.json,
        data/curves/; .checkpoints/ while it runs
Alone   python stages/train.py
"""

import sys

from core.network import devices, inference, members, novelty, ranks
from core.network.ensemble import Ensemble
from core.network.members import Listener, Plan
from core.network.state import Epoch, Fitted
from core.pipeline import entrypoint, files, params, provenance, tables
from core.pipeline.schemas.base import Section, Seed
from core.pipeline.schemas.model import Model
from core.pipeline.schemas.runtime import Runtime
from core.pipeline.schemas.train import Train

import numpy as np
from dvclive import Live
from safetensors.torch import save

IMAGES = "data/prepared/images.npy"
PREPARATION = "data/prepared/preparation.json"
SPLIT = "data/split.csv"
WEIGHTS = "models/model.safetensors"
MODEL = "models/model.json"
NOVELTY = "models/ood.safetensors"
METRICS = "metrics/train.json"
DETAIL = "data/detail/train.json"
HEADLINE = ("val_loss", "val_accuracy", "train_loss", "train_accuracy", "epochs")
CURVES = "data/curves"


class Params(Section):
    seed: Seed
    model: Model
    train: Train
    runtime: Runtime  # changes no byte, so dvc.yaml does not name it


def main() -> None:
    chosen = params.load(Params)
    rules, minutes = chosen.train, chosen.runtime.checkpoint_minutes
    images = files.read_array(IMAGES)
    split = tables.read(SPLIT, tables.SPLIT)
    rows = {part: split.loc[split["split"] == part, "row"].to_numpy() for part in ("train", "val")}
    labels = np.zeros(len(images), dtype=np.int64)
    labels[split["row"]] = split["label"]

    processes = ranks.wanted(rules.nproc_per_node, rules.device, rules.ensemble_size)
    if ranks.number() is None and (processes > 1 or ranks.machines()):
        ranks.launch(processes)
        sys.exit()  # the first process has written the outputs

    device = devices.choose(rules.device)
    devices.check(rules, device)
    seeds = members.seeds(params.either(rules.seed, chosen.seed), rules.ensemble_size)
    begun = provenance.fingerprint(provenance.inputs("train"))
    plan = Plan(chosen.model, rules, seeds, IMAGES, labels, rows, files.root(), checkpoint_minutes=minutes)
    with ranks.joined(device, minutes) as together:
        together.agree(begun, "Parameters, data or code")
        if together.rank > 0:
            with entrypoint.deferred_signals() as stop:
                members.train(plan, Listener(stop=stop), together)
            return
        ensemble = Ensemble([members.built(plan, number) for number in range(rules.ensemble_size)])
        parameters = sum(parameter.numel() for parameter in ensemble.members[0].parameters())
        count = f"{rules.ensemble_size} networks of " if rules.ensemble_size > 1 else ""
        print(f"{chosen.model.backbone}: {count}{parameters:,} parameters, {len(rows['train']):,} images to train on")
        print(devices.promise(rules, device))
        made = provenance.fingerprint(provenance.machine())
        with members.opened(files.root() / ".checkpoints", begun, made, ensemble, seeds) as stores:
            fitted = train(plan._replace(stores=tuple(store.folder for store in stores)), together)
            for member, one in zip(ensemble.members, fitted, strict=True):
                member.load_state_dict(one.state)
            some = {part: novelty.some(rows[part], seeds[0]) for part in rows}
            known = {part: inference.features(ensemble, images, some[part], device)[1] for part in rows}
            views = ensemble.views(known["train"].shape[1])

            synthetic = {"synthetic": tables.is_synthetic(split)}
            for path, tensors in (
                (WEIGHTS, ensemble.contents()),
                (NOVELTY, novelty.fit(**known, views=views)._asdict()),
            ):
                with files.atomic_write(path) as unfinished:
                    unfinished.write_bytes(save(tensors))
            prepared = files.read_json(PREPARATION)
            files.write_json(MODEL, ensemble.description | {"channels": images.shape[3]} | prepared | synthetic)
            figures = members.summarise(fitted, seeds) | {"parameters": parameters}
            files.write_json(METRICS, {name: figures[name] for name in HEADLINE})
            files.write_json(DETAIL, synthetic | figures)
            for store in stores:
                store.clear()
        for number, one in enumerate(fitted):
            print(f"{members.name(plan, number)}kept {one.kept.line()}")


def train(plan: Plan, together: ranks.Ranks) -> list[Fitted]:
    """Train all members; log the mean of each epoch to the curves, and write all epochs to a table beside them."""
    bar = members.Bar(len(plan.seeds) * plan.chosen.epochs * len(plan.rows["train"]))
    with entrypoint.deferred_signals() as stop, Live(CURVES, dvcyaml=None, save_dvc_exp=False, report=None) as live:

        def log(epoch: Epoch) -> None:
            live.step = epoch.number
            for name, value in zip(Epoch._fields[1:], epoch[1:], strict=True):
                live.log_metric(name.replace("_", "/"), value)  # train/loss
            live.next_step()

        means = members.Means(len(plan.seeds), log)

        def report(number: int, epoch: Epoch) -> None:
            means.report(number, epoch)
            if not sys.stderr.isatty():
                print(f"{members.name(plan, number)}{epoch.line()}", flush=True)

        fitted = members.train(plan, Listener(report, bar.seen, stop), together)
        means.end()
    bar.close()
    table = means.table(fitted)
    tables.write(table, f"{CURVES}/members.csv", list(table.columns))
    return fitted


if __name__ == "__main__":
    entrypoint.stage(main)
