"""Train the members of an ensemble: trainings that differ only in their seed, and so in start, order and augmentation.

On one machine they run side by side in processes of their own, one per GPU, or as many as the CPU has cores for. On
several machines or several GPUs per member, torchrun's ranks train one member after another. Each member has its own
checkpoints and its own early stop, so its bytes do not depend on how many run at the same time.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from core.network import checkpoints, devices, messages, networks, ranks, training
from core.network.checkpoints import Store
from core.network.ensemble import Ensemble
from core.network.networks import Classifier
from core.network.ranks import DistributedContext
from core.network.state import Epoch, TrainResult
from core.network.training import Callbacks, Data
from core.pipeline import files
from core.pipeline.errors import Interrupted, PipelineError

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load, save

if TYPE_CHECKING:  # pydantic is not needed to train
    from core.pipeline.schemas.train import Model, Train

POLL_EVERY = 0.1  # seconds between two checks whether a person asked to stop


class TrainJob(NamedTuple):
    """What is needed to train each member; see training.fit and training.Data."""

    model: Model
    cfg: Train
    seeds: list[int]
    images_path: str
    labels: np.ndarray
    rows: dict[str, np.ndarray]
    root: Path  # the folder that model.weights is relative to
    stores: tuple[Path, ...] = ()  # the folder of each member's checkpoints
    checkpoint_minutes: float = 5.0
    features: Path | None = None  # the folder for the features of frozen backbones

    def name(self, index: int) -> str:
        """What precedes the messages of each of several members."""
        return messages.MEMBER.format(number=index + 1) if len(self.seeds) > 1 else ""


def seeds(seed: int, members: int) -> list[int]:
    """The seed of each member. The first has ``seed`` itself; the others are drawn, so that ensembles with neighbouring
    seeds have no member in common."""
    return [seed, *(int(np.random.SeedSequence([seed, index]).generate_state(1)[0]) for index in range(1, members))]


def build_member(job: TrainJob, index: int) -> Classifier:
    """A member before its training. Sets torch's seed to the member's."""
    devices.seed_everything(job.seeds[index], job.cfg.reproducible, job.cfg.threads)
    side = files.read_array(job.images_path).shape[1]
    return networks.build(job.model.backbone, job.model.head, side, job.model.weights, job.root)


@contextmanager
def open_stores(
    root: Path, fingerprint: str, machine: str, ensemble: Ensemble, seeds: list[int]
) -> Iterator[list[Store]]:
    """Open the checkpoints of each member. The name of each covers everything that its training depends on: the first
    weights cover the content of the file that model.weights names."""
    with ExitStack() as stack:
        stores = []
        for member, seed in zip(ensemble.members, seeds, strict=True):
            weights = hashlib.sha256(save(member.state_dict())).hexdigest()
            inputs = hashlib.sha256(f"{fingerprint} {seed} {weights}".encode()).hexdigest()
            stores.append(stack.enter_context(checkpoints.opened(root, inputs, machine)))
        for store in stores if files.forced() and not ranks.is_restart() else ():
            store.clear()
        yield stores


def max_workers(cfg: Train, device: torch.device) -> int:
    """How many members this machine can train at the same time."""
    if device.type == "cuda":
        return torch.cuda.device_count() if cfg.device in ("auto", "cuda") else 1
    return max(1, len(os.sched_getaffinity(0)) // cfg.threads)


def train(job: TrainJob, callbacks: Callbacks, dist: DistributedContext) -> list[TrainResult]:
    """Train all members. Raises Interrupted and PipelineError like training.fit. All ranks must call this."""
    members, device = len(job.seeds), devices.get_device(job.cfg.device)
    workers = 1 if dist.world_size > 1 else min(members, max_workers(job.cfg, device))
    if workers > 1:
        return _train_side_by_side(job, callbacks, workers, device)
    return [_train_member(job, index, callbacks, dist) for index in range(members)]


def _train_member(job: TrainJob, index: int, callbacks: Callbacks, dist: DistributedContext) -> TrainResult:
    data = Data(files.read_array(job.images_path), job.labels, job.rows, job.features)
    store = Store(job.stores[index]) if job.stores else None  # only the first rank has any
    return training.fit(
        build_member(job, index), data, job.cfg, job.seeds[index], callbacks, store, dist, index, job.name(index),
        job.checkpoint_minutes,
    )  # fmt: skip


def _train_side_by_side(job: TrainJob, callbacks: Callbacks, workers: int, device: torch.device) -> list[TrainResult]:
    """Train each member in a process of its own, ``workers`` of them at the same time."""
    # A forked process starts at once, but can use neither CUDA nor OpenMP's threads.
    forks = device.type == "cpu" and job.cfg.threads == 1
    context = multiprocessing.get_context("fork" if forks else "spawn")
    waiting, local_ranks = list(range(len(job.seeds))), list(range(workers))  # those that are free
    running: dict[Any, tuple[Any, int, int]] = {}  # the process of each pipe, its member and its local rank
    stop, results, errors = context.Event(), dict[int, TrainResult](), list[BaseException]()
    try:
        while running or (waiting and not errors):
            while waiting and local_ranks and not errors:
                index, local_rank = waiting.pop(0), local_ranks.pop(0)
                pipe, end = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(job, index, end, stop, local_rank), daemon=True)  # type: ignore[attr-defined]
                process.start()
                end.close()
                running[pipe] = process, index, local_rank
            ready: Any
            for ready in wait(list(running), timeout=POLL_EVERY):
                process, index, local_rank = running[ready]
                try:
                    kind, content = ready.recv()
                except (EOFError, OSError):
                    process.join()
                    text = messages.PROCESS_ENDED.format(number=index + 1, status=process.exitcode)
                    kind, content = "error", (PipelineError(text),)
                if kind == "progress":
                    callbacks.on_progress(*content)
                elif kind == "epoch":
                    callbacks.on_epoch_end(*content)
                else:  # the last message of the process
                    process.join()
                    del running[ready]
                    local_ranks.append(local_rank)
                    if kind == "error":
                        errors += content
                    else:
                        weights, result = content
                        results[index] = result._replace(best_state=load(weights))
            if callbacks.should_stop() or errors:
                stop.set()
    finally:
        for process, _, _ in running.values():  # none, unless this process was interrupted
            process.kill()
    for error in sorted(errors, key=lambda error: isinstance(error, Interrupted)):
        raise error
    return [results[index] for index in sorted(results)]


def _work(job: TrainJob, index: int, pipe: Connection, stop: Any, local_rank: int) -> None:
    """The main function of a process that trains a member."""
    ranks.die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent tells it when to stop
        signal.signal(number, signal.SIG_IGN)
    os.environ["LOCAL_RANK"] = str(local_rank)  # the GPU of this process

    def send(kind: str) -> Callable[..., None]:
        return lambda *content: pipe.send((kind, content))

    try:
        result = _train_member(
            job, index, Callbacks(send("epoch"), send("progress"), stop.is_set), DistributedContext()
        )
        send("result")(save(result.best_state), result._replace(best_state={}))
    except Interrupted:
        send("error")(Interrupted(messages.STOPPED))
    except (PipelineError, OSError, MemoryError) as error:
        send("error")(error)
    except Exception:
        send("error")(RuntimeError(traceback.format_exc()))


class EpochAverager:
    """Calls ``log`` with the mean figures of each epoch, over the members that trained so long, once every member has
    reached it or ended."""

    def __init__(self, members: int, log: Callable[[Epoch], None]) -> None:
        self.epochs: list[list[Epoch]] = [[] for _ in range(members)]
        self.log, self.logged = log, 0

    def on_epoch_end(self, member: int, epoch: Epoch) -> None:
        self.epochs[member].append(epoch)
        self._log_until(min(map(len, self.epochs)))

    def flush(self) -> None:
        """Log the epochs that only some members have reached."""
        self._log_until(max(map(len, self.epochs)))

    def table(self, results: list[TrainResult]) -> pd.DataFrame:
        """A row for each epoch of each member, from 1: its figures, and whether its weights were kept."""
        rows = [
            (member, *epoch, epoch.number == result.best_epoch.number)
            for member, (epochs, result) in enumerate(zip(self.epochs, results, strict=True), start=1)
            for epoch in epochs
        ]
        return pd.DataFrame(rows, columns=["member", "epoch", *Epoch._fields[1:], "kept"])

    def _log_until(self, number: int) -> None:
        while self.logged < number:
            rows = [epochs[self.logged][1:] for epochs in self.epochs if len(epochs) > self.logged]
            self.logged += 1
            self.log(Epoch(self.logged, *np.mean(rows, axis=0).tolist()))


def summarise(results: list[TrainResult], seeds: list[int]) -> dict[str, Any]:
    """How the training went, for metrics/train.json.

    Returns
    -------
    dict
        ``ensemble_size``; the means over the members of ``best_epoch``, ``epochs``, ``train_loss``, ``train_accuracy``,
        ``val_loss`` and ``val_accuracy``; and ``per_member``, by "member_1", "member_2", ...: the same of each, with
        its ``seed`` and ``stopped_early``.
    """
    names = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
    entries = {}
    for number, (result, seed) in enumerate(zip(results, seeds, strict=True), start=1):
        best = result.best_epoch
        entry = {"seed": seed, "best_epoch": best.number, "epochs": result.epochs}
        entry |= {"stopped_early": result.stopped_early} | {name: getattr(best, name) for name in names}
        entries[f"member_{number}"] = entry
    columns = ("best_epoch", "epochs", *names)
    means = {name: float(np.mean([entry[name] for entry in entries.values()])) for name in columns}
    return {"ensemble_size": len(entries)} | means | {"per_member": entries}
