"""Atomic writing of files, their hashes, reading the outputs of other stages, and how DVC called this process."""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from core.pipeline import messages
from core.pipeline.errors import PipelineError

import numpy as np

CHUNK = 1 << 20
ROWS = 1 << 14  # of an array that are copied at once
LOCK = "lock"
FORCE = re.compile(r"-[ikmpqsvPR]*f[ikmpqsvPR]*")  # -f, alone or with other short options of dvc repro and exp run


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to. At the end it replaces ``path``, flushed to disk; after an error it is
    removed. Temporary files of killed processes are removed first."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path.parent, path.name)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished{path.suffix}")
    held = None
    try:
        held = _own(unfinished)
        yield unfinished
        with unfinished.open("rb") as written:
            os.fsync(written.fileno())
        unfinished.replace(path)
    except OSError as error:  # name the final path: write() names no file, and people do not know the temporary one
        if error.errno and error.filename in (None, str(unfinished)):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    finally:
        unfinished.unlink(missing_ok=True)
        if held:
            held.close()


@contextmanager
def scratch(folder: str | Path, name: str) -> Iterator[Path]:
    """Yield a temporary folder in ``folder``, removed at the end. Those of killed processes are removed first."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder, name)
    made = folder / f".{name}.{os.getpid()}.unfinished"
    held = _own(made / LOCK)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        held.close()


def _remove_leftovers(folder: Path, name: str) -> None:
    """Remove temporary files and folders of this name whose process has ended, so that it holds no lock."""
    for left in [entry for entry in folder.iterdir() if re.match(rf"\.{re.escape(name)}\.\d+\.unfinished", entry.name)]:
        with suppress(FileNotFoundError):  # its process has just finished
            held = claim(left / LOCK if left.is_dir() else left, wait=False)
            if held:
                shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink()
                held.close()


def _own(path: Path) -> IO[bytes]:
    """Create a file, and its folder if missing, and lock the file. Before it is locked, another process may take it for
    a leftover and remove it; then it is created again."""
    while True:
        path.parent.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):
            held = claim(path, wait=True)
            assert held is not None  # it waited
            if os.path.samestat(os.fstat(held.fileno()), path.stat()):
                return held
            held.close()


def reserve(path: Path) -> None:
    """Allocate the disk space of a file whose size is set. Otherwise, writing to its memory map kills the process when
    the disk is full. Raises OSError."""
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def on_disk(shape: tuple[int, ...], kind: Any, folder: str | Path | None) -> np.ndarray:
    """An array in a temporary file without a name in ``folder`` (None: the system's), which the system can write out
    when memory is short. Raises OSError if the disk is full."""
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    if not size:
        return np.empty(shape, kind)
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(file, kind, "r+", shape=shape)


def compressed(values: np.ndarray | range, kept: np.ndarray, folder: str | Path | None) -> np.ndarray:
    """The rows of ``values`` for which ``kept`` (N,) is true, as an array ``on_disk``."""
    first = np.asarray(values[:1])
    found, end = on_disk((int(np.count_nonzero(kept)), *first.shape[1:]), first.dtype, folder), 0
    for start in range(0, len(kept), ROWS):
        some = np.asarray(values[start : start + ROWS])[kept[start : start + ROWS]]
        found[end : end + len(some)] = some
        end += len(some)
    return found


def claim(path: str | Path, wait: bool) -> IO[bytes] | None:
    """Lock a file, creating it if missing. The lock ends when the returned file is closed or the process ends.

    Returns None if another process holds the lock and ``wait`` is false. On a file system without locks, every process
    gets one.
    """
    try:
        number = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # NFS locks only files that are open for writing
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EROFS) or not Path(path).exists():
            raise
        number = os.open(path, os.O_RDONLY)
    file = os.fdopen(number, "rb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EBADF):
            raise
    return file


def write_text(path: str | Path, text: str) -> None:
    with whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON whose numbers read back exactly. Raises ValueError for NaN and infinity."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def there(path: str | Path) -> Path:
    """The path of another stage's output. Raises PipelineError if it is missing."""
    if not Path(path).is_file():
        raise PipelineError(messages.missing(path))
    return Path(path)


@contextmanager
def undamaged(path: str | Path, *faults: type[Exception]) -> Iterator[Path]:
    """Yield the path of another stage's output, and turn ``faults`` while reading it into a PipelineError."""
    try:
        yield there(path)
    except faults as error:
        with open(path, "rb") as file:
            text = file.read(CHUNK).decode(errors="replace")
        raise PipelineError(messages.damaged(path, text, error)) from None


def read_array(path: str | Path) -> np.ndarray:
    """A .npy file as a read-only memory map. Raises PipelineError if it is missing or damaged."""
    with undamaged(path, ValueError, EOFError) as found:
        array: np.ndarray = np.load(found, mmap_mode="r")
        return array


def read_json(path: str | Path) -> Any:
    with undamaged(path, ValueError) as found:
        return json.loads(found.read_text(encoding="utf-8"))


def seen_by_git(path: Path) -> bool:
    """Whether ``git add`` would add this path."""
    try:
        said = subprocess.run(["git", "check-ignore", "--quiet", path.resolve()], cwd=path.parent, capture_output=True)
    except OSError:  # no git
        return False
    return said.returncode == 1  # 0: ignored; 128: no repository


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def root() -> Path:
    """The repository that relative paths in params.yaml refer to.

    ``dvc exp run --temp`` and queued runs work in a copy below ``.dvc/tmp``; DVC_ROOT still names the original. Without
    DVC, it is the current folder.
    """
    return Path(os.environ.get("DVC_ROOT", "."))


def forced() -> bool:
    """Whether ``dvc repro --force`` or ``dvc exp run --force`` started this process.

    DVC does not pass this option on to a stage. It is read from the command lines of the parent processes in /proc; if
    these are not available, the result is False.
    """
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
