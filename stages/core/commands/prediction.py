"""A trained model that classifies new images, from the files in models/ alone."""

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
SHOWN = 256  # pixels a side at least, of what a person looks at


class Scores(NamedTuple):
    """Of N images: ``probability`` float64 (N,) of being positive, and ``unlike`` float64 (N,), above 1 where the
    model has seen nothing like it (core.novelty)."""

    probability: np.ndarray
    unlike: np.ndarray


class Model:
    """The model in ``folder`` on ``device`` (auto, cpu, cuda, cuda:1). Raises Mistake where it can't be had."""

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
        """Decoded images as one array uint8 (N, side, side, C), and for each why it is not among them, or ""."""
        stack = np.zeros((len(found), self.side, self.side, self.channels), np.uint8)
        return stack, [decoder.fit_into(stack[at], pixels) for at, pixels in enumerate(found)]

    def scores(self, stack: np.ndarray, rows: np.ndarray) -> Scores:
        """Of the images at ``rows`` of an array uint8 (N, side, side, C)."""
        raw, features = inference.features(self.classifier, stack, rows, self.device)
        return Scores(calibration.tempered(raw, self.temperature), self.novelty.ratio(features))

    def heatmap(self, image: np.ndarray, positive: bool) -> Image.Image:
        """An image uint8 (side, side, C), and over it what argued for the class called (Grad-CAM; nothing where the
        network has no map of 4 x 4 or more)."""
        if self.layer is None:
            return picture(image)
        heat = regions.maps(self.classifier, self.layer[0], image[None], np.array([positive]))
        return picture(regions.laid_over(image, heat[0]))


def picture(image: np.ndarray) -> Image.Image:
    """An image uint8 (H, W, 1 or 3) for a person to look at."""
    side = max(SHOWN, len(image))
    return Image.fromarray(image.squeeze()).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
