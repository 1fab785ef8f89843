"""Read files of a revision, branch or experiment through DVC."""

import io
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from core.evidence import calibration
from core.pipeline import files, messages, tables, yaml12
from core.pipeline.errors import PipelineError

import dvc.api
import pandas as pd
from dvc.exceptions import DvcException
from dvc.scm import RevError
from scmrepo.exceptions import SCMError

WORKSPACE = "workspace"  # as in DVC: the files that are not committed
# Revisions from before these names are read, too.
FORMER_DETAIL = "metrics/evaluate.json"
FORMER_COLUMNS = {"split": "part", "component": "group"}


def text(revision: str, path: str) -> str:
    """The content of a file at a revision, from git, or else from DVC's cache or remote. Raises PipelineError."""
    if revision == WORKSPACE:
        return files.require(path).read_text(encoding="utf-8")
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
    content = text(revision, path)
    header, _, rows = content.partition("\n")
    names = header.split(",")
    former = {FORMER_COLUMNS[name]: name for name in FORMER_COLUMNS if name in columns and name not in names}
    header = ",".join(former.get(name, name) for name in names)
    with _conflicts_named(revision, path, content, "is not a table of this pipeline: {error}"):
        return tables.parse(io.StringIO(f"{header}\n{rows}"), columns)


def folds(revision: str) -> list[str]:
    """The experiments NAME-K-1 to NAME-K-K, if ``revision`` is NAME-K and all of them are there; otherwise none."""
    name, _, count = revision.rpartition("-")
    if not name or not count.isdecimal():
        return []
    listed = ["git", "for-each-ref", "--format=%(refname)", "refs/exps"]
    refs = subprocess.run(listed, capture_output=True, text=True).stdout
    experiments = {ref.rpartition("/")[2] for ref in refs.splitlines()}
    names = [f"{revision}-{fold}" for fold in range(1, int(count) + 1)]
    return names if names and experiments.issuperset(names) else []


def decisions(revision: str, path: str) -> tuple[float, float]:
    """The threshold and the temperature in metrics/detail/evaluate.json of a revision."""
    try:
        content = text(revision, path)
    except PipelineError as error:
        try:
            content = text(revision, FORMER_DETAIL)
        except PipelineError:
            raise error from None
    with _conflicts_named(revision, path, content, "has no threshold or calibration: another program wrote it"):
        figures = json.loads(content)
        return float(figures["threshold"]), calibration.applied_temperature(figures["calibration"])


def parameters(revision: str, path: str) -> dict[str, Any]:
    """All parameters, with dotted keys such as ``train.lr``; former names are replaced by the present ones."""
    content = text(revision, path)
    with _conflicts_named(revision, path, content, "is not YAML: {error}"):
        section = yaml12.load(content)
    values = {messages.RENAMED.get(key, key): value for key, value in flat(section).items()}
    return {key: messages.RENAMED_VALUES.get((key, str(value)), value) for key, value in values.items()}


@contextmanager
def _conflicts_named(revision: str, path: str, content: str, fault: str) -> Iterator[None]:
    """Raise a PipelineError for what can't be read: git's conflict markers, or else ``fault``."""
    try:
        yield
    except (ValueError, KeyError, TypeError, yaml12.YAMLError) as error:
        text = messages.conflict(path, content)
        if text and revision != WORKSPACE:
            text = f"{path} of {revision} has conflict markers of git, which were committed: see docs/branches.md"
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise PipelineError(text or f"{path} of {revision} {fault.format(error=reason)}") from None


def flat(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters, with dotted keys."""
    values: dict[str, Any] = {}
    for key, value in section.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return values
