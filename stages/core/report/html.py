"""The report: all results on one self-contained HTML page, which loads nothing from other files or the network."""

import base64
import re
from pathlib import Path
from typing import Any

from core.pipeline import files, tables
from core.pipeline.text import format_p, format_property
from core.report import plots

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

HERE = Path(__file__).parent
MEASURES = {
    "roc_auc": "ROC AUC", "pr_auc": "PR AUC", "sensitivity": "sensitivity", "specificity": "specificity",
    "precision": "precision", "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "f1": "F1",
    "brier": "Brier score (0 is best)",
}  # fmt: skip


def filled(template: Path, **content: Any) -> str:
    """Render a Jinja2 template. HTML templates can include this package's head.html, and escape what comes from data.

    Raises jinja2.UndefinedError if the template uses a name that ``content`` lacks.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, HERE]), autoescape=template.suffix == ".html",
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"figure": plots.text, "bounds": plots.bounds, "count": _count, "format_p": format_p}
    environment.filters["format_property"] = format_property
    environment.globals |= {"MIN_PATIENTS": tables.MIN_PATIENTS, "TOO_FEW": tables.TOO_FEW}
    return environment.get_template(template.name).render(**content)


def report(figures: dict[str, Any], verdict: str, **content: Any) -> str:
    """The page. ``figures``: the details of each stage, from data/detail/; ``verdict``: the content of verdict.md;
    ``content`` has provenance.json as ``source``."""
    headline, lines, note = read(verdict)
    content |= {"left_out": left_out(content["source"], figures["audit"])}
    return filled(
        HERE / "report.html", **figures, **content, headline=headline, lines=lines, note=note, measures=MEASURES
    )


def left_out(source: dict[str, Any], audit: dict[str, Any] | None) -> dict[str, int]:
    """How many files of the source are not used, by reason: by download (provenance.json), and by prepare. Without an
    audit, there is no source."""
    if audit is None:
        return {}
    return source["left_out"] | ({"can't be decoded": audit["unreadable"]} if audit["unreadable"] else {})


def embedded(path: str | Path) -> dict[str, str]:
    """A PNG to embed in the page: its name, and its content as a data URL."""
    content = base64.b64encode(files.require(path).read_bytes()).decode()
    return {"name": Path(path).stem, "address": f"data:image/png;base64,{content}"}


def by_patient(test: pd.DataFrame, threshold: float) -> list[dict[Any, Any]]:
    """One row per patient: the numbers of images, positives and images predicted positive (``predicted``), the ``mean``
    and the ``max`` probability; highest mean first."""
    table = test.assign(predicted=test["probability"] >= threshold).groupby("patient").agg(
        images=("label", "size"), positives=("label", "sum"), predicted=("predicted", "sum"),
        mean=("probability", "mean"), max=("probability", "max"),
    )  # fmt: skip
    rows: list[dict[Any, Any]] = table.sort_values("mean", ascending=False).reset_index().to_dict("records")
    return rows


def first_rows(wrong: pd.DataFrame, count: int = 20) -> list[dict[Any, Any]]:
    """The first rows of a list of likely wrong labels, for the page."""
    rows: list[dict[Any, Any]] = wrong[:count].to_dict("records")
    return rows


def _count(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def read(verdict: str) -> tuple[str, list[str], str]:
    """The headline, the list items and the final note of metrics/verdict.md, without Markdown marks."""
    plain = re.sub(r"\\(.)", r"\1", re.sub(r"(?<!\\)\*\*", "", verdict))
    lines = re.findall(r"^- (.*)$", plain, re.MULTILINE)
    headline, note = [line for line in plain.splitlines() if line and line[0] not in "#-"]
    return headline, lines, note
