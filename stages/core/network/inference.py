"""Score images with a trained network."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from core.network import devices, messages
from core.network.batches import ImageLoader
from core.network.ensemble import Ensemble

import numpy as np
import torch
from torch import Tensor, nn

BATCH_VALUES = {"cpu": 3 * 2**18, "cuda": 2**27}  # values (pixels times channels) in a batch


def score(
    network: nn.Module, loader: ImageLoader, rows: np.ndarray, cast: AbstractContextManager[Any],
    output: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """What the network, or its method ``output``, returns for the images at ``rows``.

    Sets the network to evaluation mode. If memory runs out, scores smaller batches.

    Parameters
    ----------
    rows : (M,) int64
    output : callable
        From (B, C, H, W), as ``loader`` streams them, to (B, ...) float32; by default ``network``.

    Returns
    -------
    (M, ...) float32, on the CPU
    """
    network.eval()
    output = output or network
    size = max(1, BATCH_VALUES[loader.device.type] // loader.images[0].size)
    while True:
        try:
            with torch.inference_mode(), cast:
                batches = [rows[at : at + size] for at in range(0, len(rows), size)]
                return torch.cat([output(images) for images in loader.stream(batches)]).cpu()
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size //= 2
            torch.cuda.empty_cache()


def probabilities(ensemble: Ensemble, images: np.ndarray, rows: np.ndarray, device: torch.device) -> np.ndarray:
    """The probability of the positive class by each member, computed in fp32.

    Parameters
    ----------
    images : (N, H, W, C) uint8
    rows : (M,) int64, of the images to score

    Returns
    -------
    (M, members) float64
    """
    return torch.sigmoid(_score(ensemble, images, rows, device, ensemble.member_logits).double()).numpy()


def features(
    ensemble: Ensemble, images: np.ndarray, rows: np.ndarray, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """As ``probabilities``, and the features of the images (Ensemble.with_features).

    Parameters
    ----------
    images : (N, H, W, C) uint8
    rows : (M,) int64, of the images to score

    Returns
    -------
    by_member : (M, members) float64
    features : (M, F) float32
    """
    outputs, count = _score(ensemble, images, rows, device, ensemble.with_features), len(ensemble.members)
    return torch.sigmoid(outputs[:, :count].double()).numpy(), outputs[:, count:].numpy()


def _score(
    ensemble: Ensemble, images: np.ndarray, rows: np.ndarray, device: torch.device, output: Callable[[Tensor], Tensor]
) -> Tensor:
    with devices.explain_oom(messages.LOWER_IMAGE_SIZE):
        return score(ensemble.to(device), ImageLoader(images, device), rows, nullcontext(), output)
