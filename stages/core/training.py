"""Train a classifier, and score images with one."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from core import batches, checkpoints
from core.batches import Pixels
from core.checkpoints import Checkpoint, Store
from core.errors import Interrupted, Mistake
from core.networks import Classifier
from core.ranks import Ranks

if TYPE_CHECKING:  # pydantic is not needed to train
    from core.params import Train

SCORED_AT_ONCE = {"cpu": 3 * 2**18, "cuda": 2**27}  # values, of pixels in channels
COMPILED_FROM = 20_000  # steps, whose gain of a tenth outweighs the minute or two that compiling takes
LOOKED_AFTER = 50  # steps
HEEDED_AFTER = 8  # steps, where several processes must stop or write at the same one


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
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"  # of several processes each has a GPU of its own
    try:
        device = torch.device(name)
    except RuntimeError:
        raise Mistake(f"the device is {name!r}, and must be auto, cpu, cuda or cuda:1") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise Mistake(f"train.device is {name}, and this machine has {torch.cuda.device_count()} GPUs: use auto or cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.cuda.init()  # type: ignore[no-untyped-call]  # from here on the provenance names the GPU
    return device


def choose_precision(name: str, device: torch.device) -> str:
    """fp32 or bf16 for ``train.precision``."""
    if name == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return name


def compiles(chosen: Train, images: int, device: torch.device) -> bool:
    """Whether torch compiles the network, for ``train.compile``. Raises Mistake where it is to and can't."""
    if chosen.compile == "auto" and (
        device.type != "cpu" or chosen.epochs * images / chosen.batch_size < COMPILED_FROM
    ):
        return False
    if chosen.compile is False:
        return False
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it misses CUDA where none is meant to be
    try:
        torch.compile(torch.neg)(torch.zeros(8, device=device))
    except Exception as error:  # each part of the compiler raises errors of its own
        if chosen.compile == "auto":
            return False
        needed = "a C++ compiler (Debian, Ubuntu: apt install g++)" if device.type == "cpu" else "Triton"
        reason = str(error).strip().splitlines()[0]
        raise Mistake(f"train.compile is true, and compiling needs {needed}: {reason}") from None
    return True


def repeatable(seed: int, deterministic: bool = True) -> None:
    """Make equal calls give equal bytes on this machine; not ``deterministic``, only their random draws."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; else its sums vary
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = not deterministic
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    # Torch would also fill new memory, in case someone read it before writing to it: nobody does, and it takes time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def fit(
    classifier: Classifier,
    images: np.ndarray,
    rows: dict[str, np.ndarray],
    labels: np.ndarray,
    chosen: Train,
    seed: int,
    report: Callable[[Epoch], None],
    store: Store | None = None,
    stop: Callable[[], bool] = lambda: False,
    ranks: Ranks | None = None,
) -> Fitted:
    """Train until the validation loss stops improving, and return the best epoch's weights.

    ``images`` is uint8 (N, H, W, C), ``labels`` 0 or 1 (N,); ``rows`` holds the row numbers of "train" and
    "val". ``report`` is called after each epoch, and for those of the checkpoint in ``store`` that training goes on
    from: it ends with the same bytes as one that was never stopped. Once ``stop`` says so, it ends after the step.
    Several ``ranks`` share each batch, and all return the same; ``store`` and ``report`` are the first one's.
    Raises Interrupted then; Mistake when the loss is no number any more, or the memory does not suffice.
    """
    if len(rows["train"]) < 2:
        raise Mistake(f"{len(rows['train'])} image to train on is too few: two are the least, for batch normalisation")
    with _memory(f"lower train.batch_size ({chosen.batch_size}) or prepare.image_size, or take a smaller backbone"):
        training = _Training(classifier, images, rows, labels, chosen, seed, store, stop, ranks or Ranks())
        training.go_on()
        for epoch in training.epochs:
            report(epoch)
        while not training.ended():
            training.one_epoch()
            report(training.epochs[-1])
            training.keep()
            if not training.ended():
                training.heed()
        training.bar.close()
    return training.fitted()


class _Training:
    """A training between any two of its steps: all that the rest of it follows from, and the way there and back to a
    checkpoint. Nothing here draws from the random states of Python or NumPy, and no precision needs a scaler."""

    def __init__(
        self,
        classifier: Classifier,
        images: np.ndarray,
        rows: dict[str, np.ndarray],
        labels: np.ndarray,
        chosen: Train,
        seed: int,
        store: Store | None,
        stop: Callable[[], bool],
        ranks: Ranks,
    ) -> None:
        self.chosen, self.rows, self.seed, self.store, self.stop, self.ranks = chosen, rows, seed, store, stop, ranks
        device = self.device = choose_device(chosen.device)
        enabled = choose_precision(chosen.precision, device) == "bf16"
        self.cast = torch.autocast(device.type, torch.bfloat16, enabled=enabled)
        if ranks.count > 1 and device.type == "cuda":  # on the CPU torch has none: each normalises by its own share
            classifier = nn.SyncBatchNorm.convert_sync_batchnorm(classifier)  # type: ignore[no-untyped-call]
        self.classifier = classifier.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.pixels = Pixels(images, device)
        self.truth = torch.from_numpy(labels.astype(np.float32)).to(device)
        self.weight = torch.tensor(chosen.positive_weight, device=device)
        if chosen.freeze_backbone:
            classifier.requires_grad_(False)
            classifier.head.requires_grad_(True)
        self.trained = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
        self.network: nn.Module = self.classifier
        if ranks.count > 1:
            self.network = DistributedDataParallel(self.classifier)
            torch.manual_seed(seed + ranks.rank)  # for dropout: each rank has images of its own
        self.compiled = compiles(chosen, len(rows["train"]), device)
        self.faster = torch.compile(self.network, dynamic=False) if self.compiled else self.network
        self.optimiser = torch.optim.NAdam(
            self.trained, lr=chosen.lr, weight_decay=chosen.weight_decay, decoupled_weight_decay=True
        )
        self.schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimiser, factor=chosen.plateau_factor, patience=chosen.plateau_patience
        )
        self.epochs: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        self.begin_epoch()
        self.keeps = ranks.any(store is not None)
        self.kept_at = time.monotonic()
        self.bar = tqdm(
            total=chosen.epochs * len(rows["train"]),
            unit=" images",
            disable=True if ranks.rank else None,
            smoothing=0.05,
            leave=True,
        )

    def begin_epoch(self) -> None:
        """Order and augmentation of an epoch follow from the seed and its number alone."""
        self.random = torch.Generator().manual_seed(self.seed * 100_003 + len(self.epochs) + 1)
        shuffled = self.rows["train"][torch.randperm(len(self.rows["train"]), generator=self.random).numpy()]
        self.order = batches.cut(shuffled, self.chosen.batch_size)
        self.step = 0
        self.losses = torch.zeros(len(self.order), device=self.device)  # summed over the images of each step
        self.right = torch.zeros((), device=self.device)

    def best_epoch(self) -> Epoch | None:
        return min(self.epochs, key=lambda epoch: epoch.val_loss, default=None)

    def ended(self) -> bool:
        best = self.best_epoch()
        if best is None:
            return False
        done = len(self.epochs)
        return done >= self.chosen.epochs or done - best.number >= self.chosen.early_stopping

    def fitted(self) -> Fitted:
        best = self.best_epoch()
        assert best is not None  # ended() has been true
        return Fitted(self.best, best, len(self.epochs), stopped_early=len(self.epochs) < self.chosen.epochs)

    def one_epoch(self) -> None:
        """Train from the step that it stands at to the end of the epoch, and validate."""
        self.classifier.train()
        if self.chosen.freeze_backbone:
            self.classifier.eval()
            self.classifier.head.train()
        left = self.order[self.step :]
        # A rank without an image of a small last batch takes one of another, which then counts nothing here.
        mine = [batch[share] if len(batch[share := self.ranks.share(batch)]) else batch[-1:] for batch in left]
        for whole, taken, batch in zip(left, mine, self.pixels.stream(mine), strict=True):
            self.one_step(batch, self.truth[torch.tensor(taken, device=self.device)], whole)
            self.bar.update(len(whole))
            if self.ranks.count == 1 or self.step % HEEDED_AFTER == 0:
                late = time.monotonic() - self.kept_at > 60 * self.chosen.checkpoint_minutes
                if self.ranks.any(self.stop() or late):
                    self.keep()
                    self.heed()
        self.validate()

    def one_step(self, batch: Tensor, target: Tensor, whole: np.ndarray) -> None:
        """Take a step with this rank's images of the ``whole`` batch, which those of all ranks make up."""
        share = self.ranks.share(whole)
        first = min(share.start, len(whole) - 1)
        images = batches.augment(batch, self.chosen.augment, self.random, len(whole), first)
        # The last batch of an epoch may be smaller: it would be compiled anew.
        network = self.faster if len(whole) == self.chosen.batch_size else self.network
        with self.cast:
            logit = network(images)
        loss = binary_cross_entropy_with_logits(logit, target, pos_weight=self.weight)
        counted = share.stop - share.start
        if self.ranks.count > 1:  # the mean over the whole batch, once the gradients' mean over the ranks is taken
            loss = loss * (counted * self.ranks.count / len(whole))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.chosen.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.trained, self.chosen.clip_norm)
        self.optimiser.step()
        self.losses[self.step] = loss.detach() * (len(whole) / self.ranks.count)
        self.right += ((logit.detach() > 0) == (target > 0.5))[:counted].sum()
        self.step += 1
        if self.step % LOOKED_AFTER == 1:  # reading a loss makes the CPU wait for the GPU
            self.look()
            loss_now = float(self.ranks.sum(self.losses[self.step - 1])) / len(whole)
            self.bar.set_postfix_str(f"epoch {len(self.epochs) + 1}/{self.chosen.epochs}, loss {loss_now:.4f}")

    def look(self) -> None:
        """Raise Mistake where a loss or a weight has become no number."""
        bad = torch.nonzero(~torch.isfinite(self.ranks.sum(self.losses[: self.step]))).flatten()
        at = None
        if len(bad):
            at = int(bad[0]) + 1
        elif not torch.isfinite(nn.utils.get_total_norm(self.classifier.parameters())):
            at = self.step
        if at is not None:
            kept = self.ranks.any(bool(self.store and self.store.paths()))
            raise Mistake(
                f"At epoch {len(self.epochs) + 1}, step {at} of {len(self.order)} the loss or the weights became no "
                f"number: lower train.lr ({self.chosen.lr:g}), or set train.clip_norm to 1.0."
                + (" The last good checkpoint is kept." if kept else "")
            )

    def validate(self) -> None:
        self.look()
        for value in self.classifier.buffers():  # of batch normalisation, which each rank has of its own images
            self.ranks.of_first(value)
        logits = self.validated()
        wanted = self.truth[torch.tensor(self.rows["val"], device=self.device)].cpu()
        weight = self.weight.cpu().double()
        val_loss = binary_cross_entropy_with_logits(logits.double(), wanted.double(), pos_weight=weight)
        number, images_each = len(self.epochs) + 1, len(self.rows["train"])
        if not math.isfinite(val_loss):
            raise Mistake(
                f"The loss is {float(val_loss)} in validation after epoch {number}: lower train.lr "
                f"({self.chosen.lr:g}), or set train.clip_norm to 1.0"
            )
        figures = [
            float(self.ranks.sum(self.losses).double().sum()) / images_each,
            float(self.ranks.sum(self.right)) / images_each,
            float(val_loss),
            float(((logits > 0) == (wanted > 0.5)).double().mean()),
            self.optimiser.param_groups[0]["lr"],
        ]
        # One rank's for all: when to stop must not hang on how another processor rounds.
        epoch = Epoch(number, *self.ranks.of_first(torch.tensor(figures, dtype=torch.float64)).tolist())
        self.epochs.append(epoch)
        if self.best_epoch() is epoch:
            # Copies: the original project kept references, so the last epoch's weights. Contiguous, for safetensors.
            self.best = {
                name: value.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
                for name, value in self.classifier.state_dict().items()
            }
        self.schedule.step(epoch.val_loss)
        self.begin_epoch()

    def validated(self) -> Tensor:
        """The logits of the validation images: float32 (V,), on the CPU. Each rank scores its share, once."""
        rows = self.rows["val"]
        logits = torch.zeros(len(rows))
        mine = slice(self.ranks.rank, None, self.ranks.count)
        if len(rows[mine]):
            logits[mine] = score(self.classifier, self.pixels, rows[mine], self.cast)
        return self.ranks.sum(logits)

    def keep(self) -> None:
        """Write a checkpoint of where it stands. Raises Mistake rather than keep one that is no number."""
        if not self.keeps:
            return
        self.look()
        losses, right = self.ranks.sum(self.losses), self.ranks.sum(self.right)
        states = {"random.cpu": self.ranks.each(torch.get_rng_state())}
        if self.device.type == "cuda":
            states["random.cuda"] = self.ranks.each(torch.cuda.get_rng_state(self.device))
        self.kept_at = time.monotonic()
        if self.store is None:
            return
        tensors = {f"weights.{name}": value for name, value in self.classifier.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for number, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{number}.{name}": value for name, value in state.items()}
        tensors |= {"losses": losses, "right": right, "random.epoch": self.random.get_state()} | states
        facts = {
            "epochs": self.epochs,
            "step": self.step,
            "lr": self.optimiser.param_groups[0]["lr"],
            "compiled": self.compiled,
            "schedule": self.schedule.state_dict(),
        }
        self.store.save(len(self.epochs), self.step, Checkpoint(tensors, facts))

    def go_on(self) -> None:
        """Take up the newest checkpoint, if there is one."""
        found = self.store.load() if self.store else None
        if self.ranks.count > 1:  # the first rank's machine alone has it
            content = self.ranks.bytes_of_first(checkpoints.pack(found) if found else b"")
            found = checkpoints.unpack(content) if content else None
        if found is None:
            return
        tensors, facts = found
        if facts["compiled"] != self.compiled:
            print("The checkpoint is not used: a compiler has come or gone, and rounding with it", file=sys.stderr)
            return
        self.epochs = [Epoch(*figures) for figures in facts["epochs"]]
        self.begin_epoch()
        self.step = facts["step"]
        if self.ranks.rank == 0:  # they are the sums over all ranks
            self.losses, self.right = tensors["losses"].to(self.device), tensors["right"].to(self.device)
        self.random.set_state(tensors["random.epoch"])
        torch.set_rng_state(tensors["random.cpu"][self.ranks.rank].clone())  # torch reads past a part of a tensor
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"][self.ranks.rank].clone(), self.device)
        self.classifier.load_state_dict(_below("weights.", tensors))
        self.best = _below("best.", tensors)
        for name, value in _below("optimiser.", tensors).items():
            number, _, what = name.partition(".")
            parameter = self.trained[int(number)]  # its moments lie in memory as it does, counters on the CPU
            moment = value.shape == parameter.shape
            self.optimiser.state[parameter][what] = torch.empty_like(parameter).copy_(value) if moment else value
        self.optimiser.param_groups[0]["lr"] = facts["lr"]
        self.schedule.load_state_dict(facts["schedule"])
        self.bar.update(len(self.epochs) * len(self.rows["train"]) + sum(map(len, self.order[: self.step])))
        if self.ranks.rank == 0:
            print(f"Going on after epoch {len(self.epochs)}, step {self.step}. So far:", flush=True)

    def heed(self) -> None:
        """Raise Interrupted where a person wants it to stop."""
        if self.ranks.any(self.stop()):
            self.bar.close()
            kept = "kept. Run the same command again, and it goes on from there; dvc repro --force starts anew"
            lost = "lost: this training keeps no checkpoints"
            raise Interrupted(
                f"training stopped after epoch {len(self.epochs)}, step {self.step} of {len(self.order)}, and is "
                f"{kept if self.store else lost}"
            )


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


@contextmanager
def _memory(remedy: str) -> Iterator[None]:
    """Torch's errors for too little memory, as a Mistake that says what to lower."""
    try:
        yield
    except RuntimeError as error:  # OutOfMemoryError is one; on the CPU there is no type of its own
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise Mistake(f"The memory does not suffice: {remedy}. ({str(error).splitlines()[0]})") from None


def summarise(fitted: Fitted) -> dict[str, Any]:
    """How the training went, for metrics/train.json."""
    best = {name: getattr(fitted.best, name) for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy")}
    return {"best_epoch": fitted.best.number, "epochs": fitted.epochs, "stopped_early": fitted.stopped_early} | best


def score(
    classifier: Classifier,
    pixels: Pixels,
    rows: np.ndarray,
    cast: AbstractContextManager[Any],
    network: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The logits of the images at ``rows``, float32 (len(rows),), or what another ``network`` makes of them; on the
    CPU, in evaluation mode."""
    classifier.eval()
    network = network or classifier
    size = max(1, SCORED_AT_ONCE[pixels.device.type] // pixels.images[0].size)
    while True:
        try:
            with torch.inference_mode(), cast:
                parts = [rows[at : at + size] for at in range(0, len(rows), size)]
                return torch.cat([network(batch) for batch in pixels.stream(parts)]).cpu()
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size //= 2
            torch.cuda.empty_cache()


def probabilities(classifier: Classifier, images: np.ndarray, rows: np.ndarray, device: torch.device) -> np.ndarray:
    """The probability of being positive of the images at ``rows``: float64 (len(rows),), computed in fp32."""
    with _memory("set train.device to cpu, or lower prepare.image_size"):
        logits = score(classifier.to(device), Pixels(images, device), rows, nullcontext())
    return torch.sigmoid(logits.double()).numpy()


def features(
    classifier: Classifier, images: np.ndarray, rows: np.ndarray, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """As ``probabilities``, and the features that they are made from: float32 (len(rows), D)."""
    with _memory("set train.device to cpu, or lower prepare.image_size"):
        found = score(classifier.to(device), Pixels(images, device), rows, nullcontext(), classifier.with_features)
    return torch.sigmoid(found[:, 0].double()).numpy(), found[:, 1:].numpy()
