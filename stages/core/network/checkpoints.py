"""Keep the state of a training on disk, so that a killed one goes on exactly where it was.

Checkpoints lie in a folder that is named by the fingerprint of all that the training follows from, and by that of the
machine: other parameters, data or code never find them, nor does a machine that computes otherwise. They are
safetensors, so nothing is ever unpickled.
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

import torch
from safetensors.torch import load, save
from torch import Tensor

from core.pipeline import files
from core.pipeline.errors import some

KEPT = 2  # so that there is one to go back to when the last is damaged
FACTS = "facts"
NAME = re.compile(r"\d+-\d+-([0-9a-f]{64})\.safetensors")
FORCE = re.compile(r"-[ikmpqsvPR]*f[ikmpqsvPR]*")  # -f, alone or among other short options of dvc repro and exp run


class Checkpoint(NamedTuple):
    """``tensors`` on the CPU by name, and ``facts``: numbers and texts as JSON has them, exact to the last bit."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Store:
    """The checkpoints of one training, in a folder that no other process uses meanwhile."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self) -> Checkpoint | None:
        """The newest whole checkpoint. Damaged ones are set aside, and stderr says so."""
        for path in self.paths():
            found = _read(path)
            if found is not None:
                return found
            path.rename(path.with_name(f"damaged-{path.name}"))
            print(f"{path} is damaged: set aside, and the checkpoint before it is used", file=sys.stderr, flush=True)
        return None

    def save(self, epoch: int, step: int, checkpoint: Checkpoint) -> None:
        """Write a checkpoint after ``step`` steps of ``epoch``, whole or not at all; keep it and the one before."""
        content = pack(checkpoint)
        digest = hashlib.sha256(content).hexdigest()
        with files.whole(self.folder / f"{epoch:06d}-{step:09d}-{digest}.safetensors") as unfinished:
            unfinished.write_bytes(content)
        for path in self.paths()[KEPT:]:
            path.unlink()

    def clear(self) -> None:
        """Forget them: the training has ended, or shall start anew."""
        for path in self.folder.glob("*"):
            if path.name != files.LOCK:
                path.unlink()

    def paths(self) -> list[Path]:
        """The newest first."""
        return sorted((path for path in self.folder.glob("*") if NAME.fullmatch(path.name)), reverse=True)


@contextmanager
def opened(root: Path, fingerprint: str, machine: str) -> Iterator[Store]:
    """The store of a training below ``root``. Where another process is at the very same training, as two experiments
    that differ in the evaluation alone are, each has a folder of its own, and a later run takes any free one.

    ``fingerprint`` is that of what the training follows from, ``machine`` that of what computes it: what another
    machine kept is named on stderr, and not used, since the result would be neither's."""
    name = f"{fingerprint[:32]}-{machine[:8]}"
    folder, lock = _claim(root, name)
    others = [path for path in root.glob(f"{fingerprint[:32]}-*") if not path.name.startswith(name)]
    if others:
        print(
            f"Not used, because kept by other versions, another processor or GPU, or other threads: "
            f"{some([str(path) for path in others])}",
            file=sys.stderr,
        )
    store = Store(folder)
    for path in folder.glob(".*"):  # what a killed process began to write
        path.unlink()
    try:
        yield store
    finally:
        if {path.name for path in folder.glob("*")} <= {files.LOCK}:
            shutil.rmtree(folder, ignore_errors=True)
        lock.close()


def _claim(root: Path, name: str) -> tuple[Path, IO[bytes]]:
    for number in itertools.count(1):
        folder = root / f"{name}-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # its last user has just removed it
            lock = files.claim(folder / files.LOCK, wait=False)
            if lock and (folder / files.LOCK).stat().st_ino == os.fstat(lock.fileno()).st_ino:
                return folder, lock
    raise AssertionError  # count has no end


def _read(path: Path) -> Checkpoint | None:
    """A checkpoint, or None where its content is not what its name says."""
    content = path.read_bytes()
    match = NAME.fullmatch(path.name)
    assert match is not None  # paths() gives no others
    if hashlib.sha256(content).hexdigest() != match[1]:
        return None
    return unpack(content)


def pack(checkpoint: Checkpoint) -> bytes:
    """As bytes. One tensor for each device and type of numbers: of a thousand small ones each would cost its time."""
    flat: dict[str, list[Tensor]] = {}
    layout = []
    for name, tensor in checkpoint.tensors.items():
        kind = f"{tensor.device.type} {tensor.dtype}"
        flat.setdefault(kind, []).append(tensor.detach().flatten())
        layout.append((name, kind, tuple(tensor.shape)))
    facts = json.dumps({"facts": checkpoint.facts, "layout": layout}).encode()
    joined = {kind: torch.cat(tensors).cpu() for kind, tensors in flat.items()}
    return save(joined | {FACTS: torch.frombuffer(bytearray(facts), dtype=torch.uint8)})


def unpack(content: bytes) -> Checkpoint:
    """The reverse of ``pack``."""
    flat = load(content)
    facts = json.loads(flat.pop(FACTS).numpy().tobytes())
    tensors, begun = {}, dict.fromkeys(flat, 0)
    for name, kind, shape in facts["layout"]:
        end = begun[kind] + math.prod(shape)
        tensors[name] = flat[kind][begun[kind] : end].view(shape).clone()
        begun[kind] = end
    return Checkpoint(tensors, facts["facts"])


def forced() -> bool:
    """Whether this process was started by ``dvc repro --force`` or ``dvc exp run --force``, which DVC tells no stage:
    read from the command lines of the processes above this one, where the machine shows them."""
    process = os.getppid()
    while process > 1:
        try:
            words = Path(f"/proc/{process}/cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
            process = int(Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except OSError:
            return False
        command = [at for at, word in enumerate(words[:4]) if Path(word).name == "dvc"]
        if command:
            return any(word == "--force" or FORCE.fullmatch(word) for word in words[command[0] + 1 :])
    return False
