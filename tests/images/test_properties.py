"""What is measured of a file besides its picture."""

import io
from pathlib import Path

from core.images import decoder
from core.images.preparation import Preparation
from core.pipeline import tables

import numpy as np
import pytest
from PIL import Image

import prepare
from conftest import change_parameters, image, put
from test_pixels import dicom_file, png

TISSUE = np.random.default_rng(1).integers(60, 200, (60, 80), dtype=np.uint8)


def measured(content, levels=None):
    return decoder.picture(content, Preparation(8, levels=levels)).properties


def saved(pixels, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM"])
def test_the_format_is_read_from_the_content_and_the_bytes_are_counted(kind):
    content = saved(TISSUE, kind)
    assert (measured(content).format, measured(content).bytes) == (kind.replace("PPM", "NETPBM"), len(content))


def test_the_jpeg_quality_is_that_of_the_encoder():
    qualities = range(1, 101)
    assert [measured(saved(TISSUE, "JPEG", quality=quality)).jpeg_quality for quality in qualities] == list(qualities)
    colour = np.stack([TISSUE, 255 - TISSUE, TISSUE], axis=-1)
    assert measured(saved(colour, "JPEG", quality=75, progressive=True)).jpeg_quality == 75
    assert measured(saved(TISSUE, "PNG")).jpeg_quality is None


def test_the_brightness_is_the_mean_grey_value_of_the_file_and_not_of_the_scaled_image():
    assert measured(image(TISSUE)).brightness == pytest.approx(TISSUE.mean())
    colour = np.stack([TISSUE, TISSUE // 2, TISSUE // 4], axis=-1)
    grey = np.asarray(Image.fromarray(colour).convert("L"))
    assert measured(saved(colour, "PNG")).brightness == pytest.approx(grey.mean(), abs=0.5)
    deep = TISSUE.astype(np.uint16) * 16
    for levels in ((0, 4095), (1000, 2000)):
        assert measured(saved(deep, "PNG"), levels).brightness == pytest.approx(deep.mean())


@pytest.mark.parametrize("value", [0, 255, 90])
@pytest.mark.parametrize(
    ("sides", "share"),
    [
        ((0, 0, 0, 0), 0.0),
        ((10, 0, 0, 0), 10 / 70),
        ((5, 5, 0, 0), 10 / 70),
        ((0, 0, 0, 20), 20 / 100),
        ((10, 30, 20, 100), 1 - 60 * 80 / (100 * 200)),
    ],
)
@pytest.mark.parametrize("deep", [False, True])
def test_the_border_is_the_uniform_area_at_the_sides(value, sides, share, deep):
    top, bottom, left, right = sides
    pixels = np.pad(TISSUE, ((top, bottom), (left, right)), constant_values=value)
    colour = np.stack([pixels, pixels, 255 - pixels], axis=-1)
    if deep:
        assert measured(saved(pixels.astype(np.uint16) * 100, "PNG"), (0, 30000)).border == pytest.approx(share)
    else:
        assert measured(saved(pixels, "PNG")).border == pytest.approx(share)
        assert measured(saved(colour, "PNG")).border == pytest.approx(share)


def test_a_border_is_found_in_a_jpeg_and_an_image_of_one_value_is_all_border():
    pixels = np.pad(TISSUE, 40)
    assert measured(saved(pixels, "JPEG", quality=85)).border == pytest.approx(1 - TISSUE.size / pixels.size, abs=0.1)
    assert measured(image(7)).border == 1.0


def test_a_dicom_file_has_its_transfer_syntax_and_its_first_window():
    from pydicom.data import get_testdata_file

    def read(name):
        return Path(get_testdata_file(name, download=False)).read_bytes()

    mr = measured(read("MR_small.dcm"), (0, 4095))
    assert mr.format == "DICOM 1.2.840.10008.1.2.1"
    assert (mr.window_center, mr.window_width) == (600.0, 1600.0)
    ct = measured(read("CT_small.dcm"), (-2000, 4095))
    assert (ct.window_center, ct.window_width) == (None, None)
    assert measured(image(TISSUE)).window_width is None


def test_padding_is_a_black_border_and_values_that_are_no_whole_numbers_are_measured():
    padded = np.pad(TISSUE.astype(np.uint16) * 16, ((0, 0), (0, 20)), constant_values=65535)
    table = measured(dicom_file(padded, PixelPaddingValue=65535, RescaleSlope="0.001", RescaleIntercept="0"), (0, 4))
    assert table.border == pytest.approx(20 / 100)
    assert table.brightness == pytest.approx(TISSUE.mean() * 0.016 * 80 / 100, rel=1e-4)
    colour = np.stack([TISSUE, TISSUE, TISSUE // 2], axis=-1).astype(np.uint16)
    assert measured(png(colour, 2), (0, 255)).brightness == pytest.approx(colour.mean(), rel=1e-6)


def test_the_table_does_not_depend_on_the_size_of_the_prepared_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/raw").mkdir(parents=True)
    packed = {"a.png": image(TISSUE), "b.jpg": saved(TISSUE, "JPEG", quality=60), "c.png": saved(TISSUE[:9], "PNG")}
    decoder.pack(packed, packed.__getitem__, "data/raw/images.zip")
    put(tmp_path, {"data/raw/labels.csv": b"file,label,patient,class\na.png,1,,1\nb.jpg,0,,0\nc.png,0,,0\n"})
    content = []
    for side in (32, 64):
        change_parameters(tmp_path / "params.yaml", {"prepare.image_size": side})
        prepare.main()
        content.append((tmp_path / prepare.PROPERTIES).read_bytes())
    assert content[0] == content[1]
    table = tables.read(prepare.PROPERTIES, tables.PROPERTIES)
    assert list(table["row"]) == [0, 1, 2] and list(table["format"]) == ["PNG", "JPEG", "PNG"]
    assert list(table["bytes"]) == [len(file) for file in packed.values()]
    assert table["jpeg_quality"].isna().tolist() == [True, False, True] and table["jpeg_quality"][1] == 60
