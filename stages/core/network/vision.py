"""Torchvision, imported without torch._dynamo, the front end of torch.compile.

Torchvision imports it for a function that no classification network calls, and torch for the first optimiser, to keep
that from being compiled: nearly half of the time that a stage needs to start. Here a stand-in answers as is right where
nothing is compiled. Whatever else is asked of it, as by torch.compile, comes from the real module, imported then. What
torch has kept from being compiled before that stays as it is: only a network's forward pass is ever compiled here.
"""

import importlib
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

import torch

NAME = "torch._dynamo"


class LazyModule(ModuleType):
    """Has these ``attributes``. Any other replaces the stand-ins by the real modules."""

    def __init__(self, name: str, **attributes: Any) -> None:
        super().__init__(name)
        self.__dict__.update(attributes, __spec__=PathFinder.find_spec(NAME, torch.__path__))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and (self.__name__, name) != (NAME, "__path__"):  # asked of every module, by inspect
            raise AttributeError(name)
        for module in (NAME, f"{NAME}.utils"):
            if isinstance(sys.modules.get(module), LazyModule):
                del sys.modules[module]
        return getattr(importlib.import_module(self.__name__), name)


class LoadedFinder:
    """Finds the submodules that the real module has imported. Python looks for a submodule once it has its parent's
    path. The stand-in imports the real module when asked for it, and Python would run the submodule a second time."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        is_loaded = name.startswith(f"{NAME}.") and name in sys.modules
        return ModuleSpec(name, self) if is_loaded else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        pass


def _disable(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[..., Any]:
    return function


def _import_torchvision() -> Any:
    if NAME not in sys.modules:
        utils = LazyModule(f"{NAME}.utils", is_compile_supported=lambda device: False)
        sys.modules |= {NAME: LazyModule(NAME, utils=utils, disable=_disable), utils.__name__: utils}
        sys.meta_path.insert(0, LoadedFinder())
    return importlib.import_module("torchvision")


torchvision = _import_torchvision()
