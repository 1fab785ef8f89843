import hashlib
import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from conftest import image
from core.images import decoder

GRADIENT = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
COLOUR = np.stack([GRADIENT, GRADIENT[::-1], 255 - GRADIENT], axis=-1)


def saved(picture, kind, **options):
    written = io.BytesIO()
    picture.save(written, kind, **options)
    return written.getvalue()


def test_grey_stored_as_rgb_is_grey_and_a_copy_of_itself_stored_as_grey():
    grey, rgb = image(GRADIENT), image(np.stack([GRADIENT] * 3, axis=-1), mode="RGB")
    assert decoder.picture(rgb, 8).pixels.shape == (8, 8, 1)
    assert decoder.picture(rgb, 8).pixels_sha256 == decoder.picture(grey, 8).pixels_sha256
    assert decoder.picture(rgb, 8).bytes_sha256 == hashlib.sha256(rgb).hexdigest()
    assert decoder.picture(rgb, 8).mode == "RGB"


def test_equal_pixels_in_another_format_have_an_equal_hash_and_one_changed_pixel_another():
    other = GRADIENT.copy()
    other[3, 3] += 1
    first = decoder.picture(image(GRADIENT), 8).pixels_sha256
    assert decoder.picture(image(GRADIENT, kind="BMP"), 8).pixels_sha256 == first
    assert decoder.picture(image(other), 8).pixels_sha256 != first


def test_the_shape_belongs_to_the_hash():
    flat = np.zeros((4, 16), np.uint8)
    assert decoder.picture(image(flat), 8).pixels_sha256 != decoder.picture(image(flat.T), 8).pixels_sha256


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (saved(Image.fromarray(GRADIENT.astype(np.uint16) * 257), "PNG"), GRADIENT),  # 16 bit
        (saved(Image.fromarray(COLOUR).convert("RGBA"), "PNG"), COLOUR),  # alpha
        (saved(Image.fromarray(GRADIENT).convert("P"), "PNG"), GRADIENT),  # palette
        (saved(Image.fromarray(COLOUR), "TIFF"), COLOUR),
        (saved(Image.fromarray(GRADIENT > 99), "PNG"), (GRADIENT > 99) * np.uint8(255)),  # 1 bit
        (saved(Image.fromarray(GRADIENT), "GIF", save_all=True, append_images=[Image.new("L", (8, 8))]), GRADIENT),
    ],
)
def test_every_kind_of_pixel_becomes_8_bit(content, expected):
    found = decoder.pixels(content, 8)
    assert found.dtype == np.uint8 and np.array_equal(found.squeeze(), expected)


def test_cmyk_becomes_rgb():
    found = decoder.pixels(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"), 8)
    assert found.shape == (8, 8, 3) and found[0, 0, 0] > 200 and found[0, 0, 1] < 60


def test_an_image_turned_by_exif_stands_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    found = decoder.picture(saved(Image.fromarray(COLOUR[:4]), "PNG", exif=exif), 8)
    assert (found.width, found.height) == (4, 8)
    turned = decoder.decode(saved(Image.fromarray(COLOUR), "PNG", exif=exif))[0]
    assert np.array_equal(np.asarray(turned), np.rot90(COLOUR, -1))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an image"),
        (b"hello", "not an image"),
        (image(np.random.default_rng(1).integers(0, 256, (99, 99), dtype=np.uint8))[:5000], "truncated"),
        (saved(Image.new("1", (30000, 30000)), "PNG"), "decompression bomb"),
        (saved(Image.new("F", (8, 8)), "TIFF"), "no known range"),
    ],
    ids=["empty", "text", "truncated", "huge", "float"],
)
def test_what_cannot_be_decoded_says_why(content, reason):
    with pytest.raises(decoder.Unreadable, match=reason):
        decoder.picture(content, 8)


def test_resizing_equals_pillow_and_is_close_to_the_original_projects_torchvision():
    import torch
    from torchvision.transforms.v2.functional import resize

    large = np.random.default_rng(1).integers(0, 256, (96, 96), dtype=np.uint8)
    found = decoder.pixels(image(large), 24)[..., 0].astype(float)
    other = resize(torch.tensor(large)[None].float(), [24, 24], antialias=True)[0].numpy()
    assert np.abs(found - other).max() <= 1.5  # of 255: rounding to whole grey values between the two passes


def test_equal_images_make_an_equal_zip_whatever_their_order(tmp_path):
    content = {"b/ä.png": image(1), "a.png": image(2)}
    decoder.pack(["b/ä.png", "a.png"], content.__getitem__, tmp_path / "1.zip")
    decoder.pack(["a.png", "b/ä.png"], content.__getitem__, tmp_path / "2.zip")
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "1.zip") as archive:
        assert archive.namelist() == ["a.png", "b/ä.png"] and archive.read("a.png") == image(2)


def test_a_stack_stays_grey_until_the_first_colour_and_holds_just_what_was_added(tmp_path):
    stack = decoder.Stack(tmp_path / "s.npy", 5, 8)
    stack.add(decoder.pixels(image(GRADIENT), 8))
    assert stack.array.shape == (5, 8, 8, 1)
    stack.add(decoder.pixels(image(COLOUR, mode="RGB"), 8))
    stack.add(decoder.pixels(image(9), 8))
    stack.finish()
    found = np.load(tmp_path / "s.npy")
    assert found.shape == (3, 8, 8, 3)
    assert np.array_equal(found[0], np.stack([GRADIENT] * 3, axis=-1))
    assert np.array_equal(found[1], COLOUR) and (found[2] == 9).all()


def test_images_come_in_their_order_and_a_bad_one_in_its_place():
    content = {str(number): image(number % 256) for number in range(600)} | {"300": b"x"}
    found = list(decoder.decode_all(list(content), content.__getitem__, decoder.pixels, 8))
    assert isinstance(found[300], decoder.Unreadable)
    assert [int(each[0, 0, 0]) for each in found[301:]] == [number % 256 for number in range(301, 600)]


def test_images_of_12_bits_that_differ_are_no_copies_though_they_look_alike_in_8():
    dark = np.arange(64, dtype=np.uint16).reshape(8, 8)
    first, other = (saved(Image.fromarray(values), "PNG") for values in (dark, dark + 1))
    assert np.array_equal(decoder.pixels(first, 8), decoder.pixels(other, 8))
    assert decoder.picture(first, 8).pixels_sha256 != decoder.picture(other, 8).pixels_sha256
    eight = decoder.picture(image(GRADIENT), 8).pixels_sha256
    assert decoder.picture(saved(Image.fromarray(GRADIENT.astype(np.uint16) * 257), "PNG"), 8).pixels_sha256 == eight


def test_grey_levels_are_those_that_pillow_gives_however_many_images_there_are():
    images = np.random.RandomState(0).randint(0, 256, (1500, 4, 4, 3)).astype(np.uint8)
    expected = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])
    assert np.array_equal(decoder.grey_levels(images), expected)
    assert np.array_equal(decoder.grey_levels(images[..., :1]), images[..., 0])
