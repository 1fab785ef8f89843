"""Classification networks of torchvision and timm with one logit, untrained or with verified pretrained weights."""

import difflib
import json
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from core.pipeline import files, web
from core.pipeline.errors import Mistake, some

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, per channel of RGB in [0, 1]
STD = (0.229, 0.224, 0.225)
IMAGENET_CLASSES = 1000
TIMM = "timm/"  # prefix of timm's backbones
NOT_TAKEN = ("num_classes", "img_size", "in_chans")  # arguments in the hub's config.json that are ignored
MOST_FETCHED = 1 << 33  # bytes


class Classifier(nn.Module):
    """A network that returns one logit per image.

    ``forward`` takes (B, C, H, W) with C 1 or 3, either uint8 or float in [0, 1], and returns float32 (B,).
    Grey images have one channel until here. ``mean`` and ``std``, of RGB in [0, 1], are the values that the backbone
    was trained with; by default those of its library. ``arguments`` are passed to timm, for a network that differs
    from timm's default. ``description`` contains everything that is needed to build the network again. Raises Mistake
    if the network does not exist or can't take images of this size.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str,
        head: str,
        image_size: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        network = _network(backbone, image_size, arguments or {})
        self.head_path = _replace_head(network, head)
        self.network = network
        known = getattr(network, "pretrained_cfg", {"mean": MEAN, "std": STD})
        mean, std = list(mean or known["mean"]), list(std or known["std"])
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.description = {"backbone": backbone, "head": head, "image_size": image_size, "mean": mean, "std": std}
        if arguments:
            self.description["arguments"] = arguments
        try:
            with torch.inference_mode():
                found = self.eval()(torch.zeros(1, 3, image_size, image_size, device=self.mean.device))
        except (RuntimeError, AssertionError) as error:  # timm uses assert
            reason = str(error).splitlines()[0]
            raise Mistake(f"model.backbone {backbone} can't take prepare.image_size {image_size}: {reason}") from None
        if found.shape != (1,):
            raise Mistake(f"model.backbone {backbone} has several heads, or no head: choose another backbone")
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

    def with_features(self, images: Tensor) -> Tensor:
        """float32 (B, 1 + A + D): the logit; the appearance, which is mean and standard deviation of each map of the
        first convolution (A); and the input of the head, where a map is averaged over its positions (D)."""
        seen: dict[str, Tensor] = {}
        hooks = [self.head.register_forward_pre_hook(lambda head, given: seen.update(content=given[0]))]
        if self._first is not None:
            hooks.append(self._first.register_forward_hook(lambda first, given, maps: seen.update(looks=maps)))
        logit = self(images)
        for hook in hooks:
            hook.remove()
        maps, content = seen.get("looks"), seen["content"].float()
        looks = [] if maps is None else [maps.float().mean((2, 3)), maps.float().std((2, 3), correction=0)]
        content = content.mean((2, 3)) if content.ndim == 4 else content.flatten(1)
        return torch.cat([logit[:, None], *looks, content], dim=1)

    def views(self, features: int) -> list[int]:
        """How many of the ``features`` are appearance (A), and how many are input of the head (D), if not 0."""
        looks = 0 if self._first is None else 2 * self._first.out_channels
        return [count for count in (looks, features - looks) if count]

    @property
    def _first(self) -> nn.Conv2d | None:
        return next((layer for layer in self.network.modules() if isinstance(layer, nn.Conv2d)), None)


def backbones() -> list[str]:
    return torchvision.models.list_models(module=torchvision.models)


def build(backbone: str, head: str, image_size: int, weights: str, root: Path) -> Classifier:
    """A Classifier with ``weights``: "none", "imagenet", "hub" (timm's weights on the Hugging Face Hub), or a file
    (.safetensors, .pth) relative to ``root``.

    A file contains the backbone, with or without its own classes, or a model of this project; a .pth must be
    torchvision's. If a config.json of the hub is in the same folder, its mean, std and timm arguments are used. Raises
    Mistake if the weights are not available, are damaged, or belong to another network.
    """
    file = None if weights in ("none", "imagenet", "hub") else root / weights
    classifier = Classifier(backbone, head, image_size, **(_published(file, backbone) if file else {}))
    if weights == "none":
        return classifier
    if weights == "imagenet" and not backbone.startswith(TIMM):
        state, name = _imagenet(backbone), "ImageNet"
    elif file is None:
        state, name = _hub(backbone, weights), "the hub's file"
    else:
        state, name = read(file), weights
    own = classifier.state_dict()
    if state.keys() != own.keys():  # a backbone as its library publishes it: all layers but the last fit
        path = classifier.head_path
        state = {f"network.{key}": value for key, value in state.items() if not re.match(r"aux\d|AuxLogits", key)}
        state = {key: value for key, value in state.items() if not key.startswith(f"network.{path}.")}
        foreign = sorted(key.removeprefix("network.") for key in state.keys() - own.keys())
        if foreign:
            raise Mistake(
                f"model.weights: {name} is not for {backbone}: it has {foreign[0]}{_others(foreign)}, which {backbone} "
                "does not have"
            )
        state |= {key: value for key, value in own.items() if key.startswith(f"network.{path}.")}
    missing = sorted(own.keys() - state.keys())
    if missing:
        raise Mistake(f"model.weights: {name} is not for {backbone}: it lacks {missing[0]}{_others(missing)}")
    for key, value in own.items():
        if state[key].shape != value.shape:
            raise Mistake(
                f"model.weights: {name} does not fit {backbone} at prepare.image_size {image_size}: "
                f"{key} is {tuple(state[key].shape)}, expected {tuple(value.shape)}"
            )
    classifier.load_state_dict(state)
    return classifier


def restore(weights: str | Path, description: dict[str, Any]) -> Classifier:
    """Load the classifier of models/. ``description`` is the content of its model.json, with backbone, head, image_size
    (pixels), mean, std and arguments. Raises Mistake if the weights belong to another network."""
    names = ("backbone", "head", "image_size", "mean", "std", "arguments")
    classifier = Classifier(**{name: description[name] for name in names if name in description})
    state = read(Path(weights))
    try:
        classifier.load_state_dict(state)
    except RuntimeError as error:
        raise Mistake(f"{weights} does not fit its model.json: {str(error).splitlines()[-1].strip()}") from None
    return classifier


def _others(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _published(weights: Path, backbone: str) -> dict[str, Any]:
    """Mean, std and arguments in the hub's config.json in the folder of ``weights``; empty if there is no such file."""
    beside = weights.with_name("config.json")
    if not beside.is_file():
        return {}
    try:
        said = json.loads(beside.read_text(encoding="utf-8"))
        trained, arguments = said.get("pretrained_cfg", {}), said.get("model_args") or {}
        found = {name: trained[name] for name in ("mean", "std") if name in trained}
        # This project sets the head and the image size. Without pooling (""), a network gives one logit per position.
        arguments = {name: value for name, value in arguments.items() if name not in NOT_TAKEN and value != ""}
    except (ValueError, AttributeError) as error:
        raise Mistake(f"{beside}, in the folder of the weights, is not a config.json of the hub: {error}") from None
    if not backbone.startswith(TIMM):
        return found
    name = said.get("architecture", backbone.removeprefix(TIMM))
    if name.partition(".")[0] != backbone.removeprefix(TIMM).partition(".")[0]:
        raise Mistake(f"model.backbone is {backbone}, but {beside} is for {name}: set model.backbone=timm/{name}")
    return found | {"arguments": arguments}


def _network(backbone: str, image_size: int, arguments: dict[str, Any]) -> nn.Module:
    if backbone.startswith(TIMM):
        return _of_timm(backbone, image_size, arguments)
    if backbone not in backbones():
        raise Mistake(
            f"model.backbone is {backbone!r}, which torchvision does not have: {_known(backbone, backbones())}"
        )
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


def _known(name: str, names: list[str]) -> str:
    """Names similar to ``name``, or else some of ``names``."""
    similar = difflib.get_close_matches(name, names, 5)
    return f"similar names are {', '.join(similar)}" if similar else f"available are {some(names, 10)}"


def _of_timm(backbone: str, image_size: int, arguments: dict[str, Any]) -> nn.Module:
    import timm  # imported only if needed, because it is slow

    name = backbone.removeprefix(TIMM)
    if not timm.is_model(name):
        raise Mistake(f"model.backbone is {backbone!r}, which timm does not have: {_known(name, timm.list_models())}")
    # Networks for one fixed size are built for this size instead; the others take any size.
    published = timm.models.get_pretrained_cfg(name)
    sized: dict[str, Any] = {"img_size": image_size} if published and published.fixed_input_size else {}
    # JSON has no classes, so it gives layers by name: "mlp_layer": "SwiGLUPacked".
    layers = {key: getattr(timm.layers, str(value), value) for key, value in arguments.items() if "_layer" in key}
    made = {"num_classes": IMAGENET_CLASSES} | arguments | layers | sized
    try:
        network: nn.Module = timm.create_model(name, pretrained=False, **made)
    except (RuntimeError, AssertionError, TypeError, ValueError, KeyError) as error:
        given = f" with {', '.join(arguments)} of config.json" if arguments else ""
        raise Mistake(f"model.backbone {backbone} can't take prepare.image_size {image_size}{given}: {error}") from None
    return network


def _hub(backbone: str, weights: str) -> dict[str, Tensor]:
    """The weights that timm gives for its network, as safetensors from the hub or its local cache."""
    if not backbone.startswith(TIMM) or weights != "hub":
        raise Mistake(
            f"model.weights is {weights}, but model.backbone is {backbone}: hub is for backbones of timm, imagenet for "
            "backbones of torchvision"
        )
    import timm
    from huggingface_hub import hf_hub_download

    published = timm.models.get_pretrained_cfg(backbone.removeprefix(TIMM))
    if not published or not published.hf_hub_id:
        raise Mistake(
            f"model.weights is hub, but timm has no weights for {backbone}: set model.weights to a file, or none"
        )
    try:
        path = hf_hub_download(published.hf_hub_id, "model.safetensors")
    except Exception as error:  # each layer of the library has its own exceptions
        reason = str(error).strip().splitlines()[0]
        raise Mistake(
            f"model.weights is hub, but {published.hf_hub_id} can't be downloaded ({reason}). Download its "
            "model.safetensors and config.json in another way, and set model.weights to the path of model.safetensors"
        ) from None
    return read(Path(path))


def _replace_head(network: nn.Module, head: str) -> str:
    """Replace the last layer over ImageNet's classes by the new head; return its path."""
    layers = [
        name
        for name, layer in network.named_modules()
        if getattr(layer, "out_features", getattr(layer, "out_channels", None)) == IMAGENET_CLASSES
    ]
    if not layers:
        raise Mistake("model.backbone has no layer of classes that the new head can replace: choose another backbone")
    path = layers[-1]
    old = network.get_submodule(path)
    last: nn.Module
    if isinstance(old, nn.Conv2d):  # SqueezeNet ends in a convolution, a ReLU and a mean
        last = nn.Conv2d(old.in_channels, 1, old.kernel_size)  # type: ignore[arg-type]
    else:
        assert isinstance(old, nn.Linear)
        last = nn.Linear(old.in_features, 1)
    parent_path, _, name = path.rpartition(".")
    parent = network.get_submodule(parent_path)
    if isinstance(parent, nn.Sequential):
        position = [child for child, _ in parent.named_children()].index(name)
        if position + 1 < len(parent) and isinstance(parent[position + 1], nn.ReLU):
            parent[position + 1] = nn.Identity()  # the ReLU would cut off negative logits
        if head == "selu" and position and isinstance(parent[position - 1], nn.Dropout):
            parent[position - 1] = nn.Identity()  # the new head has its own dropout
    if head == "selu":
        last = nn.Sequential(nn.Dropout(0.2), nn.SELU(), last)
    setattr(parent, name, last)
    return path


def _imagenet(backbone: str) -> dict[str, Tensor]:
    """Torchvision's default ImageNet weights, from its cache or its server; their published hash is checked."""
    weights = torchvision.models.get_model_weights(backbone).DEFAULT
    name = weights.url.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        try:
            with files.whole(path) as unfinished:
                web.fetch(weights.url, unfinished, MOST_FETCHED)
                _check(unfinished, name)
        except Mistake as mistake:
            raise Mistake(
                f"model.weights imagenet: {mistake}. Put the file at {path}, or set model.weights to its path, or none"
            ) from None
    return read(path)


def _check(path: Path, name: str) -> None:
    """Check a file against the first digits of its sha256, which torchvision puts into its name:
    efficientnet_v2_s-dd5fe13b.pth. Raises Mistake if they differ or are missing."""
    published = re.search(r"-([0-9a-f]{8,})\.pth$", name)
    if published is None:
        raise Mistake(
            f"{name} is not one of torchvision's files, whose names contain their hash; no other file is unpickled, "
            "because that is not safe: save its tensors with safetensors.torch.save_file, and set model.weights to the "
            "path of the .safetensors"
        )
    found = files.sha256(path)
    if not found.startswith(published[1]):
        raise Mistake(
            f"{name} has the sha256 {found}, which should start with {published[1]}: it is damaged, or another file"
        )


def read(path: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors file, or in a file of torchvision with the right hash. Raises Mistake."""
    if not path.is_file():
        raise Mistake(f"there are no weights at {path} (model.weights must be none, imagenet, hub, or a file's path)")
    if path.suffix != ".safetensors":
        _check(path, path.name)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise Mistake(f"{path} contains no weights that can be read safely: {reason}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise Mistake(f"{path} must contain a state dict of tensors, but contains something else")
    return state
