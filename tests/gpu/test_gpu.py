"""What needs an NVIDIA GPU: make test-gpu. None was at hand when these tests were written, so they were never run."""

import json
import os
import subprocess
import sys
from pathlib import Path

from core.network import checkpoints, devices, inference, members, networks, occlusion, training
from core.network.ensemble import Ensemble
from core.network.ranks import DistributedContext
from core.pipeline.errors import Interrupted, PipelineError

import numpy as np
import pytest
import torch

from conftest import TOP, change_parameters

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no NVIDIA GPU")
pytestmark = [pytest.mark.gpu, NO_GPU]

COUNT, SIDE = 96, 64
DEVICE = torch.device("cuda:0")
BATCH_NORM = "timm/test_efficientnet"  # with timm's layers that contain their activation


@pytest.fixture
def data():
    """Bright images are positive: something that any network learns in a few steps."""
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, COUNT)
    images = 60 + 120 * labels[:, None, None, None] + random.integers(0, 40, (COUNT, SIDE, SIDE, 3))
    return training.Data(images.astype(np.uint8), labels, {"train": np.arange(64), "val": np.arange(64, COUNT)})


@pytest.fixture
def fit(make_params, data):
    """A function that trains on the GPU: its result, and the epochs."""

    def run(backbone="shufflenet_v2_x0_5", seed=1, store=None, stop_after=None, **changes):
        changes = {"epochs": 3, "batch_size": 16, "device": "cuda", "augment.stain": 0.1} | changes
        cfg = make_params({f"train.{name}": value for name, value in changes.items()}).train
        devices.seed_everything(seed, cfg.reproducible, cfg.threads)
        epochs, steps = [], []
        callbacks = training.Callbacks(
            lambda member, epoch: epochs.append(epoch),
            lambda images, text: steps.append(images),
            lambda: stop_after is not None and len(steps) >= stop_after,
        )
        classifier = networks.Classifier(backbone, "selu", SIDE)
        return training.fit(classifier, data, cfg, seed, callbacks, store), epochs

    return run


def assert_same_bytes(first, second):
    assert first.best_epoch == second.best_epoch and first.best_state.keys() == second.best_state.keys()
    assert all(torch.equal(value, second.best_state[name]) for name, value in first.best_state.items())


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16", "fp16"])
def test_training_lowers_the_loss_in_each_precision(fit, precision):
    result, epochs = fit(precision=precision, epochs=8, lr=0.003)
    assert epochs[-1].train_loss < 0.7 * epochs[0].train_loss
    assert all(value.device.type == "cpu" and torch.isfinite(value).all() for value in result.best_state.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("backbone", ["shufflenet_v2_x0_5", BATCH_NORM, "timm/test_vit"])
def test_two_runs_and_a_resumed_one_give_the_same_bytes(fit, tmp_path, backbone, precision):
    first = fit(backbone, precision=precision)[0]
    assert_same_bytes(first, fit(backbone, precision=precision)[0])
    store = checkpoints.Store(tmp_path)
    with pytest.raises(Interrupted):
        fit(backbone, store=store, stop_after=6, precision=precision)
    assert_same_bytes(first, fit(backbone, store=store, precision=precision)[0])
    assert first.nondeterministic == ()


def test_a_network_without_a_deterministic_backward_pass_withdraws_the_promise(fit):
    """VGG's pooling makes maps of 7 x 7 from 2 x 2."""
    assert "adaptive_avg_pool2d_backward_cuda" in fit("vgg11_bn", epochs=1)[0].nondeterministic


def test_streamed_and_resident_images_give_the_same_bytes(fit, data, monkeypatch):
    resident = fit()[0]
    assert training.ImageLoader(data.images, DEVICE).resident is not None
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 0))
    assert training.ImageLoader(data.images, DEVICE).resident is None
    assert_same_bytes(resident, fit()[0])


def test_a_gpu_and_a_cpu_give_the_same_probabilities_features_and_heatmaps_in_fp32(data):
    devices.get_device("cuda")
    devices.seed_everything(1)
    ensemble = Ensemble([networks.Classifier(BATCH_NORM, "linear", SIDE) for _ in range(2)])
    rows, results = data.rows["val"], []
    for device in (torch.device("cpu"), DEVICE):
        scores, features = inference.features(ensemble, data.images, rows, device)
        heat = occlusion.heatmaps(ensemble, data.images[:3], np.array([True, False, True]))
        results.append((scores, features, heat))
    for expected, actual in zip(*results, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)


def test_members_that_take_turns_on_one_gpu_equal_members_that_train_alone(make_params, data, tmp_path):
    np.save(tmp_path / "images.npy", data.images)
    cfg = make_params({"train.device": "cuda:0", "train.epochs": 2, "train.batch_size": 16, "train.ensemble_size": 3})
    seeds = members.seeds(1, 3)
    job = members.TrainJob(cfg.model, cfg.train, seeds, str(tmp_path / "images.npy"), *data[1:], Path())
    results = members.train(job, training.Callbacks(), DistributedContext())
    for seed, result in zip(seeds, results, strict=True):
        assert_same_bytes(
            result, members.train(job._replace(seeds=[seed]), training.Callbacks(), DistributedContext())[0]
        )


@pytest.fixture
def small_memory():
    """Let this process use one GiB of the GPU."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2**30 / torch.cuda.mem_get_info(DEVICE)[1], DEVICE)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0, DEVICE)
    torch.cuda.empty_cache()


def test_a_full_memory_is_one_line_that_says_what_to_lower(make_params, small_memory):
    images = np.zeros((256, 256, 256, 3), np.uint8)
    cfg = make_params({"train.device": "cuda", "train.batch_size": 256, "train.precision": "fp32"}).train
    data = training.Data(images, np.arange(256) % 2, {"train": np.arange(256), "val": np.arange(8)})
    with pytest.raises(PipelineError, match=r"Not enough memory: lower train.batch_size \(256\)"):
        training.fit(networks.Classifier("resnet18", "linear", 256), data, cfg, 1)


def test_scores_need_no_more_memory_than_there_is(small_memory, monkeypatch):
    """Batches are halved until they fit."""
    images = np.random.default_rng(1).integers(0, 256, (300, 256, 256, 3), dtype=np.uint8)
    ensemble = Ensemble([networks.Classifier("resnet18", "linear", 256)])
    monkeypatch.setitem(inference.BATCH_VALUES, "cuda", 2**28)
    scores = inference.probabilities(ensemble, images, np.arange(300), DEVICE)
    monkeypatch.setitem(inference.BATCH_VALUES, "cuda", 2**20)
    np.testing.assert_allclose(scores, inference.probabilities(ensemble, images, np.arange(300), DEVICE), atol=1e-4)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="this machine has fewer than two NVIDIA GPUs")
def test_two_gpus_that_share_each_batch_take_the_steps_of_one(tmp_path):
    """NCCL, and batch normalisation over both: without dropout, the losses of one GPU within rounding."""
    changes = {
        "model.backbone": BATCH_NORM, "train.epochs": 3, "train.batch_size": 16, "train.device": "cuda",
        "train.precision": "fp32", "train.schedule": "plateau",
    }  # fmt: skip
    parameters = change_parameters(tmp_path / "params.yaml", changes)
    losses = {}
    for count in (1, 2):
        written = tmp_path / f"{count}.losses"
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "tests/sharing.py"]
        environment = os.environ | {"PYTHONPATH": "stages", "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, *command, parameters, written], cwd=TOP, env=environment, check=True)
        losses[count] = [json.loads(written.with_suffix(f".{rank}").read_text())[0] for rank in range(count)]
    assert losses[2][0] == losses[2][1]
    for actual, expected in zip(losses[2][0], losses[1][0], strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-2)
