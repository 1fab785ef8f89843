"""Find the region of an image that decided its class: Grad-CAM (Selvaraju et al. 2017, ICCV), computed by captum, and
averaged over the members of the ensemble."""

from core.images import contact_sheets
from core.network.ensemble import Ensemble
from core.network.networks import Classifier

import numpy as np
import pandas as pd
import torch
from captum.attr import LayerGradCam
from matplotlib import colormaps
from torch import Tensor, nn

SHOWN = 24  # images, the worst mistakes first
PER_ROW = 4
MIN_SIDE = 4  # a map coarser than 4 x 4 shows no region, so an earlier layer is used


def target_layers(ensemble: Ensemble, example: Tensor) -> tuple[list[nn.Module], int] | None:
    """Of each member, the last convolution whose map of an ``example`` (1, C, H, W) has sides of MIN_SIDE or more; and
    the shorter side of these maps. None if there is no such convolution."""
    layers = [_target_layer(member, example) for member in ensemble.members]  # type: ignore[arg-type]
    usable = [layer for layer in layers if layer]
    return ([module for module, _ in usable], usable[0][1]) if usable else None


def _target_layer(classifier: Classifier, example: Tensor) -> tuple[nn.Module, int] | None:
    sides: list[tuple[nn.Module, int]] = []

    def note(module: nn.Module, _: object, output: Tensor) -> None:
        sides.append((module, min(output.shape[2:])))

    hooks = [layer.register_forward_hook(note) for layer in classifier.modules() if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        classifier(example)
    for hook in hooks:
        hook.remove()
    return next((entry for entry in reversed(sides) if entry[1] >= MIN_SIDE), None)


def heatmaps(ensemble: Ensemble, layers: list[nn.Module], images: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """How strongly each region supports the predicted class: in [0, 1], zero everywhere if no region does.

    Parameters
    ----------
    layers : those of ``target_layers``
    images : ndarray of uint8, shape (N, H, W, C)
    predicted : ndarray of bool, shape (N,), true for the positive class

    Returns
    -------
    ndarray of float32, shape (N, h, w)
    """
    for module in ensemble.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]  # captum needs values that these would overwrite
    device = next(ensemble.parameters()).device
    ensemble.eval()
    explainers = [LayerGradCam(member, layer) for member, layer in zip(ensemble.members, layers, strict=True)]
    maps = []
    for image, positive in zip(images, predicted, strict=True):
        tensor = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].to(device).float() / 255
        heat = torch.stack([explainer.attribute(tensor)[0, 0] for explainer in explainers]).mean(0)
        maps.append(torch.relu(heat if positive else -heat).detach().float().cpu().numpy())
    stack = np.stack(maps)
    return stack / np.maximum(stack.max(axis=(1, 2), keepdims=True), 1e-12)


def worst_errors(predictions: pd.DataFrame) -> pd.DataFrame:
    """The SHOWN rows whose probability differs most from their label, largest difference first."""
    distance = (predictions["label"] - predictions["probability"]).abs()
    return predictions.loc[distance.sort_values(ascending=False, kind="stable").index[:SHOWN]]


def gallery(
    ensemble: Ensemble, images: np.ndarray, predictions: pd.DataFrame, threshold: float, path: str, synthetic: bool
) -> None:
    """Write a PNG of the worst mistakes in ``predictions``: each image, and beside it the image with its Grad-CAM map.

    The column ``row`` is the index into ``images``, uint8 (N, H, W, C). The texts here are part of the PNG, so they are
    not in core.network.messages.
    """
    errors = worst_errors(predictions)
    shown = images[errors["row"].to_numpy()]
    device = next(ensemble.parameters()).device
    example = torch.zeros(1, images.shape[3], *images.shape[1:3], device=device)
    targets = target_layers(ensemble.eval(), example)
    if targets is None:
        return contact_sheets.save("No regions: this network has no map of 4 x 4 or more", [], path, synthetic)
    layers, side = targets
    predicted = errors["probability"].to_numpy() >= threshold
    heat = heatmaps(ensemble, layers, shown, predicted) if len(errors) else ()
    tiles: list[np.ndarray] = []  # two of each image
    captions: list[str] = []
    for image, region, entry in zip(shown, heat, errors.itertuples(), strict=True):
        tiles += [image, overlay(image, region)]
        captions += [f"label {entry.label}, probability {entry.probability:.2f}", str(entry.file).rpartition("/")[2]]
    rows = []
    for start in range(0, len(errors), PER_ROW):
        name = f"{start + 1} to {min(start + PER_ROW, len(errors))}"
        part = slice(2 * start, 2 * (start + PER_ROW))
        rows.append(contact_sheets.Row(name, tiles[part], captions[part]))
    title = f"Worst mistakes of the test set; bright: what argued for the class called (Grad-CAM, {side} x {side})"
    return contact_sheets.save(title, rows, path, synthetic)


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Overlay a heatmap, float32 in [0, 1] (h, w), on an image, uint8 (H, W, C): uint8 (H, W, 3)."""
    resized = nn.functional.interpolate(
        torch.from_numpy(heat)[None, None].float(), image.shape[:2], mode="bilinear", align_corners=False
    )[0, 0].numpy()
    colours = colormaps["inferno"](resized)[..., :3] * 255
    weight = 0.6 * resized[..., None]
    return ((1 - weight) * image + weight * colours).round().astype(np.uint8)
