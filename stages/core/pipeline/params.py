"""Read params.yaml: each stage reads the keys that its schema declares (core.pipeline.schemas)."""

from pathlib import Path
from typing import Any, Literal, TypeVar

from core.pipeline import messages, yaml12
from core.pipeline.errors import PipelineError
from core.pipeline.schemas.base import Section

from pydantic import ValidationError

PATH = "params.yaml"
Schema = TypeVar("Schema", bound=Section)


def load(schema: type[Schema], path: str | Path = PATH) -> Schema:
    """The keys of params.yaml that ``schema`` declares: for a stage, those under ``params`` in dvc.yaml, and no other.
    Raises PipelineError: one line for each mistake, with the key, its value and what is allowed."""
    return validate(schema, read(path), path, extra="ignore")


def read(path: str | Path = PATH) -> dict[str, Any]:
    """All of params.yaml or another YAML file. Raises PipelineError if it is missing or no mapping."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PipelineError(messages.NO_PARAMS.format(path=path)) from None
    except UnicodeDecodeError as error:
        raise PipelineError(messages.not_utf8(path, error)) from None
    try:
        values = yaml12.load(text)
    except yaml12.YAMLError as error:
        raise PipelineError(messages.not_yaml(path, text, error)) from None
    if not isinstance(values, dict):
        content = "nothing" if values is None else repr(values)
        raise PipelineError(messages.NOT_A_MAPPING.format(path=path, content=content))
    return values


def validate(
    schema: type[Schema], values: dict[str, Any], path: str | Path, extra: Literal["forbid", "ignore"] = "forbid"
) -> Schema:
    """``values`` as ``schema``, with ``extra`` keys or not. Raises PipelineError, with ``path`` in its text."""
    try:
        return schema.model_validate(values, extra=extra)
    except ValidationError as error:
        raise PipelineError(messages.wrong_parameters(path, error.errors(), _keys(schema))) from None


def either(own: int | None, common: int) -> int:
    """The seed of a section: its ``own``, or the ``common`` one if its own is null."""
    return common if own is None else own


def _keys(schema: type[Section]) -> set[str]:
    """The names of all fields of a schema and of its sections."""
    kinds = [field.annotation for field in schema.model_fields.values()]
    sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)]
    return set(schema.model_fields).union(*map(_keys, sections))
