"""The workspace, commits and experiments as one table: what was changed, and the figures on the test set."""

import itertools
import json
import textwrap
from typing import Any, NamedTuple

from core.commands import revisions
from core.pipeline import params

METRICS = "metrics/evaluate.json"
WIDTH = 120  # characters of a line
NAME_WIDTH = 24  # characters; longer names are wrapped
HEADER = ("experiment", "changed parameters", "ROC AUC (95 % interval)", "sensitivity", "specificity")
GAP = "  "


class Row(NamedTuple):
    """A line of the table; ``indent`` is 1 for an experiment, which stands below the commit that it started from."""

    name: str
    indent: int
    changes: str
    figures: tuple[str, str, str]


def table(commits: list[dict[str, Any]], target: str, rev: str) -> str:
    """``commits`` as ``dvc exp show --json`` lists them. Parameters of experiments and of the workspace are compared
    with those of their commit, and commits with ``target``, a branch, tag or commit whose hash is ``rev``: several
    branches can be at one commit, and DVC names one of them."""
    first, *others = commits
    head = others[0] if others else first
    base = next((entry for entry in others if entry["rev"] == rev), head)
    rows = [_row("workspace", 0, first, _params(head))]
    for commit in others:
        name = target if commit["rev"] == rev else _name(commit)
        rows.append(_row(name, 0, commit, _params(base)))
        for experiment in commit.get("experiments") or []:
            last = experiment["revs"][0]
            executor = experiment.get("executor") or {}
            name = experiment.get("name") or _name(last)
            rows.append(_row(name, 1, last, _params(commit), executor.get("state", "")))
    synthetic = any(_params(entry).get("data.source") == "phantom" for entry in others)
    notes = ["Some images are SYNTHETIC (data.source: phantom)"] if synthetic else []
    notes.append(f"More than chance?  python stages/compare.py {target} NAME")
    return "\n".join([*_lines(rows), "", *notes, ""])


def _row(name: str, indent: int, entry: dict[str, Any], base: dict[str, Any], state: str = "") -> Row:
    values = _params(entry)
    changes = [
        f"{key}={_text(value)}" for key, value in values.items() if base and (key not in base or value != base[key])
    ]
    if state == "failed":
        return Row(name, indent, ", ".join(changes), (f"failed: dvc queue logs {name}", "", ""))
    if error := entry.get("error"):
        return Row(name, indent, " ".join(str(error.get("msg") or error).split()), ("can't be read", "", ""))
    figures = _figures(entry) if state in ("", "success") else (state, "", "")
    return Row(name, indent, ", ".join(changes), figures)


def _name(entry: dict[str, Any]) -> str:
    return str(entry.get("name") or entry["rev"][:7])


def _params(entry: dict[str, Any]) -> dict[str, Any]:
    """The parameters of an entry, with dotted keys; none if they can't be read."""
    return revisions.flat(((entry.get("data") or {}).get("params") or {}).get(params.PATH, {}).get("data") or {})


def _figures(entry: dict[str, Any]) -> tuple[str, str, str]:
    figures = ((entry.get("data") or {}).get("metrics") or {}).get(METRICS, {}).get("data") or {}
    area, low, high, sensitivity, specificity = (
        figures.get(name) for name in ("roc_auc", "roc_auc_ci_low", "roc_auc_ci_high", "sensitivity", "specificity")
    )
    interval = f" ({low:.3f} to {high:.3f})" if low is not None and high is not None else " (no interval)"
    return _figure(area) + (interval if area is not None else ""), _figure(sensitivity), _figure(specificity)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _lines(rows: list[Row]) -> list[str]:
    """The header and all rows; what is too long for its column goes on in the next line."""
    names = min(NAME_WIDTH, max(len(HEADER[0]), *(len(row.name) + 2 * row.indent for row in rows)))
    widths = [names, 0, *map(len, HEADER[2:])]
    widths[1] = WIDTH - sum(widths) - len(GAP) * (len(widths) - 1)
    lines = [_line(HEADER, widths)]
    for row in rows:
        indent = GAP * row.indent
        cells = [row.name, row.changes, *row.figures]
        wrapped = map(textwrap.wrap, cells, [names - len(indent), *widths[1:]])
        for name, *others in itertools.zip_longest(*wrapped, fillvalue=""):
            lines.append(_line((indent * bool(name) + name, *others), widths))
    return lines


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    return GAP.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
