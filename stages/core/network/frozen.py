"""Train only the head of a network: what its frozen backbone makes of each image is computed once and stored.

With augmentation, each training image has VIEWS fixed views, and epoch n uses view n modulo VIEWS. Members with equal
backbones, and later trainings on the same data and with the same code, share the stored features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.network import batches, messages
from core.network.batches import ImageLoader
from core.network.networks import Classifier
from core.pipeline import files
from core.pipeline.errors import PipelineError

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

if TYPE_CHECKING:  # pydantic is not needed to train
    from core.pipeline.schemas.train import Train

VIEWS = 4


class Head(nn.Module):
    """The head of a classifier, from features (B, D, h, w) to logits, float32 (B,). Of a head for each position, the
    logit is the mean."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.head = classifier.head
        self.by_position = any(isinstance(layer, nn.Conv2d) for layer in self.head.modules())

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(features if self.by_position else features.flatten(1))
        return logits.flatten(1).mean(1).float()


class FrozenFeatures:
    """The input of the ``head`` of a ``classifier``, for the images at ``rows`` of ``loader``, on the device.

    It is kept in ``folder``, or in memory if that is None.

    Parameters
    ----------
    rows : dict of (n,) int64, by "train" and "val"
    raise_if_stopped : is called after each batch

    Raises
    ------
    PipelineError
        If the logit does not depend on the head's input alone.
    """

    def __init__(
        self, classifier: Classifier, loader: ImageLoader, rows: dict[str, np.ndarray], cfg: Train,
        cast: AbstractContextManager[Any], folder: Path | None, raise_if_stopped: Callable[[], None],
    ) -> None:  # fmt: skip
        self.classifier, self.images, self.rows, self.cfg, self.cast = classifier, loader, rows, cfg, cast
        self.folder, self.raise_if_stopped, self.head = folder, raise_if_stopped, Head(classifier)
        augments = any(strength not in ("none", 0) for strength in cfg.augment.model_dump().values())
        self.views = VIEWS if augments else 1
        self.loaders: dict[int, ImageLoader] = {}
        (example,) = loader.stream([rows["train"][:1]])
        features, logit = self._features(example)
        self.shape = len(loader.images), *features.shape[1:]
        with torch.inference_mode(), cast:
            try:
                is_alone = torch.allclose(self.head(features.permute(0, 3, 1, 2)), logit, rtol=0.01, atol=0.01)
            except RuntimeError:  # a head with an input of another shape
                is_alone = False
            if not is_alone:
                backbone = classifier.description["backbone"]
                raise PipelineError(messages.HEAD_NOT_ALONE.format(backbone=backbone))

    def loader(self, epoch: int) -> ImageLoader:
        """The features that an epoch, from 0, trains on. Those of epoch 0 include the validation images."""
        view = epoch % self.views
        if view not in self.loaders:
            self.loaders[view] = ImageLoader(self._read(view), self.images.device)
        return self.loaders[view]

    def _read(self, view: int) -> np.ndarray:
        """The features of a view: float32 (N, h, w, D), zero for images that the view does not have."""
        if self.folder is None:
            return self._compute(view, np.zeros(self.shape, np.float32))
        path = self.folder / f"{self._key()[:32]}-{view}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = files.lock_file(path.with_suffix(".lock"), wait=True)  # other members and ranks wait for the features
        try:
            if not path.is_file():
                with files.atomic_write(path) as unfinished:
                    features = np.lib.format.open_memmap(unfinished, "w+", np.float32, self.shape)
                    files.reserve(unfinished)
                    self._compute(view, features).flush()  # type: ignore[attr-defined]
        finally:
            if lock:
                lock.close()
        return files.read_array(path)

    def _compute(self, view: int, features: np.ndarray) -> np.ndarray:
        generator, size = torch.Generator().manual_seed(view), self.cfg.batch_size
        for split in ("train", "val")[: 1 if view else 2]:
            chunks = [self.rows[split][at : at + size] for at in range(0, len(self.rows[split]), size)]
            for chunk, images in zip(chunks, self.images.stream(chunks), strict=True):
                if split == "train":
                    images = batches.augment(images, self.cfg.augment, generator)
                features[chunk] = self._features(images)[0].cpu().numpy()
                self.raise_if_stopped()
        return features

    def _features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The input of the head, float32 (B, h, w, D), and the logits."""
        inputs: list[Tensor] = []
        hook = self.classifier.head.register_forward_pre_hook(lambda head, args: inputs.append(args[0]))
        with torch.inference_mode(), self.cast:
            logits = self.classifier.eval()(images)
        hook.remove()
        features = inputs[0].float()
        return features.permute(0, 2, 3, 1) if features.ndim == 4 else features.flatten(1)[:, None, None], logits

    def _key(self) -> str:
        """What the features depend on, besides the code and the data that the name of the folder covers."""
        from core.pipeline import provenance  # reads YAML, which other trainings do not need

        prefix = f"network.{self.classifier.head_path}."
        weights = self.classifier.state_dict().items()
        backbone = save({name: value.cpu().contiguous() for name, value in weights if not name.startswith(prefix)})
        parts = self.classifier.description | {"head": None, "precision": self.cfg.precision}
        parts["reproducible"] = self.cfg.reproducible
        parts |= {"augment": self.cfg.augment.model_dump(), "weights": hashlib.sha256(backbone).hexdigest()}
        return provenance.fingerprint(parts | {"batch": self.cfg.batch_size, "machine": provenance.machine()})
