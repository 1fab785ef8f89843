"""Choose the device, the precision and the determinism of computations, and whether to compile the network."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from core.network import messages
from core.pipeline import pins
from core.pipeline.errors import PipelineError

import torch

if TYPE_CHECKING:  # pydantic is not needed to train
    from core.pipeline.schemas.train import Train

NONDETERMINISTIC = "does not have a deterministic implementation"  # in the warnings of torch
TENSOR_CORES_FROM = (7, 0)  # compute capability of the first GPUs with tensor cores, which compute fp16
COMPILED_FROM = 20_000  # steps: from here on a gain of 10 % outweighs one to two minutes of compiling


def get_device(name: str) -> torch.device:
    """The device for ``train.device``. Raises PipelineError if this machine does not have it."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"  # each process uses a separate GPU
    try:
        device = torch.device(name)
    except RuntimeError:
        raise PipelineError(messages.UNKNOWN_DEVICE.format(name=name)) from None
    if device.type == "cuda":
        if (device.index or 0) >= torch.cuda.device_count():
            raise PipelineError(messages.NO_SUCH_GPU.format(name=name, gpus=torch.cuda.device_count()))
        torch.cuda.set_device(device)
        torch.cuda.init()  # type: ignore[no-untyped-call]  # the provenance names the GPU only if CUDA is initialised
        # fp32 is fp32: by default, convolutions round their inputs to TF32, with 10 bits instead of 23. The newer
        # settings, fp32_precision, would make torch raise an error wherever its compiler reads these.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return device


def precision(name: str, device: torch.device) -> str:
    """fp32, bf16 or fp16 for ``train.precision``. auto: the one that the GPU's tensor cores compute, if it has any."""
    if name != "auto":
        return name
    if device.type != "cuda":
        return "fp32"
    if torch.cuda.is_bf16_supported(including_emulation=False):  # emulated, bf16 is slower than fp32
        return "bf16"
    return "fp16" if torch.cuda.get_device_capability(device) >= TENSOR_CORES_FROM else "fp32"


def autocast(name: str, device: torch.device) -> torch.autocast:
    """A context manager that computes in the precision of ``train.precision``."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision(name, device))
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)


def check(cfg: Train, device: torch.device) -> None:
    """Raise PipelineError if the parameters ask for equal bytes everywhere, and for something that rounds differently
    on each processor."""
    if cfg.reproducible == "everywhere" and device.type == "cpu":
        for key in ("compile", "precision"):
            if (value := getattr(cfg, key)) in (True, "bf16", "fp16"):
                raise PipelineError(messages.ROUNDS_DIFFERENTLY.format(key=key, value=value))


def describe_determinism(cfg: Train, device: torch.device) -> str:
    """On which machines the same run gives the same bytes, for ``train.reproducible``."""
    if cfg.reproducible == "none":
        return messages.NOT_DETERMINISTIC
    if device.type == "cuda":
        return messages.SAME_ON_THIS_GPU.format(gpu=torch.cuda.get_device_name(device))
    if cfg.reproducible == "machine":
        return messages.SAME_ON_THIS_MACHINE
    if not pins.has_avx2():
        return messages.NO_AVX2
    if not pins.is_pinned():
        return messages.SQUARE_ROOTS
    return messages.SAME_ON_PROCESSORS.format(processors=pins.CONTRACT)


@contextmanager
def record_nondeterministic(operations: set[str]) -> Iterator[None]:
    """Add the names of operations that have no deterministic implementation, as torch warns about them. Other warnings
    are shown as before."""
    with warnings.catch_warnings():
        warnings.filterwarnings("always", f".*{NONDETERMINISTIC}")
        show = warnings.showwarning

        def showwarning(message: Warning | str, *args: Any, **kwargs: Any) -> None:
            name, is_nondeterministic, _ = str(message).partition(NONDETERMINISTIC)
            if is_nondeterministic:
                operations.add(name.strip())
            else:
                show(message, *args, **kwargs)

        warnings.showwarning = showwarning
        yield


def should_compile(cfg: Train, images: int, device: torch.device) -> bool:
    """Whether to compile the network, for ``train.compile``. Raises PipelineError if it is true but compiling fails."""
    steps = cfg.epochs * images / cfg.batch_size
    # With "everywhere", no: compiled code uses all instructions of the processor.
    pays = cfg.reproducible != "everywhere" and device.type == "cpu" and steps >= COMPILED_FROM
    if cfg.compile is False or (cfg.compile == "auto" and not pays):
        return False
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns if CUDA is missing
    torch.use_deterministic_algorithms(cfg.reproducible != "none", warn_only=True)  # tells the compiler, too
    try:
        torch.compile(torch.neg)(torch.zeros(8, device=device))
    except Exception as error:  # each part of the compiler has its own exceptions
        if cfg.compile == "auto":
            return False
        raise PipelineError(messages.cannot_compile(device.type, error)) from None
    return True


def seed_everything(seed: int, reproducible: str = "everywhere", threads: int = 1) -> None:
    """Make equal calls give equal bytes ``everywhere`` or on this ``machine`` with this number of CPU ``threads``; if
    ``reproducible`` is none, only equal random draws. To be called before torch's first operation."""
    deterministic = reproducible != "none"
    if reproducible != "everywhere":
        pins.unpin()
    torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; without it, sums vary
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = not deterministic
    torch.set_deterministic_debug_mode("warn" if deterministic else "default")
    # Torch would also fill new memory, in case it is read before it is written. No code here does that, and it is slow.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextmanager
def explain_oom(remedy: str) -> Iterator[None]:
    """Turn torch's out-of-memory errors into a PipelineError that says what to lower."""
    try:
        yield
    except RuntimeError as error:  # includes OutOfMemoryError; the CPU has no specific exception
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise PipelineError(messages.OUT_OF_MEMORY.format(remedy=remedy, error=messages.first_line(error))) from None
