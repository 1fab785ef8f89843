"""docs/reruns.md: what each kind of change makes stale, asked of DVC itself."""

import os
import re

from core.pipeline import yaml12

import pytest

from conftest import STAGES, TOP, change_parameters

pytestmark = pytest.mark.slow
PAGE = TOP / "docs/reruns.md"
GRAPH = yaml12.load((TOP / "dvc.yaml").read_text())["stages"]
PARAMETERS = {
    "`data.phantom.images`, or another key of `data`": ("data.phantom.images", 164),
    "`prepare.image_size`": ("prepare.image_size", 48),
    "`split.seed`": ("split.seed", 2),
    "`train.lr`, or another key of `train` or `model`": ("train.lr", 0.0005),
    "`train.device`": ("train.device", "cpu"),
    "`evaluate.threshold`": ("evaluate.threshold", 0.4),
    "`evaluate.primary`": ("evaluate.primary", "pr_auc"),
    "`report.planning`": ("report.planning", True),
    "`runtime.checkpoint_minutes`": ("runtime.checkpoint_minutes", 1),
    "`seed`": ("seed", 2),
}
CODE = {
    "the loop of the training": ("stages/core/network/training.py", "\n# changed\n"),
    "the optimiser": ("stages/core/network/optimiser.py", "\n# changed\n"),
    "the schema of `train`: a new key": ("stages/core/pipeline/schemas/train.py", "\n# changed\n"),
    "the search for copies": ("stages/core/audit/copies.py", "\n# changed\n"),
    "the heatmaps": ("stages/core/network/occlusion.py", "\n# changed\n"),
    "the intervals": ("stages/core/evidence/intervals.py", "\n# changed\n"),
    "the verdict, the plots or the page": ("stages/core/report/plots.py", "\n# changed\n"),
    "an error message, in the data or the training": ("stages/core/network/messages.py", "\n# changed\n"),
    "a progress bar, an exit status, a retry of a download": ("stages/core/pipeline/entrypoint.py", "\n# changed\n"),
    "a command such as `compare` or `predict`": ("stages/core/commands/comparison.py", "\n# changed\n"),
    "a row of `data/split.csv`, by hand": ("data/split.csv", "1\n"),
    "the version of a package": ("requirements.txt", "\n# changed\n"),
}


def after(stages):
    """The stages that read what ``stages`` write, directly or through others."""
    dirty, written = list(stages), set()
    for stage in GRAPH:
        if stage in dirty or set(GRAPH[stage]["deps"]) & written:
            dirty += [stage] if stage not in dirty else []
            entries = [*GRAPH[stage]["outs"], *GRAPH[stage].get("metrics", [])]
            written |= {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}
    return [stage for stage in STAGES if stage in dirty and stage not in stages]


def row(change, stages):
    return f"| {change} | {', '.join(stages) or '**nothing**'} | {', '.join(after(stages))} |"


def test_the_page_says_what_each_change_reruns(clone):
    rows = []
    for change, (key, value) in PARAMETERS.items():
        change_parameters(clone.folder / "params.yaml", {key: value})
        rows.append(row(change, clone.ran("dvc", "repro", "--dry")))
        clone.run("git", "checkout", "-q", "params.yaml")
    for change, (path, text) in CODE.items():
        file = clone.folder / path
        content = file.read_text()
        file.unlink()  # a file of the cache is a link
        file.write_text(content + text)
        rows.append(row(change, clone.ran("dvc", "repro", "--dry")))
        file.write_text(content)
    table = "\n".join(rows)
    page = PAGE.read_text()
    if os.environ.get("UPDATE_PAGES"):
        PAGE.write_text(
            re.sub(
                r"\|---\|---\|---\|\n(.*?)\n\n", lambda _: f"|---|---|---|\n{table}\n\n", page, count=1, flags=re.DOTALL
            )
        )
    assert table in PAGE.read_text()


def test_a_changed_message_of_any_module_that_only_speaks_reruns_nothing(clone):
    for path in (clone.folder / "stages/core").rglob("*.py"):
        if path.name == "messages.py" or path.name in ("entrypoint.py", "errors.py", "provenance.py", "web.py"):
            path.write_text(path.read_text() + '\nCHANGED = "another text"\n')
    assert clone.ran("dvc", "repro", "--dry") == []
