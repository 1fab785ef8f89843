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
    """The keys of params.yaml that ``schema`` declares: for a stage, those under ``params`` in dvc.yaml, and no other.
    Raises PipelineError: one line for each mistake, with the key, its value and what is allowed."""
    return validate(schema, _declared(read(path), schema), path)


def read(path: str | Path = PATH) -> dict[str, Any]:
    """All of params.yaml, not checked. Raises PipelineError if it is missing or no YAML mapping."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PipelineError(messages.NO_PARAMS.format(path=path)) from None
    except UnicodeDecodeError as error:
        raise PipelineError(messages.not_utf8(path, error)) from None
    values = yaml12.parse(text, path)
    if not isinstance(values, dict):
        content = "nothing" if values is None else repr(values)
        raise PipelineError(messages.NOT_A_MAPPING.format(path=path, content=content))
    return values


def validate(schema: type[Schema], values: dict[str, Any], path: str | Path) -> Schema:
    """``values`` as ``schema``. Raises PipelineError, with ``path`` in its text."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise PipelineError(messages.wrong_parameters(path, error.errors(), _keys(schema))) from None


def either(own: int | None, common: int) -> int:
    """The seed of a section: its ``own``, or the ``common`` one if its own is null."""
    return common if own is None else own


def _declared(values: dict[str, Any], schema: type[Section]) -> dict[str, Any]:
    """The part of ``values`` that ``schema`` has fields for."""
    part = {name: values[name] for name in schema.model_fields if name in values}
    for name, section in _sections(schema).items():
        if isinstance(part.get(name), dict):
            part[name] = _declared(part[name], section)
    return part


def _keys(schema: type[Section]) -> set[str]:
    """The names of all fields of a schema and of its sections."""
    return set(schema.model_fields).union(*map(_keys, _sections(schema).values()))


def _sections(schema: type[Section]) -> dict[str, type[Section]]:
    kinds = {name: field.annotation for name, field in schema.model_fields.items()}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Section)}
