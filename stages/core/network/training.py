"""Train a classifier: training steps, validation, early stopping and checkpoints."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from core.network import batches, checkpoints, devices, inference, messages
from core.network.batches import ImageLoader
from core.network.checkpoints import Store
from core.network.networks import Classifier
from core.network.ranks import DistributedContext
from core.network.state import Epoch, Fitted, State
from core.pipeline.errors import Interrupted, PipelineError

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:  # pydantic is not needed to train
    from core.pipeline.schemas.train import Train

LOOKED_AFTER = 50  # steps between checks that loss and weights are finite
HEEDED_AFTER = 8  # steps: several processes must stop or write a checkpoint at the same step


class Data(NamedTuple):
    """``images``, uint8 (N, H, W, C); ``labels``, 0 or 1 (N,); ``rows``, the row numbers of "train" and "val"."""

    images: np.ndarray
    labels: np.ndarray
    rows: dict[str, np.ndarray]


@dataclass
class Watch:
    """What a training tells and asks while it runs.

    ``report`` is called for each epoch, including those before the checkpoint; ``seen`` with the number of images that
    a step took, or that a resumed training had taken, and a text for people. Once ``stop`` returns True, training ends
    after the current step. ``name`` tells the training from others, for example "member 2: ". A
    checkpoint is written after each epoch and every ``checkpoint_minutes``.
    """

    report: Callable[[Epoch], None] = lambda epoch: None
    seen: Callable[[int, str], None] = lambda images, text: None
    stop: Callable[[], bool] = lambda: False
    name: str = ""
    checkpoint_minutes: float = 5.0


def fit(
    classifier: Classifier,
    data: Data,
    chosen: Train,
    seed: int,
    watch: Watch | None = None,
    store: Store | None = None,
    dist: DistributedContext | None = None,
) -> Fitted:
    """Train for all epochs and keep the last one; with the schedule plateau, until the validation loss stops improving,
    and keep the best one. Returns the weights of the kept epoch.

    If ``store`` has a checkpoint, training resumes from it and gives the same bytes as without an interruption. Several
    ranks of ``dist`` share each batch, and all return the same; ``store`` and ``watch`` are those of the first rank.
    Raises Interrupted if ``watch`` asks to stop. Raises PipelineError if the loss becomes NaN or infinite, if memory
    runs out, or for fewer than two training images.
    """
    if len(data.rows["train"]) < 2:
        raise PipelineError(messages.too_few_images(len(data.rows["train"])))
    watch = watch or Watch()
    with devices.explain_oom(messages.lower_batch_size(chosen.batch_size)):
        training = Training(classifier, data, chosen, seed, watch, store, dist or DistributedContext())
        training.go_on()
        for epoch in training.state.epochs:
            watch.report(epoch)
        while not training.state.ended():
            training.one_epoch()
            watch.report(training.state.epochs[-1])
            training.keep()
            if not training.state.ended():
                training.heed()
    return training.state.fitted()


class Training:
    """The loop of a training: its steps, its validation, and saving and resuming its ``state``."""

    def __init__(
        self,
        classifier: Classifier,
        data: Data,
        chosen: Train,
        seed: int,
        watch: Watch,
        store: Store | None,
        dist: DistributedContext,
    ) -> None:
        self.chosen, self.rows, self.watch, self.store, self.dist = chosen, data.rows, watch, store, dist
        device = self.device = devices.get_device(chosen.device)
        self.cast = devices.autocast(chosen.precision, device)
        self.classifier = _placed(classifier, chosen, device, dist)
        self.loader = ImageLoader(data.images, device)
        self.truth = torch.from_numpy(data.labels.astype(np.float32)).to(device)
        self.weight = torch.tensor(chosen.pos_weight, device=device)
        self.network: nn.Module = self.classifier
        if dist.world_size > 1:
            self.network = DistributedDataParallel(self.classifier)
            torch.manual_seed(seed + dist.rank)  # for dropout: each rank has different images
        self.compiled = devices.should_compile(chosen, len(self.rows["train"]), device)
        self.faster = torch.compile(self.network, dynamic=False) if self.compiled else self.network
        self.state = State(self.classifier, self.rows["train"], chosen, seed)
        self.keeps = dist.any(store is not None)
        self.kept_at = time.monotonic()
        self.doing = ""

    def one_epoch(self) -> None:
        """Train from the current step to the end of the epoch, and validate."""
        self.classifier.train()
        if self.chosen.freeze_backbone:
            self.classifier.eval()
            self.classifier.head.train()
        left = self.state.order[self.state.step :]
        # A rank that gets no image of a small last batch takes one image of another rank, with weight 0.
        mine = [batch[share] if len(batch[share := self.dist.shard(batch)]) else batch[-1:] for batch in left]
        for whole, taken, batch in zip(left, mine, self.loader.stream(mine), strict=True):
            self.one_step(batch, self.truth[torch.tensor(taken, device=self.device)], whole)
            self.watch.seen(len(whole), self.doing)
            if self.dist.world_size == 1 or self.state.step % HEEDED_AFTER == 0:
                late = time.monotonic() - self.kept_at > 60 * self.watch.checkpoint_minutes
                if self.dist.any(self.watch.stop() or late):
                    self.keep()
                    self.heed()
        self.look()
        for value in self.classifier.buffers():  # batch normalisation: each rank uses its own images
            self.dist.broadcast(value)
        self.state.end_epoch(self.validate())

    def one_step(self, batch: Tensor, target: Tensor, whole: np.ndarray) -> None:
        """Take one step with ``batch``, this rank's images of the ``whole`` batch of all ranks."""
        state = self.state
        state.set_rate()
        share = self.dist.shard(whole)
        images = batches.augment(batch, self.chosen.augment, state.random, len(whole), min(share.start, len(whole) - 1))
        # The last batch of an epoch can be smaller, and would need compiling again.
        network = self.faster if len(whole) == self.chosen.batch_size else self.network
        with self.cast:
            logit = network(images)
        loss = binary_cross_entropy_with_logits(logit, target, pos_weight=self.weight)
        counted = share.stop - share.start
        if self.dist.world_size > 1:  # averaging over ranks then gives the gradient of the whole batch's mean loss
            loss = loss * (counted * self.dist.world_size / len(whole))
        state.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.chosen.grad_clip_norm is not None:
            nn.utils.clip_grad_norm_(state.optimiser.gather(), self.chosen.grad_clip_norm)
        state.optimiser.step()
        state.losses[state.step] = loss.detach() * (len(whole) / self.dist.world_size)
        state.right += ((logit.detach() > 0) == (target > 0.5))[:counted].sum()
        state.step += 1
        if state.step % LOOKED_AFTER == 1:  # reading a loss makes the CPU wait for the GPU
            self.look()
            loss_now = float(self.dist.all_reduce(state.losses[state.step - 1])) / len(whole)
            self.doing = messages.progress(self.watch.name, len(state.epochs) + 1, self.chosen.epochs, loss_now)

    def look(self) -> None:
        """Raise PipelineError if a loss or a weight is NaN or infinite."""
        state = self.state
        bad = torch.nonzero(~torch.isfinite(self.dist.all_reduce(state.losses[: state.step]))).flatten()
        if len(bad) or not torch.isfinite(nn.utils.get_total_norm(self.classifier.parameters())):
            at = int(bad[0]) + 1 if len(bad) else state.step
            kept = self.dist.any(bool(self.store and self.store.paths()))
            place = len(state.epochs) + 1, at, len(state.order)
            raise PipelineError(messages.not_finite(self.watch.name, *place, self.chosen.lr, kept))

    def validate(self) -> Epoch:
        """The figures of the epoch, after its last step. Each rank scores its share of the validation images."""
        state, rows = self.state, self.rows["val"]
        logits = torch.zeros(len(rows))
        mine = slice(self.dist.rank, None, self.dist.world_size)
        if len(rows[mine]):
            logits[mine] = inference.score(self.classifier, self.loader, rows[mine], self.cast)
        logits = self.dist.all_reduce(logits)
        wanted = self.truth[torch.tensor(rows, device=self.device)].cpu()
        weight = self.weight.cpu().double()
        val_loss = float(binary_cross_entropy_with_logits(logits.double(), wanted.double(), pos_weight=weight))
        number, images_each = len(state.epochs) + 1, len(self.rows["train"])
        if not math.isfinite(val_loss):
            raise PipelineError(messages.val_loss_not_finite(self.watch.name, val_loss, number, self.chosen.lr))
        figures = [
            float(self.dist.all_reduce(state.losses).double().sum()) / images_each,
            float(self.dist.all_reduce(state.right)) / images_each,
            val_loss,
            float(((logits > 0) == (wanted > 0.5)).double().mean()),
            state.lr,
        ]
        # All ranks use the first rank's figures: different rounding must not stop them at different epochs.
        return Epoch(number, *self.dist.broadcast(torch.tensor(figures, dtype=torch.float64)).tolist())

    def keep(self) -> None:
        """Write a checkpoint of the current state. Raises PipelineError instead if a loss or a weight is not finite."""
        if not self.keeps:
            return
        self.look()
        checkpoint = self.state.checkpoint(self.dist, compiled=self.compiled)
        self.kept_at = time.monotonic()
        if self.store is not None:
            self.store.save(len(self.state.epochs), self.state.step, checkpoint)

    def go_on(self) -> None:
        """Resume from the newest checkpoint, if there is one."""
        found = self.store.load() if self.store else None
        if self.dist.world_size > 1:  # only the first rank's machine has the checkpoint
            content = self.dist.broadcast_bytes(checkpoints.pack(found) if found else b"")
            found = checkpoints.unpack(content) if content else None
        if found is None:
            return
        if found.facts["compiled"] != self.compiled:
            print(messages.COMPILER_CHANGED, file=sys.stderr)
            return
        self.state.restore(found, self.dist)
        self.watch.seen(self.state.images_seen, "")
        if self.dist.rank == 0:
            print(messages.resuming(self.watch.name, len(self.state.epochs), self.state.step), flush=True)

    def heed(self) -> None:
        """Raise Interrupted if a person asked the training to stop."""
        if self.dist.any(self.watch.stop()):
            place = len(self.state.epochs), self.state.step, len(self.state.order)
            raise Interrupted(messages.stopped(*place, resumable=self.store is not None))


def _placed(classifier: Classifier, chosen: Train, device: torch.device, dist: DistributedContext) -> Classifier:
    """The network on its device. With a frozen backbone, only the head is trainable."""
    if dist.world_size > 1 and device.type == "cuda":  # torch has none for the CPU: there each rank uses its own images
        classifier = nn.SyncBatchNorm.convert_sync_batchnorm(classifier)  # type: ignore[no-untyped-call]
    if chosen.freeze_backbone:
        classifier.requires_grad_(False)
        classifier.head.requires_grad_(True)
    return classifier.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
