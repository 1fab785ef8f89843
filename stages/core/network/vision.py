"""Import torchvision and timm without torch._dynamo, the front end of torch.compile.

It would take 1.2 of the 2.9 CPU seconds in which a training imports its modules (os.times after the imports and one
optimiser; 2.0 of 4.5 on a slower machine). Both libraries need it for decorators, and for RoIAlign, which no network
for classification has. A stand-in takes its place while they are imported. torch.compile imports the real one later.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

NAME = "torch._dynamo"


def load(library: str) -> Any:
    """The module of a library."""
    if NAME in sys.modules:
        return import_module(library)
    package, utils = ModuleType(NAME), ModuleType(f"{NAME}.utils")
    package.disable = lambda function, *args, **kwargs: function  # type: ignore[attr-defined]
    utils.is_compile_supported = lambda device: False  # type: ignore[attr-defined]
    sys.modules |= {package.__name__: package, utils.__name__: utils}
    try:
        return import_module(library)
    finally:
        del sys.modules[package.__name__], sys.modules[utils.__name__]
