"""Members trained side by side, in processes of their own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from core.network import members, training
from core.network.state import Epoch, TrainResult
from core.pipeline.errors import Interrupted, PipelineError

import pytest
import torch
from safetensors.torch import load

from conftest import change_parameters


def test_ensembles_with_neighbouring_seeds_have_no_member_in_common():
    ensembles = [members.seeds(seed, 5) for seed in range(200)]
    assert len({seed for seeds in ensembles for seed in seeds}) == 1000
    assert members.seeds(7, 1) == [7] and members.seeds(7, 5)[:2] == members.seeds(7, 2)


def test_an_epoch_is_logged_once_all_members_have_reached_it_or_ended():
    logged = []
    averager = members.EpochAverager(2, logged.append)
    epochs = [Epoch(number, 0.1 * number, 0.5, 1.0, 0.5, 0.01) for number in (1, 2, 3)]
    averager.on_epoch_end(1, epochs[0])
    averager.on_epoch_end(1, epochs[1])
    assert logged == []
    averager.on_epoch_end(0, epochs[0]._replace(train_loss=0.3))
    assert [epoch.number for epoch in logged] == [1] and logged[0].train_loss == pytest.approx(0.2)
    averager.flush()  # the first member stopped early
    assert [epoch.number for epoch in logged] == [1, 2] and logged[1].train_loss == pytest.approx(0.2)


def test_the_figures_of_an_ensemble_are_means_beside_those_of_each_member():
    best = [Epoch(4, 0.2, 0.9, 0.4, 0.8, 0.01), Epoch(6, 0.4, 0.7, 0.6, 0.6, 0.01)]
    metrics = members.summarise([TrainResult({}, epoch, 8, True) for epoch in best], [3, 99])
    assert (metrics["ensemble_size"], metrics["best_epoch"], metrics["val_loss"]) == (2, 5, 0.5)
    assert metrics["per_member"]["member_2"]["seed"] == 99 and metrics["per_member"]["member_2"]["best_epoch"] == 6


def test_a_process_that_dies_is_an_error_that_names_its_member(make_params, monkeypatch):
    cfg = make_params({"train.device": "cpu", "train.threads": 1}).train
    job = members.TrainJob(None, cfg, [1, 2, 3], "", None, {}, Path())

    def work(job, index, pipe, stop, local_rank):
        if index == 1:
            os._exit(9)
        stop.wait()
        pipe.send(("error", [Interrupted("stopped")]))

    monkeypatch.setattr(members, "_work", work)
    with pytest.raises(PipelineError, match=r"trained member 2 ended with exit status 9 .*run the same command"):
        members._train_side_by_side(job, training.Callbacks(), 2, torch.device("cpu"))


@pytest.fixture
def workspace(clone):
    """The small run with three members of three epochs, and a function that gives the bytes of what train wrote."""
    change_parameters(clone.folder / "params.yaml", {"train.ensemble_size": 3, "train.epochs": 3})

    def written():
        paths = [*(clone.folder / "models").glob("*.*"), clone.folder / "data/curves/members.csv"]
        return {path.name: path.read_bytes() for path in [*paths, clone.folder / "data/detail/train.json"]}

    return clone, written


# Two members at the same time, on any number of cores.
TWO = """
import runpy, sys
sys.path.insert(0, "stages")
from core.network import members, training
members.max_workers = lambda cfg, device: 2
sys.argv = ["stages/train.py"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def start(clone):
    return subprocess.Popen(
        [sys.executable, "-c", TWO], cwd=clone.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def alive(pid):
    """Whether a process runs: it is there, and not a zombie whose new parent has not looked after it."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def until(process, text):
    output = ""
    for line in process.stdout:
        output += line
        if text in line:
            return output
    raise AssertionError(output)


@pytest.mark.long
@pytest.mark.slow
def test_members_have_the_same_bytes_side_by_side_one_after_another_and_after_being_killed(workspace):
    clone, written = workspace
    clone.run("taskset", "--cpu-list", str(min(os.sched_getaffinity(0))), "python", "stages/train.py")
    expected = written()
    assert {name.split(".")[1] for name in load(expected["model.safetensors"])} == {"0", "1", "2"}

    for kill in ("all", "one", "none"):
        process = start(clone)
        until(process, "epoch 1")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 2
        if kill == "all":
            process.kill()
            process.wait()
            time.sleep(1)
            assert not any(alive(pid) for pid in children)  # they die with it
        elif kill == "one":
            os.kill(int(children[0]), signal.SIGKILL)
            output = process.communicate(timeout=60)[0]
            assert process.returncode == 1
            assert "The process that trained member 1 ended with exit status -9" in output and "Traceback" not in output
        else:
            output = process.communicate(timeout=120)[0]
            assert process.returncode == 0, output
            assert "member 2: kept epoch" in output
    assert written() == expected
    left = {path.name.partition("-")[0] for path in (clone.folder / ".checkpoints").glob("*")}
    assert left <= {"features"}  # of a frozen backbone


@pytest.mark.long
@pytest.mark.slow
def test_members_that_are_interrupted_keep_their_state_and_a_member_alone_is_the_first_of_several(workspace):
    clone, written = workspace
    clone.run("python", "stages/train.py")
    expected = written()
    process = start(clone)
    until(process, "epoch 1")
    process.terminate()
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "Interrupted: training stopped. Its state is kept" in output
    assert "member 1: Resuming after epoch" in clone.run("python", "stages/train.py")
    assert written() == expected

    clone.change("train.ensemble_size", 1)
    clone.run("python", "stages/train.py")
    alone = clone.metrics("train")
    clone.run("git", "checkout", "-q", "metrics/train.json")
    assert f'"best_epoch": {alone["best_epoch"]:.0f},' in expected["train.json"].decode()
    first = [line for line in expected["members.csv"].decode().splitlines() if line.startswith("1,")]
    assert (clone.folder / "data/curves/members.csv").read_text().splitlines()[1:] == first
