"""Settings that make libraries compute the same bytes on every x86-64 processor with AVX2, with any number of cores.

A library chooses its code by the processor it finds, and other code rounds differently. These settings choose code that
every such processor has. Importing ``core`` sets them and overrides the environment: NumPy and OpenBLAS read them when
they are imported, PyTorch, oneDNN and MKL before their first operation. A few rules have no setting and are elsewhere:
the number of threads, no compiler and no bf16 in core/network/devices.py, square roots in core/network/optimiser.py.
"""

import os
import platform
from functools import cache
from pathlib import Path

from core.pipeline import messages
from core.pipeline.errors import PipelineError

CONTRACT = "any x86-64 with AVX2"  # the processors that give the same bytes

TRAINING = {
    "ATEN_CPU_CAPABILITY": "avx2",  # PyTorch's own loops: with AVX-512, a sum has twice as many partial sums
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # convolutions: with AVX-512 or AMX, they add in another order
    # Matrix products, exp and log. MKL's AVX2 code takes another path on Intel than on AMD, even with AVX2,STRICT.
    "MKL_CBWR": "COMPATIBLE",
}
ALWAYS = {
    # NumPy's own loops, at their baseline. AVX2 alone would be as equal, but QEMU's emulation of it crashes in sorting.
    "NPY_DISABLE_CPU_FEATURES": "X86_V3,X86_V4,AVX512_ICL,AVX512_SPR",
    "OPENBLAS_CORETYPE": "Haswell",  # NumPy's and SciPy's matrix products
    "OPENBLAS_NUM_THREADS": "1",  # OpenBLAS divides a sum among its threads
}
# They change what the settings above, or the number of threads, mean.
UNSET = (
    "DNNL_MAX_CPU_ISA", "DNNL_DEFAULT_FPMATH_MODE", "ONEDNN_DEFAULT_FPMATH_MODE", "MKL_DOMAIN_NUM_THREADS",
    "MKL_DYNAMIC", "MKL_ENABLE_INSTRUCTIONS", "MKL_NUM_THREADS", "NPY_ENABLE_CPU_FEATURES", "OMP_DYNAMIC",
    "OMP_THREAD_LIMIT", "OPENBLAS_L2_SIZE",
)  # fmt: skip
# How long a thread of OpenMP looks for work before it sleeps. By default, two trainings of several threads on the same
# cores wait for each other: minutes instead of seconds (benchmarks/cores.py).
PATIENCE = ("GOMP_SPINCOUNT", "1000")
withdrawn = False  # whether this process computes something whose bytes depend on the processor all the same


def pin() -> None:
    """Set all settings in the environment of this process and of those it starts."""
    if platform.machine() == "x86_64":
        for name in UNSET:
            os.environ.pop(name, None)
        os.environ.update(TRAINING | ALWAYS)
    os.environ.setdefault(*PATIENCE)


def unpin() -> None:
    """Let PyTorch use everything that this processor has. To be called before its first operation."""
    for name in TRAINING:
        os.environ.pop(name, None)


def is_pinned() -> bool:
    """Whether this process, as far as it does not use a GPU, computes the bytes of the CONTRACT."""
    return has_avx2() and not withdrawn and (TRAINING | ALWAYS).items() <= os.environ.items()


def has_avx2() -> bool:
    return "avx2" in cpuinfo().split()


@cache
def cpuinfo() -> str:
    """What Linux says about the processor; empty elsewhere."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""


def check() -> None:
    """Raise PipelineError if the environment has a setting that can't be overridden, as the C library has read it."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if "hwcaps" in tunables:
        raise PipelineError(messages.HWCAPS.format(value=tunables))
