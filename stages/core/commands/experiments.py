"""The workspace, commits and experiments as one table: what was changed, and the figures on the test set."""

import json
from typing import Any

from core.commands import revisions
from core.pipeline import params

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

METRICS = "metrics/evaluate.json"
WIDTH = 120  # characters of a line
NAME_WIDTH = 24  # characters; longer names are wrapped
FIGURES = ("ROC AUC (95 % interval)", "sensitivity", "specificity")


def table(commits: list[dict[str, Any]], target: str, rev: str) -> str:
    """``commits`` as ``dvc exp show --json`` lists them. Parameters of experiments and of the workspace are compared
    with those of their commit, and commits with ``target``, a branch, tag or commit whose hash is ``rev``: several
    branches can be at one commit, and DVC names one of them."""
    first, *others = commits
    head = others[0] if others else first
    base = next((entry for entry in others if entry["rev"] == rev), head)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=True)
    table.add_column("experiment", max_width=NAME_WIDTH, overflow="fold")
    table.add_column("changed parameters", ratio=1, overflow="fold")
    for name in FIGURES:
        table.add_column(name, width=len(name), overflow="fold")
    table.add_row("workspace", *_cells("workspace", first, _params(head)))
    for commit in others:
        name = target if commit["rev"] == rev else _name(commit)
        table.add_row(name, *_cells(name, commit, _params(base)))
        for experiment in commit.get("experiments") or []:
            last, executor = experiment["revs"][0], experiment.get("executor") or {}
            name = experiment.get("name") or _name(last)
            cells = _cells(name, last, _params(commit), executor.get("state", ""))
            table.add_row(Padding(name, (0, 0, 0, 2)), *cells)  # below the commit that it started from
    console = Console(width=WIDTH, color_system=None, markup=False, emoji=False)
    with console.capture() as printed:
        console.print(table)
    lines = [*(line.rstrip() for line in printed.get().splitlines()), ""]
    if any(_params(entry).get("data.source") == "phantom" for entry in others):
        lines.append("Some images are SYNTHETIC (data.source: phantom)")
    return "\n".join([*lines, f"More than chance?  python stages/compare.py {target} NAME", ""])


def _cells(name: str, entry: dict[str, Any], base: dict[str, Any], state: str = "") -> list[str]:
    """The changed parameters and the figures of an entry."""
    values = _params(entry)
    changes = [
        f"{key}={_text(value)}" for key, value in values.items() if base and (key not in base or value != base[key])
    ]
    if state == "failed":
        return [", ".join(changes), f"failed: dvc queue logs {name}"]
    if error := entry.get("error"):
        return [" ".join(str(error.get("msg") or error).split()), "can't be read"]
    return [", ".join(changes), *(_figures(entry) if state in ("", "success") else [state])]


def _name(entry: dict[str, Any]) -> str:
    return str(entry.get("name") or entry["rev"][:7])


def _params(entry: dict[str, Any]) -> dict[str, Any]:
    """The parameters of an entry, with dotted keys; none if they can't be read."""
    return revisions.flat(((entry.get("data") or {}).get("params") or {}).get(params.PATH, {}).get("data") or {})


def _figures(entry: dict[str, Any]) -> list[str]:
    figures = ((entry.get("data") or {}).get("metrics") or {}).get(METRICS, {}).get("data") or {}
    names = ("roc_auc", "roc_auc_ci_low", "roc_auc_ci_high", "sensitivity", "specificity")
    area, low, high, sensitivity, specificity = map(figures.get, names)
    interval = "no interval" if low is None or high is None else f"{low:.3f} to {high:.3f}"
    return ["-" if area is None else f"{area:.3f} ({interval})", _figure(sensitivity), _figure(specificity)]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
