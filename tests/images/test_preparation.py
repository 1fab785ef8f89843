"""The crop to the breast, on SYNTHETIC mammograms."""

import io

from core.images import preparation
from core.pipeline import tables

import numpy as np
import pytest
from PIL import Image, ImageOps

import audit
import download
import drawn_mammograms
import prepare
from conftest import change_parameters, put


@pytest.mark.parametrize("implant", [False, True])
@pytest.mark.parametrize("scale", [1, 3])
def test_the_crop_is_the_breast_without_the_label(monkeypatch, implant, scale):
    boxes = []
    monkeypatch.setattr(Image.Image, "crop", lambda image, box: boxes.append(box) or image)
    for seed in range(10):
        image, (left, top, right, bottom) = drawn_mammograms.draw(seed, seed, implant=implant)
        _, share = preparation.crop_to_breast(image.resize((scale * 256, scale * 256)))
        box = np.array(boxes[-1]) / scale
        width, height = np.minimum(box[2:], (right, bottom)) - np.maximum(box[:2], (left, top))
        common, area = width * height, (box[2] - box[0]) * (box[3] - box[1])
        assert common / (area + (right - left) * (bottom - top) - common) > 0.9  # intersection over union
        assert share == pytest.approx(area / 256**2)


LABEL = np.zeros((256, 256), np.uint8)
LABEL[12:24, 190:240] = 255
NOISE = np.random.default_rng(1).integers(0, 256, (256, 256), np.uint8)


@pytest.mark.parametrize("pixels", [LABEL, NOISE, np.full((256, 256), 90, np.uint8), 255 - LABEL], ids=str)
def test_an_image_without_a_breast_stays_whole(pixels):
    image = Image.fromarray(pixels)
    assert preparation.crop_to_breast(image) == (image, None)
    assert np.array_equal(preparation.square(image, 256, "breast")[..., 0], pixels)


def test_a_breast_keeps_its_shape():
    image, (_, top, right, bottom) = drawn_mammograms.draw(1, 1)
    shown = preparation.square(image, 64, "breast")[..., 0] > 30
    seen = np.ptp(np.nonzero(shown.any(axis=0))) / np.ptp(np.nonzero(shown.any(axis=1)))
    assert seen == pytest.approx(right / (bottom - top), rel=0.1)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_where_no_breast_is_found_is_named_and_a_crop_is_a_copy_of_its_original(tmp_path, monkeypatch, capsys):
    images = [drawn_mammograms.draw(seed, seed) for seed in range(8)]
    drawn = {f"{n % 2}/p{n}.png": image for n, (image, _) in enumerate(images)}
    drawn |= {"0/p8.png": images[0][0].crop(images[0][1]), "1/p9.png": ImageOps.mirror(images[1][0])}
    put(
        tmp_path / "images",
        {name: png(image) for name, image in drawn.items()} | {"0/x.png": png(Image.fromarray(NOISE))},
    )
    monkeypatch.chdir(tmp_path)
    folder = {
        "data.source": "folder",
        "data.location": "images",
        "data.positive": "1",
        "data.patient": "(?P<patient>..?)[.]",
    }
    change_parameters(tmp_path / "params.yaml", folder | {"prepare.fit": "breast"})
    for stage in (download, prepare, audit):
        stage.main()
    assert "no breast was found in 1 of 11 images, which are used whole: 0/x.png" in capsys.readouterr().out
    findings = tables.read(audit.FINDINGS, tables.FINDINGS)
    assert list(findings.loc[findings["finding"] == "no-breast", "file"]) == ["0/x.png"]
    clusters = tables.read(audit.CLUSTERS, tables.CLUSTERS).groupby("cluster")["file"].apply(list)
    assert sorted(clusters) == [["0/p0.png", "0/p8.png"], ["1/p1.png", "1/p9.png"]]
    assert (tmp_path / "plots/audit/crops.png").exists()
