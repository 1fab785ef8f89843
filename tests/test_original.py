"""The images of the original, where they are at hand: its claim, its cause, and out-of-distribution images."""

import re
import zipfile
from pathlib import Path

from core.images import phantom

import pandas as pd
import pytest
from PIL import Image

import predict
from conftest import TOP, call, clone_to, put

pytestmark = [pytest.mark.slow, pytest.mark.long]


def run_recipe(clone, name, archive, epochs=12):
    """Run a recipe as docs/original.md says, on a local copy of the set, in these epochs instead of its twelve."""
    page = (TOP / "docs/original.md").read_text()
    command, look = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    command = command.replace("ARCHIVE", str(archive)).replace("claimed", name)
    command = f"{command.rstrip()} -S train.epochs={epochs}\n"
    output = clone.run("bash", "-e", "-o", "pipefail", "-c", command + look.splitlines()[0])
    assert "# Verdict" in output
    return clone.metrics("split"), clone.metrics("evaluate")


@pytest.fixture(scope="module")
def original(shared, tmp_path_factory):
    """The original's images by two recipes: the clone as the second left it, and the figures of both."""
    clone = clone_to(tmp_path_factory.mktemp("original") / "clone", small={"data.phantom.images": 1200})
    archive = shared / "breast-histopathology-images-modified.tar"
    claimed = run_recipe(clone, "claimed", archive)
    clone.run("git", "checkout", "-q", "-f")
    return clone, claimed, run_recipe(clone, "honest", archive, epochs=4)


def test_the_claim_of_the_original_is_reproduced_and_its_cause_found(original):
    _, (split, claimed), (honest_split, honest) = original
    assert claimed["test"]["images"] == 429 and claimed["test"]["positives"] == 191
    assert claimed["test"]["accuracy"]["value"] >= 0.98
    assert split["leak"]["test_positive_copies_in_train"] == 191 and split["leak"]["test_patients_in_train"] == 429
    assert claimed["test_unseen"]["images"] == 0 and claimed["test_unseen"]["accuracy"]["value"] is None

    assert not honest_split["leak"]["test_copies_in_train"] and not honest_split["leak"]["test_patients_in_train"]
    assert honest["test"]["positive_patients"] == 1
    assert honest["test"]["accuracy"]["value"] > 0.9 and honest["test"]["sensitivity"]["value"] < 0.5


def ood_share(clone, folder):
    """The share of images in a folder that a model finds out of distribution."""
    call(predict, clone.folder, folder, "--out", folder.parent / f"{folder.name}.csv")
    return (pd.read_csv(folder.parent / f"{folder.name}.csv")["ood_score"] > 1).mean()


def test_a_model_of_mammograms_finds_phantoms_out_of_distribution_and_the_reverse_and_neither_its_own_test_images(
    original, clone, tmp_path
):
    mammograms = original[0]
    for folder in ("own", "colour", "grey", "mammograms"):
        (tmp_path / folder).mkdir()
    split = pd.read_csv(mammograms.folder / "data/split.csv").query("split == 'test'")
    with zipfile.ZipFile(mammograms.folder / "data/raw/images.zip") as archive:
        put(tmp_path / "mammograms", {Path(name).name: archive.read(name) for name in split["file"]})
    for number, patch in enumerate(phantom.draw(120, 12, 64, seed=5)):
        drawn = Image.fromarray(patch.pixels)
        drawn.save(tmp_path / f"colour/{number}.png")
        drawn.convert("L").save(tmp_path / f"grey/{number}.png")
    assert ood_share(mammograms, tmp_path / "grey") > 0.95
    assert ood_share(mammograms, tmp_path / "mammograms") < 0.2
    output = call(predict, mammograms.folder, tmp_path / "colour", good=False)
    assert "a colour image, but the model was trained on grey images" in output

    split = pd.read_csv(clone.folder / "data/split.csv").query("split == 'test'")
    with zipfile.ZipFile(clone.folder / "data/raw/images.zip") as archive:
        put(tmp_path / "own", {Path(name).name: archive.read(name) for name in split["file"]})
    assert ood_share(clone, tmp_path / "mammograms") > 0.95
    assert ood_share(clone, tmp_path / "own") < 0.35  # an epoch's training on 160 images
