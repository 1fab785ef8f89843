"""Classify new images with a trained model, using only the files in models/."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from core.evidence import calibration
from core.images import decoder
from core.network import devices, inference, networks, novelty, regions
from core.pipeline import files

WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
NOVELTY = "novelty.safetensors"
SHOWN = 256  # minimum side, in pixels, of an image that is shown to people


class Scores(NamedTuple):
    """Of N images: ``probability`` of the positive class, float64 (N,), and ``unlike``, float64 (N,), which is above 1
    if the image is out of distribution (core.network.novelty)."""

    probability: np.ndarray
    unlike: np.ndarray


class Model:
    """The model in ``folder`` on ``device`` (auto, cpu, cuda, cuda:1). Raises Mistake if it is not available."""

    def __init__(self, folder: Path, device: str = "auto", temperature: float = 1.0) -> None:
        description = files.read_json(folder / DESCRIPTION)
        self.side: int = description["image_size"]
        self.channels: int = description["channels"]
        self.synthetic: bool = description["synthetic"]
        self.temperature = temperature
        self.device = devices.choose(device)
        self.classifier = networks.restore(folder / WEIGHTS, description).to(self.device).eval()
        self.novelty = novelty.Novelty(**networks.read(folder / NOVELTY))
        example = torch.zeros(1, self.channels, self.side, self.side, device=self.device)
        self.layer = regions.layer(self.classifier, example)

    def fit(self, found: list["np.ndarray | decoder.Unreadable"]) -> tuple[np.ndarray, list[str]]:
        """The decoded images, uint8 (N, side, side, C), and for each image why it is missing there, or ""."""
        stack = np.zeros((len(found), self.side, self.side, self.channels), np.uint8)
        return stack, [decoder.fit_into(stack[at], pixels) for at, pixels in enumerate(found)]

    def scores(self, stack: np.ndarray, rows: np.ndarray) -> Scores:
        """The scores of the images at ``rows`` of ``stack``, uint8 (N, side, side, C)."""
        raw, features = inference.features(self.classifier, stack, rows, self.device)
        return Scores(calibration.tempered(raw, self.temperature), self.novelty.ratio(features))

    def heatmap(self, image: np.ndarray, positive: bool) -> Image.Image:
        """An image uint8 (side, side, C), overlaid with the regions that support the predicted class (Grad-CAM). If
        the network has no map of 4 x 4 or more, only the image."""
        if self.layer is None:
            return picture(image)
        heat = regions.maps(self.classifier, self.layer[0], image[None], np.array([positive]))
        return picture(regions.laid_over(image, heat[0]))


def picture(image: np.ndarray) -> Image.Image:
    """An image uint8 (H, W, 1 or 3), enlarged to show it to people."""
    side = max(SHOWN, len(image))
    return Image.fromarray(image.squeeze()).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
