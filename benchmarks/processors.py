"""Run a program on another processor, in QEMU's user mode (Debian, Ubuntu: apt install qemu-user).

The emulated processor has AVX2 and no AVX-512. A process started by an emulated one is not emulated.
"""

import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

EMULATOR = "qemu-x86_64"
PROCESSORS = ["Haswell", "EPYC-Milan", "Skylake-Client"]


def available() -> bool:
    return shutil.which(EMULATOR) is not None and platform.machine() == "x86_64"


def command(processor: str) -> list[str]:
    """What to put before the path of a program, so that it runs on ``processor``."""
    library = _noavx()
    preload = ["env", f"LD_PRELOAD={library}"] if library else []
    return [*preload, EMULATOR, "-U", "LD_PRELOAD", "-cpu", processor]


@cache
def _noavx() -> Path | None:
    """benchmarks/noavx.c, compiled; None if there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = Path(mkdtemp(prefix="noavx-")) / "noavx.so"
    source = Path(__file__).with_name("noavx.c")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    return library
