"""The state of a training between two steps, and its conversion to and from a checkpoint."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from core.network import batches, devices
from core.network.checkpoints import Checkpoint
from core.network.networks import Classifier
from core.network.optimiser import NAdam
from core.network.ranks import DistributedContext

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:  # pydantic is not needed to train
    from core.pipeline.schemas.train import Train


class Epoch(NamedTuple):
    """Figures of one epoch. Losses are means over images. The training figures are computed while the weights change,
    so that no second pass over the training set is needed."""

    number: int  # from 1
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    lr: float


class TrainResult(NamedTuple):
    best_state: dict[str, Tensor]  # the weights of the best epoch, on the CPU
    best_epoch: Epoch  # the last one, with the cosine schedule
    epochs: int
    stopped_early: bool
    nondeterministic: tuple[str, ...] = ()  # operations that have no deterministic implementation


class State:
    """Everything that the rest of a training depends on.

    The random states of Python and NumPy are not part of it, because training does not use them.

    Parameters
    ----------
    rows : (M,) int64, the row numbers of the training images
    """

    def __init__(self, classifier: Classifier, rows: np.ndarray, cfg: Train, seed: int) -> None:
        self.classifier, self.rows, self.cfg, self.seed = classifier, rows, cfg, seed
        self.device = classifier.mean.device
        trainable = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
        self.optimiser = NAdam(trainable, cfg.lr, cfg.weight_decay)
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimiser, factor=cfg.plateau_factor, patience=cfg.plateau_patience
        )
        uses_fp16 = devices.precision(cfg.precision, self.device) == "fp16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=uses_fp16)  # small gradients would be 0 in fp16
        self.nondeterministic: set[str] = set()  # operations that torch warned about
        self.epochs: list[Epoch] = []
        self.best_state: dict[str, Tensor] = {}
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Begin an epoch. Its order and augmentation depend only on the seed and the epoch's number."""
        self.random = torch.Generator().manual_seed(self.seed * 100_003 + len(self.epochs) + 1)
        shuffled = self.rows[torch.randperm(len(self.rows), generator=self.random).numpy()]
        self.order = batches.make_batches(shuffled, self.cfg.batch_size)
        self.step = 0
        # Sums over this rank's images: of each step, and of the epoch
        self.losses = torch.zeros(len(self.order), device=self.device)
        self.num_correct = torch.zeros((), device=self.device)

    def end_epoch(self, epoch: Epoch) -> None:
        """Copy the weights if the epoch is the best so far, and begin the next one."""
        self.epochs.append(epoch)
        if self.best_epoch() is epoch:
            # Copies: the original project kept references, and so saved the last epoch's weights.
            # Contiguous: safetensors needs it.
            self.best_state = {
                name: value.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
                for name, value in self.classifier.state_dict().items()
            }
        if self.cfg.schedule == "plateau":
            self.plateau.step(epoch.val_loss)
        self.begin_epoch()

    def set_lr(self) -> None:
        """Set the learning rate of the next step. Cosine: train.lr times a linear warm-up over the first epoch and half
        a cosine over all epochs, to 0 after the last step (Loshchilov and Hutter 2017, SGDR, ICLR, equation 5)."""
        if self.cfg.schedule == "cosine":
            progress = len(self.epochs) + self.step / len(self.order)  # epochs
            warmup = min(1.0, progress + 1 / len(self.order))
            decay = 0.5 * (1 + math.cos(math.pi * progress / self.cfg.epochs))
            self.optimiser.param_groups[0]["lr"] = self.cfg.lr * warmup * decay

    @property
    def lr(self) -> float:
        lr: float = self.optimiser.param_groups[0]["lr"]
        return lr

    def best_epoch(self) -> Epoch | None:
        """Plateau: the epoch with the lowest validation loss so far. Cosine: the last epoch, once it is done. There the
        rate is almost 0, so it is steadier than one that a few validation patients choose."""
        if self.cfg.schedule == "plateau":
            return min(self.epochs, key=lambda epoch: epoch.val_loss, default=None)
        return self.epochs[-1] if len(self.epochs) == self.cfg.epochs else None

    def ended(self) -> bool:
        best, epochs = self.best_epoch(), len(self.epochs)
        stops_early = self.cfg.schedule == "plateau" and best and epochs - best.number >= self.cfg.early_stopping
        return epochs == self.cfg.epochs or bool(stops_early)

    def result(self) -> TrainResult:
        best = self.best_epoch()
        assert best is not None  # called only after ended() returned True
        stopped_early, operations = len(self.epochs) < self.cfg.epochs, tuple(sorted(self.nondeterministic))
        return TrainResult(self.best_state, best, len(self.epochs), stopped_early, operations)

    def checkpoint(self, dist: DistributedContext, **facts: Any) -> Checkpoint:
        """The whole state, with ``facts`` that decide whether it can be used later. Every rank must call this."""
        losses, num_correct = dist.all_reduce(self.losses), dist.all_reduce(self.num_correct)
        states = {"random.cpu": dist.all_gather(torch.get_rng_state())}
        if self.device.type == "cuda":
            states["random.cuda"] = dist.all_gather(torch.cuda.get_rng_state(self.device))
        tensors = {f"weights.{name}": value for name, value in self.classifier.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best_state.items()}
        for number, parameter in enumerate(self.optimiser.gather()):
            moments = self.optimiser.state[parameter].items()
            tensors |= {f"optimiser.{number}.{name}": value for name, value in moments}
        tensors |= {"losses": losses, "num_correct": num_correct, "random.epoch": self.random.get_state()} | states
        progress = {"epochs": self.epochs, "step": self.step, "lr": self.lr, "plateau": self.plateau.state_dict()}
        progress |= {"scaler": self.scaler.state_dict(), "nondeterministic": sorted(self.nondeterministic)}
        return Checkpoint(tensors, progress | facts)

    def restore(self, checkpoint: Checkpoint, dist: DistributedContext) -> None:
        """Set the state to that of ``checkpoint``."""
        tensors, facts = checkpoint
        self.epochs = [Epoch(*figures) for figures in facts["epochs"]]
        self.begin_epoch()
        self.step = facts["step"]
        if dist.rank == 0:  # the checkpoint has the sums over all ranks
            self.losses = tensors["losses"].to(self.device)
            self.num_correct = tensors["num_correct"].to(self.device)
        self.random.set_state(tensors["random.epoch"])
        torch.set_rng_state(tensors["random.cpu"][dist.rank].clone())  # torch ignores the bounds of a slice
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"][dist.rank].clone(), self.device)
        self.classifier.load_state_dict(_with_prefix("weights.", tensors))
        self.best_state = _with_prefix("best.", tensors)
        for name, value in _with_prefix("optimiser.", tensors).items():
            number, _, key = name.partition(".")
            parameter = self.optimiser.gather()[int(number)]  # moments get its memory layout, counters stay on the CPU
            is_moment = value.shape == parameter.shape
            self.optimiser.state[parameter][key] = torch.empty_like(parameter).copy_(value) if is_moment else value
        self.optimiser.param_groups[0]["lr"] = facts["lr"]
        self.plateau.load_state_dict(facts["plateau"])
        self.scaler.load_state_dict(facts["scaler"])
        self.nondeterministic.update(facts["nondeterministic"])


def _with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
