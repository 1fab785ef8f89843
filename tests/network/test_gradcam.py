from core.network import gradcam, networks
from core.network.ensemble import Ensemble

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn


class Brightness(nn.Module):
    """One convolution that passes the image on; the logit is its mean brightness less a half."""

    def __init__(self):
        super().__init__()
        self.description = {}
        self.network = nn.Conv2d(1, 1, 1)
        nn.init.ones_(self.network.weight)
        nn.init.zeros_(self.network.bias)

    def forward(self, images):
        return (self.network(images).square() - 0.25).mean((1, 2, 3))


def test_the_region_that_makes_the_call_is_the_one_that_lights_up():
    image = np.zeros((1, 8, 8, 1), np.uint8)
    image[0, 5:7, 1:3] = 255
    ensemble = Ensemble([Brightness()])
    layers, side = gradcam.target_layers(ensemble, torch.zeros(1, 1, 8, 8))
    heat = gradcam.heatmaps(ensemble, layers, image, np.array([True]))[0]
    assert side == 8 and heat[5:7, 1:3].min() == 1 and heat.sum() == 4


def test_of_a_negative_call_what_spoke_for_positive_stays_dark():
    image = np.full((1, 8, 8, 1), 255, np.uint8)
    ensemble = Ensemble([Brightness()])
    layers, _ = gradcam.target_layers(ensemble, torch.zeros(1, 1, 8, 8))
    assert gradcam.heatmaps(ensemble, layers, image, np.array([False])).max() == 0


def test_the_map_of_an_ensemble_is_the_mean_of_its_members():
    """Grad-CAM of Brightness is 2 m a / 64, where a is its map and m the mean of a; the second a is higher by one."""
    image = np.zeros((1, 8, 8, 1), np.uint8)
    image[0, 1, 1] = image[0, 6, 6] = 255
    members = Brightness(), Brightness()
    nn.init.ones_(members[1].network.bias)
    heat = gradcam.heatmaps(Ensemble(members), [member.network for member in members], image, np.array([True]))[0]
    mean = 2 / 64
    assert heat[1, 1] == heat[6, 6] == 1
    assert heat[0, 0] == pytest.approx((mean + 1) / (mean + 2 * (mean + 1)))


@pytest.mark.parametrize(
    "backbone",
    ["shufflenet_v2_x0_5", "resnet18", "convnext_tiny", "squeezenet1_1", "densenet121",
     *(pytest.param(backbone, marks=pytest.mark.slow) for backbone in ("efficientnet_v2_s", "vgg11", "vit_b_16"))],
)  # fmt: skip
def test_every_kind_of_network_gets_its_gallery(tmp_path, backbone):
    torch.manual_seed(0)
    ensemble = Ensemble([networks.Classifier(backbone, "linear", 64)])
    images = np.random.RandomState(0).randint(0, 256, (6, 64, 64, 3)).astype(np.uint8)
    table = pd.DataFrame({"row": range(6), "file": [f"f{n}" for n in range(6)], "label": [0, 1] * 3,
                          "probability": np.linspace(0, 1, 6)})  # fmt: skip
    gradcam.gallery(ensemble, images, table, 0.5, tmp_path / "g.png", False)
    page = np.asarray(Image.open(tmp_path / "g.png"))
    assert page.shape[1] > 600


def test_the_worst_mistakes_come_first():
    table = pd.DataFrame({"file": list("abcd"), "label": [0, 1, 1, 0], "probability": [0.9, 0.05, 0.9, 0.2]})
    assert list(gradcam.worst_errors(table)["file"]) == ["b", "a", "d", "c"]


def test_a_network_without_a_map_to_show_says_so_and_does_not_fail(tmp_path):
    ensemble = Ensemble([networks.Classifier("vit_b_32", "linear", 64)])
    assert gradcam.target_layers(ensemble.eval(), torch.zeros(1, 3, 64, 64)) is None
    table = pd.DataFrame({"row": [0], "file": ["f"], "label": [0], "probability": [0.9]})
    gradcam.gallery(ensemble, np.zeros((1, 64, 64, 3), np.uint8), table, 0.5, tmp_path / "g.png", False)
    assert (tmp_path / "g.png").is_file()
