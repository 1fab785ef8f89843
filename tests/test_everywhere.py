"""The same bytes on every x86-64 processor with AVX2: other numbers of cores natively, other processors in QEMU.

QEMU's user mode has AVX2 and no AVX-512. What each run computes is in tests/emulated.py and tests/operators.py.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from core.pipeline import files, pins

import pytest

import processors
from conftest import TOP, change_parameters

FOLDERS = ("data", "models", "metrics", "plots", "reports")
TRAIN, OPERATORS = "stages/train.py", "tests/operators.py"
LATE_STAGES = (TRAIN, "stages/evaluate.py", "stages/report.py")
# What someone could have exported, each of which would change the bytes if it had an effect.
HOSTILE = {
    "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "DNNL_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "AVX2",
    "MKL_NUM_THREADS": "1", "OMP_THREAD_LIMIT": "1", "OPENBLAS_CORETYPE": "Prescott", "OPENBLAS_NUM_THREADS": "2",
    "NPY_ENABLE_CPU_FEATURES": "X86_V3",
}  # fmt: skip


@pytest.fixture
def emulated():
    """A function that returns the command which emulates a processor."""
    if not processors.available():
        pytest.skip("qemu-x86_64 is missing (Debian, Ubuntu: apt install qemu-user)")
    return processors.command


@pytest.fixture
def workspace(clone, tmp_path):
    """A function that makes a folder with the data of the small run, for a training of two epochs and two threads.
    One member: an emulated process would start the processes of several natively."""

    def make(name):
        folder = shutil.copytree(clone.folder, tmp_path / name, symlinks=True)
        change_parameters(folder / "params.yaml", {"train.ensemble_size": 1, "train.epochs": 2, "train.threads": 2})
        return folder

    return make


def start(folder, before=(), environment=(), arguments=LATE_STAGES):
    return subprocess.Popen(
        [*before, sys.executable, TOP / "tests/emulated.py", *arguments], cwd=folder, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, env=os.environ | dict(environment),
    )  # fmt: skip


def computed(folder, *start_with, **more):
    """What the stages print, and the hash of each file after them. By default, train, evaluate and report."""
    process = start(folder, *start_with, **more)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    return output, hashes(folder)


def hashes(folder):
    paths = [path for name in FOLDERS for path in (folder / name).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): files.sha256(path) for path in paths}


def operators(*without):
    command = [sys.executable, TOP / OPERATORS, *without]
    path = os.environ | {"PYTHONPATH": str(TOP / "stages"), "OMP_NUM_THREADS": "2"}  # OpenBLAS reads it too
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=path, timeout=900).stdout)


@pytest.fixture(scope="module")
def here():
    """What tests/operators.py computes on this processor."""
    return operators()


def other(first, second):
    return sorted(name for name in first | second if first.get(name) != second.get(name))


@pytest.mark.long
@pytest.mark.slow
def test_the_number_of_cores_and_the_environment_change_no_byte(workspace):
    first = workspace("first")
    before = hashes(first)
    _, expected = computed(first)
    assert "models/model.safetensors" in other(before, expected)
    for name, command, environment in (
        ("one core", ["taskset", "--cpu-list", "0"], {"OMP_NUM_THREADS": "4", "MKL_DYNAMIC": "TRUE"}),
        ("hostile", [], HOSTILE | {"OMP_NUM_THREADS": "1", "OMP_DYNAMIC": "TRUE"}),
    ):
        assert other(expected, computed(workspace(name), command, environment)[1]) == [], name


@pytest.mark.long
@pytest.mark.slow
def test_another_processor_computes_the_same_bytes_and_continues_a_training_killed_on_this_one(
    workspace, emulated, here
):
    """The first processor continues the training, the second runs it from the start, evaluates and reports. Then each
    computes the operations: they have the same bytes, except the root that is avoided."""
    native = workspace("native")
    _, after_training = computed(native, arguments=[TRAIN])
    _, expected = computed(native, arguments=LATE_STAGES[1:])
    killed = workspace("killed")
    process = start(killed, arguments=[TRAIN])
    while process.poll() is None and not [*killed.glob(".checkpoints/*/000001-*.safetensors")]:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    first, second, *_ = processors.PROCESSORS
    output, continued = computed(killed, emulated(first), arguments=["--emulated", TRAIN, OPERATORS])
    assert "Resuming after epoch 1" in output and other(after_training, continued) == [], first
    assert other(here, json.loads(output.splitlines()[-1])) == ["torch's NAdam"], first
    output, there = computed(workspace("there"), emulated(second), arguments=["--emulated", *LATE_STAGES, OPERATORS])
    assert "Resuming after epoch" not in output and other(expected, there) == [], second
    assert other(here, json.loads(output.splitlines()[-1])) == ["torch's NAdam"], second


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("setting", pins.TRAINING | pins.ALWAYS)
def test_each_setting_changes_bytes_on_a_processor_with_avx512(here, setting):
    if "avx512f" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no AVX-512")
    assert other(here, operators(setting)) != []
