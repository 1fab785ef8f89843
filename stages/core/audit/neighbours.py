"""An index that finds the most similar of many images, also mirrored and turned, in sets of any size.

The descriptor of an image is a vector of its lowest DCT coefficients, each multiplied by its frequency: in most images
the amplitude falls with the frequency, and without this factor, images of the same outline and different detail would
be similar. Each coefficient gives one bit: whether it is above its median in the set. Several lists sort the images by
these bits, each in another order of the bits (LSH Forest [1]_). A query also looks up keys in which the bits nearest to
their median are flipped (multi-probe LSH [2]_). An image is compared with its neighbours in each list: always with the
same number, so that the cost per image hardly grows with the number of images, and always with those that share the
most leading bits, however many images are similar. All compared values are integers, so that rounding has no effect.

References
----------
.. [1] Bawa, Condie and Ganesan, "LSH Forest: self-tuning indexes for similarity search", WWW 2005.
.. [2] Lv, Josephson, Wang, Charikar and Li, "Multi-probe LSH", VLDB 2007.
"""

from typing import NamedTuple

from core.audit import hashes
from core.pipeline import files

import numpy as np

FREQUENCIES = 12  # lowest frequencies that are kept along each side
DIMENSIONS = FREQUENCIES * FREQUENCIES  # of a descriptor
NORM = 127  # of a descriptor
MIN_COSINE = 0.7  # between the descriptors of images that are similar
LISTS = 8
BITS = 64  # of an image in each list
WINDOW = 16  # neighbours in a list that are compared
MULTIPROBE_BITS = 3  # bits nearest to their median that a query also flips, in each list
MAX_HAMMING = 16  # images of which more bits differ are not compared further
SIGN_MARGIN = 3  # a coefficient with a smaller absolute value (at a norm of NORM) can have the other sign in a copy
CHUNK = 4096  # images that are in memory at a time

# The descriptor of a turned image is SIGN[turn] * descriptor[FROM[turn]].
_plain = np.arange(1.0, DIMENSIONS + 1).reshape(1, FREQUENCIES, FREQUENCIES)
_signed = np.concatenate([hashes.apply_turn(_plain, turn) for turn in range(8)]).reshape(8, DIMENSIONS)
SIGN, FROM = np.sign(_signed).astype(np.int8), np.abs(_signed).astype(np.intp) - 1
# The turns are the dihedral group D4: COMPOSE[a, b] is the turn that equals a, then b; INVERSE[a] undoes a.
COMPOSE = np.array(
    [[(_signed[a][FROM[b]] * SIGN[b] == _signed).all(axis=1).argmax() for b in range(8)] for a in range(8)]
)
INVERSE = np.argmin(COMPOSE, axis=1)


class Neighbours(NamedTuple):
    """Images of the index that are similar to the queries: one row per pair, each array of shape (pairs,)."""

    query: np.ndarray  # position among the queries
    position: np.ndarray  # in the index
    turn: np.ndarray  # after this turn, the query looks like the image in the index
    similarity: np.ndarray  # int32: cosine between the descriptors, times NORM ** 2


def describe(frequencies: np.ndarray) -> np.ndarray:
    """The descriptors of images. The mean of the image is left out.

    Parameters
    ----------
    frequencies : (N, 12, 12) float64, from hashes.coefficients

    Returns
    -------
    (N, 144) int8
    """
    step = np.arange(FREQUENCIES)
    frequency = np.sqrt(step[:, None] ** 2 + step**2)  # np.hypot is the C library's: its rounding is not fixed
    weighted = (frequencies * frequency).reshape(len(frequencies), DIMENSIONS)
    length = np.sqrt((weighted * weighted).sum(axis=1, keepdims=True))
    return np.rint(weighted * (NORM / np.maximum(length, 1e-9))).astype(np.int8)


def apply_turns(descriptors: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """The descriptors of the same images after copies.apply_turn with ``turns``.

    Parameters
    ----------
    descriptors : (N, 144) int8
    turns : (N,) int, 0 to 7

    Returns
    -------
    (N, 144) int8
    """
    return SIGN[turns] * np.take_along_axis(descriptors, FROM[turns], axis=1)


def canonicalise(descriptors: np.ndarray, margin: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The turn after which an image is brighter on the left and at the top, and more so on the left.

    Mirrored and turned copies are equal after it, so that one search replaces eight.

    Parameters
    ----------
    descriptors : (N, 144) int8
    margin : an image has several turns if a coefficient that decides has an absolute value below this

    Returns
    -------
    rows : (M,) int64, row numbers of ``descriptors``; M can be larger than N
    turns : (M,) int8, one of each
    """
    across, down = descriptors[:, 1].astype(np.int16), descriptors[:, FREQUENCIES].astype(np.int16)
    steep = np.abs(across) - np.abs(down)
    unsure = (np.abs(across) < margin) + 2 * (np.abs(down) < margin) + 4 * (np.abs(steep) < margin)
    flips, rows = np.nonzero(np.arange(8)[:, None] & ~unsure == 0)
    return rows, _CANONICAL_TURN[_orientation(across, down)[rows] ^ flips]


def _orientation(across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Which side is brighter, as a number from 0 to 7; 0 is canonical."""
    return (across < 0) + 2 * (down < 0) + 4 * (np.abs(across) < np.abs(down))


# The turn that makes an image of each orientation canonical: row k of _before becomes canonical by turn k.
_canonical = 2 * np.eye(DIMENSIONS, dtype=np.int8)[1] + np.eye(DIMENSIONS, dtype=np.int8)[FREQUENCIES]
_before = apply_turns(np.tile(_canonical, (8, 1)), INVERSE)
_CANONICAL_TURN = np.argsort(_orientation(_before[:, 1], _before[:, FREQUENCIES])).astype(np.int8)


class Index:
    """An index of images. The lists are in temporary files in ``folder``, by default the system's.

    Parameters
    ----------
    descriptors : (N, 144) int8, after ``apply_turns`` with ``turns``
    turns : (N,) int8, from ``canonicalise`` with margin 0
    """

    def __init__(self, descriptors: np.ndarray, turns: np.ndarray, folder: str | None = None) -> None:
        self.descriptors, self.turns, self.count = descriptors, turns, len(turns)
        self.window = np.arange(min(WINDOW, self.count))
        # With few images, the bits say little: the medians are of few values.
        self.max_hamming = MAX_HAMMING if self.count > WINDOW else BITS
        # This many leading bits distinguish the images of a window from the others.
        self.depth = min(max(int(self.count // WINDOW).bit_length() + 1, MULTIPROBE_BITS), BITS)
        random = np.random.RandomState(0)
        # Cropping changes the lowest frequencies least.
        low = np.flatnonzero((np.indices((FREQUENCIES, FREQUENCIES)) < hashes.FREQUENCIES).all(axis=0))[1:]
        self.lists = []
        medians = _medians(descriptors)
        # The last bits of a key are replaced by the position of its image, so that a list can be sorted in place.
        self.position_mask = np.uint64((1 << self.count.bit_length()) - 1)
        packed = files.temp_memmap((self.count,), np.uint64, folder)
        for _ in range(LISTS):
            columns = random.permutation(low)
            order, keys = (files.temp_memmap((self.count,), np.uint64, folder) for _ in range(2))
            for start in range(0, self.count, CHUNK):
                part = slice(start, min(start + CHUNK, self.count))
                packed[part] = _pack_signs(descriptors[part][:, columns] - medians[columns])
                order[part] = packed[part] & ~self.position_mask | np.arange(part.start, part.stop, dtype=np.uint64)
            order.sort()
            for start in range(0, self.count, CHUNK):
                part = slice(start, start + CHUNK)
                keys[part] = packed[self._positions(order[part])]
            self.lists.append((columns, medians[columns], keys, order))

    def _positions(self, order: np.ndarray) -> np.ndarray:
        return (order & self.position_mask).astype(np.intp)

    def descriptors_at(self, positions: np.ndarray) -> np.ndarray:
        """The descriptors of images of the index, as they were before turning.

        Parameters
        ----------
        positions : (M,) int

        Returns
        -------
        (M, 144) int8
        """
        return apply_turns(self.descriptors[positions], INVERSE[self.turns[positions]])

    def search(self, descriptors: np.ndarray, most: int) -> Neighbours:
        """The most similar images of each descriptor: ``most`` or fewer, sorted by query, then by falling similarity.

        Parameters
        ----------
        descriptors : (M, 144) int8
        """
        rows, turns = canonicalise(descriptors, SIGN_MARGIN)
        queries = apply_turns(descriptors[rows], turns)
        pairs = []
        for columns, medians, keys, order in self.lists:
            margins = queries[:, columns] - medians
            key = _pack_signs(margins)
            nearest = np.argsort(np.abs(margins[:, : self.depth]), axis=1, kind="stable")[:, :MULTIPROBE_BITS]
            flips = np.uint64(1) << (BITS - 1 - nearest).astype(np.uint64)
            probes = key[:, None]
            for k in range(MULTIPROBE_BITS):
                probes = np.concatenate([probes, probes ^ flips[:, k, None]], axis=1)
            begin = np.searchsorted(order, probes & ~self.position_mask) - WINDOW // 2
            at = np.clip(begin, 0, self.count - len(self.window))[:, :, None] + self.window
            near = np.flatnonzero(np.bitwise_count(keys[at] ^ key[:, None, None]) <= self.max_hamming)
            pairs.append(near // max(at[:1].size, 1) * self.count + self._positions(order[at.ravel()[near]]))
        pair = np.sort(np.concatenate(pairs))
        pair = pair[np.append(True, pair[1:] != pair[:-1])[: len(pair)]]  # a pair can be in several lists
        query, position = pair // max(self.count, 1), pair % max(self.count, 1)
        similarity = np.einsum("nk,nk->n", queries[query], self.descriptors[position], dtype=np.int32)
        similar = np.flatnonzero(similarity >= MIN_COSINE * NORM**2)
        query, position, similarity = query[similar], position[similar], similarity[similar]
        turn, query = COMPOSE[turns[query], INVERSE[self.turns[position]]], rows[query]
        best = np.lexsort((turn, position, -similarity, query))
        query, position, turn, similarity = query[best], position[best], turn[best], similarity[best]
        top = np.flatnonzero(np.arange(len(query)) - np.searchsorted(query, query) < most)
        return Neighbours(query[top], position[top], turn[top], similarity[top])


def _medians(values: np.ndarray) -> np.ndarray:
    """The lower median of each column of int8 (N, M): int16 (M,)."""
    columns = values.shape[1]
    histogram = np.zeros(columns * 256, np.int64)
    for start in range(0, len(values), CHUNK):
        bins = values[start : start + CHUNK] + np.arange(128, columns * 256, 256)
        histogram += np.bincount(bins.ravel(), minlength=columns * 256)
    below = histogram.reshape(columns, 256).cumsum(axis=1)
    return (np.argmax(below >= (len(values) + 1) // 2, axis=1) - 128).astype(np.int16)


def _pack_signs(margins: np.ndarray) -> np.ndarray:
    """Which of up to 64 numbers (N, B) are above 0, the first as the highest bit: uint64 (N,)."""
    bits = np.zeros((len(margins), BITS), dtype=bool)
    bits[:, : margins.shape[1]] = margins > 0
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)
