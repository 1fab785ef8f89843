"""Read params.yaml, checked by a typed schema: core.pipeline.sections."""

from pathlib import Path
from typing import Any

from core.pipeline import yaml12
from core.pipeline.errors import Mistake
from core.pipeline.sections import Data, Evaluate, External, Model, Prepare, Report, Section, Seed, Split, Train

from pydantic import BaseModel, ValidationError, create_model

PATH = "params.yaml"


class Params(Section):
    seed: Seed
    data: Data
    prepare: Prepare
    split: Split
    model: Model
    train: Train
    evaluate: Evaluate
    report: Report
    external: External  # of another set, in a folder of its own


def load(*declared: str, path: str | Path = PATH) -> Params:
    """Read and check all of params.yaml, and return only the ``declared`` keys, such as ``seed`` or ``data.unusable``.

    A stage declares the same keys here as under ``params`` in dvc.yaml. Other keys are absent from the result, so a
    stage can't read a parameter that would not make it run again. A section that it does not declare can be missing.
    Raises Mistake: one line per error, with the key, its value and what is allowed.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Mistake(f"{path} is missing: run this in the top folder of the repository") from None
    except UnicodeDecodeError as error:
        raise Mistake(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None
    try:
        given = yaml12.load(text)
    except yaml12.MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = str(error.problem or error.context).splitlines()[0]
        raise Mistake(f"{path}{where}: {problem}") from None
    except (yaml12.YAMLError, ValueError) as error:
        raise Mistake(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict):
        raise Mistake(
            f"{path} must be a mapping of keys to values, but contains {'nothing' if given is None else given!r}"
        )
    try:
        known = {*given, *(key.partition(".")[0] for key in declared)}
        there = {name: (field.annotation, ...) for name, field in Params.model_fields.items() if name in known}
        schema: type[Section] = create_model("There", __base__=Section, **there)  # type: ignore[call-overload]
        checked = schema.model_validate(given)
    except ValidationError as errors:
        raise Mistake("\n".join(f"{path}: {line}" for line in _explain(errors))) from None
    return _only(checked, sorted(declared))


def either(own: int | None, common: int) -> int:
    """The seed of a section of params.yaml: its ``own``, or the ``common`` one if its own is null."""
    return common if own is None else own


def _explain(errors: ValidationError) -> list[str]:
    """One line for each wrong key."""
    lines: dict[str, str] = {}
    for fault in errors.errors():
        # For a union, pydantic appends the tried member (float, literal[...]) to the location; show only the key.
        place = ".".join(str(step) for step in fault["loc"] if step in _KEYS)
        message = fault["msg"].removeprefix("Value error, ")
        message = message[0].lower() + message[1:]
        if fault["type"] == "missing":
            lines[place] = f"{place} is missing"
        elif fault["type"] == "extra_forbidden":
            place = ".".join(map(str, fault["loc"]))
            lines[place] = f"{place} is not a parameter"
        elif place in lines:
            lines[place] += f", or {message}"
        elif isinstance(fault["input"], dict) and fault["type"] == "value_error":
            lines[place] = f"{place}: {fault['msg'].removeprefix('Value error, ')}"
        else:
            lines[place] = f"{place} = {fault['input']!r}: {message}"
    return list(lines.values())


def _keys(section: type[BaseModel]) -> set[str]:
    inner = [field.annotation for field in section.model_fields.values()]
    return set(section.model_fields).union(
        *(_keys(kind) for kind in inner if isinstance(kind, type) and issubclass(kind, Section))
    )


_KEYS = _keys(Params)


def _only(params: Section, declared: list[str]) -> Params:
    chosen: dict[str, Any] = {}
    for key in declared:
        name, _, inner = key.partition(".")
        section = getattr(params, name)
        if inner:
            known = vars(chosen[name]) if name in chosen else {}
            section = type(section).model_construct(**known | {inner: getattr(section, inner)})
        chosen[name] = section
    return Params.model_construct(**chosen)
