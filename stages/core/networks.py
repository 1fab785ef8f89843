"""Torchvision's classification networks with one logit, from scratch or from weights that were checked."""

import pickle
import re
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from core import fetching, files
from core.errors import Mistake

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, per channel of RGB in [0, 1]
STD = (0.229, 0.224, 0.225)
IMAGENET_CLASSES = 1000
MOST_FETCHED = 1 << 33  # bytes


class Classifier(nn.Module):
    """A network from images to one logit each.

    ``forward`` takes (B, C, H, W) with C 1 or 3, either uint8 or float in [0, 1], and returns float32 (B,).
    Grey images stay one channel until here. Raises Mistake where torchvision has no such network, or has
    none for this size of image.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: str, head: str, image_size: int) -> None:
        super().__init__()
        network = _network(backbone, image_size)
        self.head_path = _replace_head(network, head)
        self.network = network
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        try:
            with torch.inference_mode():
                self.eval()(torch.zeros(1, 3, image_size, image_size, device=self.mean.device))
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise Mistake(f"model.backbone {backbone} can't take prepare.image_size {image_size}: {reason}") from None
        self.train()

    @property
    def head(self) -> nn.Module:
        return self.network.get_submodule(self.head_path)

    def forward(self, images: Tensor) -> Tensor:
        if images.dtype == torch.uint8:
            images = images.float() / 255
        normal = (images - self.mean) / self.std  # one channel becomes three here
        logit: Tensor = self.network(normal.contiguous(memory_format=torch.channels_last))
        return logit.flatten().float()


def backbones() -> list[str]:
    return torchvision.models.list_models(module=torchvision.models)


def build(backbone: str, head: str, image_size: int, weights: str, root: Path) -> Classifier:
    """A Classifier with ``weights``: "none", "imagenet", or a file (.safetensors, .pth) relative to ``root``.

    A file may hold the backbone's own 1,000 classes, or a model of this project; a .pth must be torchvision's.
    Raises Mistake where the weights can't be had, are damaged, or are of another network.
    """
    classifier = Classifier(backbone, head, image_size)
    if weights == "none":
        return classifier
    if weights == "imagenet":
        state, name = _imagenet(backbone), "ImageNet"
    else:
        state, name = _read(root / weights), weights
    own = classifier.state_dict()
    if state.keys() != own.keys():  # the backbone as torchvision publishes it: all but the last layer fits
        path = classifier.head_path
        state = {f"network.{key}": value for key, value in state.items() if not re.match(r"aux\d|AuxLogits", key)}
        state = {key: value for key, value in state.items() if key in own and not key.startswith(f"network.{path}.")}
        state |= {key: value for key, value in own.items() if key.startswith(f"network.{path}.")}
    missing = sorted(own.keys() - state.keys())
    if missing:
        raise Mistake(f"model.weights: {name} is not of {backbone}: it lacks {missing[0]} and {len(missing) - 1} more")
    for key, value in own.items():
        if state[key].shape != value.shape:
            raise Mistake(
                f"model.weights: {name} does not fit {backbone} at prepare.image_size {image_size}: "
                f"{key} is {tuple(state[key].shape)}, expected {tuple(value.shape)}"
            )
    classifier.load_state_dict(state)
    return classifier


def restore(weights: str | Path, description: dict[str, Any]) -> Classifier:
    """The classifier of models/: ``description`` is the content of its model.json, with backbone, head and
    image_size (pixels). Raises Mistake where the weights are not its own."""
    classifier = Classifier(description["backbone"], description["head"], description["image_size"])
    state = _read(Path(weights))
    try:
        classifier.load_state_dict(state)
    except RuntimeError as error:
        raise Mistake(f"{weights} does not fit its model.json: {str(error).splitlines()[-1].strip()}") from None
    return classifier


def _network(backbone: str, image_size: int) -> nn.Module:
    if backbone not in backbones():
        raise Mistake(f"model.backbone is {backbone!r}, which must be one of: {', '.join(backbones())}")
    special: dict[str, Any] = {}
    if backbone.startswith("vit_"):
        special = {"image_size": image_size}
    elif backbone.startswith("maxvit"):
        special = {"input_size": (image_size, image_size)}
    elif backbone in ("googlenet", "inception_v3"):
        special = {"aux_logits": False, "init_weights": True}
    try:
        network: nn.Module = torchvision.models.get_model(backbone, weights=None, **special)
    except (ValueError, RuntimeError, AssertionError) as error:
        raise Mistake(f"model.backbone {backbone} can't take prepare.image_size {image_size}: {error}") from None
    return network


def _replace_head(network: nn.Module, head: str) -> str:
    """Put the new head where the last layer over ImageNet's classes is; return its path."""
    layers = [
        name
        for name, layer in network.named_modules()
        if getattr(layer, "out_features", getattr(layer, "out_channels", None)) == IMAGENET_CLASSES
    ]
    path = layers[-1]
    old = network.get_submodule(path)
    last: nn.Module
    if isinstance(old, nn.Conv2d):  # SqueezeNet: a convolution, a ReLU that would cut off negative logits, a mean
        last = nn.Conv2d(old.in_channels, 1, old.kernel_size)  # type: ignore[arg-type]
    else:
        assert isinstance(old, nn.Linear)
        last = nn.Linear(old.in_features, 1)
    parent_path, _, name = path.rpartition(".")
    parent = network.get_submodule(parent_path)
    if isinstance(parent, nn.Sequential):
        position = [child for child, _ in parent.named_children()].index(name)
        if position + 1 < len(parent) and isinstance(parent[position + 1], nn.ReLU):
            parent[position + 1] = nn.Identity()
        if head == "selu" and position and isinstance(parent[position - 1], nn.Dropout):
            parent[position - 1] = nn.Identity()  # the head brings its own
    if head == "selu":
        last = nn.Sequential(nn.Dropout(0.2), nn.SELU(), last)
    setattr(parent, name, last)
    return path


def _imagenet(backbone: str) -> dict[str, Tensor]:
    """Torchvision's default ImageNet weights, from its cache or its server, their published hash checked."""
    weights = torchvision.models.get_model_weights(backbone).DEFAULT
    name = weights.url.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        try:
            with files.whole(path) as unfinished:
                fetching.fetch(weights.url, unfinished, MOST_FETCHED)
                _check(unfinished, name)
        except Mistake as mistake:
            raise Mistake(
                f"model.weights imagenet: {mistake}. Put the file at {path}, or set model.weights to its path, or none"
            ) from None
    return _read(path)


def _check(path: Path, name: str) -> None:
    """Torchvision writes the first digits of the sha256 into the file's name, as efficientnet_v2_s-dd5fe13b.pth."""
    published = re.search(r"-([0-9a-f]{8,})\.pth$", name)
    if published is None:
        raise Mistake(
            f"{name} is not one of torchvision's files, which have their hash in their name, and no other is "
            "unpickled: save its tensors by safetensors.torch.save_file, and name the .safetensors"
        )
    found = files.sha256(path)
    if not found.startswith(published[1]):
        raise Mistake(
            f"{name} has the sha256 {found}, which should start with {published[1]}: it is damaged, or another"
        )


def _read(path: Path) -> dict[str, Tensor]:
    """A state dict, from safetensors or from a file of torchvision's whose hash is right."""
    if not path.is_file():
        raise Mistake(f"there are no weights at {path} (model.weights is none, imagenet, or a file's path)")
    if path.suffix != ".safetensors":
        _check(path, path.name)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise Mistake(f"{path} holds no weights that can be read safely: {reason}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise Mistake(f"{path} must hold a state dict of tensors, and holds something else")
    return state
