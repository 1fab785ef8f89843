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

CHUNK = 1 << 20  # bytes that are read or written at a time
CHUNK_ROWS = 1 << 14  # rows of an array that are copied at a time
LOCK, UNFINISHED = "lock", ".unfinished"
FORCE = re.compile(r"-[ikmpqsvPR]*f[ikmpqsvPR]*")  # -f, alone or with other short options of dvc repro and exp run


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to. At the end it replaces ``path``, flushed to disk; after an error it is
    removed."""
    path = Path(path)
    try:
        with scratch(path.parent, path.name) as folder:
            unfinished = folder / path.name
            unfinished.touch()
            yield unfinished
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            unfinished.replace(path)
    except OSError as error:  # name the final path: write() names no file, and people do not know the temporary one
        if error.errno and (error.filename is None or UNFINISHED in str(error.filename)):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


@contextmanager
def scratch(folder: str | Path, name: str) -> Iterator[Path]:
    """Yield a temporary folder in ``folder``, removed at the end. Those of killed processes are removed first."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pattern = re.compile(rf"\.{re.escape(name)}\.\d+{re.escape(UNFINISHED)}")
    for leftover in [entry for entry in folder.iterdir() if pattern.fullmatch(entry.name)]:
        with suppress(FileNotFoundError):  # its process has just finished
            lock = lock_file(leftover / LOCK, wait=False)
            if lock:
                shutil.rmtree(leftover, ignore_errors=True)
                lock.close()
    temporary = folder / f".{name}.{os.getpid()}{UNFINISHED}"
    with _create_locked(temporary / LOCK):
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _create_locked(path: Path) -> IO[bytes]:
    """Create a file and its folder, and lock the file. Before it is locked, another process may take the folder for a
    leftover and remove it; then it is created again."""
    while True:
        path.parent.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):
            lock = lock_file(path, wait=True)
            assert lock is not None  # it waited
            if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                return lock
            lock.close()


def reserve(path: Path) -> None:
    """Allocate the disk space of a file whose size is set. Otherwise, writing to its memory map kills the process when
    the disk is full. Raises OSError."""
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def temp_memmap(shape: tuple[int, ...], dtype: Any, folder: str | Path | None) -> np.ndarray:
    """An array of zeros in an unnamed temporary file in ``folder`` (None: the system's).

    The operating system can write it to the disk when memory is short.

    Returns
    -------
    ``shape``, of ``dtype``

    Raises
    ------
    OSError
        If the disk is full.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not size:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(file, dtype, "r+", shape=shape)


def select_rows(values: np.ndarray | range, mask: np.ndarray, folder: str | Path | None) -> np.ndarray:
    """Copy the rows of ``values`` where ``mask`` is true into a ``temp_memmap`` in ``folder``.

    Parameters
    ----------
    values : (N, ...), of any dtype, or a range
    mask : (N,) bool

    Returns
    -------
    (M, ...), of the dtype of ``values``
    """
    first = np.asarray(values[:1])
    selected, end = temp_memmap((int(np.count_nonzero(mask)), *first.shape[1:]), first.dtype, folder), 0
    for start in range(0, len(mask), CHUNK_ROWS):
        rows = np.asarray(values[start : start + CHUNK_ROWS])[mask[start : start + CHUNK_ROWS]]
        selected[end : end + len(rows)] = rows
        end += len(rows)
    return selected


def lock_file(path: str | Path, wait: bool) -> IO[bytes] | None:
    """Lock a file, creating it if missing, until the returned file is closed or the process ends. None if another
    process holds the lock and ``wait`` is false. On a file system without locks, every process gets one."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # NFS locks only files that are open for writing
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EROFS) or not Path(path).exists():
            raise
        descriptor = os.open(path, os.O_RDONLY)
    file = os.fdopen(descriptor, "rb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EBADF):
            raise
    return file


def lock_holder(path: str | Path) -> int | None:
    """The number of the process that has locked a file, as Linux lists it; None if it is not listed."""
    with suppress(OSError):
        for line in Path("/proc/locks").read_text(encoding="utf-8").splitlines():
            _, kind, _, _, process, place, *_ = line.split()  # 1: FLOCK ADVISORY WRITE 4711 08:01:123456 0 EOF
            if kind == "FLOCK" and place.rpartition(":")[2] == str(Path(path).stat().st_ino):
                return int(process) or None  # 0: in another container
    return None


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically, with Unix line ends."""
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON whose numbers read back exactly. Raises ValueError for NaN and infinity."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def require(path: str | Path) -> Path:
    """The path of another stage's output. Raises PipelineError if it is missing."""
    if not Path(path).is_file():
        raise PipelineError(messages.MISSING.format(path=path))
    return Path(path)


@contextmanager
def undamaged(path: str | Path, *faults: type[Exception]) -> Iterator[Path]:
    """Yield the path of another stage's output, and turn ``faults`` while reading it into a PipelineError."""
    try:
        yield require(path)
    except faults as error:
        with open(path, "rb") as file:
            text = file.read(CHUNK).decode(errors="replace")
        raise PipelineError(messages.damaged(path, text, error)) from None


def read_array(path: str | Path) -> np.ndarray:
    """A .npy file as a read-only memory map.

    Returns
    -------
    The array, of the shape and dtype in the file

    Raises
    ------
    PipelineError
        If the file is missing or damaged.
    """
    with undamaged(path, ValueError, EOFError) as file:
        array: np.ndarray = np.load(file, mmap_mode="r")
        return array


def read_json(path: str | Path) -> Any:
    with undamaged(path, ValueError) as file:
        return json.loads(file.read_text(encoding="utf-8"))


def seen_by_git(path: Path) -> bool:
    """Whether ``git add`` would add this path."""
    command = ["git", "check-ignore", "--quiet", str(path.resolve())]
    with suppress(OSError):  # no git
        return subprocess.run(command, cwd=path.parent, capture_output=True).returncode == 1  # 128: no repository
    return False


def sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def root() -> Path:
    """The repository that relative paths in params.yaml refer to. ``dvc exp run --temp`` and queued runs work in a copy
    below ``.dvc/tmp``; DVC_ROOT still names the original. Without DVC, it is the current folder."""
    return Path(os.environ.get("DVC_ROOT", "."))


def forced() -> bool:
    """Whether ``dvc repro --force`` or ``dvc exp run --force`` started this process, read from the command lines of the
    parent processes in /proc, since DVC does not tell its stages; False where there is no /proc."""
    process = os.getppid()
    while process > 1:
        try:
            words = Path(f"/proc/{process}/cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
            process = int(Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except OSError:
            return False
        if "dvc" in (command := [Path(word).name for word in words[:4]]):
            return any(word == "--force" or FORCE.fullmatch(word) for word in words[command.index("dvc") + 1 :])
    return False
