"""An index that finds the most similar of many images, also mirrored and turned, in sets of any size.

An image is described by its lowest frequencies, each multiplied by its frequency: in most images the amplitude falls
with the frequency, and without this factor, images of the same outline and different detail would be alike. The sign of
each number, seen from its median in the set, is one bit. Several lists sort the images by these bits, each in another
order of the bits (LSH Forest; Bawa, Condie and Ganesan 2005, WWW). An image is compared with its neighbours
in each list: always with the same number, so that the work hardly grows with the images, and always with those that
share the most bits, so that it does not matter how many images are alike. All that is compared are integers.
"""

from typing import NamedTuple

from core.audit import hashes
from core.pipeline import files

import numpy as np

KEPT = 12  # lowest frequencies that are kept along each side
NUMBERS = KEPT * KEPT
UNIT = 127  # length of a description
ALIKE = 0.7  # least cosine between the descriptions of images that are similar
LISTS = 8
BITS = 64  # of an image in each list
WINDOW = 16  # neighbours in a list that are compared
UNSURE = 3  # bits next to their median that are also tried the other way, in each list
DIFFER = 16  # images of which more bits differ are not compared further
EVEN = 3  # of UNIT: brighter or darker on one side by less than this can be the other way round in a copy
AT_ONCE = 4096  # images

# A turned description is SIGN[turn] * description[FROM[turn]].
_signed = np.concatenate([hashes.turned(np.arange(1.0, NUMBERS + 1).reshape(1, KEPT, KEPT), turn) for turn in range(8)])
_signed = _signed.reshape(8, NUMBERS)
SIGN, FROM = np.sign(_signed).astype(np.int8), np.abs(_signed).astype(np.intp) - 1
# THEN[a, b] is the turn that does the same as a, then b; BACK[a] is the turn that undoes a.
THEN = np.array([[(_signed[a][FROM[b]] * SIGN[b] == _signed).all(axis=1).argmax() for b in range(8)] for a in range(8)])
BACK = np.argmin(THEN, axis=1)


class Found(NamedTuple):
    """Images of the index that are similar to those asked for: one row per pair."""

    line: np.ndarray  # position among those asked for
    place: np.ndarray  # position in the index
    turn: np.ndarray  # after this turn, the image asked for looks like the one in the index
    likeness: np.ndarray  # cosine between the descriptions, times UNIT ** 2: int32


def described(frequencies: np.ndarray) -> np.ndarray:
    """Descriptions int8 (N, 144) from hashes.coefficients (N, 12, 12). The mean of the image is left out."""
    step = np.arange(KEPT)
    frequency = np.sqrt(step[:, None] ** 2 + step**2)  # np.hypot is the C library's: its rounding is not fixed
    weighted = (frequencies * frequency).reshape(len(frequencies), NUMBERS)
    length = np.sqrt((weighted * weighted).sum(axis=1, keepdims=True))
    return np.rint(weighted * (UNIT / np.maximum(length, 1e-9))).astype(np.int8)


def turned(descriptions: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Descriptions (N, 144) of the same images after copies.turned with ``turns`` (N,)."""
    return SIGN[turns] * np.take_along_axis(descriptions, FROM[turns], axis=1)


def upright(descriptions: np.ndarray, even: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The turn after which an image is brighter on the left and at the top, and more so on the left.

    Mirrored and turned copies are equal after it, so that one search replaces eight. Returns lines of ``descriptions``
    and their turns. A line has several turns if it is brighter on a side by less than ``even``.
    """
    across, down = descriptions[:, 1].astype(np.int16), descriptions[:, KEPT].astype(np.int16)
    steep = np.abs(across) - np.abs(down)
    kind = _kind(across, down)
    lines, turns = [], []
    for other in range(8):
        possible = np.ones(len(descriptions), dtype=bool)
        for bit, margin in ((1, across), (2, down), (4, steep)):
            if other & bit:
                possible &= np.abs(margin) < even
        lines.append(np.flatnonzero(possible))
        turns.append(_TURN[kind[possible] ^ other])
    return np.concatenate(lines), np.concatenate(turns)


def _kind(across: np.ndarray, down: np.ndarray) -> np.ndarray:
    return (across < 0) + 2 * (down < 0) + 4 * (np.abs(across) < np.abs(down))


def _turns() -> np.ndarray:
    """The turn that makes an image of each kind upright."""
    plain = np.zeros((8, NUMBERS), np.int8)
    plain[:, 1], plain[:, KEPT] = 2, 1
    before = turned(plain, BACK)  # line k becomes upright by turn k
    turns = np.empty(8, np.int8)
    turns[_kind(before[:, 1], before[:, KEPT])] = np.arange(8)
    return turns


_TURN = _turns()


class Index:
    """An index of images by their descriptions int8 (N, 144), which must be ``turned`` by ``turns`` (from upright).
    Its lists are in temporary files in ``folder`` (None: the system's)."""

    def __init__(self, descriptions: np.ndarray, turns: np.ndarray, folder: str | None = None) -> None:
        self.descriptions, self.turns, self.count = descriptions, turns, len(turns)
        self.window = np.arange(min(WINDOW, self.count))
        # Of few images, the medians say little.
        self.differ = DIFFER if self.count > WINDOW else BITS
        # So many bits tell the images of a window from the others.
        self.depth = min(max(int(self.count // WINDOW).bit_length() + 1, UNSURE), BITS)
        random = np.random.RandomState(0)
        low = np.flatnonzero((np.indices((KEPT, KEPT)) < hashes.KEPT).all(axis=0))[1:]  # the least changed by cropping
        self.lists = []
        middle = _medians(descriptions)
        # The last bits of a key give way to the position of its image, so that a list is sorted in its own place.
        self.position = np.uint64((1 << self.count.bit_length()) - 1)
        plain = files.on_disk((self.count,), np.uint64, folder)
        for _ in range(LISTS):
            numbers = random.permutation(low)
            order, keys = (files.on_disk((self.count,), np.uint64, folder) for _ in range(2))
            for start in range(0, self.count, AT_ONCE):
                part = slice(start, min(start + AT_ONCE, self.count))
                plain[part] = _packed(descriptions[part][:, numbers] - middle[numbers])
                order[part] = plain[part] & ~self.position | np.arange(part.start, part.stop, dtype=np.uint64)
            order.sort()
            for start in range(0, self.count, AT_ONCE):
                part = slice(start, start + AT_ONCE)
                keys[part] = plain[self._places(order[part])]
            self.lists.append((numbers, middle[numbers], keys, order))

    def _places(self, order: np.ndarray) -> np.ndarray:
        return (order & self.position).astype(np.intp)

    def of(self, places: np.ndarray) -> np.ndarray:
        """The descriptions of images of the index, as they were before turning."""
        return turned(self.descriptions[places], BACK[self.turns[places]])

    def find(self, descriptions: np.ndarray, most: int) -> Found:
        """For each of ``descriptions`` int8 (M, 144): the ``most`` most similar images, or fewer."""
        lines, turns = upright(descriptions, EVEN)
        asked = turned(descriptions[lines], turns)
        pairs = []
        for numbers, middle, keys, order in self.lists:
            margins = asked[:, numbers] - middle
            own = _packed(margins)
            unsure = np.argsort(np.abs(margins[:, : self.depth]), axis=1, kind="stable")[:, :UNSURE]
            flips = np.uint64(1) << (BITS - 1 - unsure).astype(np.uint64)
            tried = own[:, None]
            for k in range(UNSURE):
                tried = np.concatenate([tried, tried ^ flips[:, k, None]], axis=1)
            begin = np.searchsorted(order, tried & ~self.position) - WINDOW // 2
            at = np.clip(begin, 0, self.count - len(self.window))[:, :, None] + self.window
            near = np.flatnonzero(np.bitwise_count(keys[at] ^ own[:, None, None]) <= self.differ)
            pairs.append(near // max(at[:1].size, 1) * self.count + self._places(order[at.ravel()[near]]))
        pair = np.sort(np.concatenate(pairs))
        pair = pair[np.append(True, pair[1:] != pair[:-1])[: len(pair)]]  # one can be found in several lists
        line, place = pair // max(self.count, 1), pair % max(self.count, 1)
        likeness = np.einsum("nk,nk->n", asked[line], self.descriptions[place], dtype=np.int32)
        similar = np.flatnonzero(likeness >= ALIKE * UNIT**2)
        line, place, likeness = line[similar], place[similar], likeness[similar]
        turn, line = THEN[turns[line], BACK[self.turns[place]]], lines[line]
        best = np.lexsort((turn, place, -likeness, line))
        line, place, turn, likeness = line[best], place[best], turn[best], likeness[best]
        kept = np.flatnonzero(np.arange(len(line)) - np.searchsorted(line, line) < most)
        return Found(line[kept], place[kept], turn[kept], likeness[kept])


def _medians(values: np.ndarray) -> np.ndarray:
    """The lower median of each column of int8 (N, M): int16 (M,)."""
    columns = values.shape[1]
    number = np.zeros(columns * 256, np.int64)
    for start in range(0, len(values), AT_ONCE):
        place = values[start : start + AT_ONCE] + np.arange(128, columns * 256, 256)
        number += np.bincount(place.ravel(), minlength=columns * 256)
    below = number.reshape(columns, 256).cumsum(axis=1)
    return (np.argmax(below >= (len(values) + 1) // 2, axis=1) - 128).astype(np.int16)


def _packed(margins: np.ndarray) -> np.ndarray:
    """Which of up to 64 numbers (N, B) are above 0, the first as the highest bit: uint64 (N,)."""
    bits = np.zeros((len(margins), BITS), dtype=bool)
    bits[:, : margins.shape[1]] = margins > 0
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)
