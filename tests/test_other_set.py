"""Another set of images, described in a folder of its own and judged without training."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import audit
import download
import external
import prepare
from conftest import TOP, Clone, call, change_parameters, image, put, stages

pytestmark = pytest.mark.slow
FOLDER = "hospital-b"
FROM = {
    "data.source": "folder", "data.location": "../given", "data.watch": "../given", "data.labels": "labels.csv",
    "data.patient": "patient",
}  # fmt: skip


@pytest.fixture
def other(clone):
    """A function that describes another set in the clone's folder hospital-b, and judges it, as docs/reviewers.md
    says."""
    (commands,) = re.findall(r"```sh\n(.*?)```", (TOP / "docs/reviewers.md").read_text(), re.DOTALL)
    copy, repro = commands.splitlines()

    def judge(changes, good=True):
        if not (clone.folder / FOLDER).exists():
            clone.run(*copy.split())
        change_parameters(clone.folder / FOLDER / "params.yaml", changes)
        return clone.run(*repro.split(), good=good)

    yield judge
    shutil.rmtree(clone.folder / FOLDER, ignore_errors=True)
    shutil.rmtree(clone.folder.parent / "given", ignore_errors=True)


@pytest.fixture
def first(clone, tmp_path):
    """The images of the first set as files, with their labels and patients."""
    shutil.unpack_archive(clone.folder / "data/raw/images.zip", tmp_path / "first")
    table = pd.read_csv(clone.folder / "data/raw/labels.csv")
    return table.assign(path=[tmp_path / "first" / name for name in table["file"]])


def write_set(clone, pictures, table):
    """Write a set beside the clone."""
    folder = clone.folder.parent / "given"
    shutil.rmtree(folder, ignore_errors=True)
    files = {f"{number:03d}.png": image(np.asarray(picture), mode="RGB") for number, picture in enumerate(pictures)}
    put(folder, files | {"labels.csv": table.assign(file=list(files)).to_csv(index=False)})


@pytest.mark.long
def test_the_template_judges_other_synthetic_patients_and_leaves_the_first_set_alone(clone, other):
    output = other({"data.phantom.images": 160, "data.phantom.patients": 20, "data.phantom.side": 32})
    assert stages(output.replace(f"{FOLDER}/dvc.yaml:", "")) == ["download", "prepare", "audit", "report"]
    figures = clone.metrics("evaluate", FOLDER)
    assert figures["common"] == {
        "images": 160, "exact_copies": 0, "near_copies": 0, "of_known_patients": 0, "patients": "other",
    }  # fmt: skip
    assert figures["test"]["images"] == 160 and figures["synthetic"] and figures["threshold"] == 0.5
    here = clone.metrics("evaluate")["test_unseen"]["roc_auc"]["value"]
    fall = here - figures["test_unseen"]["roc_auc"]["value"]
    assert figures["drop"]["roc_auc"]["value"] == pytest.approx(fall)
    assert "External validation: " in (clone.folder / FOLDER / "metrics/verdict.md").read_text()
    page = (clone.folder / FOLDER / "reports/report.html").read_text()
    assert 'id="external"' in page and 'id="external"' not in (clone.folder / "reports/report.html").read_text()
    assert clone.run("git", "status", "--short").splitlines() == [f"?? {FOLDER}/"]
    assert "Data and pipelines are up to date" in clone.run("dvc", "status")
    # A change of the model judges again, and reads nothing again.
    clone.change("evaluate.threshold", 0.4)
    again = clone.run("dvc", "repro", f"{FOLDER}/dvc.yaml")
    ran = re.findall(rf"Running stage '{FOLDER}/dvc.yaml:(\w+)'", again)
    assert ran == ["external", "report"] and clone.metrics("evaluate", FOLDER)["threshold"] == 0.4


def test_copies_that_make_half_of_the_other_set_are_left_out_and_named(clone, other, first):
    random = np.random.default_rng(1)
    new = [np.kron(random.integers(0, 256, (8, 8, 3)), np.ones((4, 4, 1))).astype(np.uint8) for _ in range(40)]
    old = [Image.open(path) for path in first["path"][:40]]
    copies = [picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if n % 2 else picture for n, picture in enumerate(old)]
    table = pd.DataFrame({"label": [n % 2 for n in range(40)] + list(first["label"][:40])})
    names = [f"n{n // 4}" for n in range(40)] + [f"c{n // 4}" for n in range(40)]
    write_set(
        clone, new + copies, table.assign(patient=names, ward=[name[0] + str(int(name[1:]) % 2) for name in names])
    )
    output = other(FROM | {"data.groups": ["ward"]})
    figures = clone.metrics("evaluate", FOLDER)
    common = figures["common"]
    assert common["exact_copies"] >= 20 and common["exact_copies"] + common["near_copies"] == 40
    assert figures["test_unseen"]["images"] == 40
    assert "40 of its images are excluded, because they are also in the first set" in output
    assert set(figures["groups"]["ward"]["levels"]) == {"n0", "n1"} and "shortcut" not in figures["groups"]["ward"]
    predictions = pd.read_csv(clone.folder / FOLDER / "data/predictions.csv")
    assert predictions["copy_in_train"].tolist() == [False] * 40 + [True] * 40
    model = clone.folder / "models/model.json"
    grey = model.read_text().replace('"channels": 3', '"channels": 1')
    model.unlink()
    model.write_text(grey)
    output = call(external, clone.folder / FOLDER, good=False)
    assert "in colour, but the model was trained on grey images: save them as grey images" in output


def test_the_training_set_itself_is_refused_in_one_line_and_nothing_is_lost(clone, first, tmp_path):
    clone = Clone(shutil.copytree(clone.folder, tmp_path / "clone", symlinks=True))
    write_set(clone, [Image.open(path) for path in first["path"]], first[["label", "patient"]])
    folder = shutil.copytree(clone.folder / "recipes/external", clone.folder / FOLDER)
    given = {"data.location": "../../given", "data.watch": "../../given"}  # without DVC, from the folder itself
    change_parameters(folder / "params.yaml", FROM | given | {"external.patients": "same"})
    call(download, folder)
    call(prepare, folder, like="../data/prepared/preparation.json")
    call(audit, folder)
    output = call(external, folder, good=False)
    assert "each of its 160 images is a copy of an image in the first set (160 exact, 0 near)" in output
    assert "This set is not external" in output and "Traceback" not in output
    assert clone.run("git", "status", "--short").splitlines() == [f"?? {FOLDER}/"]


@pytest.mark.long
def test_images_of_another_depth_or_without_positives_are_one_line(clone, other):
    deep = [np.arange(64, dtype=np.uint16).reshape(8, 8) * 900 + n for n in range(4)]
    folder = clone.folder.parent / "given"
    folder.mkdir()
    for number, values in enumerate(deep):
        Image.fromarray(values).save(folder / f"{number}.png")
    rows = "".join(f"{n}.png,{n % 2},p{n}\n" for n in range(4))
    put(folder, {"labels.csv": "file,label,patient\n" + rows})
    output = other(FROM, good=False)
    assert "4 of 4 images can't be decoded: 0.png (more than 8 bits a pixel" in output and "Traceback" not in output
    put(folder, {"labels.csv": "file,label,patient\n" + rows.replace(",1,", ",0,")})
    output = other(FROM, good=False)
    assert "must contain two classes" in output and "found '0' (4 images)" in output and "Traceback" not in output
