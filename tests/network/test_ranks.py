"""Several processes under torchrun, on the CPU, with gloo."""

import json
import os
import subprocess
import sys

from core.network import batches, ranks
from core.pipeline.errors import PipelineError

import numpy as np
import pytest
import torch

from conftest import TOP, change_parameters

RULES = {
    "train.epochs": 5, "train.batch_size": 9, "train.lr": 0.001, "train.schedule": "plateau", "train.device": "cpu",
    "train.precision": "fp32",
    "train.augment.brightness": 0.2, "train.augment.contrast": 0.2, "train.augment.stain": 0.2,
}  # fmt: skip


def share(folder, count, *fault, rules=RULES):
    """The losses of each step and epoch, and the norms of the weights, as each of ``count`` ranks has them."""
    parameters = change_parameters(folder / "params.yaml", rules)
    written = folder / f"{count}.losses"
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "tests/sharing.py"]
    environment = {"PYTHONPATH": "stages", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, *command, parameters, written, *fault],
        cwd=TOP, env=os.environ | environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if fault:
        return run
    assert run.returncode == 0, run.stderr
    return [json.loads(written.with_suffix(f".{rank}").read_text()) for rank in range(count)]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_one_process_and_several_take_the_same_steps(tmp_path, count):
    ((alone, weights),) = share(tmp_path, 1)
    results = share(tmp_path, count)
    assert sum(len(steps) for steps in alone[::2]) == 50  # five epochs of ten steps, the last of two images
    for losses, norms in results:
        assert losses == results[0][0]
        for actual, expected in zip(losses, alone, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-5)
        np.testing.assert_allclose(norms, weights, rtol=1e-4)
    assert alone[-1][1] < 0.9 * alone[1][1]  # and they learned something


@pytest.mark.slow
def test_processes_that_were_given_something_else_are_refused(tmp_path):
    run = share(tmp_path, 2, "differ")
    assert run.returncode and "Parameters, data or code of process 1 differ from those of process 0" in run.stderr


def test_the_shares_of_a_batch_are_its_images_each_once():
    dist = ranks.DistributedContext()
    for world_size in (1, 2, 3, 5):
        dist.world_size = world_size
        for size in range(1, 12):
            rows, images = np.arange(size), []
            for rank in range(world_size):
                dist.rank = rank
                images += [*rows[dist.shard(rows)]]
            assert images == [*rows]


def test_images_are_augmented_in_a_share_as_in_the_whole_batch(make_params):
    cfg = make_params({f"train.augment.{name}": 0.3 for name in ("brightness", "contrast", "stain")}).train.augment
    images = torch.from_numpy(np.random.RandomState(0).randint(256, size=(7, 3, 8, 8)).astype(np.uint8))
    expected = batches.augment(images, cfg, torch.Generator().manual_seed(4))
    parts = [batches.augment(images[at : at + 3], cfg, torch.Generator().manual_seed(4), 7, at) for at in (0, 3, 6)]
    assert torch.allclose(torch.cat(parts), expected, atol=1e-6)


def test_alone_a_process_exchanges_nothing():
    dist = ranks.DistributedContext()
    tensor = torch.tensor([1.0, 2.0])
    assert dist.all_reduce(tensor) is tensor and dist.broadcast(tensor) is tensor and dist.broadcast_bytes(b"x") == b"x"
    assert dist.any(True) and not dist.any(False) and dist.all_gather(tensor).shape == (1, 2)


@pytest.mark.parametrize(
    ("nproc", "device", "members", "processes"),
    [
        ("auto", "auto", 1, 4),
        ("auto", "cuda", 3, 4),
        ("auto", "auto", 4, 1),  # a GPU for each member
        ("auto", "cpu", 1, 1),
        ("auto", "cuda:2", 1, 1),
        (1, "cuda:2", 1, 1),
        (2, "auto", 1, 2),
        (3, "cpu", 1, 3),
    ],
)
def test_as_many_processes_start_as_there_are_gpus_unless_nproc_is_a_number(
    monkeypatch, nproc, device, members, processes
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert ranks.resolve_nproc(nproc, device, members) == processes


def test_more_processes_than_gpus_are_refused_on_a_machine_with_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(
        PipelineError, match="train.nproc_per_node is 5, and each process needs its own GPU.*4 GPUs: set both to auto"
    ):
        ranks.resolve_nproc(5, "auto", 1)
    with pytest.raises(PipelineError, match="train.device is cuda:1"):
        ranks.resolve_nproc(2, "cuda:1", 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert ranks.resolve_nproc("auto", "auto", 1) == 1 and ranks.resolve_nproc(2, "auto", 1) == 2
