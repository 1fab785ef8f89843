"""Find the region of an image that decided its class: hide one region after another and measure how the logit falls
(occlusion; Zeiler and Fergus 2014, Visualizing and understanding convolutional networks, ECCV, section 4.2).

It needs no layer with a map, and measures what Grad-CAM estimates: in transformers and in small CNNs, Grad-CAM did not
show the lesions of tests/network/test_occlusion.py, because each position of a late layer has seen most of the image.
"""

from contextlib import nullcontext
from itertools import product

from core.images import contact_sheets
from core.network import inference
from core.network.batches import ImageLoader
from core.network.ensemble import Ensemble

import numpy as np
import pandas as pd
import torch
from matplotlib import colormaps
from torch import nn

SHOWN = 24  # images, the worst mistakes first
PER_ROW = 4
GRID = 8  # regions in a row; each is a square of a quarter of the image's side, so that neighbours overlap by a half


def heatmaps(ensemble: Ensemble, images: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """How strongly each region supports the predicted class: in [0, 1], zero everywhere if no region does.

    Parameters
    ----------
    images : (N, H, W, C) uint8
    predicted : (N,) bool, true for the positive class

    Returns
    -------
    (N, GRID, GRID) float32
    """
    device = next(ensemble.parameters()).device
    ensemble = Ensemble([*ensemble.members])  # of the image as it is shown
    maps = np.zeros((len(images), GRID, GRID), np.float32)
    for heat, image, positive in zip(maps, images, predicted, strict=True):
        loader = ImageLoader(np.concatenate([image[None], occluded(image)]), device)
        logits = inference.score(ensemble, loader, np.arange(1 + GRID**2), nullcontext()).numpy()
        falls = (logits[0] - logits[1:]) if positive else (logits[1:] - logits[0])
        heat[:] = np.maximum(falls, 0).reshape(GRID, GRID)
    return maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-12)


def occluded(image: np.ndarray) -> np.ndarray:
    """Copies of an image, of which each has one region in the image's mean colour.

    Parameters
    ----------
    image : (H, W, C) uint8

    Returns
    -------
    (GRID * GRID, H, W, C) uint8, row by row
    """
    height, width = (
        [slice(max(0, round((at - 0.5) * side / GRID)), round((at + 1.5) * side / GRID)) for at in range(GRID)]
        for side in image.shape[:2]
    )
    copies = np.repeat(image[None], GRID**2, axis=0)
    for copy, region in zip(copies, product(height, width), strict=True):
        copy[region] = image.mean((0, 1)).round()
    return copies


def worst_errors(predictions: pd.DataFrame) -> pd.DataFrame:
    """The SHOWN rows whose probability differs most from their label, largest difference first."""
    distance = (predictions["label"] - predictions["probability"]).abs()
    return predictions.loc[distance.nlargest(SHOWN).index]


def gallery(
    ensemble: Ensemble, images: np.ndarray, predictions: pd.DataFrame, threshold: float, path: str, synthetic: bool
) -> None:
    """Write a PNG of the worst mistakes in ``predictions``: each image, and beside it the image with its heatmap.

    The texts here are part of the PNG, so they are not in core.network.messages.

    Parameters
    ----------
    images : (N, H, W, C) uint8
    predictions : DataFrame with row (the index into ``images``), file, label and probability
    """
    errors = worst_errors(predictions)
    shown = images[errors["row"].to_numpy()]
    heat = heatmaps(ensemble, shown, errors["probability"].to_numpy() >= threshold)
    tiles, captions = list[np.ndarray](), list[str]()  # two of each image
    for image, region, entry in zip(shown, heat, errors.itertuples(), strict=True):
        tiles += [image, overlay(image, region)]
        captions += [f"label {entry.label}, probability {entry.probability:.2f}", str(entry.file).rpartition("/")[2]]
    rows = []
    for start in range(0, len(errors), PER_ROW):
        end = min(start + PER_ROW, len(errors))
        part = slice(2 * start, 2 * end)
        rows.append(contact_sheets.Row(f"{start + 1} to {end}", tiles[part], captions[part]))
    title = "Test images, worst mistakes first. Bright: hiding this region makes the predicted class less likely"
    contact_sheets.save(title, rows, path, synthetic)


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Overlay a heatmap on an image.

    Parameters
    ----------
    image : (H, W, C) uint8
    heat : (h, w) float32, in [0, 1]

    Returns
    -------
    (H, W, 3) uint8
    """
    resized = nn.functional.interpolate(
        torch.from_numpy(heat)[None, None].float(), image.shape[:2], mode="bilinear", align_corners=False
    )[0, 0].numpy()
    colours = colormaps["inferno"](resized)[..., :3] * 255
    weight = 0.6 * resized[..., None]
    return ((1 - weight) * image + weight * colours).round().astype(np.uint8)
