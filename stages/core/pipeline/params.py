"""Read params.yaml: each stage reads the keys that its schema declares (core.pipeline.schemas)."""

from pathlib import Path
from typing import Any, TypeVar

from core.pipeline import messages, yaml12
from core.pipeline.errors import PipelineError
from core.pipeline.schemas.base import Section

from pydantic import ValidationError

PATH = "params.yaml"
Schema = TypeVar("Schema", bound=Section)


def load(schema: type[Schema], path: str | Path = PATH) -> Schema:
    """The keys of params.yaml that ``schema`` declares, checked.

    A stage declares the same keys as under ``params`` in dvc.yaml, so it can't read a parameter that would not make it
    run again. Raises PipelineError: one line for each mistake, with the key, its value and what is allowed.
    """
    return validate(schema, _declared(read(path), schema), path)


def read(path: str | Path = PATH) -> dict[str, Any]:
    """All of params.yaml, not checked. Raises PipelineError if it is missing or no YAML mapping."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PipelineError(messages.no_params(path)) from None
    except UnicodeDecodeError as error:
        raise PipelineError(messages.not_utf8(path, error)) from None
    try:
        values = yaml12.load(text)
    except (yaml12.YAMLError, ValueError) as error:
        raise PipelineError(messages.not_yaml(path, text, error)) from None
    if not isinstance(values, dict):
        raise PipelineError(messages.not_a_mapping(path, values))
    return values


def validate(schema: type[Schema], values: dict[str, Any], path: str | Path) -> Schema:
    """``values`` as ``schema``. Raises PipelineError, with ``path`` in its text."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise PipelineError(messages.wrong_parameters(path, error.errors(), _keys(schema))) from None


def either(own: int | None, common: int) -> int:
    """The seed of a section of params.yaml: its ``own``, or the ``common`` one if its own is null."""
    return common if own is None else own


def _declared(values: dict[str, Any], schema: type[Section]) -> dict[str, Any]:
    """The part of ``values`` that ``schema`` has fields for."""
    part = {}
    for name, field in schema.model_fields.items():
        if name in values:
            kind, value = field.annotation, values[name]
            nested = isinstance(kind, type) and issubclass(kind, Section) and isinstance(value, dict)
            part[name] = _declared(value, kind) if nested else value  # type: ignore[arg-type]
    return part


def _keys(schema: type[Section]) -> set[str]:
    """The names of all fields of a schema and of its sections."""
    inner = [field.annotation for field in schema.model_fields.values()]
    return set(schema.model_fields).union(
        *(_keys(kind) for kind in inner if isinstance(kind, type) and issubclass(kind, Section))
    )
