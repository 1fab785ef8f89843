"""The state of a training between two steps, and its conversion to and from a checkpoint."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from core.network import batches
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
    """Figures of one epoch, numbered from 1. Losses are means over images. The training figures are computed while the
    weights change, so that no second pass over the training set is needed."""

    number: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    lr: float


class Fitted(NamedTuple):
    """The weights of the kept epoch, on the CPU, and how the training went."""

    state: dict[str, Tensor]
    kept: Epoch
    epochs: int
    stopped_early: bool


class State:
    """Everything that the rest of a training depends on.

    The random states of Python and NumPy are not part of it, because training does not use them. Nor is a gradient
    scaler, because no precision needs one.

    ``rows`` are the row numbers (M,) of the training images. ``losses`` and ``right`` are sums over this rank's images
    in the current epoch.
    """

    def __init__(self, classifier: Classifier, rows: np.ndarray, chosen: Train, seed: int) -> None:
        self.classifier, self.rows, self.chosen, self.seed = classifier, rows, chosen, seed
        self.device = classifier.mean.device
        trained = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
        self.optimiser = NAdam(trained, chosen.lr, chosen.weight_decay)
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimiser, factor=chosen.plateau_factor, patience=chosen.plateau_patience
        )
        self.epochs: list[Epoch] = []
        self.kept: dict[str, Tensor] = {}
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Begin an epoch. Its order and augmentation depend only on the seed and the epoch's number."""
        self.random = torch.Generator().manual_seed(self.seed * 100_003 + len(self.epochs) + 1)
        shuffled = self.rows[torch.randperm(len(self.rows), generator=self.random).numpy()]
        self.order = batches.make_batches(shuffled, self.chosen.batch_size)
        self.step = 0
        self.losses = torch.zeros(len(self.order), device=self.device)  # summed over the images of each step
        self.right = torch.zeros((), device=self.device)

    def end_epoch(self, epoch: Epoch) -> None:
        """Keep a copy of the weights if the epoch is the one to keep so far, and begin the next one."""
        self.epochs.append(epoch)
        if self.kept_epoch() is epoch:
            # Copies: the original project kept references, and so saved the last epoch's weights.
            # Contiguous: safetensors needs it.
            self.kept = {
                name: value.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
                for name, value in self.classifier.state_dict().items()
            }
        if self.chosen.schedule == "plateau":
            self.plateau.step(epoch.val_loss)
        self.begin_epoch()

    def set_rate(self) -> None:
        """Set the learning rate of the next step. Cosine: it rises linearly for an epoch, and falls from there to 0
        after the last step along half a cosine (Loshchilov and Hutter 2017, SGDR, ICLR, equation 5)."""
        if self.chosen.schedule == "cosine":
            done = len(self.epochs) + self.step / len(self.order)  # epochs
            rising = min(1.0, done + 1 / len(self.order))
            falling = 0.5 * (1 + math.cos(math.pi * done / self.chosen.epochs))
            self.optimiser.param_groups[0]["lr"] = self.chosen.lr * rising * falling

    @property
    def lr(self) -> float:
        rate: float = self.optimiser.param_groups[0]["lr"]
        return rate

    @property
    def images_seen(self) -> int:
        return len(self.epochs) * len(self.rows) + sum(map(len, self.order[: self.step]))

    def kept_epoch(self) -> Epoch | None:
        """Plateau: the epoch with the lowest validation loss so far. Cosine: the last epoch, once it is done. There the
        rate is almost 0, so it is steadier than one that a few validation patients choose."""
        if self.chosen.schedule == "plateau":
            return min(self.epochs, key=lambda epoch: epoch.val_loss, default=None)
        return self.epochs[-1] if len(self.epochs) == self.chosen.epochs else None

    def ended(self) -> bool:
        kept, done = self.kept_epoch(), len(self.epochs)
        if self.chosen.schedule == "cosine" or kept is None:
            return done == self.chosen.epochs
        return done == self.chosen.epochs or done - kept.number >= self.chosen.early_stopping

    def fitted(self) -> Fitted:
        kept = self.kept_epoch()
        assert kept is not None  # called only after ended() returned True
        return Fitted(self.kept, kept, len(self.epochs), stopped_early=len(self.epochs) < self.chosen.epochs)

    def checkpoint(self, dist: DistributedContext, **facts: Any) -> Checkpoint:
        """The whole state, with ``facts`` that decide whether it can be used later. Every rank must call this."""
        losses, right = dist.all_reduce(self.losses), dist.all_reduce(self.right)
        states = {"random.cpu": dist.all_gather(torch.get_rng_state())}
        if self.device.type == "cuda":
            states["random.cuda"] = dist.all_gather(torch.cuda.get_rng_state(self.device))
        tensors = {f"weights.{name}": value for name, value in self.classifier.state_dict().items()}
        tensors |= {f"kept.{name}": value for name, value in self.kept.items()}
        for number, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{number}.{name}": value for name, value in state.items()}
        tensors |= {"losses": losses, "right": right, "random.epoch": self.random.get_state()} | states
        known = {"epochs": self.epochs, "step": self.step, "lr": self.lr, "plateau": self.plateau.state_dict()}
        return Checkpoint(tensors, known | facts)

    def restore(self, checkpoint: Checkpoint, dist: DistributedContext) -> None:
        """Set the state to that of ``checkpoint``."""
        tensors, facts = checkpoint
        self.epochs = [Epoch(*figures) for figures in facts["epochs"]]
        self.begin_epoch()
        self.step = facts["step"]
        if dist.rank == 0:  # the checkpoint has the sums over all ranks
            self.losses, self.right = tensors["losses"].to(self.device), tensors["right"].to(self.device)
        self.random.set_state(tensors["random.epoch"])
        torch.set_rng_state(tensors["random.cpu"][dist.rank].clone())  # torch ignores the bounds of a slice
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"][dist.rank].clone(), self.device)
        self.classifier.load_state_dict(_below("weights.", tensors))
        self.kept = _below("kept.", tensors)
        for name, value in _below("optimiser.", tensors).items():
            number, _, what = name.partition(".")
            parameter = self.optimiser.gather()[int(number)]  # moments get its memory layout, counters stay on the CPU
            moment = value.shape == parameter.shape
            self.optimiser.state[parameter][what] = torch.empty_like(parameter).copy_(value) if moment else value
        self.optimiser.param_groups[0]["lr"] = facts["lr"]
        self.plateau.load_state_dict(facts["plateau"])


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
