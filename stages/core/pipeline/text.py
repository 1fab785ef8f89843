"""Numbers and names in words."""

from typing import Any


def pluralise(count: int, thing: str) -> str:
    """A count with its noun: "1 patient", "1,200 patients"."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def shorten(names: list[str], most: int = 5, total: int | None = None) -> str:
    """The first ``most`` of ``names``, and how many more there are of ``total`` (None: of these), for a message."""
    shown = names[:most]
    rest = (len(names) if total is None else total) - len(shown)
    return ", ".join(shown) + (f" and {rest:,} more" if rest > 0 else "")


def format_p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def format_metric(entry: Any) -> str:
    """A count, or a measure with its interval; "-" if it is not defined."""
    if not isinstance(entry, dict):
        return "-" if entry is None else f"{entry:,}"
    if entry["value"] is None:
        return "-"
    ends = "no interval" if entry["ci_low"] is None else f"{entry['ci_low']:.3f} to {entry['ci_high']:.3f}"
    return f"{entry['value']:.3f} ({ends})"


def format_property(name: str) -> str:
    """A property of the files (core.audit.shortcuts) or a group (data.groups) in words: "image width"."""
    if name.startswith("group_"):
        return name.removeprefix("group_")
    return name.replace("_", " ").replace("jpeg", "JPEG").replace("file name", "file-name")
