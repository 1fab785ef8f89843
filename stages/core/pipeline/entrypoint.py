"""Run a script as people expect: one at a time, stopped by Ctrl-C, and an error without a traceback where the
machine, not the code, is at fault."""

import argparse
import errno
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

from core.pipeline import files, provenance
from core.pipeline.errors import Interrupted, Mistake

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
RANK = "RANK"  # where torchrun tells a process which one it is
INTERRUPTED = 130  # the exit status of a command that Ctrl-C ended: 128 + SIGINT


def stage(main: Callable[[], None]) -> None:
    """Run a stage of dvc.yaml: as ``script`` does, waiting for a run of the same stage in the same workspace, and
    leaving in metrics/provenance/ what it ran with. Of several processes that torchrun started, the first does so.
    A stage takes no arguments: ``--help`` says what it does, and anything else is refused."""
    argparse.ArgumentParser(
        usage="python stages/%(prog)s; its parameters are in params.yaml, or dvc exp run --set-param KEY=VALUE",
        description=sys.modules["__main__"].__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()  # fmt: skip
    path = Path(sys.argv[0])
    with _errors():
        # Processes of torchrun have a parent that holds it; other machines may work in this very folder.
        joins = RANK in os.environ or ("PET_NNODES" in os.environ and "DVC_STAGE" not in os.environ)
        held = None if joins else _alone(path)
        provenance.inputs(path.stem)
        main()
        if os.environ.get(RANK, "0") == "0":
            provenance.record(path.stem)
        if held:
            held.close()


def script(main: Callable[[], None]) -> None:
    """Run a script of people: what the machine or a person did ends it with a message and no traceback."""
    with _errors():
        main()


@contextmanager
def postponed() -> Iterator[Callable[[], bool]]:
    """Within it the first Ctrl-C or SIGTERM only makes what it gives return True; a second one interrupts at once.
    Not so where torchrun started this process: it passes on what the process has got already, and kills in the end."""
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if asked and RANK not in os.environ:
            raise KeyboardInterrupt
        if not asked and os.environ.get(RANK, "0") == "0":
            print("\nStopping after this step; once more stops at once.", file=sys.stderr, flush=True)
        asked.append(number)

    before = [(number, signal.signal(number, ask)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before:
            signal.signal(number, handler)


@contextmanager
def _errors() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, _interrupt)  # what batch systems and containers send
    try:
        try:
            yield
            sys.stdout.flush()
        finally:
            signal.signal(signal.SIGTERM, before)  # what comes while Python ends is nobody's to catch
    except KeyboardInterrupt as wish:
        said = str(wish) if isinstance(wish, Interrupted) else "nothing half-written was left. Run it again"
        if RANK not in os.environ:  # torchrun's parent says it for all
            print(f"\nInterrupted: {said}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # whoever read our output, as head does, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        raise Mistake(_explain(error)) from None
    except sqlite3.OperationalError as error:  # dvclive opens DVC's own tables
        raise Mistake(f"The files of DVC below .dvc/ can't be written: {error}. Make room and run it again") from None
    except MemoryError as error:
        raise Mistake(f"The memory of this machine does not suffice ({error}): close other programs") from None


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _explain(error: OSError) -> str:
    where = error.filename or "the output"
    if error.errno in FULL:
        return f"{where} can't be written: {error.strerror}. What was there before stays. Make room and run it again"
    if error.errno in FORBIDDEN:
        return f"{where}: {error.strerror}. Give yourself the right to it (chmod, chown, mount) and run it again"
    return f"{where}: {error.strerror or error}"


def _alone(path: Path) -> IO[bytes] | None:
    """Wait until no other process runs this stage here: one left behind by a killed DVC, say."""
    held = files.claim(path, wait=False)
    if held is None:
        print(f"Another {path} runs here: waiting for it to end (pkill -f {path} ends it)", file=sys.stderr, flush=True)
        held = files.claim(path, wait=True)
    return held
