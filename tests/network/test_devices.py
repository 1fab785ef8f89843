import os
import subprocess
import sys
import warnings
from types import SimpleNamespace

from core.network import devices, networks
from core.pipeline import pins, provenance
from core.pipeline.errors import PipelineError

import pytest
import torch

import layers

MODES = ("everywhere", "machine", "none")


def test_auto_compiles_long_trainings_on_a_cpu_alone_and_only_where_it_can(make_params, monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    cfgs = {value: make_params({"train.epochs": 10, "train.batch_size": 10, "train.compile": value,
                            "train.reproducible": "machine"}).train
             for value in ("auto", True, False)}  # fmt: skip
    monkeypatch.setattr(torch, "compile", lambda function: function)
    compiled = [devices.should_compile(cfgs["auto"], images, cpu) for images in (19_999, 20_000)]
    assert compiled == [False, True] and not devices.should_compile(cfgs["auto"], 20_000, cuda)
    assert devices.should_compile(cfgs[True], 1, cpu) and not devices.should_compile(cfgs[False], 20_000, cpu)

    def broken(function):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nand much more")

    monkeypatch.setattr(torch, "compile", broken)
    assert not devices.should_compile(cfgs["auto"], 20_000, cpu)
    with pytest.raises(PipelineError, match=r"train.compile is true.*apt install g\+\+\): InvalidCxx.* found$"):
        devices.should_compile(cfgs[True], 1, cpu)


@pytest.mark.parametrize(
    ("reproducible", "deterministic", "pinned"),
    [("everywhere", True, True), ("machine", True, False), ("none", False, False)],
)
def test_equal_bytes_everywhere_are_the_default_and_can_be_given_up(monkeypatch, reproducible, deterministic, pinned):
    monkeypatch.setattr(os, "environ", os.environ.copy())
    before = torch.get_num_threads()
    try:
        devices.seed_everything(1, reproducible, threads=3)
        assert torch.are_deterministic_algorithms_enabled() is deterministic
        assert torch.backends.cudnn.benchmark is not deterministic
        assert pins.is_pinned() is pinned and torch.get_num_threads() == 3
    finally:
        devices.seed_everything(1, threads=before)


def in_process(code: str) -> str:
    """What Python code prints in a process of its own, since torch chooses and imports once."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=layers.STAGES, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.slow
def test_only_a_run_that_gives_up_the_pins_uses_all_instructions_of_the_processor():
    """In a fork each of a process that has only imported torch, since torch chooses once."""
    code = (
        "import os; from core.network import devices, training; import torch\n"
        "for reproducible in ('everywhere', 'machine'):\n"
        "    if not os.fork():\n"
        "        devices.seed_everything(1, reproducible)\n"
        "        print(torch.backends.cpu.get_cpu_capability(), flush=True)\n"
        "        os._exit(0)\n"
        "    os.wait()"
    )
    assert in_process(code).split() == ["AVX2", "AVX512" if torch.cpu._is_avx512_supported() else "AVX2"]


@pytest.mark.slow
def test_the_front_end_of_the_compiler_is_imported_only_by_a_run_that_compiles():
    """It takes as long to import as torch itself. In a process of its own, since another test may have imported it."""
    code = (
        "import pathlib, sys, torch; from core.network import devices, networks, optimiser\n"
        "devices.seed_everything(1)\n"
        "for backbone in ('shufflenet_v2_x0_5', 'timm/test_efficientnet'):\n"
        "    network = networks.build(backbone, 'linear', 32, 'none', pathlib.Path())\n"
        "    network(torch.zeros(2, 3, 32, 32)).sum().backward()\n"
        "    optimiser.NAdam([*network.parameters()], lr=0.1, weight_decay=0.1).step()\n"
        "print('torch._dynamo' in sys.modules)\n"
        "print(torch.compile(torch.neg, backend='eager')(torch.ones(1)).item())\n"
        "print(pathlib.Path(sys.modules['torch._dynamo.utils'].__file__).name)"
    )
    assert in_process(code).split() == ["False", "-1.0", "utils.py"]


@pytest.mark.parametrize(("key", "value"), [("compile", True), ("precision", "bf16"), ("precision", "fp16")])
def test_what_rounds_differently_on_each_processor_is_refused_only_with_equal_bytes_everywhere(make_params, key, value):
    cfgs = {name: make_params({f"train.{key}": value, "train.reproducible": name}).train for name in MODES}
    with pytest.raises(PipelineError, match=rf"train.{key} = {value} on a CPU gives other bytes.* to machine"):
        devices.check(cfgs["everywhere"], torch.device("cpu"))
    devices.check(cfgs["everywhere"], torch.device("cuda"))
    devices.check(cfgs["machine"], torch.device("cpu"))


def test_a_run_says_where_its_bytes_are_promised(make_params, monkeypatch):
    cfgs = {name: make_params({"train.reproducible": name}).train for name in MODES}
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    assert devices.describe_determinism(cfgs["everywhere"], cuda).endswith("the same model of GPU only (NVIDIA H100)")
    assert devices.describe_determinism(cfgs["machine"], cpu).startswith(
        "Equal bytes are promised on this machine only"
    )
    assert devices.describe_determinism(cfgs["none"], cpu).startswith("Two runs give different bytes")
    for avx2, text in ((True, "any x86-64 with AVX2, with any number of cores"), (False, "tolerance in gates.yaml")):
        monkeypatch.setattr(pins, "has_avx2", lambda avx2=avx2: avx2)
        assert text in devices.describe_determinism(cfgs["everywhere"], cpu)


def test_a_network_whose_roots_depend_on_the_processor_withdraws_the_promise(make_params, monkeypatch):
    """benchmarks/backbones.py trains both on an emulated processor: this one of 24 networks ends in other bytes."""
    monkeypatch.setattr(pins, "withdrawn", False)
    cfg, cpu = make_params({}).train, torch.device("cpu")
    networks.Classifier("timm/test_convnext2", "linear", 64)
    assert "any x86-64 with AVX2" in devices.describe_determinism(cfg, cpu)
    networks.Classifier("timm/test_efficientnet_evos", "linear", 64)
    assert "this machine only, because model.backbone takes square roots" in devices.describe_determinism(cfg, cpu)
    assert provenance.machine()["processor"] != pins.CONTRACT


@pytest.mark.parametrize(
    ("gpu", "capability", "expected"),
    [("H100", (9, 0), "bf16"), ("A100", (8, 0), "bf16"), ("T4", (7, 5), "fp16"), ("V100", (7, 0), "fp16"),
     ("P100", (6, 0), "fp32")],
)  # fmt: skip
def test_auto_is_the_precision_of_the_tensor_cores_and_not_an_emulation(monkeypatch, gpu, capability, expected):
    """Torch says that a T4 supports bf16, as it can emulate it, slower than fp32."""
    properties = SimpleNamespace(major=capability[0], minor=capability[1], name=gpu)
    monkeypatch.setattr(torch.version, "hip", None)
    for name, value in {
        "is_available": True, "current_device": 0, "get_device_capability": capability,
        "get_device_properties": properties, "_check_bf16_tensor_supported": True,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda *args, value=value: value)
    assert torch.cuda.is_bf16_supported()
    assert devices.precision("auto", torch.device("cuda:0")) == expected
    assert devices.precision("fp32", torch.device("cuda:0")) == "fp32"
    assert devices.precision("auto", torch.device("cpu")) == "fp32"


def test_fp32_on_a_gpu_rounds_nothing_to_tf32(monkeypatch):
    for name in ("set_device", "init"):
        monkeypatch.setattr(torch.cuda, name, lambda *args: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    backends = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [backend.allow_tf32 for backend in backends]
    try:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        devices.get_device("cuda")
        assert not any(backend.allow_tf32 for backend in backends)
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


def test_operations_without_a_deterministic_implementation_are_recorded_and_other_warnings_shown(recwarn):
    operations = set()
    devices.seed_everything(1)
    with devices.record_nondeterministic(operations):
        for _ in range(2):
            torch.zeros(4).put_(torch.tensor([0, 0]), torch.ones(2))
        warnings.warn("something else", stacklevel=1)
    assert operations == {"put_"} and [str(warning.message) for warning in recwarn] == ["something else"]
