"""Choose the device, the precision and the determinism of computations, and whether to compile the network."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from core.pipeline import pins
from core.pipeline.errors import PipelineError

import torch

if TYPE_CHECKING:  # pydantic is not needed to train
    from core.pipeline.schemas.train import Train

COMPILED_FROM = 20_000  # steps: from here on a gain of 10 % outweighs one to two minutes of compiling


def choose(name: str) -> torch.device:
    """The device for ``train.device``. Raises PipelineError if this machine does not have it."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"  # each process uses a separate GPU
    try:
        device = torch.device(name)
    except RuntimeError:
        raise PipelineError(f"the device is {name!r}, but must be auto, cpu, cuda, or one GPU such as cuda:1") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise PipelineError(
            f"train.device is {name}, but this machine has {torch.cuda.device_count()} GPUs: use auto or cpu"
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.cuda.init()  # type: ignore[no-untyped-call]  # the provenance names the GPU only if CUDA is initialised
    return device


def precision(name: str, device: torch.device) -> str:
    """fp32 or bf16 for ``train.precision``."""
    if name == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return name


def autocast(name: str, device: torch.device) -> torch.autocast:
    """A context manager that computes in the precision of ``train.precision``."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision(name, device) == "bf16")


def check(chosen: Train, device: torch.device) -> None:
    """Raise PipelineError if the parameters ask for equal bytes everywhere, and for something that rounds differently on each
    processor."""
    if chosen.reproducible == "everywhere" and device.type == "cpu":
        for what in ("compile", "precision"):
            if (value := getattr(chosen, what)) in (True, "bf16"):
                raise PipelineError(
                    f"train.{what} = {value} on a CPU gives other bytes on other processors: set it to auto, or "
                    "train.reproducible to machine"
                )


def promise(chosen: Train, device: torch.device) -> str:
    """On which machines the same run gives the same bytes, for ``train.reproducible``."""
    if chosen.reproducible == "none":
        return "Two runs give different bytes, because train.reproducible is none"
    if device.type == "cuda":
        return f"Equal bytes are promised on the same model of GPU only ({torch.cuda.get_device_name(device)})"
    if chosen.reproducible == "machine":
        return "Equal bytes are promised on this machine only, because train.reproducible is machine"
    if not pins.has_avx2():
        return (
            "This processor is not an x86-64 with AVX2: figures agree with those of other machines within the "
            "tolerance in gates.yaml only"
        )
    if not pins.is_pinned():
        return (
            "Equal bytes are promised on this machine only, because model.backbone takes square roots in float32, "
            "which round differently on each processor"
        )
    return f"Equal bytes are promised on {pins.CONTRACT}, with any number of cores"


def compiles(chosen: Train, images: int, device: torch.device) -> bool:
    """Whether to compile the network, for ``train.compile``. Raises PipelineError if it is true but compiling fails."""
    if chosen.compile == "auto" and (
        chosen.reproducible == "everywhere"  # compiled code uses all instructions of the processor
        or device.type != "cpu"
        or chosen.epochs * images / chosen.batch_size < COMPILED_FROM
    ):
        return False
    if chosen.compile is False:
        return False
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns if CUDA is missing
    torch.use_deterministic_algorithms(chosen.reproducible != "none", warn_only=True)  # tells the compiler, too
    try:
        torch.compile(torch.neg)(torch.zeros(8, device=device))
    except Exception as error:  # each part of the compiler has its own exceptions
        if chosen.compile == "auto":
            return False
        needed = "a C++ compiler (Debian, Ubuntu: apt install g++)" if device.type == "cpu" else "Triton"
        reason = str(error).strip().splitlines()[0]
        raise PipelineError(f"train.compile is true, but compiling needs {needed}: {reason}") from None
    return True


def repeatable(seed: int, reproducible: str = "everywhere", threads: int = 1) -> None:
    """Make equal calls give equal bytes ``everywhere`` or on this ``machine`` with this number of CPU ``threads``; if
    ``reproducible`` is none, only equal random draws. To be called before torch's first operation."""
    if reproducible != "everywhere":
        pins.unpin()
    torch.set_num_threads(threads)
    deterministic = reproducible != "none"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; without it, sums vary
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = not deterministic
    torch.set_deterministic_debug_mode("warn" if deterministic else "default")
    # Torch would also fill new memory, in case it is read before it is written. No code here does that, and it is slow.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextmanager
def memory(remedy: str) -> Iterator[None]:
    """Turn torch's out-of-memory errors into a PipelineError that says what to lower."""
    try:
        yield
    except RuntimeError as error:  # includes OutOfMemoryError; the CPU has no specific exception
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise PipelineError(f"Not enough memory: {remedy}. ({str(error).splitlines()[0]})") from None
