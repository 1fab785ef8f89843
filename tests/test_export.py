"""The model for other programs, in other programs."""

import io
import json
import re
import shutil
import zipfile
from contextlib import redirect_stdout

from core.commands import export, prediction, server
from core.network import networks
from core.network.ensemble import Ensemble
from core.pipeline import yaml12
from core.pipeline.errors import PipelineError

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

import evaluate
import export as export_script
import predict
import report
from conftest import CALIBRATED, TOP, call, change_parameters, put

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def evaluated(clone, tmp_path_factory):
    """A copy of the clone's folder, evaluated with a temperature and a threshold of validation."""
    folder = shutil.copytree(clone.folder, tmp_path_factory.mktemp("evaluated") / "clone", symlinks=True)
    change_parameters(folder / "params.yaml", CALIBRATED)
    for stage in (evaluate, report):
        call(stage, folder)
    return folder


@pytest.fixture(scope="module")
def exported(evaluated):
    pytest.importorskip("onnxruntime")
    output = call(export_script, evaluated)
    assert float(re.search(r"differ by at most (\S+)\. Research", output)[1]) <= 1e-4
    return evaluated / "export"


def test_onnx_gives_the_probabilities_of_the_evaluation_for_batches_of_any_size(evaluated, exported):
    onnxruntime = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    rules = json.loads((exported / "preprocessor_config.json").read_text())
    predictions = pd.read_csv(evaluated / "data/predictions.csv").query("split == 'test'")
    images = np.load(evaluated / "data/prepared/images.npy", mmap_mode="r")[predictions["row"]]
    assert rules["size"] == {"height": images.shape[1], "width": images.shape[2]} and not rules["do_normalize"]
    values = (images * rules["rescale_factor"]).astype(np.float32).transpose(0, 3, 1, 2)
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    temperature = json.loads((exported / "config.json").read_text())["temperature"]
    for count in (1, 7, len(values)):
        (logits,) = session.run(None, {"pixel_values": values[:count]})
        probabilities = 1 / (1 + np.exp(-logits.astype(np.float64) / temperature))
        assert np.abs(probabilities - predictions["probability"][:count]).max() < 1e-4
    assert onnx.load(exported / "model.onnx").opset_import[0].version == 20


def test_the_export_says_which_library_the_network_is_of_and_what_it_takes_off_its_images(exported):
    config = json.loads((exported / "config.json").read_text())
    assert config["model_type"] == "torchvision" and config["mean"] == [0.485, 0.456, 0.406]
    assert "weights of torchvision's shufflenet_v2_x0_5" in (exported / "README.md").read_text()
    assert export.library({"backbone": "timm/resnet18"}) == "timm"


def test_a_mean_over_symmetries_is_in_the_exported_network_and_in_its_description(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    images = np.random.default_rng(1).integers(0, 255, (4, 32, 32, 3)).astype(np.uint8)
    torch.manual_seed(1)
    export.onnx(Ensemble([networks.Classifier("timm/test_resnet", "linear", 32)], "hflip"), images, tmp_path / "a.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    values = images.astype(np.float32).transpose(0, 3, 1, 2) / 255
    (logits,), (of_mirrored,) = (
        session.run(None, {"pixel_values": each}) for each in (values, values[..., ::-1].copy())
    )
    assert np.allclose(logits, of_mirrored, atol=1e-5)
    description = {"backbone": "resnet18", "head": "linear", "image_size": 8, "channels": 3}
    assert export.config(description, {"threshold": 0.5, "temperature": None, "tta": "hflip"})["tta"] == "hflip"


def test_the_exported_folder_predicts_and_flags_what_is_out_of_distribution_as_models_does(evaluated, exported):
    images = np.load(evaluated / "data/prepared/images.npy", mmap_mode="r")
    stack = np.concatenate([images[:5], np.full_like(images[:1], 255)])
    first, second = (
        prediction.Model(folder, "cpu").scores(stack, np.arange(6)) for folder in (evaluated / "models", exported)
    )
    assert np.array_equal(first, second) and first[1][5] > 1 > first[1][:5].min()


def test_the_model_card_is_filled_from_the_metrics_and_its_example_runs(evaluated, exported, monkeypatch, tmp_path):
    card = (exported / "README.md").read_text()
    area = json.loads((evaluated / "data/detail/evaluate.json").read_text())["test"]["roc_auc"]
    assert f"ROC AUC | {area['value']:.3f}" in card and "not a medical device" in card and "SYNTHETIC" in card
    assert "{{" not in card and "{%" not in card and "Licence of the data: none: synthetic images" in card
    first = pd.read_csv(evaluated / "data/predictions.csv").iloc[0]
    pixels = np.load(evaluated / "data/prepared/images.npy", mmap_mode="r")[first["row"]]
    for path in exported.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    Image.fromarray(np.array(pixels)).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    with redirect_stdout(io.StringIO()) as output:
        exec(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1], {})
    assert float(re.sub(r"[\[\]]", "", output.getvalue())) == pytest.approx(first["probability"], abs=1e-4)


def test_a_folder_of_other_files_is_not_written_into(evaluated):
    put(evaluated, {"mine/letter.txt": "dear"})
    output = call(export_script, evaluated, "--folder", "mine", good=False)
    assert "contains other files: use --folder" in output
    assert [path.name for path in (evaluated / "mine").iterdir()] == ["letter.txt"]


def test_onnx_that_differs_from_torch_is_refused(evaluated, exported, monkeypatch):
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **_: shutil.copy(exported / "model.onnx", args[2]))
    monkeypatch.setattr(export, "MOST_APART", 0)
    before = {*evaluated.iterdir()}
    output = call(export_script, evaluated, "--folder", "none", good=False)
    assert re.search(r"Not exported: ONNX and PyTorch differ by \S+ in .*, more than 0", output)
    assert {*evaluated.iterdir()} == before


def recipes():
    """Backbone and head of each recipe, each pair once."""
    default, pairs = yaml12.load((TOP / "params.yaml").read_text())["model"], {}
    for recipe in sorted((TOP / "recipes").glob("*.txt")):
        changes = dict(re.findall(r"--set-param model\.(\w+)=(\S+)", recipe.read_text()))
        pairs.setdefault(((default | changes)["backbone"], (default | changes)["head"]), recipe.stem)
    return [pytest.param(*pair, id=recipe) for pair, recipe in pairs.items()]


@pytest.mark.parametrize(("backbone", "head"), recipes())
def test_the_network_of_every_recipe_is_exported_however_confident_it_is(backbone, head, tmp_path):
    """Logits reach 100, which float32 can't hold to the absolute 1e-4 that was the limit once."""
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    images = np.random.RandomState(0).randint(0, 256, (24, 64, 64, 3)).astype(np.uint8)
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    network = networks.Classifier(backbone, head, 64)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = None  # the plain mean: after one batch, that of these images
        network.train()(tensor)
        linear = list(network.head.modules())[-1]
        scale = 100 / network.eval()(tensor).abs().max()
        linear.weight *= scale
        linear.bias *= scale
    assert export.onnx(Ensemble([network]), images, tmp_path / "model.onnx") < 1e-4
    assert (tmp_path / "model.onnx").stat().st_size > 1e6


def test_one_image_has_one_probability_in_evaluation_prediction_demo_and_export(evaluated, exported, tmp_path):
    """With a temperature and a threshold of validation, and with nothing but models/ or the export."""
    onnxruntime = pytest.importorskip("onnxruntime")
    table = pd.read_csv(evaluated / "data/predictions.csv").head(5)
    expected = table["probability"].to_numpy()
    figures = json.loads((evaluated / "data/detail/evaluate.json").read_text())
    assert figures["calibration"]["temperature"] != 1 and figures["threshold"] != 0.5
    with zipfile.ZipFile(evaluated / "data/raw/images.zip") as archive:
        archive.extractall(tmp_path, table["file"])
    paths = [tmp_path / name for name in table["file"]]
    for folder in (evaluated / "models", exported):
        said = call(predict, tmp_path, *paths, "--models", folder, "--out", "o.csv")
        assert "SYNTHETIC" in said and np.allclose(pd.read_csv(tmp_path / "o.csv")["probability"], expected, atol=1e-6)
        model = prediction.Model(folder, "cpu")
        assert model.threshold == figures["threshold"]
        answers = [server.Page(model, "").look(path.read_bytes()) for path in paths]
        assert np.allclose([answer["probability"] for answer in answers], expected, atol=1e-6)
    config = json.loads((exported / "config.json").read_text())
    images = np.load(evaluated / "data/prepared/images.npy", mmap_mode="r")[table["row"]]
    values = (images / 255).astype(np.float32).transpose(0, 3, 1, 2)
    (logits,) = onnxruntime.InferenceSession(exported / "model.onnx").run(None, {"pixel_values": values})
    assert np.allclose(1 / (1 + np.exp(-logits / config["temperature"])), expected, atol=1e-4)
    raw = call(predict, evaluated, *paths, "--temperature", "1")
    members = pd.read_csv(io.StringIO(raw[: raw.index("This model")]))["probability"]
    assert np.allclose(members, table[["member_1", "member_2"]].mean(axis=1), atol=1e-6)


def test_a_decision_about_other_weights_is_refused(clone, tmp_path):
    folder = shutil.copytree(clone.folder / "models", tmp_path / "models")
    decision = json.loads((folder / "decision.json").read_text())
    (folder / "decision.json").write_text(json.dumps(decision | {"weights_sha256": "0" * 64}))
    with pytest.raises(PipelineError, match=r"decision.json is for other weights than .*: run dvc repro"):
        prediction.Model(folder, "cpu")


def test_a_tagged_version_of_the_model_comes_into_another_folder(clone, tmp_path):
    """The commands of docs/model.md, on a bare repository and a folder as remote."""
    page = (TOP / "docs/model.md").read_text()
    (tmp_path / "bare.git").mkdir()
    clone.run("git", "init", "-q", "--bare", "-b", "main", tmp_path / "bare.git")
    clone.run("git", "remote", "add", "origin", tmp_path / "bare.git")
    clone.run("dvc", "remote", "add", "--default", "store", tmp_path / "store")
    clone.run("git", "commit", "-qam", "A remote")
    publish, fetch = re.findall(r"```\n(.*?)```", page, re.DOTALL)[:2]
    clone.run("bash", "-ec", publish)
    assert "v1.0.0" in (shown := clone.run("gto", "show")) and "production" in shown
    (tmp_path / "elsewhere").mkdir()
    fetch = fetch.replace("REPOSITORY", str(tmp_path / "bare.git"))
    clone.run("bash", "-ec", f"cd {tmp_path / 'elsewhere'}; {fetch}")
    expected = (clone.folder / "models/model.safetensors").read_bytes()
    models = sorted((tmp_path / "elsewhere").rglob("model.safetensors"))
    assert len(models) >= 2 and all(path.read_bytes() == expected for path in models)
    clone.run("git", "remote", "remove", "origin")
    clone.run("git", "reset", "-q", "--hard", "HEAD~1")
