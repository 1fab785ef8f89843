"""The page on AMi-Br, followed on the copy of both repositories, where it is at hand: with a small network."""

import re
import tarfile

from core.commands import revisions
from core.pipeline import yaml12

import pandas as pd
import pytest

from conftest import TOP, change_parameters, clone_to

pytestmark = [pytest.mark.slow, pytest.mark.long]

RECIPE = "$(cat recipes/amibr.txt)"
TOY = " -S ".join((
    RECIPE, "prepare.image_size=32", "model.backbone=shufflenet_v2_x0_5", "model.weights=none", "train.epochs=1",
))  # fmt: skip
BENCHMARK = ("AMi-Br", "AtNorM-Br", "LICENSE", "amibr_train_split.csv")  # of AMi-Br_Benchmark; the table is of AMi-Br


@pytest.fixture(scope="module")
def follow(shared, tmp_path_factory):
    """A clone, and a function that runs the next block of commands on the page, with the two repositories on this
    machine instead of GitHub, and two folds instead of five."""
    base = tmp_path_factory.mktemp("amibr")
    clone = clone_to(base / "clone", small={})
    with tarfile.open(shared / "amibr.tar") as archive:
        archive.extractall(base / "github/AMi-Br_Benchmark", filter="data")
    (base / "github/AMi-Br").mkdir()
    table = base / "github/AMi-Br_Benchmark/AMI-BR.csv"
    table.rename(base / "github/AMi-Br/AMI-BR.csv")
    for name in ("AMi-Br_Benchmark", "AMi-Br"):
        at = ("git", "-C", base / f"github/{name}")
        clone.run(*at, "init", "-q", "-b", "main")
        clone.run(*at, "add", "-A")
        clone.run(*at, "-c", "user.name=Test", "-c", "user.email=test@example.org", "commit", "-qm", "As published")
    page = (TOP / "docs/amibr.md").read_text()
    blocks = iter(re.findall(r"```sh\n(.*?)```", page, re.DOTALL))
    change = f"url.file://{base}/github/.insteadOf"
    local = (
        f'export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0="{change}" GIT_CONFIG_VALUE_0=https://github.com/DeepMicroscopy/'
    )

    def run():
        commands = next(blocks).replace(RECIPE, TOY).replace("folds.py 5", "folds.py 2")
        return clone.run("bash", "-ec", f"{local}\n{commands}")

    return clone, run, yaml12.load(re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0])


def test_the_page_on_amibr_works_as_written_and_its_splits_are_those_of_the_set(follow):
    """Expected numbers: what README.md beside the archive says of the set."""
    clone, run, other = follow
    run()
    output = run()
    assert "3,720 images of 202 patients, 832 positive" in output and "# Verdict" in output
    assert clone.metrics("audit")["images_per_patient"]["max"] == 319
    assert clone.metrics("split")["leak"]["test_in_train"] == 0

    run()
    change_parameters(clone.folder / "atnorm-br/params.yaml", revisions.flat(other))
    output = run()
    assert "746 images, patients unknown, 128 positive" in output and "**External validation**: 746 images" in output

    output = run()
    assert "All folds" in output and "3720" in output and "are of" in output
    split = pd.read_csv(clone.folder / "data/split.csv")
    assert split.groupby("patient")["split"].nunique().max() == 1
    counts = split.assign(test=split["split"] == "test").groupby("test")["patient"].agg(["size", "nunique"])
    assert counts.loc[False].tolist() == [2894, 146] and counts.loc[True].tolist() == [826, 56]

    assert "Hamamatsu S360" in str(run() and clone.metrics("evaluate")["groups"]["scanner"])
    run()
    assert clone.run("git", "status", "--short") == "?? atnorm-br/\n"
