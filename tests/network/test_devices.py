import pytest
import torch

from core.network import devices
from core.pipeline.errors import Mistake


def test_auto_compiles_long_trainings_on_a_cpu_alone_and_only_where_it_can(chosen, monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    rules = {value: chosen({"train.epochs": 10, "train.batch_size": 10, "train.compile": value}).train
             for value in ("auto", True, False)}  # fmt: skip
    monkeypatch.setattr(torch, "compile", lambda function: function)
    found = [devices.compiles(rules["auto"], images, cpu) for images in (19_999, 20_000)]
    assert found == [False, True] and not devices.compiles(rules["auto"], 20_000, cuda)
    assert devices.compiles(rules[True], 1, cpu) and not devices.compiles(rules[False], 20_000, cpu)

    def broken(function):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nand much more")

    monkeypatch.setattr(torch, "compile", broken)
    assert not devices.compiles(rules["auto"], 20_000, cpu)
    with pytest.raises(Mistake, match=r"train.compile is true.*apt install g\+\+\): InvalidCxx.* found$"):
        devices.compiles(rules[True], 1, cpu)


def test_determinism_is_the_default_and_can_be_given_up():
    devices.repeatable(1, deterministic=False)
    assert torch.backends.cudnn.benchmark and not torch.are_deterministic_algorithms_enabled()
    devices.repeatable(1)
    assert not torch.backends.cudnn.benchmark and torch.are_deterministic_algorithms_enabled()
