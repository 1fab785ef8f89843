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
    each = [np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.LANCZOS, box=box)) for image in grey]
    assert np.array_equal(hashes._shrunk(grey, crop), np.stack(each))


@pytest.mark.parametrize("turn", range(8))
def test_turned_coefficients_are_those_of_turned_images(grey, turn):
    small = hashes._shrunk(grey, 0.0)
    expected = hashes.bits(hashes.coefficients(copies.turned(small, turn)))
    assert np.array_equal(hashes.bits(hashes.turned(hashes.coefficients(small), turn)), expected)


def test_all_hashes_within_seven_bits_are_found_the_nearest_first():
    random = np.random.RandomState(5)
    known = random.randint(256, size=(400, 8)).astype(np.uint8)
    centre = known[random.randint(400, size=300)]
    for k in range(300):  # as many within reach as there can be beyond it
        flips = random.choice(64, random.randint(12), replace=False)
        centre[k] ^= np.packbits(np.isin(np.arange(64), flips))
    far = np.unpackbits(known[None] ^ centre[:, None], axis=2).sum(axis=2)  # each with each
    line, place, bits = hashes.Near(known).find(centre, reach=7, most=400)
    assert {*zip(line, place, bits, strict=True)} == {
        (i, j, far[i, j]) for i, j in zip(*np.nonzero(far <= 7), strict=True)
    }
    assert len(line) > 150

    line, place, bits = hashes.Near(known).find(centre, reach=64, most=3)
    assert (np.bincount(line) <= 3).all() and (np.diff(bits)[np.diff(line) == 0] >= 0).all()
    nearest = far.min(axis=1)
    assert all(bits[line == k][0] == nearest[k] for k in np.flatnonzero(nearest <= 7))


def test_of_hashes_that_share_a_word_by_the_thousand_only_some_are_looked_at():
    alike = np.zeros((5000, 8), np.uint8)
    assert len(hashes.Near(alike).find(alike[:2], reach=10, most=5000)[0]) == 2 * hashes.CROWD


def test_no_images_have_no_hashes():
    assert hashes.words(hashes.bits(hashes.coefficients(np.empty((0, 64, 64), np.uint8)))) == []
