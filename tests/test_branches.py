"""docs/branches.md: what is written there about merges, worktrees and experiments, with real git and DVC."""

import json
import re

import pytest

import check
import compare
import demo
import export
from conftest import call, stages
from test_docs import blocks

pytestmark = pytest.mark.slow
MARKERS = "^<<<<<<< "


def unmerged(clone):
    return set(clone.run("git", "diff", "--name-only", "--diff-filter=U").split())


def branch(clone, name, replacements):
    """Switch to a new branch of main and replace text in files: ``{path: (old, new)}``."""
    clone.run("git", "checkout", "-q", "-B", name, "main")
    for path, (old, new) in replacements.items():
        file = clone.folder / path
        assert old in file.read_text(), path
        file.write_text(file.read_text().replace(old, new, 1))


@pytest.mark.long
def test_two_branches_that_both_ran_are_merged_by_two_commands(clone):
    for name, key, value in (("one", "train.lr", 0.002), ("two", "evaluate.threshold", 0.4)):
        clone.run("git", "checkout", "-q", "-B", name, "main")
        clone.change(key, value)
        clone.run("dvc", "repro")
        clone.run("git", "commit", "-qam", name)
    clone.run("git", "checkout", "-q", "one")
    clone.run("dvc", "checkout", "-q")
    clone.run("git", "merge", "two", good=False)
    conflicts = unmerged(clone)
    assert "dvc.lock" in conflicts and "metrics/evaluate.json" in conflicts
    assert all(path == "dvc.lock" or path.startswith(("metrics/", "plots/")) for path in conflicts)
    clone.run("git", "grep", "-l", MARKERS, "--", "dvc.lock", "params.yaml", "metrics", "plots", good=False)
    text = clone.run("bash", "-ec", blocks("branches")[0])
    assert stages(text) == ["evaluate", "report"]  # the training of one is that of the merge
    assert not clone.run("git", "status", "--short")
    assert "fresh passes" in call(check, clone.folder, "fresh")
    assert clone.metrics("evaluate")["threshold"] == 0.4
    assert "lr: 0.002" in (clone.folder / "params.yaml").read_text()


def test_only_parameters_and_code_that_both_branches_changed_have_conflict_markers(clone):
    for name, value in (("one", "0.002"), ("two", "0.004")):
        lock = ("data.on_bad_image: fail", f"data.on_bad_image: {name}")
        branch(clone, name, {"params.yaml": ("lr: 0.003", f"lr: {value}"), "dvc.lock": lock})
        clone.run("git", "commit", "-qam", name)
    clone.run("git", "merge", "one", good=False)
    assert unmerged(clone) == {"params.yaml", "dvc.lock"}
    assert clone.run("git", "grep", "-l", MARKERS, "--", "params.yaml", "dvc.lock").split() == ["params.yaml"]
    text = call(check, clone.folder, "fresh", good=False)
    assert "params.yaml has conflict markers of git: edit it" in text and "dvc repro" not in text
    clone.run("git", "merge", "--abort")


def test_every_message_about_conflict_markers_names_the_way_that_resolves_them(clone):
    """As where git merges without .gitattributes, for example on a web page."""
    attributes = clone.folder / ".git/info/attributes"
    attributes.parent.mkdir(exist_ok=True)
    attributes.write_text("dvc.lock merge\n**/metrics/** merge\n")
    metrics = "metrics/detail/evaluate.json"
    for name, value in (("one", "0.3"), ("two", "0.4")):
        parameter = ("planning: false", f"planning: {value}")  # of the stage report, which writes the metrics
        branch(clone, name, {"dvc.lock": parameter, metrics: ('"threshold": 0.5', f'"threshold": {value}')})
        clone.run("git", "commit", "-qam", name)
    clone.run("git", "merge", "one", good=False)
    attributes.unlink()
    assert unmerged(clone) == {"dvc.lock", metrics}
    way = (
        r"{} has conflict markers of git: run (git checkout HEAD dvc.lock metrics plots && dvc repro), then git commit"
    )
    fresh = call(check, clone.folder, "fresh", good=False)
    command = re.search(way.format("dvc.lock"), fresh)[1]
    assert command in (clone.folder / "docs/branches.md").read_text()
    for script, *arguments in ((compare, "main"), (demo, "--port", "0"), (export,), (check, "better")):
        text = call(script, clone.folder, *arguments, good=False)
        assert re.search(way.format(metrics), text), text
    assert clone.run("git", "grep", "-l", MARKERS, "--", "dvc.lock", "metrics").split() == [*sorted(unmerged(clone))]
    assert stages(clone.run("bash", "-ec", command)) == ["report"]
    clone.run("git", "commit", "-qam", "Merged")
    assert "fresh passes" in call(check, clone.folder, "fresh")
    assert json.loads((clone.folder / metrics).read_text())["threshold"] == 0.5  # of params.yaml


def test_conflict_markers_that_were_committed_are_named_with_their_revision(clone):
    path = clone.folder / "metrics/detail/evaluate.json"
    text = path.read_text()
    clone.run("git", "checkout", "-q", "-B", "marked")
    path.write_text(f"<<<<<<< HEAD\n{text}=======\n>>>>>>> other\n")
    clone.run("git", "commit", "-qam", "By mistake")
    text = call(compare, clone.folder, "main", "marked", good=False)
    assert "metrics/detail/evaluate.json of marked has conflict markers of git, which were committed" in text


def test_a_worktree_takes_everything_from_the_cache_of_the_repository(clone):
    text = clone.run("bash", "-ec", blocks("branches")[1])
    try:
        assert "Data and pipelines are up to date" in text
        second = (clone.folder / "../second/models/model.safetensors").resolve()
        assert second.read_bytes() == (clone.folder / "models/model.safetensors").read_bytes()
    finally:
        clone.run("git", "worktree", "remove", "--force", "../second")


def test_dvc_plots_needs_a_network_unless_a_page_of_ones_own_names_the_scripts(clone):
    (clone.folder / ".dvc/page.html").write_text('<script src="vega.js"></script>{plot_divs}')
    pages = []
    for folder in ("network", "own"):
        clone.run("dvc", "plots", "show", "--out", f"dvc_plots/{folder}")
        pages.append((clone.folder / f"dvc_plots/{folder}/index.html").read_text())
        clone.run("dvc", "config", "--local", "plots.html_template", "page.html")
    (clone.folder / ".dvc/config.local").unlink()
    (clone.folder / ".dvc/page.html").unlink()
    scripts = [re.findall(r'<script src="([^"]+)"', page) for page in pages]
    assert scripts[0] and all(script.startswith("https://cdn.jsdelivr.net/npm/vega") for script in scripts[0])
    assert scripts[1] == ["vega.js"]


def test_a_queued_run_with_a_relative_watched_source_fails_in_one_line_unless_nothing_changed(clone):
    """The source is not in git, so it is not in the folder that the run works in."""
    page = (clone.folder / "docs/branches.md").read_text()
    clone.run("git", "checkout", "-q", "-B", "watched")
    clone.run("dvc", "exp", "run", "--queue", "--name", "relative", "-S", "data.source=folder",
              "-S", "data.location=images", "-S", "data.watch=images")  # fmt: skip
    clone.run_queue()
    text = clone.run("dvc", "queue", "logs", "relative")
    clone.run("dvc", "queue", "remove", "--all")
    error = next(line for line in text.splitlines() if line.startswith("ERROR"))
    assert "No such file or directory" in error and ".dvc/tmp/exps/" in error and "Traceback" not in text
    assert "No such file or directory: '.../.dvc/tmp/exps/...'" in page
    assert not clone.run("git", "status", "--short")
