"""Save the state of a training to disk, so that a killed training resumes exactly where it was.

The name of the checkpoint folder contains two fingerprints: one of everything the training depends on (parameters,
data, code), and one of what computes it. So a training with other parameters, data or code, or where other bytes come
out, never uses these checkpoints. They are safetensors files, so nothing is unpickled. The name of each contains its
SHA-256, because safetensors does not notice a changed byte.
"""

import hashlib
import itertools
import json
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
NAME = re.compile(r"\d+-\d+-[0-9a-f]{64}\.safetensors")


class Checkpoint(NamedTuple):
    tensors: dict[str, Tensor]  # by name
    facts: dict[str, Any]  # values that JSON can hold, restored without loss of precision


class Store:
    """The checkpoints of one training, in a folder that no other process uses at the same time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self) -> Checkpoint | None:
        """The newest undamaged checkpoint, or None. Damaged files are renamed, with a message on stderr."""
        for path in self.paths():
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() == path.stem.rpartition("-")[2]:
                return unpack(content)
            path.rename(path.with_name(f"damaged-{path.name}"))
            print(messages.DAMAGED_CHECKPOINT.format(path=path), file=sys.stderr, flush=True)
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
        for path in set(self.folder.glob("*")) - {self.folder / files.LOCK}:
            path.unlink()

    def paths(self) -> list[Path]:
        """The files of the checkpoints, newest first."""
        return sorted(filter(lambda path: NAME.fullmatch(path.name), self.folder.glob("*")), reverse=True)


@contextmanager
def opened(root: Path, fingerprint: str, machine: str) -> Iterator[Store]:
    """Open the store of a training below ``root``.

    ``fingerprint`` identifies what the training depends on, ``machine`` what computes it. Two processes at the same
    training, for example of experiments that differ only in the evaluation, use separate folders, and a later run uses
    any free one. Checkpoints of a machine that computes other bytes are listed on stderr and not used: the result would
    be that of neither machine.
    """
    name = f"{fingerprint[:32]}-{machine[:8]}"
    folder, lock = next(_locked_folders(root, name))
    others = [path for path in root.glob(f"{fingerprint[:32]}-*") if not path.name.startswith(name)]
    if others:
        folders = messages.shorten(list(map(str, others)))
        print(messages.CHECKPOINTS_OF_OTHER_MACHINES.format(folders=folders), file=sys.stderr)
    store = Store(folder)
    for path in folder.glob(".*"):  # unfinished files of a killed process
        shutil.rmtree(path)
    try:
        yield store
    finally:
        if {path.name for path in folder.glob("*")} <= {files.LOCK}:
            shutil.rmtree(folder, ignore_errors=True)
        lock.close()


def _locked_folders(root: Path, name: str) -> Iterator[tuple[Path, IO[bytes]]]:
    for number in itertools.count(1):
        folder = root / f"{name}-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another process has just removed the folder
            lock = files.lock_file(folder / files.LOCK, wait=False)
            if lock and (folder / files.LOCK).stat().st_ino == os.fstat(lock.fileno()).st_ino:
                yield folder, lock


def pack(checkpoint: Checkpoint) -> bytes:
    """Convert to a safetensors file, with the facts as JSON in a tensor of bytes."""
    facts = torch.frombuffer(bytearray(json.dumps(checkpoint.facts).encode()), dtype=torch.uint8)
    return save({name: tensor.cpu().contiguous() for name, tensor in checkpoint.tensors.items()} | {FACTS: facts})


def unpack(content: bytes) -> Checkpoint:
    """The inverse of ``pack``."""
    tensors = load(content)
    return Checkpoint(tensors, json.loads(tensors.pop(FACTS).numpy().tobytes()))
