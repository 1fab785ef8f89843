"""Read what a revision, branch or experiment holds, by way of DVC."""

import io
import json
from typing import Any

import dvc.api
import pandas as pd
from dvc.exceptions import DvcException
from dvc.scm import RevError
from scmrepo.exceptions import SCMError

from core.pipeline import files, tables, yaml12
from core.pipeline.errors import Mistake

WORKSPACE = "workspace"  # the name under which DVC, too, knows what is not committed


def text(revision: str, path: str) -> str:
    """The content of a file at a revision, from DVC's cache or remote where git does not have it. Raises Mistake."""
    if revision == WORKSPACE:
        return files.there(path).read_text(encoding="utf-8")
    try:
        content: str = dvc.api.read(path, rev=revision, encoding="utf-8")
        return content
    except (RevError, SCMError):
        raise Mistake(f"{revision} is no commit, branch, tag or experiment here: dvc exp list, git branch") from None
    except (DvcException, OSError):
        raise Mistake(
            f"{path} of {revision} is neither in DVC's cache here nor in a remote: computed elsewhere, or cleaned up. "
            "Fetch it (dvc fetch --all-commits, dvc exp pull), or check that revision out, run dvc repro, and commit "
            "what it gives here"
        ) from None


def table(revision: str, path: str, columns: list[str]) -> pd.DataFrame:
    try:
        return tables.parse(io.StringIO(text(revision, path)), columns)
    except ValueError as error:
        raise Mistake(f"{path} of {revision} is not a table of this pipeline: {error}") from None


def threshold(revision: str, path: str) -> float:
    """The threshold of a metrics/evaluate.json."""
    try:
        return float(json.loads(text(revision, path))["threshold"])
    except (ValueError, KeyError, TypeError):
        raise Mistake(f"{path} of {revision} holds no threshold: it was not written by this pipeline") from None


def parameters(revision: str, path: str) -> dict[str, Any]:
    """All parameters, each under its whole key: ``train.lr``."""
    return flat(yaml12.load(text(revision, path)))


def flat(given: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Nested parameters, each under its whole key."""
    found: dict[str, Any] = {}
    for key, value in given.items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return found
