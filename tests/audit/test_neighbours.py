import tracemalloc

from core.audit import copies, hashes, neighbours

import numpy as np
import pytest

from planted_copies import phantoms, thumbnails


@pytest.fixture(scope="module")
def plain():
    """Descriptions of phantoms."""
    return described(thumbnails(phantoms(60)))


def described(grey):
    return neighbours.described(hashes.coefficients(grey, kept=neighbours.KEPT))


def indexed(descriptions):
    turns = neighbours.upright(descriptions)[1]
    return neighbours.Index(neighbours.turned(descriptions, turns), turns)


def alike(random, count):
    """Descriptions of images that have the same outline: their cosines are 0.8, as between parts of a mammogram."""
    outline = random.standard_normal((1, neighbours.NUMBERS))
    return scaled(2 * outline + random.standard_normal((count, neighbours.NUMBERS)))


def scaled(numbers):
    numbers[:, 0] = 0
    return np.rint(neighbours.UNIT * numbers / np.linalg.norm(numbers, axis=1, keepdims=True)).astype(np.int8)


def changed(random, descriptions, cosine):
    """Descriptions of about this cosine with the given ones."""
    noise = random.standard_normal(descriptions.shape)
    noise *= neighbours.UNIT * np.sqrt(1 / cosine**2 - 1) / np.linalg.norm(noise, axis=1, keepdims=True)
    return scaled(descriptions + noise)


@pytest.mark.parametrize("turn", range(8))
def test_turned_descriptions_are_those_of_turned_images(turn):
    small = hashes._shrunk(thumbnails(phantoms(60)), 0.0)
    found = neighbours.turned(described(small), np.full(len(small), turn))
    assert np.array_equal(found, described(copies.turned(small, turn)))


def test_two_turns_do_the_same_as_one_and_every_turn_can_be_undone():
    image = np.random.RandomState(1).randint(256, size=(1, 4, 4))
    for first in range(8):
        assert neighbours.THEN[first, neighbours.BACK[first]] == 0
        for second in range(8):
            both = copies.turned(copies.turned(image, first), second)
            assert np.array_equal(both, copies.turned(image, neighbours.THEN[first, second]))


@pytest.mark.parametrize("turn", range(8))
def test_turned_copies_are_the_same_when_upright(plain, turn):
    sure = plain[np.bincount(neighbours.upright(plain, neighbours.EVEN)[0]) == 1]
    copied = neighbours.turned(sure, np.full(len(sure), turn))
    one, other = (neighbours.turned(each, neighbours.upright(each)[1]) for each in (sure, copied))
    assert len(sure) and np.array_equal(one, other)


@pytest.mark.parametrize("turn", range(8))
def test_a_turned_image_is_found_with_the_turn_that_leads_back(plain, turn):
    found = indexed(plain).find(neighbours.turned(plain, np.full(len(plain), turn)), most=8)
    rows = {row[:3] for row in zip(*(each.tolist() for each in found), strict=True)}
    assert {(line, line, neighbours.BACK[turn]) for line in range(len(plain))} <= rows


def test_of_few_images_all_that_are_similar_are_found_the_most_similar_first():
    random = np.random.RandomState(2)
    known = scaled(random.standard_normal((12, neighbours.NUMBERS)))
    known = np.concatenate([known, changed(random, known, 0.995)])
    found = indexed(known).find(known, most=len(known))
    turned = [neighbours.turned(known, np.full(len(known), turn)).astype(int) @ known.T for turn in range(8)]
    expected = np.nonzero(np.max(turned, axis=0) >= neighbours.ALIKE * neighbours.UNIT**2)
    pairs = set(zip(found.line.tolist(), found.place.tolist(), strict=True))
    pairs |= {(other, one) for one, other in pairs}  # the audit asks for both, too
    assert pairs == set(zip(*(each.tolist() for each in expected), strict=True)) and len(pairs) == 48
    assert (np.diff(found.likeness)[np.diff(found.line) == 0] <= 0).all()


def test_a_copy_is_found_among_thousands_of_images_that_are_alike():
    random = np.random.RandomState(3)
    known = alike(random, 20_000)
    asked = changed(random, known[:300], 0.99)
    found = indexed(known).find(asked, most=copies.MOST)
    assert (found.line == found.place).sum() >= 0.95 * len(asked)


def test_equal_images_are_found_without_comparing_all_of_them():
    equal = np.repeat(scaled(np.random.RandomState(4).standard_normal((1, neighbours.NUMBERS))), 5000, axis=0)
    found = indexed(equal).find(equal[:2], most=5000)
    limit = neighbours.LISTS * neighbours.WINDOW * 2**neighbours.UNSURE
    assert (np.bincount(found.line) > neighbours.WINDOW // 4).all() and (np.bincount(found.line) <= limit).all()


def test_a_larger_index_takes_no_more_memory(tmp_path):
    numbers = np.random.RandomState(5).randint(-100, 100, size=(60_000, neighbours.NUMBERS)).astype(np.int8)
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
    assert len(indexed(none).find(plain, most=3).line) == len(indexed(plain).find(none, most=3).line) == 0
