"""Runs that are killed, interrupted, doubled, or out of disk: real DVC in a clone, on a small set of phantoms."""

import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from core.pipeline import yaml12

import pytest

import kills
from conftest import STAGES

pytestmark = pytest.mark.slow

# Longer than the other tests train, so that there is something to interrupt.
LONGER = {"train.epochs": 12, "runtime.checkpoint_minutes": 0.002}


def start(clone, *command):
    """A command in a process group of its own, as a terminal gives it."""
    return subprocess.Popen(
        command, cwd=clone.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def kept(clone):
    return list((clone.folder / ".checkpoints").glob("*/[0-9]*.safetensors"))


def until_training(clone, process, epochs=1):
    """Wait until checkpoints of so many epochs have been written."""
    end = time.monotonic() + 120
    while not any(int(path.name.partition("-")[0]) >= epochs for path in kept(clone)):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.02)


def stop(process, number):
    os.killpg(process.pid, number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode
    return output


@pytest.fixture(scope="module")
def calm(clone):
    """The lock of the longer training, undisturbed."""
    for key, value in LONGER.items():
        clone.change(key, value)
    output = clone.run("dvc", "repro", "train")
    assert "Resuming after" not in output and not kept(clone)
    shutil.rmtree(clone.folder / ".dvc/cache/runs")  # else a repetition would be taken from there
    return lock(clone)


@pytest.fixture
def longer(clone, calm):
    """The clone, about to train longer."""
    clone.reset()
    for key, value in LONGER.items():
        clone.change(key, value)
    yield clone
    shutil.rmtree(clone.folder / ".dvc/cache/runs", ignore_errors=True)
    shutil.rmtree(clone.folder / ".checkpoints", ignore_errors=True)


def lock(clone):
    """What dvc.lock says of the stages up to train: the hash of every input and output."""
    entries = yaml12.load((clone.folder / "dvc.lock").read_text())["stages"]
    return {stage: entries[stage] for stage in STAGES[: STAGES.index("train") + 1]}


@pytest.mark.long
def test_a_training_that_is_killed_again_and_again_ends_with_the_same_bytes(longer, calm):
    for epochs, victim in ((1, "all"), (4, "stage"), (8, "dvc")):
        process = start(longer, "dvc", "repro", "train")
        until_training(longer, process, epochs)
        time.sleep(random.uniform(0, 0.3))
        kills.kill(process, longer.folder, victim)
    longer.run("dvc", "repro", "train")  # waits for the training that the killed DVC has left behind
    assert lock(longer) == calm and not kept(longer)
    assert not list(longer.folder.rglob("*unfinished*"))


@pytest.mark.long
def test_ctrl_c_leaves_a_training_that_goes_on_and_force_starts_it_anew(longer, calm):
    process = start(longer, "dvc", "repro", "train")
    until_training(longer, process, epochs=2)
    output = stop(process, signal.SIGINT)
    assert "Interrupted: training stopped" in output and "Run the same command again" in output
    assert "Traceback" not in output and kept(longer)
    output = longer.run("dvc", "repro", "train")
    assert re.search(r"Resuming after epoch [2-9]", output)
    assert lock(longer) == calm and not kept(longer)

    process = start(longer, "dvc", "repro", "--force", "--single-item", "train")
    until_training(longer, process)
    stop(process, signal.SIGTERM)
    assert "Resuming after" not in longer.run("dvc", "repro", "-f", "-s", "train")
    assert not kept(longer)


@pytest.mark.long
def test_a_checkpoint_of_other_parameters_data_or_code_is_not_used(longer):
    longer.change("train.ensemble_size", 1)
    process = start(longer, "dvc", "repro", "train")
    until_training(longer, process)
    stop(process, signal.SIGKILL)
    shutil.copytree(longer.folder / ".checkpoints", longer.folder / "kept")

    def trains_anew():
        output = longer.run("python", "stages/train.py")
        assert "Resuming after" not in output
        shutil.rmtree(longer.folder / ".checkpoints", ignore_errors=True)
        shutil.copytree(longer.folder / "kept", longer.folder / ".checkpoints")

    longer.change("train.epochs", 1)
    trains_anew()
    longer.change("train.epochs", 12)
    path = longer.folder / "stages/core/network/batches.py"
    path.write_text(path.read_text() + "\n# another\n")
    trains_anew()
    longer.run("git", "checkout", "-q", "stages")
    longer.change("runtime.checkpoint_minutes", 7)  # of which nothing follows
    assert "Resuming after" in longer.run("python", "stages/train.py")


@pytest.mark.long
@pytest.mark.parametrize("command", [("dvc", "exp", "run"), ("dvc", "exp", "run", "--temp", "--name", "aside")])
def test_experiments_go_on_too(longer, calm, command):
    first = longer.run("git", "rev-parse", "main").strip()
    longer.run("git", "commit", "-qam", "Longer")
    process = start(longer, *command)
    until_training(longer, process)
    stop(process, signal.SIGKILL)
    assert re.search(r"Resuming after epoch \d", longer.run(*command))
    if "--temp" in command:
        longer.run("dvc", "exp", "apply", "aside")
    assert lock(longer) == calm and not kept(longer)
    longer.run("git", "checkout", "-q", "-f", "-B", "main", first)  # a killed DVC leaves HEAD on its own commit


def trainings(clone):
    """The processes that train for the queue, by their CUDA_VISIBLE_DEVICES."""
    processes: dict[str, set[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            here = path.joinpath("cwd").resolve().is_relative_to(clone.folder.resolve() / ".dvc/tmp/exps")
            command = path.joinpath("cmdline").read_text()
            if here and ("stages/train.py" in command or "multiprocessing" in command):
                device = re.search("CUDA_VISIBLE_DEVICES=([^\0]*)", path.joinpath("environ").read_text())[1]
                processes.setdefault(device, set()).add(int(path.name))
        except OSError:
            continue
    return processes


def wait_until(condition, minutes=5):
    end = time.monotonic() + 60 * minutes
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.long
def test_two_workers_at_the_same_training_have_a_device_each_and_do_not_disturb_each_other(clone):
    """Two experiments that differ in the evaluation alone train the same, at the same time: the first is held until the
    second has trained an epoch."""
    page = Path(__file__).resolve().parents[1].joinpath("docs/machines.md").read_text()
    start_both = re.search(r"^for gpu in 0 1; do$.*?^done$", page, re.MULTILINE | re.DOTALL)[0]
    for threshold in (0.3, 0.6):
        changes = ["-S", f"evaluate.threshold={threshold}", "-S", "train.epochs=12"]
        clone.run("dvc", "exp", "run", "--queue", "--name", f"at-{threshold}", *changes)
    starting = start(clone, "bash", "-ec", start_both)
    stopped: set[int] = set()
    try:
        wait_until(lambda: kept(clone))
        ((device, stopped),) = trainings(clone).items()
        for process in stopped:
            os.kill(process, signal.SIGSTOP)
        folders = {path.parent for path in kept(clone)}
        wait_until(lambda: {path.parent for path in kept(clone)} - folders)
        assert {device, *trainings(clone)} == {"0", "1"}
        for process in stopped:
            os.kill(process, signal.SIGCONT)
        assert starting.wait(timeout=60) == 0
        wait_until(lambda: not trainings(clone))
        while (output := clone.run("dvc", "queue", "status")).count("Success") < 2:
            assert "Failed" not in output, output
            time.sleep(2)  # asking takes more of a core than training does
    finally:
        for process in stopped & set().union(*trainings(clone).values()):
            os.kill(process, signal.SIGCONT)
        clone.run("dvc", "queue", "stop", "--kill")
    trained = []
    for threshold in (0.3, 0.6):
        clone.run("dvc", "exp", "apply", f"at-{threshold}")
        assert clone.metrics("evaluate")["threshold"] == threshold
        trained.append(lock(clone)["train"])
        clone.run("git", "checkout", "-q", "-f", "HEAD")
    assert trained[0] == trained[1] and not kept(clone)


OUTPUTS = {
    "download": "data/raw", "prepare": "data/prepared", "audit": "data/audit", "split": "data", "train": "models",
    "evaluate": "plots", "report": "reports",
}  # fmt: skip


def hashes(folder):
    """Of all that the stages wrote, but for the curves, which grow from epoch to epoch."""
    written = re.compile("(data|models|metrics|plots)/(?!curves/)")
    return {path: digest for path, digest in kills.content(folder).items() if written.match(path)}


@pytest.mark.long
@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_one_line_and_what_was_there_stays(clone, stage):
    """No file may grow beyond 2,000 bytes: as on a full disk, writing fails midway. Python would keep half of what it
    compiles, and fail to read it the next time."""
    before = hashes(clone.folder)
    process = subprocess.run(
        [sys.executable, "-B", f"stages/{stage}.py"], cwd=clone.folder, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
    )  # fmt: skip
    assert process.returncode == 1 and "Traceback" not in process.stderr
    last = process.stderr.strip().splitlines()[-1]
    assert "can't be written: " in last and "Free disk space and run it again" in last
    assert hashes(clone.folder) == before


@pytest.mark.parametrize("stage", STAGES)
def test_an_output_that_may_not_be_written_is_one_line_and_what_was_there_stays(clone, stage):
    before = hashes(clone.folder)
    folder = clone.folder / OUTPUTS[stage]
    folder.chmod(0o555)
    # Root may write anywhere unless it gives that right up.
    command = ["setpriv", "--bounding-set=-dac_override"] if os.getuid() == 0 else []
    try:
        process = subprocess.run(
            [*command, sys.executable, f"stages/{stage}.py"], cwd=clone.folder, capture_output=True, text=True
        )
    finally:
        folder.chmod(0o755)
    assert process.returncode == 1 and "Traceback" not in process.stderr
    assert f"{OUTPUTS[stage]}/" in process.stderr and "Permission denied. Change its permissions" in process.stderr
    assert hashes(clone.folder) == before
    shutil.rmtree(clone.folder / ".checkpoints", ignore_errors=True)
