"""Classify new images with a trained model, using only the files in models/."""

from pathlib import Path

from core.evidence import calibration
from core.images import decoder
from core.images.preparation import DecodeError, Preparation
from core.network import devices, ensemble, inference, occlusion, ood, pretrained
from core.pipeline import files
from core.pipeline.errors import PipelineError

import numpy as np
from PIL import Image

WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
OOD = "ood.safetensors"
DECISION = "decision.json"  # threshold and temperature, which evaluate fits on the validation images
SHOWN = 256  # minimum side, in pixels, of an image that is shown to people


class Model:
    """The model in ``folder`` on ``device`` (auto, cpu, cuda, cuda:1), with another ``temperature`` if one is named.
    Raises PipelineError if it is not available."""

    def __init__(self, folder: Path, device: str = "auto", temperature: float | None = None) -> None:
        description, decision = (files.read_json(folder / name) for name in (DESCRIPTION, DECISION))
        if decision["weights_sha256"] != files.sha256(files.require(folder / WEIGHTS)):
            raise PipelineError(f"{folder / DECISION} is for other weights than {folder / WEIGHTS}: run dvc repro")
        self.preparation = Preparation.of(description)
        self.channels: int = description["channels"]
        self.synthetic: bool = description["synthetic"]
        self.threshold: float = decision["threshold"]
        self.temperature: float = decision["temperature"] if temperature is None else temperature
        self.device = devices.get_device(device)
        tta = decision.get("tta", "none")
        self.ensemble = ensemble.load_ensemble(folder / WEIGHTS, description, tta).to(self.device).eval()
        self.detector = ood.Detector(**pretrained.read(folder / OOD))

    def fit(self, images: list[np.ndarray | DecodeError]) -> tuple[np.ndarray, list[str]]:
        """Put decoded images into one array.

        Parameters
        ----------
        images : list of (side, side, 1 or 3) uint8 or DecodeError

        Returns
        -------
        stack : (N, side, side, C) uint8, black where an image is missing
        reasons : for each image why it is missing, or ""
        """
        side = self.preparation.side
        stack = np.zeros((len(images), side, side, self.channels), np.uint8)
        return stack, [decoder.fit_into(stack[at], pixels) for at, pixels in enumerate(images)]

    def scores(self, stack: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Score the images at ``rows`` of ``stack``.

        Parameters
        ----------
        stack : (N, side, side, C) uint8
        rows : (M,) int

        Returns
        -------
        probability : (M,) float64, of the positive class
        ood_score : (M,) float64, above 1 if an image is out of distribution (core.network.ood)
        """
        by_member, features = inference.features(self.ensemble, stack, rows, self.device)
        probability = calibration.apply_temperature(by_member.mean(axis=1), self.temperature)
        return probability, self.detector.ood_score(features)

    def heatmap(self, image: np.ndarray, probability: float) -> Image.Image:
        """An image, overlaid with the regions that support the predicted class.

        Parameters
        ----------
        image : (side, side, C) uint8
        probability : of this image
        """
        heat = occlusion.heatmaps(self.ensemble, image[None], np.array([probability >= self.threshold]))
        return picture(occlusion.overlay(image, heat[0]))


def picture(image: np.ndarray) -> Image.Image:
    """An image, enlarged to show it to people.

    Parameters
    ----------
    image : (H, H, 1 or 3) uint8
    """
    side = max(SHOWN, len(image))
    return Image.fromarray(image.squeeze()).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
