"""Read files of a revision, branch or experiment through DVC."""

import io
import json
from typing import Any

from core.evidence import calibration
from core.pipeline import files, tables, yaml12
from core.pipeline.errors import PipelineError

import dvc.api
import pandas as pd
from dvc.exceptions import DvcException
from dvc.scm import RevError
from scmrepo.exceptions import SCMError

WORKSPACE = "workspace"  # as in DVC: the files that are not committed


def text(revision: str, path: str) -> str:
    """The content of a file at a revision, from git, or else from DVC's cache or remote. Raises PipelineError."""
    if revision == WORKSPACE:
        return files.there(path).read_text(encoding="utf-8")
    try:
        content: str = dvc.api.read(path, rev=revision, encoding="utf-8")
        return content
    except (RevError, SCMError):
        raise PipelineError(
            f"{revision} is not a commit, branch, tag or experiment here: see git branch, dvc exp list"
        ) from None
    except (DvcException, OSError):
        raise PipelineError(
            f"{path} of {revision} is neither in the local DVC cache nor in a remote: it was computed elsewhere, or "
            "deleted. Fetch it (dvc fetch --all-commits, dvc exp pull), or check out that revision, run dvc repro, and "
            "commit the result"
        ) from None


def table(revision: str, path: str, columns: list[str]) -> pd.DataFrame:
    try:
        return tables.parse(io.StringIO(text(revision, path)), columns)
    except ValueError as error:
        raise PipelineError(f"{path} of {revision} is not a table of this pipeline: {error}") from None


def decisions(revision: str, path: str) -> tuple[float, float]:
    """The threshold and the temperature in metrics/evaluate.json of a revision."""
    try:
        figures = json.loads(text(revision, path))
        return float(figures["threshold"]), calibration.applied_temperature(figures["calibration"])
    except (ValueError, KeyError, TypeError):
        raise PipelineError(
            f"{path} of {revision} contains no threshold or calibration: it was not written by this pipeline"
        ) from None


def parameters(revision: str, path: str) -> dict[str, Any]:
    """All parameters, with dotted keys such as ``train.lr``."""
    return flat(yaml12.load(text(revision, path)))


def flat(given: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Nested parameters, with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in given.items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return found
