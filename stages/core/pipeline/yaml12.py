"""Read YAML 1.2, as DVC does, with PyYAML's safe loader, which reads YAML 1.1 by default.

In YAML 1.1, ``1e-06`` (which DVC writes) is a string, ``1:30`` is 90, ``on`` is true and ``017`` is 15, and a duplicate
key silently overwrites the first one. Here, numbers, booleans and null follow the core schema of YAML 1.2 (YAML 1.2.2,
section 10.3.2), and a duplicate key is an error.
"""

import re
from collections.abc import Callable
from typing import Any, ClassVar

from core.pipeline import messages

import yaml

YAMLError, MarkedYAMLError = yaml.YAMLError, yaml.MarkedYAMLError
PREFIX = "tag:yaml.org,2002:"
SCALARS = (  # name, pattern, and the first characters
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
     "-+.0123456789"),
    ("merge", r"<<", "<"),
)  # fmt: skip
CONVERT: dict[str, Callable[[str], bool | int | float]] = {
    "bool": {"true": True, "false": False}.__getitem__,
    "int": lambda text: int(text, {"0o": 8, "0x": 16}.get(text[:2], 10)),
    "float": lambda text: float(text.replace(".inf", "inf").replace(".nan", "nan")),
}


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """SafeLoader with the resolvers and constructors that are added below instead of YAML 1.1's. Other tags are
    errors."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}
    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        tag: yaml.SafeLoader.yaml_constructors[tag]
        for tag in (None, *(f"{PREFIX}{name}" for name in ("null", "str", "seq")))
    }


def load(text: str) -> Any:
    """The content of a document. Raises YAMLError."""
    return yaml.load(text, _Loader)  # a subclass of SafeLoader: it constructs plain values only


def _scalar(loader: _Loader, node: yaml.ScalarNode) -> bool | int | float:
    text, name = str(loader.construct_scalar(node)), str(node.tag).removeprefix(PREFIX)
    try:
        return CONVERT[name](text.lower())
    except (ValueError, LookupError):  # an explicit tag: !!int x
        raise _error(messages.NOT_OF_ITS_TAG.format(text=text, tag=name), node) from None


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys: set[Any] = set()
    for key_node in (key_node for key_node, _ in node.value if key_node.tag != f"{PREFIX}merge"):
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float | bool | None):
            raise _error(messages.NOT_A_SCALAR, key_node)
        if key in keys:
            raise _error(messages.DUPLICATE_KEY.format(key=key), key_node)
        keys.add(key)
    loader.flatten_mapping(node)
    return dict(loader.construct_mapping(node, deep=True))


def _error(problem: str, node: yaml.Node) -> yaml.YAMLError:
    return MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


for _name, _pattern, _first in SCALARS:
    _Loader.add_implicit_resolver(f"{PREFIX}{_name}", re.compile(rf"^(?:{_pattern})$"), list(_first))
for _name in CONVERT:
    _Loader.add_constructor(f"{PREFIX}{_name}", _scalar)
_Loader.add_constructor(f"{PREFIX}map", _mapping)
