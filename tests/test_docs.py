"""The commands of the pages in docs/, as they stand there: blocks marked sh are run, those of remotes.md and of
original.md by test_remotes.py and test_original.py."""

import json
import re
import shutil

from core.commands import revisions
from core.network import vision
from core.pipeline import yaml12

import numpy as np
import pandas as pd
import pytest
import torch

import predict
from conftest import SMALL, TOP, call, change_parameters, clone_to, image, put

pytestmark = pytest.mark.slow


def blocks(page, kind="sh"):
    return re.findall(rf"```{kind}\n(.*?)```", (TOP / f"docs/{page}.md").read_text(), re.DOTALL)


def run(clone, *commands):
    return [clone.run("bash", "-ec", command) for command in commands]


def test_every_page_is_linked_from_the_readme_and_every_link_leads_somewhere():
    readme = (TOP / "README.md").read_text()
    for path in (TOP / "docs").glob("*.md"):
        assert f"docs/{path.name}" in readme
    for path in [TOP / "README.md", TOP / "CONTRIBUTING.md", *TOP.glob("docs/*.md"), TOP / "benchmarks/README.md"]:
        for link, heading in re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", path.read_text()):
            if link.startswith(("http", "../../actions")):
                continue
            there = path.parent / link if link else path
            assert there.exists(), f"{path.name}: {link}"
            if heading:
                titles = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
                headings = {
                    re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles
                }  # as GitHub does
                assert heading in headings, f"{path.name}: {link}#{heading}"


def test_the_page_on_judging_works_as_written(clone):
    judged, compared = run(clone, *blocks("judge"))
    assert "# Verdict" in judged and (clone.folder / "judged/report.html").exists()
    assert "scores.csv and other.csv" in compared


def test_every_parameter_and_target_that_a_page_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", (TOP / "Makefile").read_text(), re.MULTILINE))
    params = yaml12.load((TOP / "params.yaml").read_text())
    for path in [TOP / "README.md", TOP / "CONTRIBUTING.md", *TOP.glob("docs/*.md"), TOP / "benchmarks/README.md"]:
        text = path.read_text()
        assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets, path.name
        for name in re.findall(r"\b((?:data|prepare|split|model|train|evaluate|report)\.[a-z_.]*[a-z])\b", text):
            section, _, key = name.partition(".")
            if key.split(".")[0] not in ("json", "html", "csv", "py", "md", "txt", "safetensors", "onnx"):
                entry = params[section]
                for step in key.split("."):
                    assert isinstance(entry, dict) and step in entry, f"{path.name}: {name}"
                    entry = entry[step]


@pytest.mark.long
def test_own_images_are_classified_and_new_ones_compared(tmp_path):
    clone = clone_to(tmp_path / "clone")
    random = np.random.default_rng(1)
    files, rows = {}, []

    def add(patients):
        for patient in patients:
            for number in range(6):
                bright = patient % 2 == 0
                pixels = random.integers(0, 120, (40, 48, 3), dtype=np.uint8) + np.uint8(100 * bright)
                files[f"{patient}_{number}.png"] = image(pixels, mode="RGB")
                rows.append((f"{patient}_{number}.png", "malignant" if bright else "benign", f"q{patient}"))
        table = pd.DataFrame(rows, columns=["file", "diagnosis", "patient_id"])
        put(tmp_path / "my-images", files | {"labels.csv": table.to_csv(index=False)})

    add(range(20))
    small = {name: SMALL[name] for name in ("prepare.image_size", "model.backbone")} | {"model.weights": "none"}
    source, look = (revisions.flat(yaml12.load(block)) for block in blocks("own-data", "yaml"))
    assert set(small) < set(look)  # what would take a GPU and a network
    short = {"train.epochs": 1, "train.ensemble_size": 1}
    change_parameters(clone.folder / "params.yaml", source | look | small | short)
    first, arrived, classify = blocks("own-data")
    run(clone, first)
    assert clone.metrics("audit")["images"] == 120 and clone.metrics("audit")["patients"] == 20
    add(range(20, 26))
    (output,) = run(clone, arrived)
    assert clone.metrics("audit")["images"] == 156
    assert "36 added: 20_0.png" in output
    put(tmp_path / "new-images", {f"new_{name}": content for name, content in list(files.items())[:12]})
    run(clone, classify)
    assert len(pd.read_csv(clone.folder / "predictions.csv")) == 12
    assert len(list((clone.folder / "heatmaps").rglob("*.png"))) == 12


@pytest.mark.long
def test_the_head_of_a_frozen_network_of_timm_is_trained(clone):
    """A small transformer with arguments of its own, published as foundation models are: pickled, without classes."""
    own = {"embed_dim": 48, "depth": 2, "num_heads": 2, "init_values": 1e-5}
    published = vision.load("timm").create_model("vit_tiny_patch16_224", img_size=64, num_classes=0, **own)
    config = {"architecture": "vit_tiny_patch16_224", "model_args": own | {"img_size": 64, "num_classes": 0}}
    put(clone.folder / "weights", {"config.json": json.dumps(config)})
    torch.save(published.state_dict(), clone.folder / "weights/pytorch_model.bin")
    convert, train = blocks("foundation")
    (_, output) = run(clone, convert, train.replace("BACKBONE", config["architecture"]))
    assert "timm/vit_tiny_patch16_224: " in output and clone.metrics("evaluate")["test"]["images"] > 0
    shutil.rmtree(clone.folder / "weights")


@pytest.mark.parametrize("page", ["report", "gpu", "trouble", "checklist"])
def test_the_commands_of_a_page_run(clone, page):
    output = run(clone, *blocks(page))
    assert "up to date" in output[0] or page == "gpu"


def test_the_commands_of_the_page_on_ci_run(clone):
    (command,) = blocks("ci")
    (clone.folder / ".venv").symlink_to(TOP / ".venv")  # and nothing is installed
    assert "make lint\n" in command  # which CI itself runs on this code
    (output,) = run(clone, command.replace("make lint\n", "").replace("make ", "make -o .venv/ready "))
    assert "fresh passes" in output
    (clone.folder / ".venv").unlink()


def test_heatmaps_and_exports_stay_out_of_git(clone):
    paths = ("export/model.onnx", "reports/report.html", "models/ood.safetensors", "weights/model.safetensors",
             "predictions.csv", "heatmaps/1.png")  # fmt: skip
    assert clone.run("git", "check-ignore", *paths).split() == [*paths]
    put(clone.folder, {"own.png": image(9, mode="RGB")})
    output = call(predict, clone.folder, "own.png", "--out", "predictions.csv", "--heatmap", "maps")
    assert "maps names or shows patients, and git does not ignore it" in output and "predictions.csv" not in output
