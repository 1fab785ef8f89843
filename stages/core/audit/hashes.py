"""The 64-bit perceptual hash (phash of the library imagehash, bit by bit), of many images at once and turned; and the
hashes near to one."""

import numpy as np
from PIL import Image
from scipy.fft import dct

SIDE = 32  # pixels, to which an image is shrunk
KEPT = 8  # frequencies along each side
AT_ONCE = 1024
WORDS = 4
FLIPS = np.concatenate([[0], 1 << np.arange(16)]).astype(np.uint16)
CROWD = 256  # hashes that share a word, so that the work stays in proportion to the images
SIGNS = np.resize([1.0, -1.0], KEPT)  # mirroring changes the sign of every odd frequency


def coefficients(grey: np.ndarray, crop: float = 0.0) -> np.ndarray:
    """The lowest frequencies (DCT) of images uint8 (N, H, H), ``crop`` of each side cut off: float64 (N, 8, 8)."""
    found = np.empty((len(grey), KEPT, KEPT))
    for start in range(0, len(grey), AT_ONCE):  # bounded memory
        small = _shrunk(grey[start : start + AT_ONCE], crop).astype(np.float64)
        found[start : start + AT_ONCE] = dct(dct(small, axis=1)[:, :KEPT], axis=2)[:, :, :KEPT]
    return found


def turned(frequencies: np.ndarray, turn: int) -> np.ndarray:
    """The coefficients (N, 8, 8) of the same images after a symmetry of the square, numbered as by copies.turned."""
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
    """Which coefficients (N, 8, 8) are above their median: uint8 (N, 8), a byte for each row of imagehash's matrix."""
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
    """Hashes uint8 (N, 8), to look up those near to another: two that differ by 7 bits or fewer agree, but for one bit
    at most, in one of their four words of 16 bits (of those that differ by more most do)."""

    def __init__(self, hashes: np.ndarray) -> None:
        words = np.ascontiguousarray(hashes).view(np.uint16)
        self.order = np.argsort(words, axis=0, kind="stable").astype(np.int32)
        self.hashes = hashes.view(np.uint64)[:, 0][self.order]  # beside each other in memory, as they are looked at
        self.begins = [np.searchsorted(words[self.order[:, k], k], np.arange(2**16 + 1)) for k in range(WORDS)]

    def find(self, asked: np.ndarray, reach: int, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The ``most`` hashes nearest to each of ``asked``, uint8 (M, 8), that differ by ``reach`` bits or fewer: the
        positions in ``asked``, those among the hashes, and the bits. Of more than CROWD that share a word the first
        are looked at."""
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
        new = np.ones(len(line), dtype=bool)  # the same one may have come by several words
        new[1:] = (line[1:] != line[:-1]) | (place[1:] != place[:-1])
        line, place, distance = line[new], place[new], distance[new]
        rank = np.arange(len(line)) - np.searchsorted(line, line)
        kept = rank < most
        return line[kept], place[kept], distance[kept]


def _shrunk(grey: np.ndarray, crop: float) -> np.ndarray:
    """uint8 (N, 32, 32), as Pillow shrinks each image: along its rows first, then along its columns. All images lie
    in one tall picture, since a call for each would cost more than the work."""
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
