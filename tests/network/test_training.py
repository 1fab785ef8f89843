import io
import math
import random
import re
from contextlib import nullcontext

from core.network import batches, checkpoints, devices, frozen, inference, networks, training
from core.network.ensemble import Ensemble
from core.network.optimiser import NAdam
from core.pipeline import entrypoint
from core.pipeline.errors import Interrupted, PipelineError

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

COUNT = 48


@pytest.fixture
def data():
    """Bright images are positive: something that any network learns in a few steps."""
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, COUNT)
    images = (60 + 120 * labels[:, None, None, None] + random.integers(0, 40, (COUNT, 32, 32, 1))).astype(np.uint8)
    return images, labels, {"train": np.arange(32), "val": np.arange(32, COUNT)}


def fit(
    make_params, data, seed=1, report=lambda epoch: None, head="linear", store=None, stop=lambda: False,
    progress=lambda images, text: None, minutes=5.0, features=None, backbone="shufflenet_v2_x0_5", **changes,
):  # fmt: skip
    images, labels, rows = data
    changes = {"epochs": 3, "batch_size": 8, "lr": 0.001, "device": "cpu", "precision": "fp32"} | changes
    cfg = make_params({f"train.{name.replace('__', '.')}": value for name, value in changes.items()}).train
    devices.seed_everything(seed)
    classifier = networks.Classifier(backbone, head, 32)
    callbacks = training.Callbacks(lambda member, epoch: report(epoch), progress, stop)
    arrays = training.Data(images, labels, rows, features)
    return classifier, training.fit(classifier, arrays, cfg, seed, callbacks, store, checkpoint_minutes=minutes)


def losses(classifier, state, data):
    images, labels, rows = data
    classifier.load_state_dict(state)
    probabilities = inference.probabilities(Ensemble([classifier]), images, rows["val"], torch.device("cpu"))[:, 0]
    targets = labels[rows["val"]]
    return -np.mean(targets * np.log(probabilities) + (1 - targets) * np.log(1 - probabilities))


def test_the_weights_of_the_best_epoch_are_returned(make_params, data):
    """The original project kept a reference, and so the last epoch's."""
    epochs = []
    # Labels of validation turned round: what is learned makes the last epoch worse than the first.
    _, labels, rows = data
    labels[rows["val"]] = 1 - labels[rows["val"]]
    classifier, result = fit(make_params, data, report=epochs.append, epochs=6, schedule="plateau")
    last = losses(classifier, {name: value.clone() for name, value in classifier.state_dict().items()}, data)
    assert result.best_epoch == min(epochs, key=lambda epoch: epoch.val_loss) and result.best_epoch.number < 6
    assert losses(classifier, result.best_state, data) == pytest.approx(result.best_epoch.val_loss, rel=1e-4)
    assert last == pytest.approx(epochs[-1].val_loss, rel=0.05) and last > result.best_epoch.val_loss * 1.01


def test_equal_seeds_give_equal_bytes_and_others_not(make_params, data):
    first, again, other = (fit(make_params, data, seed, epochs=1)[1] for seed in (1, 1, 2))
    assert first.best_epoch == again.best_epoch
    assert all(torch.equal(first.best_state[name], again.best_state[name]) for name in first.best_state)
    assert not all(torch.equal(first.best_state[name], other.best_state[name]) for name in first.best_state)


@pytest.mark.slow
def test_training_lowers_the_loss(make_params, data):
    epochs = []
    fit(make_params, data, report=epochs.append, epochs=8, lr=0.003)
    assert min(epoch.train_loss for epoch in epochs) < 0.5 * epochs[0].train_loss


@pytest.mark.slow
def test_it_stops_after_so_many_epochs_without_improvement_and_lowers_the_rate_before(make_params, data):
    epochs = []
    result = fit(
        make_params,
        data,
        report=epochs.append,
        epochs=40,
        lr=0.3,
        early_stopping=4,
        schedule="plateau",
        plateau_patience=1,
    )[1]
    assert result.stopped_early and result.epochs == len(epochs) == result.best_epoch.number + 4 < 40
    # More than one epoch without improvement: from the third on the rate is 0.3 of what it was.
    assert epochs[result.best_epoch.number + 2].lr == pytest.approx(0.3 * epochs[result.best_epoch.number + 1].lr)


def test_the_reported_figures_equal_a_plain_loop_of_torch(make_params, data, monkeypatch):
    """One epoch of the recipe written out: same order, optimiser, BCEWithLogitsLoss, means over images."""
    images, labels, rows = data
    epochs = []
    fit(
        make_params,
        data,
        report=epochs.append,
        epochs=1,
        weight_decay=0.5,
        grad_clip_norm=None,
        augment__geometry="none",
        schedule="plateau",
    )

    devices.seed_everything(1)
    network = networks.Classifier("shufflenet_v2_x0_5", "linear", 32).to(memory_format=torch.channels_last)
    optimiser = NAdam(list(network.parameters()), 0.001, 0.5)
    criterion = nn.BCEWithLogitsLoss()
    order = rows["train"][torch.randperm(32, generator=torch.Generator().manual_seed(100_004)).numpy()]
    total = num_correct = 0.0
    for start in range(0, 32, 8):
        batch = order[start : start + 8]
        targets = torch.tensor(labels[batch], dtype=torch.float32)
        logits = network(torch.tensor(images[batch]).permute(0, 3, 1, 2))
        loss = criterion(logits, targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total += loss.item() * 8
        num_correct += ((logits > 0) == (targets > 0.5)).sum().item()
    network.eval()
    with torch.no_grad():
        val_logits = network(torch.tensor(images[rows["val"]]).permute(0, 3, 1, 2))
    targets = torch.tensor(labels[rows["val"]], dtype=torch.float32)
    assert epochs[0].train_loss == pytest.approx(total / 32, rel=1e-5)
    assert epochs[0].train_accuracy == num_correct / 32
    assert epochs[0].val_loss == pytest.approx(criterion(val_logits, targets).item(), rel=1e-4)
    assert epochs[0].val_accuracy == pytest.approx(((val_logits > 0) == (targets > 0.5)).double().mean().item())


class Unrepeatable(torch.autograd.Function):
    """An operation the backward pass of which torch warns about, as the one of VGG's adaptive pooling on a GPU."""

    @staticmethod
    def forward(context, values):
        return values * 1.0

    @staticmethod
    def backward(context, gradient):
        return gradient.clone().put_(torch.tensor([0]), gradient.flatten()[:1])


def test_a_network_that_torch_warns_about_is_recorded_even_if_it_resumes_after_its_last_step(
    make_params, data, tmp_path, monkeypatch
):
    assert fit(make_params, data, epochs=1)[1].nondeterministic == ()
    forward = networks.Classifier.forward
    monkeypatch.setattr(networks.Classifier, "forward", lambda self, images: Unrepeatable.apply(forward(self, images)))
    store = checkpoints.Store(tmp_path)
    assert fit(make_params, data, epochs=1, store=store)[1].nondeterministic == ("put_",)
    assert fit(make_params, data, epochs=1, store=store)[1].nondeterministic == ("put_",)


@pytest.mark.slow
def test_fp16_scales_the_loss_skips_steps_that_overflow_and_resumes_to_the_same_bytes(make_params, data, tmp_path):
    changes = {"precision": "fp16", "reproducible": "machine", "epochs": 6, "lr": 0.003}
    epochs = []
    expected = fit(make_params, data, report=epochs.append, **changes)[1]
    assert epochs[-1].train_loss < 0.9 * epochs[0].train_loss
    store, steps = checkpoints.Store(tmp_path), []
    stop = lambda: len(steps) >= 9  # noqa: E731
    with pytest.raises(Interrupted):
        fit(make_params, data, store=store, stop=stop, progress=lambda images, text: steps.append(images), **changes)
    scaler = store.load().facts["scaler"]
    assert scaler["scale"] < 2**16 or scaler["_growth_tracker"] == 9
    resumed = fit(make_params, data, store=store, **changes)[1]
    assert all(torch.equal(expected.best_state[name], resumed.best_state[name]) for name in expected.best_state)


def test_a_frozen_backbone_stays_as_it_was_to_its_running_means(make_params, data):
    devices.seed_everything(1)
    before = networks.Classifier("shufflenet_v2_x0_5", "linear", 32).state_dict()
    after = fit(make_params, data, freeze_backbone=True)[1].best_state
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"network.fc.weight", "network.fc.bias"}


def backbone_images(monkeypatch):
    """A list that grows by the number of images of each call of a network of 32 x 32 pixels."""
    counts = []
    forward = networks.Classifier.forward
    monkeypatch.setattr(
        networks.Classifier, "forward", lambda self, images: counts.append(len(images)) or forward(self, images)
    )
    return counts


@pytest.mark.parametrize(("geometry", "views"), [("none", 1), ("d4", frozen.VIEWS)])
def test_a_frozen_backbone_sees_each_view_of_an_image_once(make_params, data, monkeypatch, geometry, views):
    counts = backbone_images(monkeypatch)
    fit(make_params, data, epochs=6, freeze_backbone=True, augment__geometry=geometry)
    # 32 images to train on, 16 of validation, one to build the network, one to measure the features
    assert sum(counts) == views * 32 + 16 + 2


@pytest.mark.parametrize("head", ["linear", "selu"])
def test_a_frozen_training_without_augmentation_equals_a_plain_loop_over_images(make_params, data, head):
    images, labels, rows = data
    epochs = []
    settings = {"grad_clip_norm": None, "augment__geometry": "none", "schedule": "plateau", "lr": 0.01}
    _, result = fit(make_params, data, report=epochs.append, head=head, epochs=3, freeze_backbone=True, **settings)

    devices.seed_everything(1)
    network = networks.Classifier("shufflenet_v2_x0_5", head, 32).eval()
    optimiser, criterion = NAdam(list(network.head.parameters()), 0.01, 0.0), nn.BCEWithLogitsLoss()
    tensor, targets = torch.tensor(images).permute(0, 3, 1, 2), torch.tensor(labels, dtype=torch.float32)
    for number in range(1, 4):
        network.head.train()
        generator = torch.Generator().manual_seed(100_003 + number)
        total, val = 0.0, torch.tensor(rows["val"])
        for batch in torch.tensor(rows["train"])[torch.randperm(32, generator=generator)].split(8):
            loss = criterion(network(tensor[batch]), targets[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item() * 8
        assert epochs[number - 1].train_loss == pytest.approx(total / 32, rel=1e-4)
        with torch.no_grad():
            assert epochs[number - 1].val_loss == pytest.approx(
                criterion(network.eval()(tensor[val]), targets[val]).item(), rel=1e-4
            )
    if result.best_epoch.number == 3:
        assert torch.allclose(next(iter(network.head.parameters())), list(result.best_state.values())[-2], atol=1e-4)


def test_stored_features_are_used_by_another_training_and_not_by_another_backbone(
    make_params, data, monkeypatch, tmp_path
):
    counts = backbone_images(monkeypatch)
    first = fit(make_params, data, features=tmp_path / "f", freeze_backbone=True, epochs=2)[1]
    assert sum(counts) == 2 * 32 + 16 + 2
    again = fit(make_params, data, features=tmp_path / "f", freeze_backbone=True, epochs=2)[1]
    fit(make_params, data, features=tmp_path / "f", freeze_backbone=True, epochs=2, lr=0.01, head="selu")
    assert sum(counts) == 2 * 32 + 16 + 3 * 2  # two more of each network, to build it and to measure its features
    assert all(torch.equal(first.best_state[name], again.best_state[name]) for name in first.best_state)
    fit(make_params, data, seed=2, features=tmp_path / "f", freeze_backbone=True, epochs=2)
    assert sum(counts) == 2 * (2 * 32 + 16) + 4 * 2


def test_a_frozen_training_continues_with_the_same_bytes(make_params, data, tmp_path):
    uninterrupted = fit(make_params, data, head="selu", freeze_backbone=True)[1]
    store, steps = checkpoints.Store(tmp_path), []
    with pytest.raises(Interrupted):
        fit(make_params, data, head="selu", freeze_backbone=True, store=store, stop=lambda: len(steps) >= 6,
            progress=lambda images, text: steps.append(images))  # fmt: skip
    assert store.paths()
    resumed = fit(make_params, data, head="selu", freeze_backbone=True, store=store)[1]
    assert resumed.best_epoch == uninterrupted.best_epoch
    assert all(
        torch.equal(resumed.best_state[name], uninterrupted.best_state[name]) for name in uninterrupted.best_state
    )


def test_a_stop_is_heeded_while_features_are_computed(make_params, data):
    with pytest.raises(Interrupted, match="after epoch 0, step 0"):
        fit(make_params, data, freeze_backbone=True, stop=lambda: True)


LARGE = ["vgg11", "densenet121", "convnext_tiny", "vit_b_16", "swin_t"]


@pytest.mark.parametrize(
    "backbone", ["squeezenet1_1", "resnet18", *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE),
                 "timm/tf_efficientnet_lite0", "timm/vit_tiny_patch16_224", "timm/mobilenetv3_small_050"],
)  # fmt: skip
@pytest.mark.parametrize("head", ["linear", "selu"])
def test_the_logit_of_every_kind_of_network_is_that_of_its_head_alone(make_params, backbone, head):
    torch.manual_seed(0)
    classifier = networks.Classifier(backbone, head, 64).eval()
    images = np.random.RandomState(0).randint(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    cfg = make_params({"train.augment.geometry": "none"}).train
    loader = batches.ImageLoader(images, torch.device("cpu"))
    rows = {"train": np.arange(3), "val": np.arange(0)}
    features = frozen.FrozenFeatures(classifier, loader, rows, cfg, nullcontext(), None, lambda: None)
    with torch.inference_mode():
        logits = features.head.eval()(next(features.loader(0).stream([np.arange(3)])))
        expected = classifier(torch.from_numpy(images).permute(0, 3, 1, 2))
    assert torch.allclose(logits, expected, atol=1e-5)


@pytest.mark.slow
def test_the_weight_of_positives_moves_the_probabilities_up(make_params, data):
    images, _, rows = data
    means = []
    for weight in (1.0, 20.0):
        classifier, _ = fit(make_params, data, epochs=1, pos_weight=weight)
        means.append(inference.probabilities(Ensemble([classifier]), images, rows["train"], torch.device("cpu")).mean())
    assert means[1] > means[0]


@pytest.mark.slow
def test_clipping_and_weight_decay_reach_the_optimiser(make_params, data, monkeypatch):
    calls = []
    clip = lambda parameters, norm: calls.append((sum(p.grad.numel() for p in parameters), norm))  # noqa: E731
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", clip)
    (network, plain), (_, decayed) = (
        fit(make_params, data, epochs=2, grad_clip_norm=0.5, weight_decay=decay) for decay in (0.0, 0.5)
    )
    assert set(calls) == {(sum(parameter.numel() for parameter in network.parameters()), 0.5)}
    name = "network.fc.weight"
    assert not torch.equal(plain.best_state[name], decayed.best_state[name])


def test_a_loss_that_is_no_number_ends_the_training_and_names_the_epoch(make_params, data, monkeypatch):
    monkeypatch.setattr(
        training, "binary_cross_entropy_with_logits", lambda logit, target, pos_weight: logit.sum() * math.nan
    )
    with pytest.raises(
        PipelineError, match=r"At epoch 1, step 1 of 4 the loss .* became NaN or infinite: lower train\.lr"
    ):
        fit(make_params, data)


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(PipelineError, match=r"train\.device is cuda:99"):
        devices.get_device("cuda:99")


def test_bf16_autocast_trains_too(make_params, data, monkeypatch):
    dtypes = set()
    forward = networks.Classifier.forward

    def spied(self, images):
        dtypes.add(torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu"))
        return forward(self, images)

    monkeypatch.setattr(networks.Classifier, "forward", spied)
    result = fit(make_params, data, epochs=1, precision="bf16")[1]
    assert torch.bfloat16 in dtypes
    assert math.isfinite(result.best_epoch.val_loss) and result.best_state["network.fc.weight"].dtype == torch.float32


def test_the_whole_set_is_read_once_per_epoch_and_no_second_time(make_params, data, monkeypatch):
    read_rows = []
    read = batches.ImageLoader._read
    monkeypatch.setattr(batches.ImageLoader, "_read", lambda self, rows: read_rows.append(rows) or read(self, rows))
    fit(make_params, data, epochs=2)
    counts = np.bincount(np.concatenate(read_rows), minlength=COUNT)
    assert (counts == 2).all()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_loss_images_per_second_and_time_left(make_params, data, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    with entrypoint.progress_bar(64) as update:
        fit(make_params, data, epochs=2, progress=update)
    assert re.search(r"\d+/64 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+ images/s, epoch [12]/2, loss \d\.\d+", screen.getvalue())


def test_what_is_no_terminal_gets_no_bar(make_params, data, capsys):
    with entrypoint.progress_bar(32) as update:
        fit(make_params, data, epochs=1, progress=update)
    assert capsys.readouterr().err == ""


def test_every_training_batch_is_augmented_and_no_validation_batch(make_params, data, monkeypatch):
    sizes = []
    augment = batches.augment
    monkeypatch.setattr(batches, "augment", lambda *args: sizes.append(len(args[0])) or augment(*args))
    fit(make_params, data, epochs=2)
    assert sum(sizes) == 2 * 32


@pytest.mark.slow
def test_the_rate_follows_the_validation_loss_and_not_that_of_training(make_params, data):
    _, labels, rows = data
    labels[rows["val"]] = 1 - labels[rows["val"]]  # so it rises while that of training falls
    epochs = []
    fit(make_params, data, report=epochs.append, epochs=8, schedule="plateau", plateau_patience=0)
    assert epochs[-1].train_loss < epochs[0].train_loss and epochs[-1].lr < 0.1 * epochs[0].lr


@pytest.mark.slow
def test_the_rate_rises_for_an_epoch_and_falls_along_a_cosine_to_0(make_params, data, monkeypatch):
    rates = []
    step = NAdam.step
    monkeypatch.setattr(NAdam, "step", lambda self: rates.append(self.param_groups[0]["lr"]) or step(self))
    fit(make_params, data, epochs=4, lr=0.01, schedule="cosine")  # four steps an epoch
    expected = [0.01 * min(1, (at + 1) / 4) * (1 + math.cos(math.pi * at / 16)) / 2 for at in range(16)]
    assert rates == pytest.approx(expected) and 0.001 < rates[0] < max(rates) and rates[-1] < 0.0002


def test_one_image_or_none_to_train_on_is_said(make_params, data):
    images, labels, rows = data
    with pytest.raises(PipelineError, match="1 image to train on"):
        fit(make_params, (images, labels, rows | {"train": rows["train"][:1]}))


def after(steps):
    """A wish to stop that comes with that many steps done."""
    calls = iter(range(1, 1_000_000))
    return lambda: next(calls) >= steps


def facts(result, epochs):
    return result.best_epoch, result.epochs, [tuple(epoch) for epoch in epochs]


# Four steps an epoch: within the first epoch, at the end of its last step, within a later one, and again and again.
STOPS = ([2], [4], [7], [1, 1, 3, 5, 1])


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [{"schedule": "plateau", "plateau_patience": 0}, {"schedule": "cosine"}])
def test_a_training_that_was_stopped_ends_with_the_same_bytes(make_params, data, tmp_path, schedule):
    # Dropout draws from torch's own random state; the rate falls from the second epoch without improvement on.
    rules = {"epochs": 5, "lr": 0.1, "augment__brightness": 0.1} | schedule
    epochs: list = []
    expected = fit(make_params, data, report=epochs.append, head="selu", **rules)[1]
    assert len({epoch.lr for epoch in epochs}) > 1

    for number, stops in enumerate(STOPS):
        folder = tmp_path / str(number)
        for steps in stops:
            with checkpoints.opened(folder, "a", "m") as store, pytest.raises(Interrupted, match="again to resume, or"):
                fit(make_params, data, head="selu", store=store, stop=after(steps), **rules)
            torch.manual_seed(99)
        resumed_epochs: list = []
        with checkpoints.opened(folder, "a", "m") as store:
            result = fit(make_params, data, report=resumed_epochs.append, head="selu", store=store, **rules)[1]
        assert facts(result, resumed_epochs) == facts(expected, epochs), stops
        assert save(result.best_state) == save(expected.best_state), stops


def resumed(make_params, data, folder, **rules):
    with checkpoints.opened(folder, "a", "m") as store:
        if store.load() is None:
            with pytest.raises(Interrupted):
                fit(make_params, data, head="selu", store=store, stop=after(6), **rules)
            torch.manual_seed(99)
        return fit(make_params, data, head="selu", store=store, **rules)[1]


@pytest.mark.long
@pytest.mark.slow  # it compiles
def test_a_compiled_training_ends_with_the_same_bytes_too_and_sees_the_losses_of_a_plain_one(
    make_params, data, tmp_path
):
    rules = {"compile": True, "reproducible": "machine", "backbone": "resnet18"}  # few operations, compiled quickly
    expected = fit(make_params, data, head="selu", **rules)[1]
    assert save(resumed(make_params, data, tmp_path, **rules).best_state) == save(expected.best_state)
    # At a small rate, where rounding does not grow, and without dropout, which draws in another way once compiled.
    plain, compiled = (
        fit(make_params, data, epochs=1, lr=1e-6, **rules | {"compile": value})[1].best_epoch for value in (False, True)
    )
    assert compiled.train_loss == pytest.approx(plain.train_loss, rel=1e-3)
    assert compiled.val_loss == pytest.approx(plain.val_loss, rel=1e-3) and compiled != plain


@pytest.mark.slow
def test_a_checkpoint_from_before_the_compiler_came_is_not_used(make_params, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    expected = fit(make_params, data, epochs=2)[1]
    with checkpoints.opened(tmp_path, "a", "m") as store:
        with pytest.raises(Interrupted):
            fit(make_params, data, epochs=2, store=store, stop=after(2))
        result = fit(make_params, data, epochs=2, store=store, compile=True, reproducible="machine")[1]
    assert save(result.best_state) == save(expected.best_state)
    assert "checkpoint is not used: a compiler" in capsys.readouterr().err


def test_a_training_that_was_done_but_for_its_outputs_is_not_done_again(make_params, data, tmp_path, monkeypatch):
    with checkpoints.opened(tmp_path, "a", "m") as store:
        first = fit(make_params, data, store=store)[1]
    monkeypatch.setattr(training.Trainer, "train_step", None)
    with checkpoints.opened(tmp_path, "a", "m") as store:
        again = fit(make_params, data, store=store)[1]
    assert save(again.best_state) == save(first.best_state) and again[1:] == first[1:]


def test_a_checkpoint_is_written_after_each_epoch_and_so_many_minutes(make_params, data, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(checkpoints.Store, "save", lambda self, epoch, step, checkpoint: saved.append((epoch, step)))
    with checkpoints.opened(tmp_path, "a", "m") as store:
        fit(make_params, data, store=store, epochs=2)
        assert saved == [(1, 0), (2, 0)]
        saved.clear()
        clock = iter(range(0, 100_000, 70))  # seconds: each look at the clock is 70 s after the one before
        monkeypatch.setattr(training.time, "monotonic", lambda: next(clock))
        fit(make_params, data, store=store, epochs=1, minutes=2)
    assert saved == [(0, 2), (0, 4), (1, 0)]  # a step takes 70 s, and 140 are more than 120


@pytest.mark.slow
def test_training_draws_from_no_random_state_that_a_checkpoint_lacks(make_params, data):
    before = random.getstate(), np.random.get_state()[1].tobytes()
    fit(make_params, data, head="selu", augment__brightness=0.1, augment__contrast=0.1)
    assert (random.getstate(), np.random.get_state()[1].tobytes()) == before


def test_a_loss_that_becomes_no_number_leaves_the_last_good_checkpoint(make_params, data, tmp_path, monkeypatch):
    plain = training.binary_cross_entropy_with_logits
    calls = iter(range(1, 100))

    def spoilt(logit, target, pos_weight):
        return plain(logit, target, pos_weight=pos_weight) * (math.nan if next(calls) == 8 else 1)

    # Validation asks for the loss once an epoch, so the eighth call is step 3 of epoch 2.
    monkeypatch.setattr(training, "binary_cross_entropy_with_logits", spoilt)
    with checkpoints.opened(tmp_path, "a", "m") as store:
        with pytest.raises(PipelineError, match="At epoch 2, step 3 of 4 .* The last good checkpoint is kept"):
            fit(make_params, data, store=store)
        checkpoint = store.load()
    assert len(checkpoint.facts["epochs"]) == 1
    assert all(value.isfinite().all() for value in checkpoint.tensors.values())


def test_weights_that_are_no_numbers_are_never_saved(make_params, data, tmp_path, monkeypatch):
    """A loss may still be finite when the step that it asks for is not."""

    def spoil(parameters, norm):
        next(iter(parameters)).grad.fill_(math.inf)

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", spoil)
    with checkpoints.opened(tmp_path, "a", "m") as store:
        with pytest.raises(PipelineError, match="At epoch 1, step 1 of 4"):
            fit(make_params, data, store=store, stop=after(1))
        assert store.load() is None


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), None])
def test_too_little_memory_names_the_parameter_to_lower(make_params, data, monkeypatch, error):
    def forward(self, images):
        if error:
            raise error
        return torch.empty(1 << 50)  # what torch itself says on the CPU

    monkeypatch.setattr(networks.Classifier, "forward", forward)
    classifier = networks.Classifier.__new__(networks.Classifier)
    nn.Module.__init__(classifier)
    classifier.layer = nn.Linear(1, 1)
    classifier.mean = torch.zeros(3)
    images, labels, rows = data
    rules = make_params({"train.batch_size": 8, "train.device": "cpu"}).train
    with pytest.raises(PipelineError, match=r"lower train\.batch_size \(8\) .* allocate"):
        training.fit(classifier, training.Data(images, labels, rows), rules, 1)
    classifier.description = {}
    with pytest.raises(PipelineError, match=r"train\.device to cpu"):
        inference.probabilities(Ensemble([classifier]), images, rows["val"], torch.device("cpu"))
