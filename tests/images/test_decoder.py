import hashlib
import io
import zipfile

from core.images import decoder, preparation
from core.images.preparation import Preparation

import numpy as np
import pytest
from PIL import Image

from conftest import huge_image, image

GRADIENT = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
COLOUR = np.stack([GRADIENT, GRADIENT[::-1], 255 - GRADIENT], axis=-1)


EIGHT = Preparation(8)


def saved(picture, kind, **options):
    written = io.BytesIO()
    picture.save(written, kind, **options)
    return written.getvalue()


def test_grey_stored_as_rgb_is_grey_and_a_copy_of_itself_stored_as_grey():
    grey, rgb = image(GRADIENT), image(np.stack([GRADIENT] * 3, axis=-1), mode="RGB")
    assert decoder.picture(rgb, EIGHT).pixels.shape == (8, 8, 1)
    assert decoder.picture(rgb, EIGHT).pixels_sha256 == decoder.picture(grey, EIGHT).pixels_sha256
    assert decoder.picture(rgb, EIGHT).bytes_sha256 == hashlib.sha256(rgb).hexdigest()
    assert decoder.picture(rgb, EIGHT).mode == "RGB"


@pytest.mark.parametrize(("row", "channel"), [(0, 1), (63, 2), (64, 1), (129, 2)])
def test_one_pixel_of_colour_anywhere_makes_an_image_coloured(row, channel):
    grey = np.full((130, 8, 3), 100, np.uint8)
    assert decoder.pixels(image(grey, mode="RGB"), EIGHT).shape == (8, 8, 1)
    grey[row, 7, channel] = 101
    assert decoder.pixels(image(grey, mode="RGB"), EIGHT).shape == (8, 8, 3)


def test_the_hash_of_the_pixels_is_that_of_their_shape_and_all_their_bytes():
    shaped = b"RGB 8 8 " + COLOUR.tobytes()
    assert decoder.picture(image(COLOUR, mode="RGB"), EIGHT).pixels_sha256 == hashlib.sha256(shaped).hexdigest()


def test_equal_pixels_in_another_format_have_an_equal_hash_and_one_changed_pixel_another():
    other = GRADIENT.copy()
    other[3, 3] += 1
    first = decoder.picture(image(GRADIENT), EIGHT).pixels_sha256
    assert decoder.picture(image(GRADIENT, kind="BMP"), EIGHT).pixels_sha256 == first
    assert decoder.picture(image(other), EIGHT).pixels_sha256 != first


def test_the_shape_belongs_to_the_hash():
    flat = np.zeros((4, 16), np.uint8)
    assert decoder.picture(image(flat), EIGHT).pixels_sha256 != decoder.picture(image(flat.T), EIGHT).pixels_sha256


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (saved(Image.fromarray(COLOUR).convert("RGBA"), "PNG"), COLOUR),  # alpha
        (saved(Image.fromarray(GRADIENT).convert("P"), "PNG"), GRADIENT),  # palette
        (saved(Image.fromarray(COLOUR), "TIFF"), COLOUR),
        (saved(Image.fromarray(GRADIENT > 99), "PNG"), (GRADIENT > 99) * np.uint8(255)),  # 1 bit
        (saved(Image.fromarray(GRADIENT), "GIF", save_all=True, append_images=[Image.new("L", (8, 8))]), GRADIENT),
    ],
)
def test_every_kind_of_pixel_becomes_8_bit(content, expected):
    pixels = decoder.pixels(content, EIGHT)
    assert pixels.dtype == np.uint8 and np.array_equal(pixels.squeeze(), expected)


def test_cmyk_becomes_rgb():
    pixels = decoder.pixels(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"), EIGHT)
    assert pixels.shape == (8, 8, 3) and pixels[0, 0, 0] > 200 and pixels[0, 0, 1] < 60


def test_an_image_turned_by_exif_stands_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    picture = decoder.picture(saved(Image.fromarray(COLOUR[:4]), "PNG", exif=exif), EIGHT)
    assert (picture.width, picture.height) == (4, 8)
    turned = decoder.decode(saved(Image.fromarray(COLOUR), "PNG", exif=exif))[0]
    assert np.array_equal(np.asarray(turned), np.rot90(COLOUR, -1))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an image"),
        (b"hello", "not an image"),
        (image(np.random.default_rng(1).integers(0, 256, (99, 99), dtype=np.uint8))[:5000], "truncated"),
        (huge_image(), "decompression bomb"),
        (saved(Image.new("F", (8, 8)), "TIFF"), "no known range"),
    ],
    ids=["empty", "text", "truncated", "huge", "float"],
)
def test_what_cannot_be_decoded_says_why(content, reason):
    with pytest.raises(decoder.DecodeError, match=reason):
        decoder.picture(content, EIGHT)


def test_resizing_equals_pillow_and_is_close_to_the_original_projects_torchvision():
    import torch
    from torchvision.transforms.v2.functional import resize

    large = np.random.default_rng(1).integers(0, 256, (96, 96), dtype=np.uint8)
    pixels = decoder.pixels(image(large), Preparation(24))[..., 0].astype(float)
    other = resize(torch.tensor(large)[None].float(), [24, 24], antialias=True)[0].numpy()
    assert np.abs(pixels - other).max() <= 1.5  # of 255: rounding to whole grey values between the two passes


def test_equal_images_make_an_equal_zip_whatever_their_order(tmp_path):
    content = {"b/ä.png": image(1), "a.png": image(2)}
    decoder.pack(["b/ä.png", "a.png"], content.__getitem__, tmp_path / "1.zip")
    decoder.pack(["a.png", "b/ä.png"], content.__getitem__, tmp_path / "2.zip")
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "1.zip") as archive:
        assert archive.namelist() == ["a.png", "b/ä.png"] and archive.read("a.png") == image(2)


def test_a_stack_stays_grey_until_the_first_colour_and_holds_just_what_was_added(tmp_path):
    stack = decoder.Stack(tmp_path / "s.npy", 5, 8)
    stack.add(decoder.pixels(image(GRADIENT), EIGHT))
    assert stack.array.shape == (5, 8, 8, 1)
    stack.add(decoder.pixels(image(COLOUR, mode="RGB"), EIGHT))
    stack.add(decoder.pixels(image(9), EIGHT))
    stack.finish()
    images = np.load(tmp_path / "s.npy")
    assert images.shape == (3, 8, 8, 3)
    assert np.array_equal(images[0], np.stack([GRADIENT] * 3, axis=-1))
    assert np.array_equal(images[1], COLOUR) and (images[2] == 9).all()


def test_images_come_in_their_order_and_a_bad_one_in_its_place():
    content = {str(number): image(number % 256) for number in range(600)} | {"300": b"x"}
    images = list(decoder.decode_all(list(content), content.__getitem__, decoder.pixels, EIGHT))
    assert isinstance(images[300], decoder.DecodeError)
    assert [int(pixels[0, 0, 0]) for pixels in images[301:]] == [number % 256 for number in range(301, 600)]


def test_images_of_12_bits_that_differ_are_no_copies_though_they_look_alike_in_8():
    dark = np.arange(64, dtype=np.uint16).reshape(8, 8)
    first, other = (saved(Image.fromarray(values), "PNG") for values in (dark, dark + 1))
    to = Preparation(8, levels=(0, 65535))
    assert np.array_equal(decoder.pixels(first, to), decoder.pixels(other, to))
    assert decoder.picture(first, to).pixels_sha256 != decoder.picture(other, to).pixels_sha256
    assert decoder.pixels(first, EIGHT._replace(levels=(0, 63)))[..., 0].ravel().tolist() == [
        value * 255 // 63 for value in range(64)
    ]


def test_an_image_of_another_depth_than_the_set_is_refused():
    deep = saved(Image.fromarray(GRADIENT.astype(np.uint16) * 16), "PNG")
    with pytest.raises(decoder.DecodeError, match=r"more than 8 bits a pixel \(I;16\), where 8 are expected"):
        decoder.picture(deep, EIGHT)
    with pytest.raises(decoder.DecodeError, match=r"8 bits a pixel \(L\), where more are expected"):
        decoder.picture(image(GRADIENT), Preparation(8, levels=(0, 4095)))


@pytest.mark.parametrize("percents", [(0, 100), (1, 99), (2.5, 60), (50, 50.1)])
def test_levels_are_numpys_percentiles_of_all_grey_values(percents):
    values = np.random.default_rng(3).normal(900, 300, (5, 40, 40)).clip(-1024, 4095).astype(np.int64)
    for scaled, mode in ((values, "I;16"), (values * 0.37, "MONOCHROME2 12"), (values, "MONOCHROME1 12")):
        histogram, sign = preparation.Histogram(), -1 if mode.startswith("MONOCHROME1") else 1
        for shown in scaled:
            histogram.add(preparation.Count.of(shown, mode))
        low, high = np.percentile(sign * scaled, percents, method="inverted_cdf")  # of what is shown
        high = high if high > low else low + 1
        assert histogram.percentiles(*percents) == ((low, high) if sign == 1 else (-high, -low))


WIDE = np.zeros((10, 30), np.uint8)
WIDE[:, :10], WIDE[:, 10:20], WIDE[:, 20:] = 50, 100, 150


@pytest.mark.parametrize(
    ("fit", "middle"),
    [
        ("stretch", [50, 50, 100, 100, 150, 150]),
        ("pad", [50, 50, 100, 100, 150, 150]),
        ("crop", [100] * 6),
    ],
)
@pytest.mark.parametrize("tall", [False, True])
def test_an_image_that_is_not_square_is_squeezed_padded_or_cropped(fit, middle, tall):
    wide = WIDE.T if tall else WIDE
    pixels = decoder.pixels(image(wide.copy()), Preparation(6, fit))[..., 0]
    pixels = pixels.T if tall else pixels
    assert np.abs(pixels[3].astype(int) - middle).max() <= 13  # smoothed at the edges
    assert (pixels[0] > 0).all() == (fit != "pad") and (pixels[2:4] > 0).all()


def test_the_audit_compares_the_same_thumbnails_whatever_fit_is():
    pictures = [decoder.picture(image(WIDE), Preparation(8, fit)) for fit in ("stretch", "pad", "crop", "breast")]
    assert all(np.array_equal(picture.thumbnail, pictures[0].thumbnail) for picture in pictures)
    assert len({picture.pixels_sha256 for picture in pictures}) == 1


def test_grey_levels_are_those_that_pillow_gives_however_many_images_there_are():
    images = np.random.RandomState(0).randint(0, 256, (1500, 4, 4, 3)).astype(np.uint8)
    expected = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])
    assert np.array_equal(decoder.grey_levels(images), expected)
    assert np.array_equal(decoder.grey_levels(images[..., :1]), images[..., 0])


def test_a_packed_archive_is_read_in_its_order_as_zipfile_reads_it(tmp_path):
    images = {"b/ü 1.png": image(3), "a.png": image(4), "empty": b"", "a#0001": bytes(range(256)) * 300}
    decoder.pack(images, images.__getitem__, tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert list(decoder.contents(tmp_path / "a.zip")) == [(name, archive.read(name)) for name in archive.namelist()]
    decoder.pack([], images.__getitem__, tmp_path / "none.zip")
    assert list(decoder.contents(tmp_path / "none.zip")) == []


@pytest.mark.parametrize("damage", ["a byte", "cut in a file", "cut in a header", "cut at a header"])
def test_a_damaged_packed_archive_is_noticed(tmp_path, damage):
    images = {"a.png": bytes(1000), "b.png": bytes(1000)}
    decoder.pack(images, images.__getitem__, tmp_path / "a.zip")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    second = content.index(b"PK\x03\x04", 4)
    content[500] ^= 1 if damage == "a byte" else 0
    ends = {"cut in a file": second + 500, "cut in a header": second + 7, "cut at a header": second}
    (tmp_path / "a.zip").write_bytes(content[: ends.get(damage, len(content))])
    with pytest.raises(zipfile.BadZipFile):
        list(decoder.contents(tmp_path / "a.zip"))
