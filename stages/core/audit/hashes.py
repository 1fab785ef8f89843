"""The 64-bit perceptual hash of many images at once, also mirrored and turned, and a search for similar hashes.

The hash is bit by bit that of imagehash.phash.
"""

import numpy as np
from PIL import Image
from scipy.fft import dct

SIDE = 32  # pixels: images are resized to a square of this side
KEPT = 8  # lowest frequencies that are kept along each side
AT_ONCE = 1024
WORDS = 4
FLIPS = np.concatenate([[0], 1 << np.arange(16)]).astype(np.uint16)
CROWD = 256  # most hashes with an equal word that are compared, so that the work grows linearly with the images
SIGNS = np.resize([1.0, -1.0], KEPT)  # mirroring changes the sign of every odd frequency


def coefficients(grey: np.ndarray, crop: float = 0.0) -> np.ndarray:
    """The lowest DCT coefficients of images uint8 (N, H, H), with the share ``crop`` of each side cut off.

    float64 (N, 8, 8).
    """
    found = np.empty((len(grey), KEPT, KEPT))
    for start in range(0, len(grey), AT_ONCE):  # bounded memory
        small = _shrunk(grey[start : start + AT_ONCE], crop).astype(np.float64)
        found[start : start + AT_ONCE] = dct(dct(small, axis=1)[:, :KEPT], axis=2)[:, :, :KEPT]
    return found


def turned(frequencies: np.ndarray, turn: int) -> np.ndarray:
    """Coefficients (N, 8, 8) of the same images after copies.turned with this ``turn``."""
    across, down = SIGNS, SIGNS[:, None]
    if turn >= 4:
        frequencies = frequencies * across
    match turn % 4:
        case 1:
            return (frequencies * across).transpose(0, 2, 1)
        case 2:
            return frequencies * across * down
        case 3:
            return frequencies.transpose(0, 2, 1) * across
    return frequencies


def bits(frequencies: np.ndarray) -> np.ndarray:
    """Which coefficients (N, 8, 8) are above their median: uint8 (N, 8), one byte per row of imagehash's matrix."""
    flat = frequencies.reshape(len(frequencies), KEPT * KEPT)
    return np.packbits(flat > np.median(flat, axis=1, keepdims=True), axis=1)


def words(hashes: np.ndarray) -> list[str]:
    """Hashes uint8 (N, 8) as hexadecimal, as imagehash writes them."""
    together = hashes.tobytes().hex()
    return [together[start : start + 16] for start in range(0, len(together), 16)]


def read(words: list[str]) -> np.ndarray:
    """The reverse of ``words``."""
    return np.frombuffer(bytes.fromhex("".join(words)), np.uint8).reshape(-1, 8)


class Near:
    """An index of hashes uint8 (N, 8) for finding those similar to a given hash.

    A hash is four words of 16 bits. The index finds the hashes with at least one word that differs by at most
    1 bit. It finds every hash that differs by 7 bits or fewer, and most hashes that differ by a few bits more.
    """

    def __init__(self, hashes: np.ndarray) -> None:
        words = np.ascontiguousarray(hashes).view(np.uint16)
        self.order = np.argsort(words, axis=0, kind="stable").astype(np.int32)
        self.hashes = hashes.view(np.uint64)[:, 0][self.order]  # in lookup order: adjacent in memory
        self.begins = [np.searchsorted(words[self.order[:, k], k], np.arange(2**16 + 1)) for k in range(WORDS)]

    def find(self, asked: np.ndarray, reach: int, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each of ``asked``, uint8 (M, 8): the ``most`` nearest hashes that differ by ``reach`` bits or fewer.

        Returns the positions in ``asked``, the positions in the index, and the number of bits that differ. If more
        than CROWD hashes have an equal word, only the first CROWD are compared.
        """
        lines, places, distances = [], [], []
        words, whole = np.ascontiguousarray(asked).view(np.uint16), asked.view(np.uint64)[:, 0]
        for k in range(WORDS):
            keys = words[:, k, None] ^ FLIPS  # (M, 17)
            begin = self.begins[k][keys].ravel()
            count = np.minimum(self.begins[k][keys.astype(np.int64) + 1].ravel() - begin, CROWD)
            line = np.repeat(np.arange(len(asked), dtype=np.int32), count.reshape(keys.shape).sum(axis=1))
            at = np.repeat(begin - (np.cumsum(count) - count), count) + np.arange(len(line))
            distance = np.bitwise_count(self.hashes[at, k] ^ whole[line])
            near = np.flatnonzero(distance <= reach)
            lines.append(line[near])
            places.append(self.order[at[near], k])
            distances.append(distance[near])
        line, place, distance = (np.concatenate(each) for each in (lines, places, distances))
        sort = np.lexsort((place, distance, line))
        line, place, distance = line[sort], place[sort], distance[sort]
        new = np.ones(len(line), dtype=bool)  # the same hash can be found through several words
        new[1:] = (line[1:] != line[:-1]) | (place[1:] != place[:-1])
        line, place, distance = line[new], place[new], distance[new]
        rank = np.arange(len(line)) - np.searchsorted(line, line)
        kept = rank < most
        return line[kept], place[kept], distance[kept]


def _shrunk(grey: np.ndarray, crop: float) -> np.ndarray:
    """uint8 (N, 32, 32): images resized as Pillow does it, along the rows first, then along the columns.

    All images are stacked into one tall image, since one call per image would take longer than the resizing.
    """
    across = _narrowed(grey, crop)
    return _narrowed(across.transpose(0, 2, 1), crop).transpose(0, 2, 1)


def _narrowed(grey: np.ndarray, crop: float) -> np.ndarray:
    count, height, width = grey.shape
    if not count:
        return np.empty((0, height, SIDE), np.uint8)
    tall = Image.fromarray(np.ascontiguousarray(grey).reshape(count * height, width))
    box = (crop * width, 0, (1 - crop) * width, count * height)
    return np.asarray(tall.resize((SIDE, count * height), Image.Resampling.LANCZOS, box=box)).reshape(
        count, height, SIDE
    )
