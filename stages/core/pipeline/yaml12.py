"""Read YAML 1.2 as DVC reads params.yaml: with the safe loader of ruamel.yaml. A duplicate key is an error.

Unlike there, a date is text: a folder or a class can be called 2020-01-01.
"""

from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import YAMLError as YAMLError


class _Constructor(SafeConstructor):
    pass


_Constructor.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)


def load(text: str) -> Any:
    """The content of a document. Raises YAMLError."""
    reader = YAML(typ="safe", pure=True)
    reader.Constructor = _Constructor
    try:
        return reader.load(text)
    except (ValueError, LookupError) as error:  # an explicit tag: !!int x
        raise YAMLError(str(error)) from None
