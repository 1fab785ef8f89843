"""Classification networks of torchvision and timm with one logit, untrained or with verified pretrained weights."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.network import messages, pretrained, vision
from core.network.pretrained import TIMM
from core.pipeline import pins
from core.pipeline.errors import PipelineError

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

torchvision = vision.load("torchvision")

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, per channel of RGB in [0, 1]
STD = (0.229, 0.224, 0.225)
IMAGENET_CLASSES = 1000


class Classifier(nn.Module):
    """A network that returns one logit per image.

    ``forward`` takes (B, C, H, W) with C 1 or 3, either uint8 or float in [0, 1], and returns float32 (B,).
    ``mean`` and ``std``, of RGB in [0, 1], are the values that the backbone was trained with; by default those of its
    library. ``arguments`` are passed to timm, for a network that differs from timm's default. ``description`` has all
    that is needed to build the network again. Raises PipelineError if the network does not exist or can't take images
    of this size.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: str, head: str, image_size: int, mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None, arguments: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        network = _network(backbone, image_size, arguments or {})
        self.head_path = _replace_head(network, head)
        self.network = network
        pretrained_cfg = getattr(network, "pretrained_cfg", {"mean": MEAN, "std": STD})
        mean, std = list(mean or pretrained_cfg["mean"]), list(std or pretrained_cfg["std"])
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.description = {"backbone": backbone, "head": head, "image_size": image_size, "mean": mean, "std": std}
        if arguments:
            self.description["arguments"] = arguments
        try:
            with torch.inference_mode(), _SquareRootDetector():  # type: ignore[no-untyped-call]
                logit = self.eval()(torch.zeros(1, 3, image_size, image_size, device=self.mean.device))
        except (RuntimeError, AssertionError) as error:  # timm uses assert
            raise PipelineError(messages.wrong_image_size(backbone, image_size, error)) from None
        if logit.shape != (1,):
            raise PipelineError(messages.NOT_ONE_LOGIT.format(backbone=backbone))
        self.train()

    @property
    def head(self) -> nn.Module:
        return self.network.get_submodule(self.head_path)

    def forward(self, images: Tensor) -> Tensor:
        if images.dtype == torch.uint8:
            images = images.float() / 255
        normalised = (images - self.mean) / self.std  # one channel becomes three here
        logit: Tensor = self.network(normalised.contiguous(memory_format=torch.channels_last))
        return logit.flatten().float()

    def with_features(self, images: Tensor) -> Tensor:
        """The logit and the features of each image, for core.network.ood.

        Features are the appearance, which is mean and standard deviation of each map of the first convolution (A), and
        the input of the head, where a map is averaged over its positions (D).

        Parameters
        ----------
        images : (B, C, H, W), as for ``forward``

        Returns
        -------
        (B, 1 + A + D) float32
        """
        outputs: dict[str, Tensor] = {}
        hooks = [self.head.register_forward_pre_hook(lambda head, args: outputs.update(head_input=args[0]))]
        if self._first_conv is not None:
            hooks.append(self._first_conv.register_forward_hook(lambda conv, args, maps: outputs.update(maps=maps)))
        logit = self(images)
        for hook in hooks:
            hook.remove()
        maps, head_input = outputs.get("maps"), outputs["head_input"].float()
        appearance = [] if maps is None else [maps.float().mean((2, 3)), maps.float().std((2, 3), correction=0)]
        head_input = head_input.mean((2, 3)) if head_input.ndim == 4 else head_input.flatten(1)
        return torch.cat([logit[:, None], *appearance, head_input], dim=1)

    def views(self, features: int) -> list[int]:
        """How many of the ``features`` are appearance (A), and how many are input of the head (D), if not 0."""
        appearance = 0 if self._first_conv is None else 2 * self._first_conv.out_channels
        return [size for size in (appearance, features - appearance) if size]

    @property
    def _first_conv(self) -> nn.Conv2d | None:
        return next((layer for layer in self.network.modules() if isinstance(layer, nn.Conv2d)), None)


class _SquareRootDetector(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Withdraws the promise of equal bytes if a network takes square roots: of float32, they depend on the processor
    (core.network.optimiser)."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # if true, torch imports torch._dynamo: slow (core.network.vision)
        return False

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operation.name().startswith(("aten::sqrt", "aten::_foreach_sqrt")):
            pins.withdrawn = True
        return operation(*args, **(kwargs or {}))


def sync_batch_norm(classifier: Classifier) -> Classifier:
    """Let batch normalisation use the statistics of all ranks. Torch's conversion drops the activation of timm's layers
    that have one; timm's keeps it, and converts torch's layers, too."""
    converted: Classifier = vision.load("timm").layers.convert_sync_batchnorm(classifier)
    return converted


def backbones() -> list[str]:
    return torchvision.models.list_models(module=torchvision.models)


def build(backbone: str, head: str, image_size: int, weights: str, root: Path) -> Classifier:
    """A Classifier with ``weights``: "none", "imagenet", "hub" (timm's weights on the Hugging Face Hub), "packaged" (a
    package with ImageNet weights for one backbone of timm), or a file (.safetensors, .pth) relative to ``root``.

    A file contains the backbone, with or without its own classes, or a model of this project; a .pth must be
    torchvision's. If a config.json of the hub is in the same folder, its mean, std and timm arguments are used. Raises
    PipelineError if the weights are not available, are damaged, or belong to another network.
    """
    file = None if weights in pretrained.NAMES else root / weights
    classifier = Classifier(backbone, head, image_size, **(pretrained.published(file, backbone) if file else {}))
    if weights == "none":
        return classifier
    if weights == "imagenet" and not backbone.startswith(TIMM):
        state, source = pretrained.imagenet(backbone), "ImageNet"
    elif weights == "packaged":
        state, source = pretrained.packaged(backbone, classifier.network), messages.OF_PACKAGE
    elif file is None:
        state, source = pretrained.hub(backbone, weights), messages.OF_HUB
    else:
        state, source = pretrained.read(file), weights
    expected, prefix = classifier.state_dict(), "members.0."
    if all(f"{prefix}{key}" in state for key in expected):  # an ensemble of this project: its first member
        state = {key: state[f"{prefix}{key}"] for key in expected}
    if state.keys() != expected.keys():  # a backbone as its library publishes it: all layers but the last fit
        path = classifier.head_path
        state = {f"network.{key}": value for key, value in state.items() if not re.match(r"aux\d|AuxLogits", key)}
        state = {key: value for key, value in state.items() if not key.startswith(f"network.{path}.")}
        if foreign := sorted(key.removeprefix("network.") for key in state.keys() - expected.keys()):
            layers = messages.shorten(foreign, 1)
            raise PipelineError(messages.FOREIGN_LAYERS.format(weights=source, backbone=backbone, layers=layers))
        state |= {key: value for key, value in expected.items() if key.startswith(f"network.{path}.")}
    if missing := sorted(expected.keys() - state.keys()):
        layers = messages.shorten(missing, 1)
        raise PipelineError(messages.MISSING_LAYERS.format(weights=source, backbone=backbone, layers=layers))
    for key, value in expected.items():
        if state[key].shape != value.shape:
            shapes = {"shape": tuple(state[key].shape), "expected": tuple(value.shape), "layer": key}
            place = {"weights": source, "backbone": backbone, "image_size": image_size}
            raise PipelineError(messages.WRONG_SHAPE.format(**place, **shapes))
    classifier.load_state_dict(state)
    return classifier


def _network(backbone: str, image_size: int, arguments: dict[str, Any]) -> nn.Module:
    create = _timm_network if backbone.startswith(TIMM) else _torchvision_network
    try:
        return create(backbone, image_size, arguments)
    except (RuntimeError, AssertionError, TypeError, ValueError, KeyError) as error:
        raise PipelineError(messages.wrong_image_size(backbone, image_size, error, arguments)) from None


def _torchvision_network(backbone: str, image_size: int, _: dict[str, Any]) -> Any:
    if backbone not in backbones():
        raise PipelineError(messages.unknown_backbone(backbone, "torchvision", backbone, backbones()))
    options: dict[str, Any] = {}
    if backbone.startswith("vit_"):
        options = {"image_size": image_size}
    elif backbone.startswith("maxvit"):
        options = {"input_size": (image_size, image_size)}
    elif backbone in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": True}
    return torchvision.models.get_model(backbone, weights=None, **options)


def _timm_network(backbone: str, image_size: int, arguments: dict[str, Any]) -> Any:
    timm = vision.load("timm")  # only if needed, because it is slow
    name = backbone.removeprefix(TIMM)
    if not timm.is_model(name):
        raise PipelineError(messages.unknown_backbone(backbone, "timm", name, timm.list_models()))
    options = {"num_classes": IMAGENET_CLASSES} | arguments
    # JSON has no classes, so it gives layers by name: "mlp_layer": "SwiGLUPacked".
    options |= {key: getattr(timm.layers, str(value), value) for key, value in arguments.items() if "_layer" in key}
    # Networks for one fixed size are built for this size instead; the others take any size.
    pretrained_cfg = timm.models.get_pretrained_cfg(name)
    if pretrained_cfg and pretrained_cfg.fixed_input_size:
        options["img_size"] = image_size
    return timm.create_model(name, pretrained=False, **options)


def _replace_head(network: nn.Module, head: str) -> str:
    """Replace the last layer over ImageNet's classes by the new head; return its path."""
    path, old = "", network
    for name, layer in network.named_modules():
        if getattr(layer, "out_features", getattr(layer, "out_channels", None)) == IMAGENET_CLASSES:
            path, old = name, layer
    new: nn.Module
    if isinstance(old, nn.Conv2d):  # SqueezeNet ends in a convolution, a ReLU and a mean
        new = nn.Conv2d(old.in_channels, 1, old.kernel_size)  # type: ignore[arg-type]
    elif isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, 1)
    else:
        raise PipelineError(messages.NO_CLASS_LAYER)
    parent_path, _, name = path.rpartition(".")
    parent = network.get_submodule(parent_path)
    if isinstance(parent, nn.Sequential):
        position = [child for child, _ in parent.named_children()].index(name)
        if position + 1 < len(parent) and isinstance(parent[position + 1], nn.ReLU):
            parent[position + 1] = nn.Identity()  # the ReLU would cut off negative logits
        if head == "selu" and position and isinstance(parent[position - 1], nn.Dropout):
            parent[position - 1] = nn.Identity()  # the new head has its own dropout
    if head == "selu":
        new = nn.Sequential(nn.Dropout(0.2), nn.SELU(), new)
    setattr(parent, name, new)
    return path
