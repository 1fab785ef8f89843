"""The set of the page on AMi-Br, where a copy of both repositories is at hand, and the page itself."""

import re
import subprocess

from core.commands import revisions
from core.images import sources
from core.pipeline import yaml12

import pandas as pd
import pytest
from dvc.utils.hydra import to_hydra_overrides

from conftest import TOP, change_parameters, clone_to

RECIPE = "$(cat recipes/amibr.txt)"
TOY = (
    f"{RECIPE} -S prepare.image_size=32 -S model.backbone=shufflenet_v2_x0_5 -S model.weights=none "
    "-S train.epochs=1 -S train.ensemble_size=1 -S evaluate.tta=none"
)
LIST = "AMi-Br_Benchmark/amibr_train_split.csv"


@pytest.fixture
def published(shared, tmp_path):
    """A folder with both repositories, as git clones them."""
    (tmp_path / "github/AMi-Br_Benchmark").mkdir(parents=True)
    subprocess.run(["tar", "-xf", shared / "amibr.tar", "-C", tmp_path / "github/AMi-Br_Benchmark"], check=True)
    (tmp_path / "github/AMi-Br").mkdir()
    (tmp_path / "github/AMi-Br_Benchmark/AMI-BR.csv").rename(tmp_path / "github/AMi-Br/AMI-BR.csv")
    return tmp_path / "github"


@pytest.mark.slow
def test_the_recipe_reads_the_set_with_its_slides_and_its_published_split(published, make_params, monkeypatch):
    """Expected numbers: README.md beside the archive."""
    (published / "clone").mkdir()
    monkeypatch.chdir(published / "clone")
    words = (TOP / "recipes/amibr.txt").read_text().split()[1::2]
    values = {override.key_or_group: override.value() for override in to_hydra_overrides(words)}
    lists = {"data.lists.train": "amibr_train_split.csv", "data.lists.test": "rest"}
    with sources.open_source(make_params(values | lists).data, 1, published / "clone") as raw:
        patients = raw.labels["patient"].value_counts()
        assert (len(raw.labels), raw.labels["label"].sum(), len(patients), patients.max()) == (3720, 832, 202, 319)
        split = raw.labels.merge(raw.listed, on="file")
    counts = split.groupby("split")["patient"].agg(["size", "nunique"])
    assert counts.loc["train"].tolist() == [2894, 146] and counts.loc["test"].tolist() == [826, 56]
    assert not {*split["patient"][split["split"] == "train"]} & {*split["patient"][split["split"] == "test"]}


@pytest.fixture
def follow(published):
    """A clone; a function that runs the next block of commands on the page, with a small network, two folds instead of
    five, and instead of GitHub two repositories with each fourth slide of the set; and the page's block of YAML."""
    clone = clone_to(published.parent / "clone", small={})
    table = pd.read_csv(published / "AMi-Br/AMI-BR.csv")
    name = table["dataset"] + "_" + table["uid"].astype(str) + ".png"
    left = table["slide"].isin(sorted(table["slide"].unique())[::4])
    for path in published.glob("AMi-Br_Benchmark/AMi-Br/*/*.png"):
        if path.name in {*name[~left]}:
            path.unlink()
    table[left].to_csv(published / "AMi-Br/AMI-BR.csv", index=False)
    rows = pd.read_csv(published / LIST)
    rows[rows["dataset_uid"].isin(name[left])].to_csv(published / LIST, index=False)
    for repository in ("AMi-Br_Benchmark", "AMi-Br"):
        git = ("git", "-C", published / repository)
        clone.run(*git, "init", "-q", "-b", "main")
        clone.run(*git, "add", "-A")
        clone.run(*git, "-c", "user.name=Test", "-c", "user.email=test@example.org", "commit", "-qm", "As published")
    page = (TOP / "docs/amibr.md").read_text()
    blocks = iter(re.findall(r"```sh\n(.*?)```", page, re.DOTALL))
    local = f"GIT_CONFIG_KEY_0=url.file://{published}/.insteadOf GIT_CONFIG_VALUE_0=https://github.com/DeepMicroscopy/"

    def run():
        commands = next(blocks).replace(RECIPE, TOY).replace("folds.py 5", "folds.py 2").replace("slides-5", "slides-2")
        return clone.run("bash", "-ec", f"export GIT_CONFIG_COUNT=1 {local}\n{commands}")

    return clone, run, yaml12.load(re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0])


@pytest.mark.slow
@pytest.mark.long
def test_the_page_on_amibr_works_as_written(follow):
    clone, run, other = follow
    run()
    assert "# Verdict" in run() and clone.metrics("split")["leak"]["test_in_train"] == 0

    run()
    change_parameters(clone.folder / "atnorm-br/params.yaml", revisions.flat(other))
    output = run()
    assert "746 images, patients unknown, 128 positive" in output
    assert "**External validation**: 746 images, 128 positive, patients unknown" in output

    assert "LEAK (split.on_leak: report)" in run()
    assert "All folds" in run()
    run()
    split = pd.read_csv(clone.folder / "data/split.csv")
    assert {*split["split"]} == {"train", "val", "test"} and split.groupby("patient")["split"].nunique().max() == 1

    run()
    assert set(clone.metrics("evaluate")["groups"]) == {"dataset", "scanner"}
    assert "balanced accuracy (primary)" in run()
    assert "patches; " in run()
