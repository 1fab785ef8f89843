"""Save the state of a training to disk, so that a killed training resumes exactly where it was.

The name of the checkpoint folder contains two fingerprints: one of everything the training depends on (parameters,
data, code), and one of what computes it. So a training with other parameters, data or code, or where other bytes come
out, never uses these checkpoints. They are safetensors files, so nothing is unpickled.
"""

import hashlib
import itertools
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from core.network import messages
from core.pipeline import files

import torch
from safetensors.torch import load, save
from torch import Tensor

MAX_TO_KEEP = 2  # checkpoints, in case the newest one is damaged
FACTS = "facts"
NAME = re.compile(r"\d+-\d+-([0-9a-f]{64})\.safetensors")


class Checkpoint(NamedTuple):
    """``tensors`` by name, on the CPU; ``facts``: values that JSON can hold, restored without loss of precision."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Store:
    """The checkpoints of one training, in a folder that no other process uses at the same time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self) -> Checkpoint | None:
        """The newest undamaged checkpoint, or None. Damaged files are renamed, with a message on stderr."""
        for path in self.paths():
            checkpoint = _read(path)
            if checkpoint is not None:
                return checkpoint
            path.rename(path.with_name(f"damaged-{path.name}"))
            print(messages.damaged_checkpoint(path), file=sys.stderr, flush=True)
        return None

    def save(self, epoch: int, step: int, checkpoint: Checkpoint) -> None:
        """Write a checkpoint after ``step`` steps of ``epoch``, completely or not at all; keep only the newest ones."""
        content = pack(checkpoint)
        digest = hashlib.sha256(content).hexdigest()
        with files.atomic_write(self.folder / f"{epoch:06d}-{step:09d}-{digest}.safetensors") as unfinished:
            unfinished.write_bytes(content)
        for path in self.paths()[MAX_TO_KEEP:]:
            path.unlink()

    def clear(self) -> None:
        """Delete all checkpoints, because the training has ended or must start from the beginning."""
        for path in self.folder.glob("*"):
            if path.name != files.LOCK:
                path.unlink()

    def paths(self) -> list[Path]:
        """The files of the checkpoints, newest first."""
        return sorted((path for path in self.folder.glob("*") if NAME.fullmatch(path.name)), reverse=True)


@contextmanager
def opened(root: Path, fingerprint: str, machine: str) -> Iterator[Store]:
    """Open the store of a training below ``root``.

    Two processes can run the same training at the same time, for example two experiments that differ only in the
    evaluation. Each then uses a separate folder, and a later run uses any free one. ``fingerprint`` identifies what the
    training depends on, ``machine`` what computes it. Checkpoints of a machine that computes other bytes are listed on
    stderr and not used: the result would be that of neither machine.
    """
    name = f"{fingerprint[:32]}-{machine[:8]}"
    folder, lock = _lock_folder(root, name)
    others = [path for path in root.glob(f"{fingerprint[:32]}-*") if not path.name.startswith(name)]
    if others:
        print(messages.checkpoints_of_other_machines(others), file=sys.stderr)
    store = Store(folder)
    for path in folder.glob(".*"):  # unfinished files of a killed process
        path.unlink()
    try:
        yield store
    finally:
        if {path.name for path in folder.glob("*")} <= {files.LOCK}:
            shutil.rmtree(folder, ignore_errors=True)
        lock.close()


def _lock_folder(root: Path, name: str) -> tuple[Path, IO[bytes]]:
    for number in itertools.count(1):
        folder = root / f"{name}-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another process has just removed the folder
            lock = files.lock_file(folder / files.LOCK, wait=False)
            if lock and (folder / files.LOCK).stat().st_ino == os.fstat(lock.fileno()).st_ino:
                return folder, lock
    raise AssertionError  # count never ends


def _read(path: Path) -> Checkpoint | None:
    """The checkpoint in a file, or None if its content does not match the hash in its name."""
    content = path.read_bytes()
    match = NAME.fullmatch(path.name)
    assert match is not None  # paths() returns only such names
    if hashlib.sha256(content).hexdigest() != match[1]:
        return None
    return unpack(content)


def pack(checkpoint: Checkpoint) -> bytes:
    """Convert to bytes. Tensors are joined, one per device and dtype: a thousand small tensors take much longer."""
    flat: dict[str, list[Tensor]] = {}
    layout = []
    for name, tensor in checkpoint.tensors.items():
        kind = f"{tensor.device.type} {tensor.dtype}"
        flat.setdefault(kind, []).append(tensor.detach().flatten())
        layout.append((name, kind, tuple(tensor.shape)))
    facts = json.dumps({"facts": checkpoint.facts, "layout": layout}).encode()
    vectors = {kind: torch.cat(tensors).cpu() for kind, tensors in flat.items()}
    return save(vectors | {FACTS: torch.frombuffer(bytearray(facts), dtype=torch.uint8)})


def unpack(content: bytes) -> Checkpoint:
    """The inverse of ``pack``."""
    flat = load(content)
    facts = json.loads(flat.pop(FACTS).numpy().tobytes())
    tensors, offsets = {}, dict.fromkeys(flat, 0)
    for name, kind, shape in facts["layout"]:
        end = offsets[kind] + math.prod(shape)
        tensors[name] = flat[kind][offsets[kind] : end].view(shape).clone()
        offsets[kind] = end
    return Checkpoint(tensors, facts["facts"])
