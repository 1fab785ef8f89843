"""Read YAML 1.2, as DVC does."""

from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

__all__ = ["MarkedYAMLError", "YAMLError", "load"]


def load(text: str) -> Any:
    """The content of a document. Raises YAMLError."""
    return YAML(typ="safe", pure=True).load(text)
