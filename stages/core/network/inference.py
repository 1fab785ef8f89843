"""Score images with a trained network."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.network import devices
from core.network.batches import Pixels
from core.network.networks import Classifier

SCORED_AT_ONCE = {"cpu": 3 * 2**18, "cuda": 2**27}  # values (pixels times channels) in a batch


def score(
    classifier: Classifier,
    pixels: Pixels,
    rows: np.ndarray,
    cast: AbstractContextManager[Any],
    network: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The logits of the images at ``rows``, float32 (len(rows),), or the output of another ``network``; on the CPU.

    Sets the classifier to evaluation mode.
    """
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
    """The probability of the positive class for the images at ``rows``: float64 (len(rows),), computed in fp32."""
    with devices.memory("set train.device to cpu, or lower prepare.image_size"):
        logits = score(classifier.to(device), Pixels(images, device), rows, nullcontext())
    return torch.sigmoid(logits.double()).numpy()


def features(
    classifier: Classifier, images: np.ndarray, rows: np.ndarray, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """As ``probabilities``, and the features of the images (Classifier.with_features): float32 (len(rows), D)."""
    with devices.memory("set train.device to cpu, or lower prepare.image_size"):
        found = score(classifier.to(device), Pixels(images, device), rows, nullcontext(), classifier.with_features)
    return torch.sigmoid(found[:, 0].double()).numpy(), found[:, 1:].numpy()
