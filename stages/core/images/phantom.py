"""Synthetic patches that look like H&E-stained tissue, with a true signal and patients that a network can memorise.

Nothing here is tissue. Each patient has their own stain, scale, texture and prevalence. The label depends on how dense
and irregular the nuclei are, and some patches are near the border. A patient is easier to recognise than a label, so a
split by image gives a result that is too good. This set is meant to show that.

Every number is drawn and computed as an integer, so the images have the same bytes on every machine. The random numbers
come from NumPy's ``RandomState``, whose streams are frozen (NEP 19).
"""

from collections.abc import Iterator
from typing import NamedTuple

from core.images import messages
from core.pipeline.tables import SYNTHETIC

import numpy as np

WINDOW = 19  # pixels; the side of the square that a nucleus is drawn in
SINE = np.array([0, 383, 707, 924, 1000, 924, 707, 383, 0, -383, -707, -924, -1000, -924, -707, -383])
HEALTHY_IN_1000 = 500  # patients without a positive patch


class Patch(NamedTuple):
    name: str
    patient: str
    label: int  # 0 or 1
    pixels: np.ndarray  # uint8 (side, side, 3)


def draw(images: int, patients: int, side: int, seed: int) -> Iterator[Patch]:
    """Yield ``images`` patches of ``side`` x ``side`` pixels from ``patients`` patients.

    About one image in twenty is an exact copy or a near copy (brighter, or mirrored), and one exact copy has the
    opposite label. There is at least one of each kind. Raises ValueError for fewer than four images a patient.
    """
    if images < 4 * patients:
        raise ValueError(messages.TOO_FEW_IMAGES.format(images=images, patients=patients))
    every = max(1, patients // 20)  # every n-th patient has copies
    for number in range(patients):
        count = images // patients + (number < images % patients)
        yield from _patient(number, count, side, seed, planted=number % every == 0, conflict=number == 0)


def _patient(number: int, count: int, side: int, seed: int, planted: bool, conflict: bool) -> Iterator[Patch]:
    random = np.random.RandomState([seed % 2**32, number])
    patient = f"p{number:04d}"
    prevalence = 0 if random.randint(1000) < HEALTHY_IN_1000 else random.randint(550, 950)
    copies = 3 if planted and count >= 8 else 2 if planted else 0
    labels = (random.randint(1000, size=count - copies) < prevalence).astype(np.int64)
    pixels = _tissue(random, labels, side)
    images = list(zip(labels, pixels, strict=True))
    if planted:
        brighter = np.minimum(pixels[0].astype(np.int64) * 108 // 100, 255).astype(np.uint8)
        images += [(1 - labels[0] if conflict else labels[0], pixels[0]), (labels[0], brighter)]
    if copies == 3:
        images.append((labels[0], pixels[0, :, ::-1].copy()))
    for place, (label, image) in enumerate(images):
        yield Patch(f"{SYNTHETIC}{patient}_{place:04d}.bmp", patient, int(label), image)


def _tissue(random: np.random.RandomState, labels: np.ndarray, side: int) -> np.ndarray:
    """Draw one patient's patches: (n, side, side, 3) uint8 for n labels."""
    count = len(labels)
    # Features of the patient: colours of the stain, size of the nuclei, texture of the background.
    ground = np.array([235, 190, 215]) + random.randint(-22, 20, size=3)
    stain = np.array([110, 70, 150]) + random.randint(-34, 35, size=3)
    radius = random.randint(28, 43)  # tenths of a pixel
    grain = random.randint(3, 10)
    crowding = random.randint(-6, 7)

    # Features of the label: number of nuclei, spread of their sizes, irregularity. The severities (0 to 1000) of the
    # two classes overlap, so that no classifier is perfect.
    severity = np.clip(np.where(labels == 1, 690, 310) + random.randint(-280, 281, size=count), 0, 1000)
    area = side * side
    nuclei = np.maximum(3, (12 + crowding + severity * 42 // 1000) * area // 4096)
    irregular = 20 + severity * 520 // 1000  # thousandths of the radius

    image = np.repeat(np.arange(count), nuclei)
    total = len(image)
    row, column = random.randint(side, size=total), random.randint(side, size=total)
    spread = irregular[image]
    size = np.maximum(12, radius * (1000 + spread * random.randint(-1000, 1001, size=total) // 1000) // 1000)
    shade = random.randint(55, 96, size=total)  # hundredths of the stain

    cover, step = np.zeros((count, side + WINDOW, side + WINDOW), dtype=np.int64), np.arange(WINDOW)
    for start in range(0, total, 4096):  # bounded memory
        chunk = slice(start, start + 4096), None, None
        inside = _blobs(random, size[chunk], spread[chunk])
        np.maximum.at(cover, (image[chunk], row[chunk] + step[:, None], column[chunk] + step), inside * shade[chunk])
    half = WINDOW // 2
    cover = cover[:, half : half + side, half : half + side, None]

    noise = random.randint(-grain, grain + 1, size=(count, side, side, 1))
    cells = -(-side // 8)
    cloud = random.randint(-2 * grain, 2 * grain + 1, size=(count, cells, cells, 1))
    cloud = cloud.repeat(8, axis=1).repeat(8, axis=2)[:, :side, :side]
    light = random.randint(-8, 9, size=(count, 1, 1, 1))
    mixed = (ground * (100 - cover) + stain * cover) // 100 + noise + cloud + light
    return np.clip(mixed, 0, 255).astype(np.uint8)


def _blobs(random: np.random.RandomState, size: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """0/1 masks (n, WINDOW, WINDOW) of ellipses of ``size`` (n, 1, 1) tenths of a pixel, elongated by ``spread``."""
    turn = random.randint(16, size=size.shape)
    sine, cosine = SINE[turn], SINE[(turn + 4) % 16]
    x = np.arange(WINDOW) - WINDOW // 2
    y = x[:, None]
    along, across = x * cosine + y * sine, y * cosine - x * sine  # thousandths of a pixel
    stretch = 1000 + spread * random.randint(0, 1001, size=size.shape) // 1000
    long, short = size * stretch // 1000 * 100, size * 1000 // stretch * 100  # thousandths of a pixel
    return (along**2 * short**2 + across**2 * long**2 <= long**2 * short**2).astype(np.int64)
