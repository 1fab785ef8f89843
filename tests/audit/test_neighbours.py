import tracemalloc

from core.audit import copies, hashes, neighbours

import numpy as np
import pytest

from planted_copies import phantoms, thumbnails


@pytest.fixture(scope="module")
def plain():
    """Descriptors of phantoms."""
    return describe(thumbnails(phantoms(60)))


def describe(grey):
    return neighbours.describe(hashes.coefficients(grey, count=neighbours.FREQUENCIES))


def build_index(descriptors):
    turns = neighbours.canonicalise(descriptors)[1]
    return neighbours.Index(neighbours.apply_turns(descriptors, turns), turns)


def alike(random, count):
    """Descriptors of images that have the same outline: their cosines are 0.8, as between parts of a mammogram."""
    outline = random.standard_normal((1, neighbours.DIMENSIONS))
    return scaled(2 * outline + random.standard_normal((count, neighbours.DIMENSIONS)))


def scaled(numbers):
    numbers[:, 0] = 0
    return np.rint(neighbours.NORM * numbers / np.linalg.norm(numbers, axis=1, keepdims=True)).astype(np.int8)


def changed(random, descriptors, cosine):
    """Descriptors of about this cosine with ``descriptors``."""
    noise = random.standard_normal(descriptors.shape)
    noise *= neighbours.NORM * np.sqrt(1 / cosine**2 - 1) / np.linalg.norm(noise, axis=1, keepdims=True)
    return scaled(descriptors + noise)


@pytest.mark.parametrize("turn", range(8))
def test_turned_descriptors_are_those_of_turned_images(turn):
    small = hashes._shrink(thumbnails(phantoms(60)), 0.0)
    turned = neighbours.apply_turns(describe(small), np.full(len(small), turn))
    assert np.array_equal(turned, describe(copies.apply_turn(small, turn)))


def test_two_turns_do_the_same_as_one_and_every_turn_can_be_undone():
    image = np.random.RandomState(1).randint(256, size=(1, 4, 4))
    for first in range(8):
        assert neighbours.COMPOSE[first, neighbours.INVERSE[first]] == 0
        for second in range(8):
            both = copies.apply_turn(copies.apply_turn(image, first), second)
            assert np.array_equal(both, copies.apply_turn(image, neighbours.COMPOSE[first, second]))


@pytest.mark.parametrize("turn", range(8))
def test_turned_copies_are_the_same_after_canonicalising(plain, turn):
    sure = plain[np.bincount(neighbours.canonicalise(plain, neighbours.SIGN_MARGIN)[0]) == 1]
    copied = neighbours.apply_turns(sure, np.full(len(sure), turn))
    originals, copied = (neighbours.apply_turns(rows, neighbours.canonicalise(rows)[1]) for rows in (sure, copied))
    assert len(sure) and np.array_equal(originals, copied)


@pytest.mark.parametrize("turn", range(8))
def test_a_turned_image_is_found_with_the_turn_that_leads_back(plain, turn):
    result = build_index(plain).search(neighbours.apply_turns(plain, np.full(len(plain), turn)), most=8)
    rows = {row[:3] for row in zip(*(column.tolist() for column in result), strict=True)}
    assert {(row, row, neighbours.INVERSE[turn]) for row in range(len(plain))} <= rows


def test_of_few_images_all_that_are_similar_are_found_the_most_similar_first():
    random = np.random.RandomState(2)
    images = scaled(random.standard_normal((12, neighbours.DIMENSIONS)))
    images = np.concatenate([images, changed(random, images, 0.995)])
    result = build_index(images).search(images, most=len(images))
    turned = [neighbours.apply_turns(images, np.full(len(images), turn)).astype(int) @ images.T for turn in range(8)]
    expected = np.nonzero(np.max(turned, axis=0) >= neighbours.MIN_COSINE * neighbours.NORM**2)
    pairs = set(zip(result.query.tolist(), result.position.tolist(), strict=True))
    pairs |= {(second, first) for first, second in pairs}  # the audit searches from both, too
    assert pairs == set(zip(*(column.tolist() for column in expected), strict=True)) and len(pairs) == 48
    assert (np.diff(result.similarity)[np.diff(result.query) == 0] <= 0).all()


def test_a_copy_is_found_among_thousands_of_images_that_are_alike():
    random = np.random.RandomState(3)
    images = alike(random, 20_000)
    queries = changed(random, images[:300], 0.99)
    result = build_index(images).search(queries, most=copies.MAX_NEIGHBOURS)
    assert (result.query == result.position).sum() >= 0.95 * len(queries)


def test_equal_images_are_found_without_comparing_all_of_them():
    equal = np.repeat(scaled(np.random.RandomState(4).standard_normal((1, neighbours.DIMENSIONS))), 5000, axis=0)
    result = build_index(equal).search(equal[:2], most=5000)
    limit = neighbours.LISTS * neighbours.WINDOW * 2**neighbours.MULTIPROBE_BITS
    assert (np.bincount(result.query) > neighbours.WINDOW // 4).all() and (np.bincount(result.query) <= limit).all()


def test_a_larger_index_takes_no_more_memory(tmp_path):
    numbers = np.random.RandomState(5).randint(-100, 100, size=(60_000, neighbours.DIMENSIONS)).astype(np.int8)
    turns = np.zeros(len(numbers), np.int8)
    most = []
    for count in (10_000, len(numbers)):
        tracemalloc.start()
        neighbours.Index(numbers[:count], turns[:count], str(tmp_path))
        most.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert most[1] < most[0] + (len(numbers) - 10_000)  # a byte for each image


def test_the_middle_of_each_number_is_its_lower_median():
    for count in (1, 2, 5, 9000):
        numbers = np.random.RandomState(count).randint(-128, 128, size=(count, 7)).astype(np.int8)
        assert np.array_equal(neighbours._medians(numbers), np.sort(numbers, axis=0)[(count - 1) // 2])


def test_no_images_are_found_in_an_empty_index_or_for_no_question(plain):
    none = plain[:0]
    assert len(build_index(none).search(plain, most=3).query) == len(build_index(plain).search(none, most=3).query) == 0
