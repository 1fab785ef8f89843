"""The 64-bit perceptual hash of many images at once, also mirrored and turned: bit by bit that of imagehash.phash."""

import numpy as np
from PIL import Image
from scipy.fft import dct

SIDE = 32  # pixels: images are resized to a square of this side
FREQUENCIES = 8  # lowest frequencies that are kept along each side
CHUNK = 1024  # images that are in memory at a time


def coefficients(grey: np.ndarray, crop: float = 0.0, count: int = FREQUENCIES) -> np.ndarray:
    """The ``count`` = K lowest coefficients along each side of the discrete cosine transform (DCT) of images.

    Parameters
    ----------
    grey : (N, H, H) uint8
    crop : share that is cut off at each side, from 0 to less than 0.5

    Returns
    -------
    (N, K, K) float64
    """
    lowest = np.empty((len(grey), count, count))
    for start in range(0, len(grey), CHUNK):  # bounded memory
        small = _shrink(grey[start : start + CHUNK], crop).astype(np.float64)
        lowest[start : start + CHUNK] = dct(dct(small, axis=1)[:, :count], axis=2)[:, :, :count]
    return lowest


def apply_turn(frequencies: np.ndarray, turn: int) -> np.ndarray:
    """The coefficients of the same images after copies.apply_turn with this ``turn``.

    Parameters
    ----------
    frequencies : (N, K, K) float64

    Returns
    -------
    (N, K, K) float64
    """
    across = np.resize([1.0, -1.0], frequencies.shape[2])  # mirroring changes the sign of every odd frequency
    down = across[:, None]
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
    """The hashes: which coefficients are above their median.

    Parameters
    ----------
    frequencies : (N, 8, 8) float64

    Returns
    -------
    (N, 8) uint8, one byte per row of imagehash's matrix
    """
    flat = frequencies.reshape(len(frequencies), FREQUENCIES * FREQUENCIES)
    return np.packbits(flat > np.median(flat, axis=1, keepdims=True), axis=1)


def words(hashes: np.ndarray) -> list[str]:
    """Hashes as hexadecimal, as imagehash writes them.

    Parameters
    ----------
    hashes : (N, 8) uint8
    """
    digits = hashes.tobytes().hex()
    return [digits[start : start + 16] for start in range(0, len(digits), 16)]


def read(words: list[str]) -> np.ndarray:
    """The inverse of ``words``.

    Returns
    -------
    (N, 8) uint8
    """
    return np.frombuffer(bytes.fromhex("".join(words)), np.uint8).reshape(-1, 8)


def _shrink(grey: np.ndarray, crop: float) -> np.ndarray:
    """uint8 (N, 32, 32): images resized as Pillow does it, along the rows first, then along the columns.

    All images are stacked into one tall image, since one call per image would take longer than the resizing.
    """
    narrow = _shrink_rows(grey, crop)
    return _shrink_rows(narrow.transpose(0, 2, 1), crop).transpose(0, 2, 1)


def _shrink_rows(grey: np.ndarray, crop: float) -> np.ndarray:
    count, height, width = grey.shape
    if not count:
        return np.empty((0, height, SIDE), np.uint8)
    tall = Image.fromarray(np.ascontiguousarray(grey).reshape(count * height, width))
    box = (crop * width, 0, (1 - crop) * width, count * height)
    small = np.asarray(tall.resize((SIDE, count * height), Image.Resampling.LANCZOS, box=box))
    return small.reshape(count, height, SIDE)
