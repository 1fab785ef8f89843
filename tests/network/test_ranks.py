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
    together = share(tmp_path, count)
    assert sum(len(steps) for steps in alone[::2]) == 50  # five epochs of ten steps, the last of two images
    for losses, norms in together:
        assert losses == together[0][0]
        for found, wanted in zip(losses, alone, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5)
        np.testing.assert_allclose(norms, weights, rtol=1e-4)
    assert alone[-1][1] < 0.9 * alone[1][1]  # and they learned something


@pytest.mark.slow
def test_processes_that_were_given_something_else_are_refused(tmp_path):
    run = share(tmp_path, 2, "differ")
    assert run.returncode and "Parameters, data or code of process 1 differ from those of process 0" in run.stderr


def test_the_shares_of_a_batch_are_its_images_each_once():
    alone = ranks.Ranks()
    for count in (1, 2, 3, 5):
        for size in range(1, 12):
            rows, found = np.arange(size), []
            for alone.rank in range(count):
                alone.count = count
                found += [*rows[alone.share(rows)]]
            assert found == [*rows]


def test_images_are_augmented_in_a_share_as_in_the_whole_batch(chosen):
    rules = chosen({f"train.augment.{name}": 0.3 for name in ("brightness", "contrast", "stain")}).train.augment
    images = torch.from_numpy(np.random.RandomState(0).randint(256, size=(7, 3, 8, 8)).astype(np.uint8))
    whole = batches.augment(images, rules, torch.Generator().manual_seed(4))
    parts = [batches.augment(images[at : at + 3], rules, torch.Generator().manual_seed(4), 7, at) for at in (0, 3, 6)]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-6)


def test_alone_a_process_exchanges_nothing():
    alone = ranks.Ranks()
    tensor = torch.tensor([1.0, 2.0])
    assert alone.sum(tensor) is tensor and alone.of_first(tensor) is tensor and alone.bytes_of_first(b"x") == b"x"
    assert alone.any(True) and not alone.any(False) and alone.each(tensor).shape == (1, 2)


def test_as_many_processes_start_as_there_are_gpus_unless_another_number_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert ranks.wanted("auto", "auto", 1) == ranks.wanted("auto", "cuda", 3) == 4
    assert ranks.wanted("auto", "cpu", 1) == ranks.wanted("auto", "cuda:2", 1) == ranks.wanted(1, "cuda:2", 1) == 1
    assert ranks.wanted("auto", "auto", 4) == 1  # a GPU for each member
    assert ranks.wanted(2, "auto", 1) == 2 and ranks.wanted(3, "cpu", 1) == 3
    with pytest.raises(
        PipelineError, match="train.nproc_per_node is 5, and each process needs its own GPU.*4 GPUs: set both to auto"
    ):
        ranks.wanted(5, "auto", 1)
    with pytest.raises(PipelineError, match="train.device is cuda:1"):
        ranks.wanted(2, "cuda:1", 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert ranks.wanted("auto", "auto", 1) == 1 and ranks.wanted(2, "auto", 1) == 2
