"""Train a classifier: training steps, validation, early stopping and checkpoints."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from core.network import batches, checkpoints, devices, inference, messages, networks
from core.network.batches import ImageLoader
from core.network.checkpoints import Store
from core.network.frozen import FrozenFeatures
from core.network.networks import Classifier
from core.network.ranks import DistributedContext
from core.network.state import Epoch, State, TrainResult
from core.pipeline.errors import Interrupted, PipelineError

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:  # pydantic is not needed to train
    from core.pipeline.schemas.train import Train

CHECK_EVERY = 50  # steps between checks that loss and weights are finite
MIN_IMAGES = 2  # that batch normalisation can train on
SYNC_EVERY = 8  # steps: several processes must stop or write a checkpoint at the same step


class Data(NamedTuple):
    images: np.ndarray  # uint8 (N, H, W, C)
    labels: np.ndarray  # 0 or 1 (N,)
    rows: dict[str, np.ndarray]  # of "train" and "val": int64 (M,), their positions in images
    features: Path | None = None  # the folder for the features of a frozen backbone


@dataclass
class Callbacks:
    """Functions that a training calls while it runs."""

    # The index of the network in its ensemble, from 0, and each epoch, including those before the checkpoint
    on_epoch_end: Callable[[int, Epoch], None] = lambda member, epoch: None
    # The number of images that a step took, or that a resumed training had taken, and a text for people
    on_progress: Callable[[int, str], None] = lambda images, text: None
    # Once it returns True, training ends after the current step.
    should_stop: Callable[[], bool] = lambda: False


def fit(
    classifier: Classifier, data: Data, cfg: Train, seed: int, callbacks: Callbacks | None = None,
    store: Store | None = None, dist: DistributedContext | None = None, member: int = 0, name: str = "",
    checkpoint_minutes: float = 5.0,
) -> TrainResult:  # fmt: skip
    """Train for all epochs and return the last one; with the schedule plateau, until the validation loss stops
    improving, and return the best one. In an ensemble, it is the network ``member``, from 0, with a ``name``.

    ``classifier`` is changed in place: it ends with the weights of the last epoch. ``callbacks`` and ``store`` are only
    used by the first rank of ``dist``. A checkpoint is written to ``store`` after each epoch and every
    ``checkpoint_minutes``; if it has one, training resumes from it and gives the same bytes as without an interruption.
    The ranks share each batch, and all return the same. Raises Interrupted if ``callbacks`` ask to stop, and
    PipelineError if the loss becomes NaN or infinite, if memory runs out, or for fewer than two training images.
    """
    if len(data.rows["train"]) < MIN_IMAGES:
        raise PipelineError(messages.TOO_FEW_IMAGES.format(count=len(data.rows["train"])))
    with devices.explain_oom(messages.LOWER_BATCH_SIZE.format(size=cfg.batch_size)):
        return Trainer(
            classifier, data, cfg, seed, callbacks or Callbacks(), store, dist or DistributedContext(), member, name,
            checkpoint_minutes,
        ).fit()  # fmt: skip


class Trainer:
    """The loop of a training: its steps, its validation, and saving and resuming its ``state``. See ``fit``."""

    def __init__(
        self, classifier: Classifier, data: Data, cfg: Train, seed: int, callbacks: Callbacks, store: Store | None,
        dist: DistributedContext, member: int, name: str, checkpoint_minutes: float,
    ) -> None:  # fmt: skip
        self.cfg, self.rows, self.callbacks, self.store, self.dist = cfg, data.rows, callbacks, store, dist
        self.member, self.name, self.checkpoint_seconds = member, name, 60 * checkpoint_minutes
        device = self.device = devices.get_device(cfg.device)
        self.cast = devices.autocast(cfg.precision, device)
        syncs = dist.world_size > 1 and device.type == "cuda"  # torch can't on a CPU: there, ranks have their own means
        if syncs:
            classifier = networks.sync_batch_norm(classifier)
        self.min_shard = 1 if syncs else MIN_IMAGES
        if cfg.freeze_backbone:
            classifier.requires_grad_(False)
            classifier.head.requires_grad_(True)
        self.classifier: Classifier = classifier.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.loader = ImageLoader(data.images, device)
        self.labels = torch.from_numpy(data.labels.astype(np.float32)).to(device)
        self.pos_weight = torch.tensor(cfg.pos_weight, device=device)
        self.model: nn.Module = self.classifier
        self.frozen: FrozenFeatures | None = None
        if cfg.freeze_backbone:
            may_stop = self.raise_if_stopped if dist.world_size == 1 else lambda: None  # ranks stop at the same step
            self.frozen = FrozenFeatures(
                self.classifier, self.loader, data.rows, cfg, self.cast, data.features, may_stop
            )
            self.model = self.frozen.head
        self.network = self.model
        if dist.world_size > 1:
            self.network = DistributedDataParallel(self.model)
            torch.manual_seed(seed + dist.rank)  # for dropout: each rank has different images
        self.compiles = devices.should_compile(cfg, len(self.rows["train"]), device)
        self.compiled_model = torch.compile(self.network, dynamic=False) if self.compiles else self.network
        self.state = State(self.classifier, self.rows["train"], cfg, seed)
        self.saves = dist.any(store is not None)
        self.saved_at = time.monotonic()
        self.progress = ""

    def fit(self) -> TrainResult:
        self.resume()
        for epoch in self.state.epochs:
            self.callbacks.on_epoch_end(self.member, epoch)
        with devices.record_nondeterministic(self.state.nondeterministic):
            while not self.state.ended():
                self.train_epoch()
                self.callbacks.on_epoch_end(self.member, self.state.epochs[-1])
                self.save_checkpoint()
                if not self.state.ended():
                    self.raise_if_stopped()
        return self.state.result()

    def train_epoch(self) -> None:
        """Train from the current step to the end of the epoch, and validate."""
        loader = self.frozen.loader(len(self.state.epochs)) if self.frozen else self.loader
        self.classifier.train()
        if self.cfg.freeze_backbone:  # its running means stay, too
            self.classifier.eval()
            self.classifier.head.train()
        global_batches = self.state.order[self.state.step :]
        # If a small last batch has no images for this rank, it gets those of another rank, with weight 0.
        shards = [batch[self.dist.shard(batch, self.min_shard)] for batch in global_batches]
        local_batches = [
            shard if len(shard) else batch[-self.min_shard :]
            for shard, batch in zip(shards, global_batches, strict=True)
        ]
        streamed = loader.stream(local_batches)
        for global_batch, local_batch, images in zip(global_batches, local_batches, streamed, strict=True):
            self.train_step(images, self.labels[torch.tensor(local_batch, device=self.device)], global_batch)
            self.callbacks.on_progress(len(global_batch), self.progress)
            if self.dist.world_size == 1 or self.state.step % SYNC_EVERY == 0:
                is_due = time.monotonic() - self.saved_at > self.checkpoint_seconds
                if self.dist.any(self.callbacks.should_stop() or is_due):
                    self.save_checkpoint()
                    self.raise_if_stopped()
        self.check_finite()
        for buffer in self.classifier.buffers():  # batch normalisation: each rank uses its own images
            self.dist.broadcast(buffer)
        self.state.end_epoch(self.validate())

    def train_step(self, images: Tensor, labels: Tensor, global_batch: np.ndarray) -> None:
        """Take one step.

        Parameters
        ----------
        images : (B, C, H, W) uint8, or (B, D, h, w) float32, features of a frozen backbone; this rank's part
        labels : (B,) float32, 0 or 1, of ``images``
        global_batch : int64, the row numbers of the batch of all ranks
        """
        state, size = self.state, len(global_batch)
        state.set_lr()
        shard = self.dist.shard(global_batch, self.min_shard)
        if self.frozen is None:
            images = batches.augment(images, self.cfg.augment, state.random, size, min(shard.start, size - len(images)))
        # The last batch of an epoch can be smaller, and would need compiling again.
        network = self.compiled_model if size == self.cfg.batch_size else self.network
        with self.cast:
            logits = network(images)
        loss = binary_cross_entropy_with_logits(logits, labels, pos_weight=self.pos_weight)
        local_size = shard.stop - shard.start
        if self.dist.world_size > 1:  # averaging over ranks then gives the gradient of the global batch's mean loss
            loss = loss * (local_size * self.dist.world_size / size)
        state.optimiser.zero_grad()
        state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # scales with fp16 alone
        parameters = state.optimiser.gather()
        state.scaler.unscale_(state.optimiser)
        if self.cfg.grad_clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.cfg.grad_clip_norm)
        state.scaler.step(state.optimiser)
        state.scaler.update()
        state.losses[state.step] = loss.detach() * (size / self.dist.world_size)
        state.num_correct += ((logits.detach() > 0) == (labels > 0.5))[:local_size].sum()
        state.step += 1
        if state.step % CHECK_EVERY == 1:  # reading a loss makes the CPU wait for the GPU
            self.check_finite()
            mean_loss = float(self.dist.all_reduce(state.losses[state.step - 1])) / size
            self.progress = messages.PROGRESS.format(
                member=self.name, epoch=len(state.epochs) + 1, epochs=self.cfg.epochs, loss=mean_loss
            )

    def check_finite(self) -> None:
        """Raise PipelineError if a loss or a weight is NaN or infinite."""
        state = self.state
        bad = torch.nonzero(~torch.isfinite(self.dist.all_reduce(state.losses[: state.step]))).flatten()
        if len(bad) or not torch.isfinite(nn.utils.get_total_norm(self.classifier.parameters())):
            place = len(state.epochs) + 1, int(bad[0]) + 1 if len(bad) else state.step, len(state.order)
            saved = self.dist.any(bool(self.store and self.store.paths()))
            raise PipelineError(messages.not_finite(self.name, *place, self.cfg.lr, saved))

    def validate(self) -> Epoch:
        """The figures of the epoch, after its last step. Each rank scores its shard of the validation images."""
        state, rows = self.state, self.rows["val"]
        logits = torch.zeros(len(rows))
        shard = slice(self.dist.rank, None, self.dist.world_size)
        if len(rows[shard]):
            loader = self.frozen.loader(0) if self.frozen else self.loader
            logits[shard] = inference.score(self.model, loader, rows[shard], self.cast)
        logits = self.dist.all_reduce(logits)
        labels = self.labels[torch.tensor(rows, device=self.device)].cpu()
        pos_weight = self.pos_weight.cpu().double()
        val_loss = float(binary_cross_entropy_with_logits(logits.double(), labels.double(), pos_weight=pos_weight))
        number, images = len(state.epochs) + 1, len(self.rows["train"])
        if not math.isfinite(val_loss):
            place = {"member": self.name, "epoch": number, "lr": self.cfg.lr}
            raise PipelineError(messages.VAL_LOSS_NOT_FINITE.format(val_loss=val_loss, **place))
        train_loss = float(self.dist.all_reduce(state.losses).double().sum()) / images
        train_accuracy = float(self.dist.all_reduce(state.num_correct)) / images
        val_accuracy = float(((logits > 0) == (labels > 0.5)).double().mean())
        figures = [train_loss, train_accuracy, val_loss, val_accuracy, state.lr]
        # All ranks use the first rank's figures: different rounding must not stop them at different epochs.
        return Epoch(number, *self.dist.broadcast(torch.tensor(figures, dtype=torch.float64)).tolist())

    def save_checkpoint(self) -> None:
        """Write a checkpoint of the current state. Raises PipelineError instead if a loss or a weight is not finite."""
        if not self.saves:
            return
        self.check_finite()
        checkpoint = self.state.checkpoint(self.dist, compiled=self.compiles)
        self.saved_at = time.monotonic()
        if self.store is not None:
            self.store.save(len(self.state.epochs), self.state.step, checkpoint)

    def resume(self) -> None:
        """Continue from the first rank's newest checkpoint, if there is one: only its machine has it."""
        checkpoint = self.store.load() if self.store else None
        if self.dist.world_size > 1:
            content = self.dist.broadcast_bytes(checkpoints.pack(checkpoint) if checkpoint else b"")
            checkpoint = checkpoints.unpack(content) if content else None
        if checkpoint is None:
            return
        if checkpoint.facts["compiled"] != self.compiles:
            print(messages.COMPILER_CHANGED, file=sys.stderr)
            return
        self.state.restore(checkpoint, self.dist)
        images = len(self.state.epochs) * len(self.rows["train"]) + sum(map(len, self.state.order[: self.state.step]))
        self.callbacks.on_progress(images, "")
        if self.dist.rank == 0:
            place = {"epoch": len(self.state.epochs), "step": self.state.step, "member": self.name}
            print(messages.RESUMING.format(**place), flush=True)

    def raise_if_stopped(self) -> None:
        if self.dist.any(self.callbacks.should_stop()):
            place = {"epoch": len(self.state.epochs), "step": self.state.step, "steps": len(self.state.order)}
            state = messages.LOST if self.store is None else messages.RESUMABLE
            raise Interrupted(messages.STOPPED_AT.format(state=state, **place))
