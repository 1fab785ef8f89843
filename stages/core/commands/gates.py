"""The checks of a pull request: dvc.lock is up to date, the run is repeatable, and the result is not worse."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from core.commands import comparison
from core.pipeline import messages, params
from core.pipeline.errors import PipelineError
from core.pipeline.schemas.base import Section
from core.pipeline.text import shorten

import pandas as pd
from pydantic import Field

LIMITS = "gates.yaml"
FRESH = "Data and pipelines are up to date"
Figure = Annotated[str, Field(pattern=r"^\w+(\.\w+)+$")]


class Limits(Section):
    """``floors`` and ``tolerance`` of figures, named like evaluate.test.roc_auc; ``accepted`` security advisories."""

    floors: dict[Figure, float]
    tolerance: dict[Figure, Annotated[float, Field(ge=0)]]
    accepted: dict[str, str]


def limits(path: str = LIMITS) -> Limits:
    """Read gates.yaml. Raises PipelineError if it is not valid."""
    return params.validate(Limits, params.read(path), path)


def figure(metrics: dict[str, Any], name: str) -> float | None:
    """A figure by its name; if it has an interval, its value. Raises PipelineError if there is no such figure."""
    entry: Any = metrics
    for key in name.split("."):
        if not isinstance(entry, dict) or key not in entry:
            raise PipelineError(f"{LIMITS}: metrics/ has no figure {name}")
        entry = entry[key]
    return entry.get("value") if isinstance(entry, dict) else entry


def stale(output: str) -> list[str]:
    """The faults in the output of ``dvc repro --allow-missing --dry``, which exits with 0 even if stages are stale."""
    if stages := re.findall(r"(?:Running stage|failed to reproduce) '(.+?)'", output):
        return [
            f"dvc.lock does not match code, parameters or data: {shorten(stages, 10)} would run. Run dvc repro and "
            "commit the changes"
        ]
    return [] if FRESH in output else [f"DVC can't compare dvc.lock with the files: {' '.join(output.split())}"]


def conflicts(paths: Iterable[Path]) -> list[str]:
    """The files in which git left conflict markers: one line each."""
    lines = [messages.conflict(path, path.read_text(encoding="utf-8", errors="replace")) for path in paths]
    return [line for line in lines if line]


def other_bytes(committed: dict[str, Any], rerun: dict[str, Any], stages: list[str]) -> list[str]:
    """The fault that outputs of ``stages`` have other hashes in a second version of dvc.lock, or nothing."""
    differ, count = [], 0
    for stage in stages:
        old, new = (
            {output["path"]: output["md5"] for output in lock["stages"].get(stage, {}).get("outs", [])}
            for lock in (committed, rerun)
        )
        count += len(old | new)
        differ += [f"{path} of stage {stage}" for path in sorted(old | new) if old.get(path) != new.get(path)]
    return [f"{len(differ)} of {count} outputs differ from dvc.lock, first {differ[0]}"] if differ else []


def other_figure(committed: dict[str, Any], rerun: dict[str, Any]) -> list[str]:
    """The first figure of metrics/ that differs, in the order of the files: one line, or nothing."""
    old, new = (pd.json_normalize(metrics).iloc[0].to_dict() for metrics in (committed, rerun))
    differ = [name for name in old | new if old.get(name) != new.get(name)]
    return [
        f"{len(differ)} of {len(old | new)} figures differ from the commit, first {name}: {new.get(name)} here, "
        f"{old.get(name)} there"
        for name in differ[:1]
    ]


def far(committed: dict[str, Any], rerun: dict[str, Any], tolerance: dict[str, float]) -> list[str]:
    """The figures of a run whose difference from the committed ones is above their tolerance."""
    faults = []
    for name, most in tolerance.items():
        old, new = figure(committed, name), figure(rerun, name)
        if old is None or new is None or abs(new - old) > most:
            faults.append(
                f"{name} is {_text(new)} here and {_text(old)} in the commit; the tolerance in {LIMITS} is {most:g}"
            )
    return faults


def below(metrics: dict[str, Any], floors: dict[str, float]) -> list[str]:
    """The figures that are below their floors or not defined."""
    return [
        f"{name} is {_text(value)}, but its floor in {LIMITS} is {floor:g}"
        for name, floor in floors.items()
        if (value := figure(metrics, name)) is None or value < floor
    ]


def worse(measured: pd.DataFrame, target: str) -> list[str]:
    """The measures in which the second run of comparison.measure is significantly worse."""
    lost = measured["differ"] & ((measured["difference"] > 0) == measured["measure"].isin(comparison.LESS_IS_BETTER))
    return [
        f"{row['measure']} is {row['second']:.3f}, but {row['first']:.3f} on {target}: significantly worse, "
        f"{row['difference']:+.3f} ({row['ci_low']:+.3f} to {row['ci_high']:+.3f})"
        for row in measured[lost.fillna(False)].to_dict("records")
    ]


def _text(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"
