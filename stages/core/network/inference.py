"""Score images with a trained network."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from core.network import devices, messages
from core.network.batches import Pixels
from core.network.ensemble import Ensemble

import numpy as np
import torch
from torch import Tensor, nn

SCORED_AT_ONCE = {"cpu": 3 * 2**18, "cuda": 2**27}  # values (pixels times channels) in a batch


def score(
    network: nn.Module,
    pixels: Pixels,
    rows: np.ndarray,
    cast: AbstractContextManager[Any],
    output: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """What the network, or its method ``output``, returns for the images at ``rows``: (len(rows), ...), on the CPU.

    Sets the network to evaluation mode.
    """
    network.eval()
    output = output or network
    size = max(1, SCORED_AT_ONCE[pixels.device.type] // pixels.images[0].size)
    while True:
        try:
            with torch.inference_mode(), cast:
                parts = [rows[at : at + size] for at in range(0, len(rows), size)]
                return torch.cat([output(batch) for batch in pixels.stream(parts)]).cpu()
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size //= 2
            torch.cuda.empty_cache()


def probabilities(ensemble: Ensemble, images: np.ndarray, rows: np.ndarray, device: torch.device) -> np.ndarray:
    """Each member's probability of the positive class for the images at ``rows``: float64 (len(rows), members). They
    are computed in fp32."""
    with devices.explain_oom(messages.LOWER_IMAGE_SIZE):
        logits = score(ensemble.to(device), Pixels(images, device), rows, nullcontext(), ensemble.each)
    return torch.sigmoid(logits.double()).numpy()


def features(
    ensemble: Ensemble, images: np.ndarray, rows: np.ndarray, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """As ``probabilities``, and the features of the images (Ensemble.with_features): float32 (len(rows), F)."""
    with devices.explain_oom(messages.LOWER_IMAGE_SIZE):
        found = score(ensemble.to(device), Pixels(images, device), rows, nullcontext(), ensemble.with_features)
    count = len(ensemble.members)
    return torch.sigmoid(found[:, :count].double()).numpy(), found[:, count:].numpy()
