from core.audit import copies, hashes

import imagehash
import numpy as np
import pytest
from PIL import Image

from planted_copies import phantoms, thumbnails


@pytest.fixture(scope="module")
def grey():
    return thumbnails(phantoms(40))


def test_the_hash_is_imagehashs(grey):
    expected = [str(imagehash.phash(Image.fromarray(image))) for image in grey]
    assert hashes.words(hashes.bits(hashes.coefficients(grey))) == expected
    assert hashes.words(hashes.read(expected)) == expected


@pytest.mark.parametrize("crop", copies.CROPS)
def test_images_are_shrunk_together_as_pillow_shrinks_each(grey, crop):
    box = (crop * 64, crop * 64, (1 - crop) * 64, (1 - crop) * 64)
    separate = [
        np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.LANCZOS, box=box)) for image in grey
    ]
    assert np.array_equal(hashes._shrink(grey, crop), np.stack(separate))


@pytest.mark.parametrize("turn", range(8))
def test_turned_coefficients_are_those_of_turned_images(grey, turn):
    small = hashes._shrink(grey, 0.0)
    expected = hashes.bits(hashes.coefficients(copies.apply_turn(small, turn)))
    assert np.array_equal(hashes.bits(hashes.apply_turn(hashes.coefficients(small), turn)), expected)


def test_no_images_have_no_hashes():
    assert hashes.words(hashes.bits(hashes.coefficients(np.empty((0, 64, 64), np.uint8)))) == []
