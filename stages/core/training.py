"""Train a classifier, and score images with one."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm import tqdm

from core import batches
from core.batches import Pixels
from core.errors import Mistake
from core.networks import Classifier

if TYPE_CHECKING:  # pydantic is not needed to train
    from core.params import Train

SCORED_AT_ONCE = {"cpu": 64, "cuda": 256}  # images


class Epoch(NamedTuple):
    """Figures of one epoch, numbered from 1. Losses are means over images; those of training were taken
    while the weights moved, so no second pass over the training set is needed."""

    number: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    lr: float

    def line(self) -> str:
        return (
            f"epoch {self.number}: train loss {self.train_loss:.4f}, accuracy {self.train_accuracy:.3f}; "
            f"val loss {self.val_loss:.4f}, accuracy {self.val_accuracy:.3f}; lr {self.lr:g}"
        )


class Fitted(NamedTuple):
    """The weights of the best epoch, on the CPU, and how it came to them."""

    state: dict[str, Tensor]
    best: Epoch
    epochs: int
    stopped_early: bool


def choose_device(name: str) -> torch.device:
    """The device for ``train.device``. Raises Mistake where there is none of that name."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise Mistake(f"the device is {name!r}, and must be auto, cpu, cuda or cuda:1") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise Mistake(f"train.device is {name}, and this machine has {torch.cuda.device_count()} GPUs: use auto or cpu")
    return device


def choose_precision(name: str, device: torch.device) -> str:
    """fp32 or bf16 for ``train.precision``."""
    if name == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return name


def repeatable(seed: int) -> None:
    """Make equal calls give equal bytes on this machine."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; else its sums vary
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)


def fit(
    classifier: Classifier,
    images: np.ndarray,
    rows: dict[str, np.ndarray],
    labels: np.ndarray,
    chosen: Train,
    seed: int,
    report: Callable[[Epoch], None],
) -> Fitted:
    """Train until the validation loss stops improving, and return the best epoch's weights.

    ``images`` is uint8 (N, H, W, C), ``labels`` 0 or 1 (N,); ``rows`` holds the row numbers of "train" and
    "val". ``report`` is called after each epoch. Raises Mistake when the loss is no number any more.
    """
    if len(rows["train"]) < 2:
        raise Mistake(f"{len(rows['train'])} image to train on is too few: two are the least, for batch normalisation")
    device = choose_device(chosen.device)
    cast = torch.autocast(device.type, torch.bfloat16, enabled=choose_precision(chosen.precision, device) == "bf16")
    classifier = classifier.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    pixels = Pixels(images, device)
    truth = torch.from_numpy(labels.astype(np.float32)).to(device)
    weight = torch.tensor(chosen.positive_weight, device=device)
    if chosen.freeze_backbone:
        classifier.requires_grad_(False)
        classifier.head.requires_grad_(True)
    trained = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    optimiser = torch.optim.NAdam(trained, lr=chosen.lr, weight_decay=chosen.weight_decay, decoupled_weight_decay=True)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser, factor=chosen.plateau_factor, patience=chosen.plateau_patience
    )

    def step(batch: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        with cast:
            logit = classifier(batches.augment(batch, chosen.augment, random))
        loss = binary_cross_entropy_with_logits(logit, target, pos_weight=weight)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if chosen.clip_norm is not None:
            nn.utils.clip_grad_norm_(trained, chosen.clip_norm)
        optimiser.step()
        return loss.detach() * len(target), ((logit.detach() > 0) == (target > 0.5)).sum()

    best: Epoch | None = None
    state: dict[str, Tensor] = {}
    number, images_each = 0, len(rows["train"])
    bar = tqdm(total=chosen.epochs * images_each, unit=" images", disable=None, smoothing=0.05)
    for number in range(1, chosen.epochs + 1):
        # Order and augmentation of an epoch follow from the seed and its number alone.
        random = torch.Generator().manual_seed(seed * 100_003 + number)
        classifier.train()
        if chosen.freeze_backbone:
            classifier.eval()
            classifier.head.train()
        order = batches.cut(rows["train"][torch.randperm(images_each, generator=random).numpy()], chosen.batch_size)
        loss, right = torch.zeros((), device=device), torch.zeros((), device=device)
        for at, (taken, batch) in enumerate(zip(order, pixels.stream(order), strict=True)):
            losses, hits = step(batch, truth[torch.tensor(taken, device=device)])
            loss += losses
            right += hits
            bar.update(len(taken))
            if not bar.disable and at % 20 == 0:  # reading the loss makes the CPU wait for the GPU
                bar.set_postfix_str(f"epoch {number}/{chosen.epochs}, loss {float(losses) / len(taken):.4f}")

        logits = score(classifier, pixels, rows["val"], cast)
        wanted = truth[torch.tensor(rows["val"], device=device)].cpu()
        val_loss = binary_cross_entropy_with_logits(logits.double(), wanted.double(), pos_weight=weight.cpu().double())
        epoch = Epoch(
            number,
            float(loss) / images_each,
            float(right) / images_each,
            float(val_loss),
            float(((logits > 0) == (wanted > 0.5)).double().mean()),
            optimiser.param_groups[0]["lr"],
        )
        if not (math.isfinite(epoch.train_loss) and math.isfinite(epoch.val_loss)):
            raise Mistake(
                f"The loss is {epoch.train_loss} in training and {epoch.val_loss} in validation at epoch {number}: "
                f"lower train.lr ({chosen.lr:g}), or set train.clip_norm to 1.0"
            )
        report(epoch)
        if best is None or epoch.val_loss < best.val_loss:
            best = epoch
            # Copies: the original project kept references, so the last epoch's weights. Contiguous, for safetensors.
            state = {
                name: value.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
                for name, value in classifier.state_dict().items()
            }
        schedule.step(epoch.val_loss)
        if number - best.number >= chosen.early_stopping:
            break
    bar.close()
    assert best is not None  # at least one epoch has run
    return Fitted(state, best, number, stopped_early=number < chosen.epochs)


def score(classifier: Classifier, pixels: Pixels, rows: np.ndarray, cast: AbstractContextManager[Any]) -> Tensor:
    """The logits of the images at ``rows``: float32 (len(rows),), on the CPU, in evaluation mode."""
    classifier.eval()
    size = SCORED_AT_ONCE[pixels.device.type]
    logits = []
    with torch.inference_mode(), cast:
        for batch in pixels.stream([rows[at : at + size] for at in range(0, len(rows), size)]):
            logits.append(classifier(batch))
    return torch.cat(logits).cpu()


def probabilities(classifier: Classifier, images: np.ndarray, rows: np.ndarray, device: torch.device) -> np.ndarray:
    """The probability of being positive of the images at ``rows``: float64 (len(rows),), computed in fp32."""
    logits = score(classifier.to(device), Pixels(images, device), rows, nullcontext())
    return torch.sigmoid(logits.double()).numpy()
