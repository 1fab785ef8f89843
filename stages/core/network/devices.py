"""Where a network computes, how exactly, and whether it is compiled."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from core.pipeline.errors import Mistake

if TYPE_CHECKING:  # pydantic is not needed to train
    from core.pipeline.params import Train

COMPILED_FROM = 20_000  # steps, whose gain of a tenth outweighs the minute or two that compiling takes


def choose(name: str) -> torch.device:
    """The device for ``train.device``. Raises Mistake where there is none of that name."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"  # of several processes each has a GPU of its own
    try:
        device = torch.device(name)
    except RuntimeError:
        raise Mistake(f"the device is {name!r}, and must be auto, cpu, cuda or cuda:1") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise Mistake(f"train.device is {name}, and this machine has {torch.cuda.device_count()} GPUs: use auto or cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.cuda.init()  # type: ignore[no-untyped-call]  # from here on the provenance names the GPU
    return device


def precision(name: str, device: torch.device) -> str:
    """fp32 or bf16 for ``train.precision``."""
    if name == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return name


def autocast(name: str, device: torch.device) -> torch.autocast:
    """The precision that ``train.precision`` asks for, as a context to compute in."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision(name, device) == "bf16")


def compiles(chosen: Train, images: int, device: torch.device) -> bool:
    """Whether torch compiles the network, for ``train.compile``. Raises Mistake where it is to and can't."""
    if chosen.compile == "auto" and (
        device.type != "cpu" or chosen.epochs * images / chosen.batch_size < COMPILED_FROM
    ):
        return False
    if chosen.compile is False:
        return False
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it misses CUDA where none is meant to be
    try:
        torch.compile(torch.neg)(torch.zeros(8, device=device))
    except Exception as error:  # each part of the compiler raises errors of its own
        if chosen.compile == "auto":
            return False
        needed = "a C++ compiler (Debian, Ubuntu: apt install g++)" if device.type == "cpu" else "Triton"
        reason = str(error).strip().splitlines()[0]
        raise Mistake(f"train.compile is true, and compiling needs {needed}: {reason}") from None
    return True


def repeatable(seed: int, deterministic: bool = True) -> None:
    """Make equal calls give equal bytes on this machine; not ``deterministic``, only their random draws."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; else its sums vary
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = not deterministic
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    # Torch would also fill new memory, in case someone read it before writing to it: nobody does, and it takes time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextmanager
def memory(remedy: str) -> Iterator[None]:
    """Torch's errors for too little memory, as a Mistake that says what to lower."""
    try:
        yield
    except RuntimeError as error:  # OutOfMemoryError is one; on the CPU there is no type of its own
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise Mistake(f"The memory does not suffice: {remedy}. ({str(error).splitlines()[0]})") from None
