"""Run a script: a stage once at a time, and a message instead of a traceback for Ctrl-C and errors of the machine."""

import argparse
import errno
import os
import select
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

from core.pipeline import files, messages, params, pins, provenance
from core.pipeline.errors import Interrupted, PipelineError
from core.pipeline.schemas import params_yaml

from tqdm import tqdm

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
RANK = "RANK"  # torchrun gives each process its number in this variable
INTERRUPTED = 130  # exit status after Ctrl-C: 128 + SIGINT


def stage(main: Callable[..., None], **options: str) -> None:
    """Run a stage of dvc.yaml like ``script``. Wait for another run of it in this workspace, and write
    metrics/provenance/ at the end (of several processes of torchrun, only the first one does). A stage takes no
    arguments except its ``options``, paths with a help text each, for a set of images in another folder."""
    usage = "python stages/%(prog)s; its parameters are in params.yaml, or dvc exp run --set-param KEY=VALUE"
    parser = argument_parser(usage)
    for name, text in options.items():
        parser.add_argument(f"--{name}", metavar="PATH", help=text)
    arguments = vars(parser.parse_args())
    path = Path(sys.argv[0])
    with _errors():
        # The parent of torchrun's processes holds the lock; other machines may share this folder.
        joins = RANK in os.environ or ("PET_NNODES" in os.environ and "DVC_STAGE" not in os.environ)
        lock = None if joins else _wait_for_lock(path)
        pins.check()
        for parameters in {params.PATH, *provenance.parameters(path.stem)}:
            params_yaml.load(parameters)
        provenance.inputs(path.stem)
        main(**arguments)
        if os.environ.get(RANK, "0") == "0":
            provenance.record(path.stem)
        if lock:
            lock.close()


def script(main: Callable[[], None]) -> None:
    """Run a command. Errors of the machine and interruptions end it with a message and no traceback."""
    with _errors():
        main()


def argument_parser(usage: str | None = None) -> argparse.ArgumentParser:
    """A parser of arguments whose help is the docstring of the script."""
    text, formatter = sys.modules["__main__"].__doc__, argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(usage=usage, description=text, formatter_class=formatter)


@contextmanager
def progress_bar(images: int) -> Iterator[Callable[[int, str], None]]:
    """Yield what updates a bar for all members together, which is shown only in a terminal."""
    tqdm.monitor_interval = 0  # no thread, as processes are forked
    with tqdm(total=images, unit=" images", disable=None, smoothing=0.05) as bar:

        def update(images: int, text: str) -> None:
            bar.set_postfix_str(text, refresh=False)
            bar.update(images)

        yield update


@contextmanager
def deferred_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns True after the first Ctrl-C or SIGTERM. A second one interrupts at once, except in
    a process of torchrun, which forwards signals that the process already received and finally kills it."""
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if received and RANK not in os.environ:
            raise KeyboardInterrupt
        if not received and os.environ.get(RANK, "0") == "0":
            print("\nStopping after this step. Press Ctrl-C again to stop at once.", file=sys.stderr, flush=True)
        received.append(number)

    before = [(number, signal.signal(number, handle)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before:
            signal.signal(number, handler)


@contextmanager
def _errors() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # sent by batch systems and containers
    try:
        try:
            yield
            sys.stdout.flush()
        finally:
            signal.signal(signal.SIGTERM, before)  # no handler may raise while Python shuts down
    except KeyboardInterrupt as error:
        reason = str(error) if isinstance(error, Interrupted) else "no unfinished file remains. Run it again"
        if RANK not in os.environ:  # the parent of torchrun's processes prints it once
            print(f"\nInterrupted: {reason}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        outputs = select.poll()
        for output in (sys.stdout, sys.stderr):
            outputs.register(output, 0)  # 0: errors alone
        if not outputs.poll(0):
            raise PipelineError(messages.CONNECTION_LOST) from None
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # its reader, such as head, has closed it
        sys.exit(1)
    except OSError as error:
        path, reason = error.filename or "the output", error.strerror or str(error)
        text = f"{path}: {reason}"
        if error.errno in FULL:
            text = f"{path} can't be written: {reason}. The old file is unchanged. Free disk space and run it again"
        elif error.errno in FORBIDDEN:
            text = f"{path}: {reason}. Change its permissions (chmod, chown, mount) and run it again"
        raise PipelineError(text) from None
    except sqlite3.OperationalError as error:  # dvclive opens DVC's database
        raise PipelineError(f"The files in .dvc/ can't be written: {error}. Free disk space and run it again") from None
    except MemoryError as error:
        raise PipelineError(f"Not enough memory ({error}): close other programs") from None


def _wait_for_lock(path: Path) -> IO[bytes] | None:
    """Wait until no other process runs this stage here, for example one whose DVC was killed."""
    lock = files.lock_file(path, wait=False)
    if lock is None:
        print(messages.waiting(path, files.lock_holder(path)), file=sys.stderr, flush=True)
        lock = files.lock_file(path, wait=True)
    return lock
