from core.images import phantom
from core.network import networks, occlusion
from core.network.ensemble import Ensemble

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits


class Brightness(nn.Module):
    """The logit is the mean brightness less a half, times ``factor``."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.description = {}
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, images):
        return self.factor * (images.float() / 255 - 0.5).mean((1, 2, 3))


def spot():
    """Bright in the rows and columns 24 to 32 of 64. The region (3, 3) hides it, and those around it hide a part."""
    image = np.zeros((1, 64, 64, 1), np.uint8)
    image[0, 24:32, 24:32] = 255
    return image


def test_the_region_that_makes_the_call_is_the_one_that_lights_up():
    heat = occlusion.heatmaps(Ensemble([Brightness()]), spot(), np.array([True]))[0]
    assert heat[3, 3] == 1 and (heat > 0).sum() == 9 and heat[2:5, 2:5].min() > 0


def test_of_a_negative_call_what_spoke_for_positive_stays_dark():
    heat = occlusion.heatmaps(Ensemble([Brightness()]), spot(), np.array([False]))[0]
    assert heat[2:5, 2:5].max() == 0 and heat[6, 6] == 1  # the mean colour is brighter than the dark


def test_the_map_of_an_ensemble_is_of_its_common_probability():
    """Two members that cancel each other out have no region that decides; so does one alone."""
    ensemble = Ensemble([Brightness(1.0), Brightness(-1.0)])
    assert occlusion.heatmaps(ensemble, spot(), np.array([True])).max() < 1e-3
    assert occlusion.heatmaps(Ensemble([Brightness(1.0)]), spot(), np.array([True])).max() == 1


def test_images_smaller_than_the_grid_and_unequal_sides_have_all_regions():
    for shape in ((4, 4, 1), (32, 48, 3)):
        image = np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)
        copies = occlusion.occluded(image)
        changed = (copies != image).any((0, 3))
        assert copies.shape == (64, *shape) and changed.mean() > 0.95


@pytest.mark.parametrize(
    "backbone", ["shufflenet_v2_x0_5", pytest.param("timm/vit_tiny_patch16_224", marks=pytest.mark.slow)]
)
def test_every_kind_of_network_gets_its_gallery(tmp_path, backbone):
    torch.manual_seed(0)
    ensemble = Ensemble([networks.Classifier(backbone, "linear", 64)])
    images = np.random.RandomState(0).randint(0, 256, (6, 64, 64, 3)).astype(np.uint8)
    table = pd.DataFrame({"row": range(6), "file": [f"f{n}" for n in range(6)], "label": [0, 1] * 3,
                          "probability": np.linspace(0, 1, 6)})  # fmt: skip
    occlusion.gallery(ensemble, images, table, 0.5, tmp_path / "g.png", False)
    page = np.asarray(Image.open(tmp_path / "g.png"))
    assert page.shape[1] > 600


def test_the_worst_mistakes_come_first():
    table = pd.DataFrame({"file": list("abcd"), "label": [0, 1, 1, 0], "probability": [0.9, 0.05, 0.9, 0.2]})
    assert list(occlusion.worst_errors(table)["file"]) == ["b", "a", "d", "c"]


SMALL_VIT = {"patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4}
SMALL_SWIN = {"patch_size": 8, "embed_dim": 32, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4,
              "drop_path_rate": 0.0}  # fmt: skip
VIT, SWIN = "timm/vit_tiny_patch16_224", "timm/swin_tiny_patch4_window7_224"


def with_lesions(count, seed, side=64, radius=6):
    """Phantoms of which about half are positive, because a dark disc was drawn at the centre that is returned."""
    random = np.random.RandomState(seed)
    images = np.stack([patch.pixels for patch in phantom.draw(count, count // 30, side, seed)]).astype(np.int64)
    images, labels = images[random.permutation(count)], random.randint(0, 2, count)
    centres = random.randint(radius + 2, side - radius - 2, (count, 2))
    away = (np.mgrid[:side, :side] - centres[:, :, None, None]) ** 2
    images -= 90 * ((away.sum(1) <= radius**2) & (labels == 1)[:, None, None])[..., None]
    return images.clip(0, 255).astype(np.uint8), labels, centres


@pytest.mark.long
@pytest.mark.parametrize(
    ("backbone", "arguments", "lr", "epochs"),
    [("timm/test_resnet", None, 0.003, 4), (VIT, SMALL_VIT, 0.002, 4), (SWIN, SMALL_SWIN, 0.001, 9)],
)
def test_planted_lesions_lie_in_the_hottest_tenth_of_the_map_in_36_of_40_phantoms(backbone, arguments, lr, epochs):
    torch.manual_seed(0)
    classifier = networks.Classifier(backbone, "linear", 64, arguments=arguments)
    optimiser = torch.optim.AdamW(classifier.parameters(), lr)
    images, labels, _ = with_lesions(1500, seed=1)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(32):
            logits = classifier(torch.from_numpy(images[rows]).permute(0, 3, 1, 2))
            loss = binary_cross_entropy_with_logits(logits, torch.tensor(labels[rows], dtype=torch.float32))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    images, labels, centres = with_lesions(300, seed=3)
    ensemble = Ensemble([classifier.eval()])
    with torch.inference_mode():
        detected = (ensemble(torch.from_numpy(images).permute(0, 3, 1, 2)) > 0).numpy() & (labels == 1)
    rows = np.flatnonzero(detected)[:40]
    assert len(rows) == 40
    heat = torch.from_numpy(occlusion.heatmaps(ensemble, images[rows], np.ones(40, bool)))[:, None]
    maps = nn.functional.interpolate(heat, (64, 64), mode="bilinear", align_corners=False)[:, 0].numpy()
    hits = [grid[tuple(centre)] >= np.quantile(grid, 0.9) for grid, centre in zip(maps, centres[rows], strict=True)]
    assert sum(hits) >= 36
