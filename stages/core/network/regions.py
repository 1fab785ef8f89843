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
FINEST = 4  # a map coarser than 4 x 4 shows no region, so an earlier layer is used


def layers(ensemble: Ensemble, example: Tensor) -> tuple[list[nn.Module], int] | None:
    """Of each member, the last convolution whose map of ``example`` (1, C, H, W) has sides of FINEST or more; and the
    shorter side. None if there is no such convolution."""
    found = [_layer(member, example) for member in ensemble.members]  # type: ignore[arg-type]
    known = [one for one in found if one]
    return ([module for module, _ in known], known[0][1]) if known else None


def _layer(classifier: Classifier, example: Tensor) -> tuple[nn.Module, int] | None:
    found: list[tuple[nn.Module, int]] = []

    def note(module: nn.Module, _: object, output: Tensor) -> None:
        if min(output.shape[2:]) >= FINEST:
            found.append((module, min(output.shape[2:])))

    convolutions = [module for module in classifier.modules() if isinstance(module, nn.Conv2d)]
    hooks = [module.register_forward_hook(note) for module in convolutions]
    with torch.no_grad():
        classifier(example)
    for hook in hooks:
        hook.remove()
    return found[-1] if found else None


def maps(ensemble: Ensemble, modules: list[nn.Module], images: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """How strongly each region supports the predicted class: float32 (N, h, w) in [0, 1], where 1 is the strongest.

    ``modules`` is from ``layers``. ``images`` is uint8 (N, H, W, C); ``positive``, bool (N,), says which images are
    predicted positive. If no region supports the predicted class, the map is zero everywhere.
    """
    for part in ensemble.modules():
        if hasattr(part, "inplace"):
            part.inplace = False  # type: ignore[assignment]  # captum needs values that these would overwrite
    device = next(ensemble.parameters()).device
    ensemble.eval()
    explained = [LayerGradCam(member, module) for member, module in zip(ensemble.members, modules, strict=True)]
    found = []
    for image, called in zip(images, positive, strict=True):
        tensor = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].to(device).float() / 255
        heat = torch.stack([one.attribute(tensor)[0, 0] for one in explained]).mean(0)
        found.append(torch.relu(heat if called else -heat).detach().float().cpu().numpy())
    stack = np.stack(found)
    return stack / np.maximum(stack.max(axis=(1, 2), keepdims=True), 1e-12)


def worst(predictions: pd.DataFrame) -> pd.DataFrame:
    """The SHOWN rows whose probability differs most from their label, largest difference first."""
    distance = (predictions["label"] - predictions["probability"]).abs()
    return predictions.loc[distance.sort_values(ascending=False, kind="stable").index[:SHOWN]]


def gallery(
    ensemble: Ensemble, images: np.ndarray, predictions: pd.DataFrame, threshold: float, path: str, synthetic: bool
) -> None:
    """Write a PNG of the worst mistakes in ``predictions``: each image, and beside it the image with its Grad-CAM map.

    ``images`` is uint8 (N, H, W, C); the column ``row`` of ``predictions`` is the index into it.
    """
    chosen = worst(predictions)
    shown = np.stack([images[row] for row in chosen["row"]]) if len(chosen) else np.empty((0, 8, 8, 1), np.uint8)
    device = next(ensemble.parameters()).device
    example = torch.zeros(1, images.shape[3], *images.shape[1:3], device=device)
    found = layers(ensemble.eval(), example)
    if found is None:
        return contact_sheets.save("No regions: this network has no map of 4 x 4 or more", [], path, synthetic)
    modules, side = found
    called = chosen["probability"].to_numpy() >= threshold
    heat = maps(ensemble, modules, shown, called) if len(chosen) else np.empty((0, side, side))
    rows = []
    for start in range(0, len(chosen), PER_ROW):
        tiles: list[np.ndarray] = []
        captions: list[str] = []
        for place in range(start, min(start + PER_ROW, len(chosen))):
            entry = chosen.iloc[place]
            tiles += [shown[place], laid_over(shown[place], heat[place])]
            captions.append(f"label {entry['label']}, probability {entry['probability']:.2f}")
            captions.append(entry["file"].rpartition("/")[2])
        rows.append(contact_sheets.Row(f"{start + 1} to {start + len(tiles) // 2}", tiles, captions))
    title = f"Worst mistakes of the test set; bright: what argued for the class called (Grad-CAM, {side} x {side})"
    return contact_sheets.save(title, rows, path, synthetic)


def laid_over(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Overlay a map (h, w) in [0, 1] on an image uint8 (H, W, C): uint8 (H, W, 3)."""
    grown = nn.functional.interpolate(
        torch.from_numpy(heat)[None, None].float(), image.shape[:2], mode="bilinear", align_corners=False
    )[0, 0].numpy()
    colours = colormaps["inferno"](grown)[..., :3] * 255
    weight = 0.6 * grown[..., None]
    return ((1 - weight) * image + weight * colours).round().astype(np.uint8)
