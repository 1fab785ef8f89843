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


class Later(ModuleType):
    """Has the attributes ``known``. Any other replaces the stand-ins by the real modules."""

    def __init__(self, name: str, **known: Any) -> None:
        super().__init__(name)
        self.__dict__.update(known, __spec__=PathFinder.find_spec(NAME, torch.__path__))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and (self.__name__, name) != (NAME, "__path__"):  # asked of every module, by inspect
            raise AttributeError(name)
        for known in (NAME, f"{NAME}.utils"):
            if isinstance(sys.modules.get(known), Later):
                del sys.modules[known]
        return getattr(importlib.import_module(self.__name__), name)


class Loaded:
    """Finds the submodules that the real module has imported. Python looks for a submodule once it has its parent's
    path. The stand-in imports the real module when asked for it, and Python would run the submodule a second time."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        known = name.startswith(f"{NAME}.") and name in sys.modules
        return ModuleSpec(name, self) if known else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        pass


def _disable(function: Callable[..., Any], *given: Any, **more: Any) -> Callable[..., Any]:
    return function


def _alone() -> Any:
    if NAME not in sys.modules:
        utils = Later(f"{NAME}.utils", is_compile_supported=lambda device: False)
        sys.modules |= {NAME: Later(NAME, utils=utils, disable=_disable), utils.__name__: utils}
        sys.meta_path.insert(0, Loaded())
    return importlib.import_module("torchvision")


torchvision = _alone()
