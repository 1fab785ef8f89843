"""Read YAML 1.2, as DVC does, with PyYAML's safe loader, which reads YAML 1.1 by default.

In YAML 1.1, ``1e-06`` (which DVC writes) is a string, ``1:30`` is 90, ``on`` is true and ``017`` is 15, and a duplicate
key silently overwrites the first one. Here, numbers, booleans and null follow the core schema of YAML 1.2 (YAML 1.2.2,
section 10.3.2), and a duplicate key is an error.
"""

import re
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from core.pipeline import messages

import yaml

YAMLError, MarkedYAMLError = yaml.YAMLError, yaml.MarkedYAMLError
ConstructorError = yaml.constructor.ConstructorError
Value = TypeVar("Value")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """SafeLoader with the resolvers and constructors that are added below instead of YAML 1.1's. Other tags are
    errors."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}
    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        tag: yaml.SafeLoader.yaml_constructors[tag]
        for tag in (None, *(f"tag:yaml.org,2002:{name}" for name in ("null", "str", "seq")))
    }


def load(text: str) -> Any:
    """The content of a document. Raises YAMLError."""
    return yaml.load(text, _Loader)  # a subclass of SafeLoader: it constructs plain values only


def _truth(loader: _Loader, node: yaml.ScalarNode) -> bool:
    return _construct({"true": True, "false": False}.__getitem__, loader, node)


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    return _construct(lambda text: int(text, {"0o": 8, "0x": 16}.get(text[:2], 10)), loader, node)


def _number(loader: _Loader, node: yaml.ScalarNode) -> float:
    return _construct(lambda text: float(text.replace(".inf", "inf").replace(".nan", "nan")), loader, node)


def _construct(convert: Callable[[str], Value], loader: _Loader, node: yaml.ScalarNode) -> Value:
    """The value of a scalar. Raises ConstructorError if it does not fit its explicit tag (``!!int x``)."""
    text = str(loader.construct_scalar(node))
    try:
        return convert(text.lower())
    except (ValueError, LookupError):
        kind = str(node.tag).rpartition(":")[2]
        raise ConstructorError(None, None, messages.not_of_its_tag(text, kind), node.start_mark) from None


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float | bool | None):
            raise ConstructorError(None, None, messages.not_a_scalar(), key_node.start_mark)
        if key in seen:
            raise ConstructorError(None, None, messages.duplicate_key(key), key_node.start_mark)
        seen.add(key)
    loader.flatten_mapping(node)
    mapping: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return mapping


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
     "-+.0123456789"),
    ("merge", r"<<", "<"),
):  # fmt: skip
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:bool", _truth)
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _number)
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
