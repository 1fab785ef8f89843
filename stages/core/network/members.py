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
import time
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
from core.network.state import Epoch, Fitted
from core.network.training import Data, Watch
from core.pipeline import files
from core.pipeline.errors import Interrupted, PipelineError

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load, save

if TYPE_CHECKING:  # pydantic is not needed to train
    from core.pipeline.schemas.model import Model
    from core.pipeline.schemas.train import Train

OFTEN = 0.1  # seconds between two reports of a process on its progress


class Plan(NamedTuple):
    """What is needed to train each member: the arguments of training.fit, the file of the images (N, H, W, C), the
    folder that model.weights is relative to, the folder of each member's checkpoints, and the minutes between them."""

    model: Model
    chosen: Train
    seeds: list[int]
    images: str
    labels: np.ndarray
    rows: dict[str, np.ndarray]
    root: Path
    stores: tuple[Path, ...] = ()
    checkpoint_minutes: float = 5.0


class Listener(NamedTuple):
    """``report`` is called with the number of the member, from 0, and its epoch; the others are those of Watch."""

    report: Callable[[int, Epoch], None] = lambda number, epoch: None
    seen: Callable[[int, str], None] = lambda images, text: None
    stop: Callable[[], bool] = lambda: False


def seeds(seed: int, count: int) -> list[int]:
    """The seed of each member. The first has ``seed`` itself; the others are drawn, so that ensembles with neighbouring
    seeds have no member in common."""
    return [seed, *(int(np.random.SeedSequence([seed, number]).generate_state(1)[0]) for number in range(1, count))]


def name(plan: Plan, number: int) -> str:
    """How messages name a member: "member 2: ", or "" if it is the only one."""
    return messages.member(number, len(plan.seeds))


def built(plan: Plan, number: int) -> Classifier:
    """A member before its training. Sets torch's seed to the member's."""
    devices.seed_everything(plan.seeds[number], plan.chosen.reproducible, plan.chosen.threads)
    side = files.read_array(plan.images).shape[1]
    return networks.build(plan.model.backbone, plan.model.head, side, plan.model.weights, plan.root)


@contextmanager
def opened(root: Path, fingerprint: str, machine: str, ensemble: Ensemble, seeds: list[int]) -> Iterator[list[Store]]:
    """Open the checkpoints of each member (checkpoints.opened). The name of each covers everything that its training
    depends on: the first weights cover the content of the file that model.weights names."""
    with ExitStack() as stack:
        stores = []
        for member, seed in zip(ensemble.members, seeds, strict=True):
            first = hashlib.sha256(save(member.state_dict())).hexdigest()
            begun = hashlib.sha256(f"{fingerprint} {seed} {first}".encode()).hexdigest()
            stores.append(stack.enter_context(checkpoints.opened(root, begun, machine)))
        if files.forced():
            for store in stores:
                store.clear()
        yield stores


def at_once(chosen: Train, device: torch.device) -> int:
    """How many members this machine can train at the same time."""
    if device.type == "cuda":
        return torch.cuda.device_count() if chosen.device in ("auto", "cuda") else 1
    return max(1, len(os.sched_getaffinity(0)) // chosen.threads)


def train(plan: Plan, listener: Listener, dist: DistributedContext) -> list[Fitted]:
    """Train all members. Raises Interrupted and PipelineError like training.fit. All ranks must call this."""
    count, device = len(plan.seeds), devices.get_device(plan.chosen.device)
    workers = 1 if dist.world_size > 1 else min(count, at_once(plan.chosen, device))
    if workers > 1:
        return _Workers(plan, listener, workers, device).train()
    return [_one(plan, number, listener, dist) for number in range(count)]


def _one(plan: Plan, number: int, listener: Listener, dist: DistributedContext) -> Fitted:
    data = Data(files.read_array(plan.images), plan.labels, plan.rows)
    watch = Watch(
        lambda epoch: listener.report(number, epoch),
        listener.seen,
        listener.stop,
        name(plan, number),
        plan.checkpoint_minutes,
    )
    store = Store(plan.stores[number]) if plan.stores else None  # only the first rank has any
    return training.fit(built(plan, number), data, plan.chosen, plan.seeds[number], watch, store, dist)


class _Workers:
    """Processes that each train one member after another, and this process, which gives out the members."""

    def __init__(self, plan: Plan, listener: Listener, count: int, device: torch.device) -> None:
        self.listener, self.waiting = listener, list(range(len(plan.seeds)))
        self.found: dict[int, Fitted] = {}
        self.failed: list[BaseException] = []
        # A forked process starts at once, but can use neither CUDA nor OpenMP's threads.
        forks = device.type == "cpu" and plan.chosen.threads == 1
        context = multiprocessing.get_context("fork" if forks else "spawn")
        self.ending = context.Event()
        self.busy: dict[Connection, tuple[Any, int]] = {}
        for place in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(plan, theirs, self.ending, place), daemon=True)  # type: ignore[attr-defined]
            process.start()
            theirs.close()
            self._give(ours, process)

    def train(self) -> list[Fitted]:
        try:
            while self.busy:
                for pipe in wait(list(self.busy), timeout=OFTEN):
                    self._hear(pipe)  # type: ignore[arg-type]
                if self.listener.stop() or self.failed:
                    self.ending.set()
        finally:
            for process, _ in self.busy.values():  # none, unless this process was interrupted
                process.kill()
        for error in sorted(self.failed, key=lambda error: isinstance(error, Interrupted)):
            raise error
        return [self.found[number] for number in sorted(self.found)]

    def _give(self, pipe: Connection, process: Any) -> None:
        """Give the next member to an idle process, or let it end."""
        if self.waiting and not self.failed:
            self.busy[pipe] = process, self.waiting[0]
            pipe.send(self.waiting.pop(0))
        else:
            self.busy.pop(pipe, None)
            pipe.send(None)
            process.join()

    def _hear(self, pipe: Connection) -> None:
        process, number = self.busy[pipe]
        try:
            kind, content = pipe.recv()
        except (EOFError, ConnectionResetError):
            process.join()
            del self.busy[pipe]
            self.failed.append(PipelineError(messages.process_ended(number, process.exitcode)))
            return
        if kind == "seen":
            self.listener.seen(*content)
        elif kind == "epoch":
            self.listener.report(number, Epoch(*content))
        else:
            if kind == "fitted":
                self.found[number] = Fitted(load(content[0]), Epoch(*content[1]), *content[2:])
            else:
                self.failed.append(content)
            self._give(pipe, process)


def _work(plan: Plan, pipe: Connection, ending: Any, place: int) -> None:
    """The main function of a process: train the members whose numbers come through the pipe."""
    ranks.die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent tells it when to stop
        signal.signal(number, signal.SIG_IGN)
    os.environ["LOCAL_RANK"] = str(place)  # the GPU of this process
    for member in iter(pipe.recv, None):
        pipe.send(_told(plan, member, _Throttled(pipe, ending)))


def _told(plan: Plan, member: int, throttled: _Throttled) -> tuple[str, Any]:
    try:
        listener = Listener(
            lambda number, epoch: throttled.pipe.send(("epoch", tuple(epoch))), throttled.seen, throttled.ending.is_set
        )
        fitted = _one(plan, member, listener, DistributedContext())
        throttled.flush()
        return "fitted", (save(fitted.state), tuple(fitted.kept), fitted.epochs, fitted.stopped_early)
    except Interrupted:
        return "failed", Interrupted(messages.STOPPED)
    except (PipelineError, OSError, MemoryError) as error:
        return "failed", error
    except Exception:
        return "failed", RuntimeError(traceback.format_exc())


class _Throttled:
    """Sends the number of images seen through a pipe, every OFTEN seconds."""

    def __init__(self, pipe: Connection, ending: Any) -> None:
        self.pipe, self.ending, self.images, self.text, self.sent = pipe, ending, 0, "", time.monotonic()

    def seen(self, images: int, text: str) -> None:
        self.images, self.text = self.images + images, text
        if time.monotonic() - self.sent >= OFTEN:
            self.flush()

    def flush(self) -> None:
        self.pipe.send(("seen", (self.images, self.text)))
        self.images, self.sent = 0, time.monotonic()


class Means:
    """Calls ``log`` with the mean figures of each epoch, over the members that trained so long. An epoch is logged when
    every member has reached it or ended."""

    def __init__(self, count: int, log: Callable[[Epoch], None]) -> None:
        self.epochs: list[list[Epoch]] = [[] for _ in range(count)]
        self.log, self.logged = log, 0

    def report(self, number: int, epoch: Epoch) -> None:
        self.epochs[number].append(epoch)
        while all(len(epochs) > self.logged for epochs in self.epochs):
            self._next()

    def end(self) -> None:
        """Log the epochs that only some members have reached."""
        while any(len(epochs) > self.logged for epochs in self.epochs):
            self._next()

    def table(self, fitted: list[Fitted]) -> pd.DataFrame:
        """All epochs: the member, from 1, the epoch and its figures, and whether it was kept."""
        rows = [
            (number, *epoch, epoch.number == one.kept.number)
            for number, (epochs, one) in enumerate(zip(self.epochs, fitted, strict=True), start=1)
            for epoch in epochs
        ]
        return pd.DataFrame(rows, columns=["member", "epoch", *Epoch._fields[1:], "kept"])

    def _next(self) -> None:
        rows = [epochs[self.logged][1:] for epochs in self.epochs if len(epochs) > self.logged]
        self.logged += 1
        self.log(Epoch(self.logged, *np.mean(rows, axis=0).tolist()))


def summarise(fitted: list[Fitted], seeds: list[int]) -> dict[str, Any]:
    """How the training went, for metrics/train.json: the means over the members, and each member's own figures."""
    names = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
    each = [
        {"seed": seed, "best_epoch": one.kept.number, "epochs": one.epochs, "stopped_early": one.stopped_early}
        | {name: getattr(one.kept, name) for name in names}
        for one, seed in zip(fitted, seeds, strict=True)
    ]
    means = {name: float(np.mean([one[name] for one in each])) for name in ("best_epoch", "epochs", *names)}
    return (
        {"ensemble_size": len(each)}
        | means
        | {"per_member": {f"member_{at}": one for at, one in enumerate(each, start=1)}}
    )
