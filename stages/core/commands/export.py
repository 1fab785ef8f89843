"""A trained model for other programs: ONNX, and its preprocessing as data."""

from pathlib import Path
from typing import Any

from core.network.ensemble import Ensemble
from core.network.pretrained import TIMM
from core.pipeline.errors import PipelineError

import numpy as np
import torch
from scipy.special import expit

CONFIG = "config.json"
CARD = Path(__file__).with_name("card.md")
OPSET = 20
CHECKED = 64  # images
# Largest difference between ONNX and PyTorch: of the probabilities, and of the logits relative to the largest of them.
# Rounding grows with the size of the logits, so a confident network needs no stricter arithmetic than another.
MOST_APART = 1e-4


def onnx(ensemble: Ensemble, images: np.ndarray, path: Path) -> float:
    """Write the ensemble as one ONNX network.

    It computes logits (B,) float32 from pixel_values (B, C, H, W) float32 in [0, 1], for any B.

    Parameters
    ----------
    images : (N, H, W, C) uint8, of which up to CHECKED are scored to compare both

    Returns
    -------
    float
        The largest difference between its probabilities and PyTorch's.

    Raises
    ------
    PipelineError
        If a difference is above MOST_APART, the network can't be written as ONNX, or a package is missing.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # what torch writes ONNX with
    except ImportError as error:
        raise PipelineError(
            f"{error.name} is not installed. Run make export, or pip install -r requirements-dev.txt"
        ) from None
    ensemble = ensemble.eval().cpu()
    rows = np.linspace(0, len(images) - 1, min(CHECKED, len(images))).astype(int)
    batch = torch.from_numpy(np.stack([images[row] for row in rows])).permute(0, 3, 1, 2).float() / 255
    try:
        torch.onnx.export(
            ensemble, (batch[:2],), path, dynamo=True, opset_version=OPSET, input_names=["pixel_values"],
            output_names=["logits"], dynamic_shapes={"images": {0: torch.export.Dim("batch")}}, external_data=False,
            verbose=False,
        )  # fmt: skip
    except Exception as error:  # each part of the exporter raises errors of its own
        raise PipelineError(f"This network can't be written as ONNX: {str(error).strip().splitlines()[0]}") from None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    differences = []
    for images_of in (batch[:1], batch):
        (logits,) = session.run(["logits"], {"pixel_values": images_of.numpy()})
        with torch.inference_mode():
            expected = ensemble(images_of).numpy()
        relative = np.abs(logits - expected).max() / max(1.0, np.abs(expected).max())
        differences.append((np.abs(expit(logits) - expit(expected)).max(), relative))
    probability, relative = (float(largest) for largest in np.max(differences, axis=0))
    if not max(probability, relative) <= MOST_APART:
        raise PipelineError(
            f"Not exported: ONNX and PyTorch differ by {probability:.1e} in the probabilities and by {relative:.1e} of "
            f"the largest logit in the logits, more than {MOST_APART:g}"
        )
    return probability


def config(description: dict[str, Any], decision: dict[str, Any]) -> dict[str, Any]:
    """The content of config.json: the network, and the threshold, the temperature and the symmetries ``tta`` of
    ``decision``. model.onnx itself takes the mean over them, and normalises its images by ``mean`` and ``std``."""
    keys = ("backbone", "head", "members", "image_size", "mean", "std", "synthetic")
    return {
        "architectures": ["Classifier"],
        "model_type": library(description),
        "problem_type": "single_label_classification",
        "id2label": {"0": "negative", "1": "positive"},
        "label2id": {"negative": 0, "positive": 1},
        "num_channels": description["channels"],
        "threshold": decision["threshold"],
        "temperature": decision["temperature"],
        "tta": decision.get("tta", "none"),
    } | {key: description[key] for key in keys if key in description}


def library(description: dict[str, Any]) -> str:
    return "timm" if description["backbone"].startswith(TIMM) else "torchvision"


def preprocessing(description: dict[str, Any]) -> dict[str, Any]:
    """The content of preprocessor_config.json. The network normalises its images itself."""
    side = description["image_size"]
    plain = description["fit"] == "stretch" and description["levels"] is None
    # This class resizes to a square and applies only the steps below. Of the other ways, none has a class.
    processor = {"image_processor_type": "ViTImageProcessor"} if plain else {}
    return processor | {
        "fit": description["fit"],
        "levels": description["levels"],
        "do_convert_rgb": description["channels"] == 3,
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": 2,  # bilinear, antialiased, as Pillow does it
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": False,
    }
