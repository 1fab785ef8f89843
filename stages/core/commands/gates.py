"""What a change is held to before it is merged: that its lock is fresh, its run repeatable, its result no worse."""

import re
from typing import Annotated, Any

import pandas as pd
from pydantic import Field, ValidationError

from core.commands import comparison
from core.pipeline import files, yaml12
from core.pipeline.errors import Mistake, some
from core.pipeline.params import Section

LIMITS = "gates.yaml"
FRESH = "Data and pipelines are up to date"
Figure = Annotated[str, Field(pattern=r"^\w+(\.\w+)+$")]


class Limits(Section):
    """``floors`` and ``tolerance`` of figures, each named as evaluate.test.roc_auc; ``accepted`` advisories."""

    floors: dict[Figure, float]
    tolerance: dict[Figure, Annotated[float, Field(ge=0)]]
    accepted: dict[str, str]


def limits(path: str = LIMITS) -> Limits:
    """Read gates.yaml. Raises Mistake."""
    try:
        return Limits.model_validate(yaml12.load(files.there(path).read_text(encoding="utf-8")))
    except yaml12.YAMLError as error:
        raise Mistake(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        fault = error.errors()[0]
        raise Mistake(f"{path}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}") from None


def figure(metrics: dict[str, Any], name: str) -> float | None:
    """A figure by its name; the value of one that has an interval. Raises Mistake where there is none."""
    found: Any = metrics
    for key in name.split("."):
        if not isinstance(found, dict) or key not in found:
            raise Mistake(f"{LIMITS}: metrics/ has no figure {name}")
        found = found[key]
    if isinstance(found, dict):
        found = found.get("value")
    return found


def stale(said: str) -> list[str]:
    """The faults that ``dvc repro --allow-missing --dry`` tells of: its exit status is 0 all the same."""
    stages = re.findall(r"(?:Running stage|failed to reproduce) '(.+?)'", said)
    if stages or FRESH not in said:
        what = f"{some(stages, 10)} would run" if stages else " ".join(said.split())
        return [f"dvc.lock is behind code, parameters or data: {what}. Run dvc repro and commit what changed"]
    return []


def other_bytes(committed: dict[str, Any], made: dict[str, Any], stages: list[str]) -> list[str]:
    """The outputs of ``stages`` whose hash differs between two contents of dvc.lock."""
    faults = []
    for stage in stages:
        hashes = [
            {output["path"]: output["md5"] for output in lock["stages"].get(stage, {}).get("outs", [])}
            for lock in (committed, made)
        ]
        differ = sorted(path for path in hashes[0] | hashes[1] if hashes[0].get(path) != hashes[1].get(path))
        faults += [f"{stage} gives another {path} than dvc.lock has" for path in differ]
    return faults


def far(committed: dict[str, Any], made: dict[str, Any], tolerance: dict[str, float]) -> list[str]:
    """The figures of a run that are farther from the committed ones than they may be."""
    faults = []
    for name, most in tolerance.items():
        old, new = figure(committed, name), figure(made, name)
        if old is None or new is None or abs(new - old) > most:
            faults.append(f"{name} is {_text(new)} here and {_text(old)} as committed: more than {most:g} apart")
    return faults


def below(metrics: dict[str, Any], floors: dict[str, float]) -> list[str]:
    """The figures under their floors; one that is not defined is."""
    found = {name: figure(metrics, name) for name in floors}
    return [
        f"{name} is {_text(value)}, and its floor in {LIMITS} is {floors[name]:g}"
        for name, value in found.items()
        if value is None or value < floors[name]
    ]


def worse(measured: pd.DataFrame, target: str) -> list[str]:
    """The measures by which the second run of comparison.measure can be told apart as the worse one."""
    lost = measured["differ"] & ((measured["difference"] > 0) == measured["measure"].isin(comparison.LESS_IS_BETTER))
    return [
        f"{row['measure']} is {row['second']:.3f}, and {row['first']:.3f} on {target}: worse by more than chance, "
        f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        for row in measured[lost.fillna(False)].to_dict("records")
    ]


def _text(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"
