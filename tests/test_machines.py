"""Trainings by several processes: killed, interrupted, mistaken, and on two machines made of network namespaces."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from test_survival import LONGER, kept, lock, start, stop, until_training

pytestmark = pytest.mark.slow

TWO = LONGER | {"train.nproc_per_node": 2, "train.ensemble_size": 1}


def ranks(clone):
    """The processes that train in the clone, by their number."""
    processes = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            here = path.joinpath("cwd").resolve() == clone.folder.resolve()
            environment = path.joinpath("environ").read_text().split("\0")
        except OSError:
            continue
        number = [word.removeprefix("LOCAL_RANK=") for word in environment if word.startswith("LOCAL_RANK=")]
        if here and number:
            processes[int(number[0])] = int(path.name)
    return processes


def forget(clone):
    shutil.rmtree(clone.folder / ".dvc/cache/runs", ignore_errors=True)
    shutil.rmtree(clone.folder / ".checkpoints", ignore_errors=True)


@pytest.fixture(scope="module")
def calm(clone):
    """The longer training by two processes, undisturbed: its lock."""
    for key, value in TWO.items():
        clone.change(key, value)
    output = clone.run("dvc", "repro", "train")
    assert "Resuming after" not in output and output.count("parameters, ") == 1 and not kept(clone)
    assert '"processes": 2' in (clone.folder / "metrics/provenance/train.json").read_text()
    forget(clone)
    return lock(clone)


@pytest.fixture
def by_two(clone):
    """The clone, about to train by two processes."""
    clone.reset()
    for key, value in TWO.items():
        clone.change(key, value)
    yield clone
    forget(clone)


@pytest.fixture
def two(calm, by_two):
    """The same, after an undisturbed training."""
    return by_two


@pytest.mark.long
def test_where_any_rank_is_killed_all_start_again_and_the_result_is_that_of_an_undisturbed_run(two, calm):
    process = start(two, "dvc", "repro", "train")
    for rank, epochs in enumerate((2, 6)):
        until_training(two, process, epochs)
        os.kill(ranks(two)[rank], signal.SIGKILL)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0 and output.count("Resuming after epoch") == 2 and "Traceback" not in output, output
    assert lock(two) == calm and not kept(two)


@pytest.mark.long
def test_ctrl_c_and_a_kill_leave_none_of_them_behind_and_the_same_command_goes_on(two, calm):
    process = start(two, "dvc", "repro", "train")
    until_training(two, process, epochs=2)
    output = stop(process, signal.SIGINT)
    assert output.count("Interrupted: training stopped") == 1 and "Traceback" not in output
    assert not ranks(two)

    process = start(two, "dvc", "repro", "train")
    until_training(two, process, epochs=6)
    launcher = int(Path(f"/proc/{ranks(two)[0]}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(launcher, signal.SIGKILL)
    output = process.communicate(timeout=60)[0]
    assert "Resuming after epoch" in output and "failed to run" in output
    time.sleep(1)
    assert not ranks(two)
    assert "Resuming after epoch" in two.run("dvc", "repro", "train")
    assert lock(two) == calm


def test_a_mistake_is_said_once_and_nothing_is_started_again(by_two):
    by_two.change("train.lr", 1e30)
    by_two.change("train.grad_clip_norm", None)
    output = by_two.run("dvc", "repro", "train", good=False)
    assert output.count("became NaN or infinite: lower train.lr (1e+30)") == 1 and "Traceback" not in output
    assert not (by_two.folder / "models/model.safetensors").exists()


@pytest.mark.long
def test_one_process_of_torchrun_gives_the_bytes_of_none(two):
    """torchrun by hand, as on a cluster that starts it itself."""
    two.change("train.nproc_per_node", 1)
    two.change("train.epochs", 2)
    two.run("python", "stages/train.py")
    first = (two.folder / "models/model.safetensors").read_bytes()
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "stages/train.py"]
    two.run("python", *command)
    assert (two.folder / "models/model.safetensors").read_bytes() == first


@pytest.fixture
def hosts():
    """Two network namespaces, joined by a cable."""
    if os.getuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root and iproute2")

    def ip(*words):
        subprocess.run(["ip", *words], check=True)

    names = [f"host{number}-{os.getpid()}" for number in (1, 2)]
    for name in names:
        ip("netns", "add", name)
    ends = [f"v{number}-{os.getpid()}" for number in (1, 2)]
    ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
    for number, (name, end) in enumerate(zip(names, ends, strict=True), start=1):
        ip("link", "set", end, "netns", name)
        ip("-n", name, "addr", "add", f"10.99.0.{number}/24", "dev", end)
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "link", "set", end, "up")
    yield list(zip(names, ends, ("10.99.0.1", "10.99.0.2"), strict=True))
    for name in names:
        ip("netns", "delete", name)


@pytest.mark.long
def test_two_machines_train_as_two_processes_and_go_on_after_one_was_cut_off(two, calm, hosts, tmp_path):
    two.change("train.nproc_per_node", "auto")  # one on each, since they have no GPU
    other = tmp_path / "other"
    shutil.copytree(two.folder, other, symlinks=True)
    shutil.rmtree(other / "models")

    def join(host, folder, *command):
        name, end, address = host
        here = {
            "PET_NNODES": "2", "PET_RDZV_ENDPOINT": "10.99.0.1:29400", "PET_LOCAL_ADDR": address,
            "GLOO_SOCKET_IFNAME": end, "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        return subprocess.Popen(
            ["ip", "netns", "exec", name, *command], cwd=folder, env=os.environ | here,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    first = join(hosts[0], two.folder, "dvc", "repro", "train")
    second = join(hosts[1], other, "python", "stages/train.py")
    until_training(two, first, epochs=2)
    subprocess.run(["ip", "-n", hosts[1][0], "link", "set", hosts[1][1], "down"], check=True)
    time.sleep(40)  # after half a minute each gives the other up, and waits for it to come back
    assert first.poll() is second.poll() is None
    subprocess.run(["ip", "-n", hosts[1][0], "link", "set", hosts[1][1], "up"], check=True)
    output, others = first.communicate(timeout=200)[0], second.communicate(timeout=200)[0]
    assert first.returncode == second.returncode == 0, output + others
    assert "Resuming after epoch" in output and "Resuming after" not in others
    assert not (other / "models/model.safetensors").exists()  # the machine that runs DVC has written it
    expected, written = ({out["path"]: out["md5"] for out in entry["train"]["outs"]} for entry in (calm, lock(two)))
    for path in ("models/model.safetensors", "metrics/train.json"):
        assert written[path] == expected[path]
