"""Files written whole or not at all, and their hashes."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import Mistake

CHUNK = 1 << 20


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Give a path to write to; it becomes ``path`` at the end, or vanishes where an error came."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished{path.suffix}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    with whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, value: Any) -> None:
    """Write numbers so that they read back exactly; NaN and infinity raise ValueError."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def there(path: str | Path) -> Path:
    """The path of what another stage wrote. Raises Mistake where it is missing."""
    if not Path(path).is_file():
        raise Mistake(f"{path} is not here: make it with dvc repro, or fetch it with dvc pull")
    return Path(path)


def read_array(path: str | Path) -> np.ndarray:
    """A .npy as a memory map that can't be written to. Raises Mistake where it is missing."""
    array: np.ndarray = np.load(there(path), mmap_mode="r")
    return array


def read_json(path: str | Path) -> Any:
    return json.loads(there(path).read_text(encoding="utf-8"))


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def root() -> Path:
    """The repository that relative locations of a user refer to.

    In ``dvc exp run --temp`` and in queued runs the work happens in a copy below ``.dvc/tmp``, while
    DVC_ROOT still names the original; a script run alone takes the folder that it runs in.
    """
    return Path(os.environ.get("DVC_ROOT", "."))
