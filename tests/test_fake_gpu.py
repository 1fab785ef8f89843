"""The road of a GPU on a machine without one: torch's fake tensors know their device and refuse to mix devices."""

from core.network import inference, networks, occlusion, ood, ranks, training
from core.network.ensemble import Ensemble

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

GIB = 2**30
IMAGES, SIDE = 20, 32


class Recorder(TorchDispatchMode):
    """The names of the operations on tensors of the fake GPU."""

    def __init__(self, mode):
        super().__init__()
        self.mode, self.operations = mode, set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*tree_map_only(torch.Tensor, self.fake, args), **(kwargs or {}))
        tensors = [value for value in tree_leaves((args, result)) if isinstance(value, FakeTensor)]
        if any(tensor.fake_device.type == "cuda" for tensor in tensors):
            self.operations.add(operation.name().partition(".")[0])
        return result

    def fake(self, tensor):
        """A fake tensor that holds no known value: torch would copy that to the GPU."""
        tensor = tensor if isinstance(tensor, FakeTensor) else self.mode.from_tensor(tensor)
        tensor.constant = None
        return tensor


def without_values(tensor):
    """A stand-in for what reads values: a fake tensor has none. It checks what torch does: NumPy reads only the CPU."""
    assert tensor.device.type == "cpu", "NumPy can't read a tensor of a GPU"
    return np.zeros(tensor.shape, str(tensor.dtype).removeprefix("torch."))


def replace_parameters(module, function, recurse=True):
    """A stand-in for torch's, which swaps the content of parameters: fake tensors refuse that."""
    for child in module.modules():
        for name, parameter in child._parameters.items():
            if parameter is not None:
                child._parameters[name] = nn.Parameter(function(parameter.detach()), parameter.requires_grad)
        child._buffers.update({name: function(buffer) for name, buffer in child._buffers.items() if buffer is not None})
    return module


@pytest.fixture
def gpu(monkeypatch):
    """A made-up GPU, the memory of which ``free`` sets, and a record of the operations on it."""
    mode, memory = FakeTensorMode(allow_non_fake_inputs=True), {"free": 8 * GIB}
    replaced = {
        "is_available": lambda: True, "device_count": lambda: 1, "set_device": lambda device: None,
        "init": lambda: None, "is_bf16_supported": lambda **options: True,
        "mem_get_info": lambda device: (memory["free"], 16 * GIB),
        "get_rng_state": lambda device: torch.zeros(16, dtype=torch.uint8), "set_rng_state": lambda state, device: None,
    }  # fmt: skip
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(FakeTensor, "numpy", without_values, raising=False)
    monkeypatch.setattr(FakeTensor, "item", lambda tensor: tensor.dtype.is_floating_point and 0.5, raising=False)
    monkeypatch.setattr(FakeTensor, "__bool__", lambda tensor: True, raising=False)
    for kind in (int, float):
        monkeypatch.setattr(FakeTensor, f"__{kind.__name__}__", lambda tensor, kind=kind: kind(1), raising=False)
    monkeypatch.setattr(torch, "nonzero", lambda tensor: tensor.new_empty(0, tensor.ndim))
    monkeypatch.setattr(FakeTensor, "tolist", lambda tensor: without_values(tensor).tolist(), raising=False)
    monkeypatch.setattr(nn.Module, "_apply", replace_parameters)
    with mode, Recorder(mode) as recorder:  # it leaves out the driver where torch sees no GPU
        for name, function in replaced.items():
            monkeypatch.setattr(torch.cuda, name, function)
        recorder.memory = memory
        yield recorder


def pixels(channels=3):
    return np.random.default_rng(1).integers(0, 256, (IMAGES, SIDE, SIDE, channels), dtype=np.uint8)


def build(make_params, backbone, **changes):
    cfg = make_params({"train.device": "cuda", "train.batch_size": 8, **changes}).train
    classifier = networks.Classifier(backbone, "linear", SIDE)
    rows = {"train": np.arange(12), "val": np.arange(12, IMAGES)}
    data = training.Data(pixels(), np.arange(IMAGES) % 2, rows)
    context = ranks.DistributedContext()
    return training.Trainer(classifier, data, cfg, 1, training.Callbacks(), None, context, 0, "", 5.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "free", "capability"),
    [("shufflenet_v2_x0_5", 8 * GIB, (8, 0)), ("timm/test_convnext", 1000, (7, 5))],
    ids=["resident, bf16", "streamed, fp16 with a scaler"],
)
def test_an_epoch_and_its_checkpoint_mix_no_devices(gpu, make_params, monkeypatch, backbone, free, capability):
    gpu.memory["free"] = free
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **options: capability >= (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    augment = {f"train.augment.{name}": 0.1 for name in ("brightness", "contrast", "stain")}
    trainer = build(make_params, backbone, **augment, **{"train.augment.geometry": "d4"})
    assert (trainer.loader.resident is not None) == (free > GIB)

    def backward(loss):
        """A stand-in: the backward pass asks the driver."""
        assert loss.device.type == "cuda" and loss.dtype == torch.float32 and loss.shape == ()
        for parameter in trainer.classifier.parameters():
            parameter.grad = torch.zeros_like(parameter)

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    monkeypatch.setattr(torch, "set_rng_state", lambda state: None)
    trainer.train_epoch()
    state = trainer.state
    assert [epoch.number for epoch in state.epochs] == [1] and state.scaler.is_enabled() is (capability < (8, 0))
    assert {value.device.type for value in state.classifier.state_dict().values()} == {"cuda"}
    state.restore(state.checkpoint(trainer.dist), trainer.dist)
    trainer.train_epoch()
    assert {"aten::convolution", "aten::linalg_inv_ex", "aten::binary_cross_entropy_with_logits"} <= gpu.operations
    print("training:", *sorted(gpu.operations))


@pytest.mark.slow
def test_scores_features_distances_and_heatmaps_mix_no_devices(gpu):
    device = torch.device("cuda:0")
    ensemble = Ensemble([networks.Classifier("shufflenet_v2_x0_5", "linear", SIDE) for _ in range(2)])
    for gpu.memory["free"] in (8 * GIB, 1000):
        assert inference.probabilities(ensemble, pixels(), np.arange(9), device).shape == (9, 2)
        scores, features = inference.features(ensemble, pixels(), np.arange(9), device)
        assert scores.shape == (9, 2)
    with _disable_current_modes():  # all of it is on the CPU
        detector = ood.fit(features + 0.0, features + 1.0, ensemble.views(features.shape[1]))
        assert detector.ood_score(features).shape == (9,)

    ensemble.to(device)
    heat = occlusion.heatmaps(ensemble, pixels()[:3], np.array([True, False, True]))
    assert heat.shape == (3, occlusion.GRID, occlusion.GRID)
    print("inference:", *sorted(gpu.operations))


def test_an_operation_on_two_devices_is_refused(gpu):
    """What the other tests rely on."""
    with pytest.raises(RuntimeError, match="found at least two devices|device mismatch|two different devices"):
        torch.zeros(2, device="cuda:0") + torch.zeros(2)
