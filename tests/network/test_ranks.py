"""Several processes under torchrun, on the CPU, with gloo."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys

from core.network import batches, members, networks, ranks
from core.network.ensemble import Ensemble
from core.pipeline.errors import PipelineError

import numpy as np
import pytest
import torch

from conftest import TOP, change_parameters

RULES = {
    "train.epochs": 5, "train.batch_size": 10, "train.lr": 0.001, "train.schedule": "plateau", "train.device": "cpu",
    "train.precision": "fp32",
    # Without ReLU and maximum, which now and then make another step from another rounding.
    "model.backbone": "timm/test_convnext", "model.head": "linear",
    "train.augment.brightness": 0.2, "train.augment.contrast": 0.2, "train.augment.stain": 0.2,
}  # fmt: skip


def share(folder, count, *options, rules=RULES):
    """What tests/sharing.py writes, by each of ``count`` ranks: the losses of each step and epoch, the norms of the
    weights, their hash, the restarts, and the epochs. One rank needs no torchrun."""
    parameters = change_parameters(folder / "params.yaml", rules)
    written = folder / f"{count}.losses"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--max-restarts", str(int("dies" in options))]
    command = [*torchrun, "--nproc-per-node", str(count)] if count > 1 else []
    environment = {"PYTHONPATH": "stages", "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    run = subprocess.run(
        [sys.executable, *command, "tests/sharing.py", parameters, written, *options],
        cwd=TOP, env=os.environ | environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return [json.loads(written.with_suffix(f".{rank}").read_text()) for rank in range(count)]


@pytest.mark.long
@pytest.mark.slow
def test_one_process_and_three_take_the_same_steps(tmp_path):
    """Shares are unequal: a batch of ten is four, three and three images, and of the last two, one rank has none."""
    ((alone, weights, *_),) = share(tmp_path, 1)
    results = share(tmp_path, 3)
    assert sum(len(steps) for steps in alone[::2]) == 45  # five epochs of nine steps
    for losses, norms, *_ in results:
        assert losses == results[0][0]
        for actual, expected in zip(losses, alone, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-5)
        np.testing.assert_allclose(norms, weights, rtol=1e-4)
    assert alone[-1][1] < 0.9 * alone[1][1]  # and they learned something


BATCH_NORM = RULES | {
    "model.backbone": "timm/test_efficientnet", "model.head": "selu", "train.batch_size": 16, "train.epochs": 30,
    "train.lr": 0.01, "train.early_stopping": 3, "train.plateau_patience": 1,
}  # fmt: skip


@pytest.mark.long
@pytest.mark.slow
def test_batch_norm_dropout_and_a_last_batch_of_two_images_survive_a_killed_rank_with_the_same_bytes(tmp_path):
    """18 images in batches of 16: each of two ranks had one image of the last batch, on which batch normalisation
    can't train. The order, the rate and the number of steps are those of one process; dropout and the statistics of
    each share are not."""
    (tmp_path / "again").mkdir()
    undisturbed = share(tmp_path, 2, "18", rules=BATCH_NORM)
    killed = share(tmp_path / "again", 2, "18", "dies", rules=BATCH_NORM)
    (alone,) = share(tmp_path, 1, "18", rules=BATCH_NORM)
    assert [rank[3] for rank in killed] == [1, 1] and [rank[3] for rank in undisturbed] == [0, 0]
    assert len({rank[2] for rank in (*undisturbed, *killed)}) == 1  # the hash of the weights
    epochs = {rank[4] for rank in (*undisturbed, *killed)}
    assert len(epochs) == 1 and epochs.pop() < 30  # they stopped early, all at the same epoch
    assert undisturbed[0][0] == undisturbed[1][0]
    first, other = undisturbed[0][0][:2], alone[0][:2]  # the steps of the first epoch, and its figures
    assert len(first[0]) == len(other[0]) == 2 and first[1][-1] == other[1][-1]


@pytest.mark.long
@pytest.mark.slow
def test_two_ranks_take_the_steps_of_one_where_batch_norm_uses_its_own_statistics(tmp_path):
    """With a frozen backbone, nothing depends on the share: 18 images, in batches of 16 and 2."""
    rules = BATCH_NORM | {"model.head": "linear", "train.freeze_backbone": True, "train.epochs": 6}
    (alone,) = share(tmp_path, 1, "18", rules=rules)
    for losses, norms, *_ in share(tmp_path, 2, "18", rules=rules):
        for actual, expected in zip(losses, alone[0], strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-5)
        np.testing.assert_allclose(norms, alone[1], rtol=1e-5)


def test_processes_that_were_given_something_else_are_refused(tmp_path, monkeypatch):
    """Forks of this process, with the environment that torchrun gives: three of one run, then of another."""

    def join(rank, text):
        os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(rank)
        with ranks.process_group(torch.device("cpu"), minutes=1) as dist:
            dist.check_equal(text)

    error = tmp_path / "error"
    for texts, message in (("aa", ""), ("ab", "Parameters, data or code of process 1 differ from those of process 0")):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        for name, value in {
            "TORCHELASTIC_RUN_ID": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2,
            ranks.ERROR_FILE: error,
        }.items():  # fmt: skip
            monkeypatch.setenv(name, str(value))
        processes = [multiprocessing.get_context("fork").Process(target=join, args=args) for args in enumerate(texts)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout=60)
        assert [process.exitcode for process in processes] == [0, 0]
        assert message in (error.read_text() if error.exists() else "") and bool(message) == error.exists()


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


@pytest.mark.parametrize(("world_size", "count"), [(2, 18), (3, 18), (8, 35), (5, 17)])
def test_no_share_of_any_batch_is_a_single_image(world_size, count):
    """Batch normalisation can't train on one image: of 18 images in batches of 16, two ranks had one each."""
    dist = ranks.DistributedContext()
    dist.world_size = world_size
    for batch in batches.make_batches(np.arange(count), 16):
        images = []
        for dist.rank in range(world_size):
            part = batch[dist.shard(batch, min_size=2)]
            assert len(part) != 1
            images += [*part]
        assert images == [*batch]


def test_images_are_augmented_in_a_share_as_in_the_whole_batch(make_params):
    cfg = make_params({f"train.augment.{name}": 0.3 for name in ("brightness", "contrast", "stain")}).train.augment
    images = torch.from_numpy(np.random.RandomState(0).randint(256, size=(7, 3, 8, 8)).astype(np.uint8))
    expected = batches.augment(images, cfg, torch.Generator().manual_seed(4))
    parts = [batches.augment(images[at : at + 3], cfg, torch.Generator().manual_seed(4), 7, at) for at in (0, 3, 6)]
    assert torch.allclose(torch.cat(parts), expected, atol=1e-6)


def test_force_clears_the_checkpoints_once_and_not_again_when_torchrun_restarts(tmp_path, monkeypatch):
    ensemble = Ensemble([networks.Classifier("timm/test_resnet", "linear", 32)])
    monkeypatch.setattr("core.pipeline.files.forced", lambda: True)
    monkeypatch.setenv(ranks.ERROR_FILE, str(tmp_path / "error"))  # as ranks.launch sets it

    def checkpoints_after(content):
        with members.open_stores(tmp_path / "checkpoints", "a", "b", ensemble, [1]) as (store,):
            if content:
                (store.folder / f"000001-000000002-{'0' * 64}.safetensors").write_text(content)
            return len(store.paths())

    monkeypatch.setattr("core.pipeline.files.forced", lambda: False)
    assert checkpoints_after("of an earlier run") == 1
    monkeypatch.setattr("core.pipeline.files.forced", lambda: True)
    assert checkpoints_after("") == 0
    assert checkpoints_after("of this run, before a rank was killed") == 1
    assert checkpoints_after("") == 1
    monkeypatch.delenv(ranks.ERROR_FILE)  # a later run, without torchrun
    assert checkpoints_after("") == 0


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
