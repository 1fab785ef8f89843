"""What this package says to people."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

CONFLICT = re.compile(r"^(<{7}|={7}|>{7})( |$)", re.MULTILINE)  # git leaves these lines where a merge could not decide
RESOLVE = "git checkout HEAD dvc.lock metrics plots && dvc repro"  # docs/branches.md
RENAMED = {
    "data.within": "data.subdir", "data.unusable": "data.on_bad_image", "train.members": "train.ensemble_size",
    "data.dicom.frames": "data.frames",
    "train.clip_norm": "train.grad_clip_norm", "train.positive_weight": "train.pos_weight",
    "train.processes": "train.nproc_per_node", "train.checkpoint_minutes": "runtime.checkpoint_minutes",
}  # fmt: skip
RENAMED_VALUES = {("prepare.fit", "squeeze"): "stretch", ("train.augment.geometry", "symmetries"): "d4"}
NO_PARAMS = "{path} is missing: run this in the top folder of the repository"
NOT_A_MAPPING = "{path} must be a mapping of keys to values, but contains {content}"
MISSING = "{path} is missing: create it with dvc repro, or fetch it with dvc pull"
CONNECTION_LOST = "Lost the connection to another process, which has ended: run it again"
MISSING_COLUMNS = "it lacks the columns {columns}"
HWCAPS = "GLIBC_TUNABLES={value} changes how the C library rounds: unset it"


def waiting(path: str | Path, process: int | None) -> str:
    hint = f" (kill {process} stops it)" if process else ""
    return f"Another {path} is running here: waiting for it to end{hint}"


def not_utf8(path: str | Path, error: UnicodeDecodeError) -> str:
    return f"{path} is not UTF-8: {error.reason} at byte {error.start}"


def not_yaml(path: str | Path, text: str, error: Exception) -> str:
    if in_conflict := conflict(path, text):
        return in_conflict
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f"{path} is not YAML: {' '.join(str(error).split())}"
    problem = str(getattr(error, "problem", None) or getattr(error, "context", "")).splitlines()[0]
    return f"{path}, line {mark.line + 1}: {problem}"


def conflict(path: str | Path, text: str) -> str | None:
    """The message if git left conflict markers in ``text``, the content of ``path``; otherwise None."""
    if not CONFLICT.search(text):
        return None
    if Path(path).name == "dvc.lock" or {"metrics", "plots"} & set(Path(path).parts):
        return f"{path} has conflict markers of git: run {RESOLVE}, then git commit --all"
    return f"{path} has conflict markers of git: edit it, keep one side of each conflict, and run git add {path}"


def damaged(path: str | Path, text: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:200]
    return conflict(path, text) or f"{path} is damaged ({reason}): delete it, then run dvc repro"


def wrong_parameters(path: str | Path, errors: Iterable[Mapping[str, Any]], keys: set[str]) -> str:
    """One line for each wrong key; ``errors`` as pydantic lists them, ``keys`` the names of all fields."""
    lines: dict[str, str] = {}
    renamed = set()
    for error in errors:
        # For a union, pydantic appends the tried member (float, literal[...]) to the location; show only the key.
        key = ".".join(str(step) for step in error["loc"] if step in keys)
        text, value = error["msg"].removeprefix("Value error, "), error["input"]
        allowed = text[0].lower() + text[1:]
        if error["type"] == "missing":
            lines[key] = f"{key} is missing"
        elif error["type"] == "extra_forbidden":
            key = ".".join(map(str, error["loc"]))
            lines[key] = f"{key} is not a parameter"
            if key in RENAMED:
                lines[key] = f"{key} is now called {RENAMED[key]}: rename it"
                renamed.add(RENAMED[key])
        elif isinstance(value, str) and (key, value) in RENAMED_VALUES:
            lines[key] = f"{key}: {value} is now called {RENAMED_VALUES[key, value]}"
        elif key in lines:
            lines[key] += f", or {allowed}"
        elif isinstance(value, dict) and error["type"] == "value_error":
            lines[key] = f"{key}: {text}"
        else:
            lines[key] = f"{key} = {value!r}: {allowed}"
    return "\n".join(f"{path}: {line}" for key, line in lines.items() if key not in renamed)
