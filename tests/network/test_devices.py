import os
import subprocess
import sys

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
    """In a process of its own, since torch chooses once."""
    for reproducible in ("everywhere", "machine"):
        code = (
            "from core.network import devices, training; import torch; "
            f"devices.seed_everything(1, '{reproducible}'); print(torch.backends.cpu.get_cpu_capability())"
        )
        capability = in_process(code)
        widest = "AVX512" if torch.cpu._is_avx512_supported() else "AVX2"
        assert capability.strip() == ("AVX2" if reproducible == "everywhere" else widest)


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


@pytest.mark.parametrize(("key", "value"), [("compile", True), ("precision", "bf16")])
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
