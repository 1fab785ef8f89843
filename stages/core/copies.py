"""Find images that show the same, whatever was done to their files: a hash proposes, a correlation confirms.

Two images are near copies where one, mirrored or turned by quarter turns, scaled and shifted a little, shows
the other's details. A perceptual hash alone would not do: mammograms are alike in outline and differ in detail.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import pandas as pd
from PIL import Image
from scipy.fft import dct

from core import groups

PAIRS = ["one", "other", "distance", "correlation"]

CROPS = (0.0, 0.03, 0.06)  # of each side, cut off one image before it is hashed and sought among the others
REACH = 10  # bits of 64 by which a proposed pair's hashes may differ
MOST = 24  # nearest neighbours of an image that are looked at: keeps the work in proportion to the images
ALIKE = 0.5  # correlation of detail at half size, below which no pair is looked at closely
SAME = 0.96  # correlation of detail at full size, from which a pair counts as copies
FLAT = 2.0  # grey levels: an image with a smaller standard deviation has no detail to compare
SCALES = (0.8, 1.25)  # how much larger or smaller a copy may show things
SHIFT = 0.12  # of the side: how far it may be moved
AT_ONCE = 256


def hashes(grey: np.ndarray) -> np.ndarray:
    """The 64-bit perceptual hash (phash of the library imagehash) of images of 32 x 32 pixels.

    ``grey`` is (N, 32, 32), the result uint8 (N, 8), each byte a row of imagehash's matrix.
    """
    low = dct(dct(grey.astype(np.float64), axis=1), axis=2)[:, :8, :8].reshape(len(grey), 64)
    return np.packbits(low > np.median(low, axis=1, keepdims=True), axis=1)


def turned(images: np.ndarray, turn: int) -> np.ndarray:
    """Images (N, H, H) after a symmetry of the square: ``turn`` % 4 quarter turns, from 4 on mirrored first."""
    return np.rot90(images[:, :, ::-1] if turn >= 4 else images, turn % 4, (1, 2))


def near_pairs(grey: np.ndarray, phash: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pairs of images that are near copies, and the 100 pairs that came closest without being it.

    ``grey`` is uint8 (N, 64, 64), of images that are all different; ``phash`` their hashes, hexadecimal. Both
    tables have the columns of PAIRS: the two positions, the bits between the hashes, and the correlation of
    detail (-1 to 1) after the best alignment; the most alike come first. Images without detail are in no pair.
    Of many copies of one image not every pair is looked at, but enough to join them.
    """
    plain = np.frombuffer(bytes.fromhex("".join(phash)), np.uint8).reshape(-1, 8)
    members = np.flatnonzero(spread(grey) >= FLAT)
    found = [pd.DataFrame(columns=PAIRS).astype({"one": int, "other": int, "distance": int, "correlation": float})]
    asked = members
    while len(asked):
        proposed = _propose(grey, plain, members, asked)
        found.append(proposed.assign(correlation=_confirm_all(grey, proposed)))
        # Copies of one kind may fill each other's neighbourhood. So one stands for all, and looks around again.
        joined = found[-1][found[-1]["correlation"] >= SAME]
        name = groups.linked(len(grey), joined["one"].to_numpy(), joined["other"].to_numpy())
        first = np.unique(name[members], return_index=True)[1]
        several = np.bincount(name[members], minlength=len(grey)) > 1
        members = np.sort(members[first])
        asked = members[several[name[members]]]
    pairs = pd.concat(found, ignore_index=True)
    pairs = pairs.sort_values(["correlation", "one", "other"], ascending=[False, True, True])
    pairs = pairs.drop_duplicates(["one", "other"])[PAIRS].reset_index(drop=True)
    same = pairs["correlation"] >= SAME
    return pairs[same], pairs[~same][:100].reset_index(drop=True)


def _confirm_all(grey: np.ndarray, proposed: pd.DataFrame) -> np.ndarray:
    batches = [proposed[start : start + AT_ONCE] for start in range(0, len(proposed), AT_ONCE)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda batch: _confirm(grey, batch), batches))
    return np.concatenate([*found, np.empty(0, np.float32)]).astype(np.float64).round(4)


def spread(grey: np.ndarray) -> np.ndarray:
    """The standard deviation of each image in grey levels: float64 (N,)."""
    return np.array([image.std() for image in grey])


def _propose(grey: np.ndarray, plain: np.ndarray, members: np.ndarray, asked: np.ndarray) -> pd.DataFrame:
    """Pairs of one of ``asked`` and one of ``members`` whose hashes are near.

    Columns one, other, distance, turn (of other) and zoom (of other, to begin aligning with).
    """
    index = faiss.IndexBinaryMultiHash(64, 4, 16)  # four tables of 16 bits, each looked up with one bit flipped, too
    index.nflip = 1
    index.add(plain[members])
    seen = []
    for crop in CROPS:
        small = _small(grey[asked], crop)
        for turn in range(8):
            distance, place = index.search(hashes(turned(small, turn)), MOST)
            line, rank = np.nonzero((place >= 0) & (distance <= REACH))
            one, other = members[place[line, rank]], asked[line]
            seen.append(
                pd.DataFrame(
                    {"one": one, "other": other, "distance": distance[line, rank], "turn": turn, "crop": crop}
                )[one != other]
            )
    found = pd.concat(seen).sort_values(["other", "distance", "crop", "turn", "one"], ignore_index=True)
    found = found[found.groupby("other").cumcount() < MOST].reset_index(drop=True)
    # The same pair comes twice, from each of its images: turned back, a turn is another one, a mirroring itself.
    swap = (found["one"] > found["other"]).to_numpy()
    back = np.where(found["turn"] >= 4, found["turn"], -found["turn"] % 4)
    one, other = found["one"].where(~swap, found["other"]), found["other"].where(~swap, found["one"])
    # A crop of ``other`` shows less of it, so that things look larger in ``one``; swapped it is the reverse.
    zoom = np.where(swap, 1 / (1 - 2 * found["crop"]), 1 - 2 * found["crop"])
    found = found.assign(one=one, other=other, turn=np.where(swap, back, found["turn"]), zoom=zoom)
    found = found.sort_values(["one", "other", "distance", "crop", "turn", "zoom"], ignore_index=True)
    return found.drop_duplicates(["one", "other", "turn"], ignore_index=True)[
        ["one", "other", "distance", "turn", "zoom"]
    ]


def _small(grey: np.ndarray, crop: float) -> np.ndarray:
    """Each image without ``crop`` of each side, as imagehash shrinks it: uint8 (N, 32, 32)."""
    side = grey.shape[1]
    box = (crop * side, crop * side, (1 - crop) * side, (1 - crop) * side)
    made = [np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.LANCZOS, box=box)) for image in grey]
    return np.stack(made) if made else np.empty((0, 32, 32), np.uint8)


def _confirm(grey: np.ndarray, proposed: pd.DataFrame) -> np.ndarray:
    """The correlation of detail of each proposed pair after aligning it: float32 (len(proposed),)."""
    one = grey[proposed["one"]].astype(np.float32)
    other = np.empty_like(one)
    for turn in proposed["turn"].unique():
        rows = (proposed["turn"] == turn).to_numpy()
        other[rows] = turned(grey[proposed["other"][rows]], turn)

    # Half size first, which settles most pairs at a fraction of the work.
    place = np.zeros((len(one), 2, 2), np.float32)
    place[:, :, 0] = proposed[["zoom"]]
    one_half, other_half = _halved(one), _halved(other)
    place = _align(one_half, other_half, place, 6)
    correlation = _detail_correlation(one_half, other_half, place)

    close = np.flatnonzero(correlation >= ALIKE)
    one, other, place = one[close], other[close], place[close]
    # The image that shows more comes first, so that what only it shows (a padding, say) is left out.
    swap = place[:, :, 0].sum(axis=1) < 2
    one[swap], other[swap] = other[swap], one[swap]
    scale, shift = place[swap, :, 0], place[swap, :, 1]
    place[swap] = np.stack([1 / scale, -shift / scale], axis=2)
    one, other = _blurred(one), _blurred(other)
    correlation[close] = _detail_correlation(one, other, _align(one, other, place, 5))
    return correlation


def _align(one: np.ndarray, other: np.ndarray, place: np.ndarray, steps: int) -> np.ndarray:
    """Scale and shift of ``other`` that bring it onto ``one``, starting from ``place``.

    Images are float32 (M, H, H). ``place`` is (M, 2, 2): along x, then y, the scale about the centre and the
    shift in sides. Gauss-Newton on the squared difference, gain and offset left free, with the
    gradient of the fixed image (inverse compositional; Baker and Matthews 2004, IJCV 56(3), section 3.2).
    """
    side = one.shape[1]
    from_centre = np.arange(side, dtype=np.float32) - (side - 1) / 2
    down, along = np.gradient(one, axis=(1, 2))
    slopes = np.stack([along * from_centre, along * side, down * from_centre[:, None], down * side], axis=1)
    for _ in range(steps):
        moved, inside = _moved(other, place, margin=1)
        fixed, moved = _centred(one, inside), _centred(moved, inside)
        gain = (fixed * moved).sum((1, 2)) / np.maximum((moved * moved).sum((1, 2)), 1e-9)
        left = gain[:, None, None] * moved - fixed
        jacobian = (slopes * inside[:, None]).reshape(len(one), 4, side * side)
        curvature = jacobian @ jacobian.transpose(0, 2, 1)
        damping = 1e-4 * np.trace(curvature, axis1=1, axis2=2) + 1e-6
        curvature += damping[:, None, None] * np.identity(4)
        step = np.linalg.solve(curvature, jacobian @ left.reshape(len(one), side * side, 1)).reshape(-1, 2, 2)
        scale = np.clip(place[:, :, 0] / np.maximum(1 + step[:, :, 0], 0.5), *SCALES)
        shift = np.clip(place[:, :, 1] - scale * step[:, :, 1], -SHIFT, SHIFT)
        place = np.stack([scale, shift], axis=2).astype(np.float32)
    return place


def _moved(images: np.ndarray, place: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Images scaled and shifted (bilinear), and 1 where they were seen, ``margin`` pixels inside: (M, H, H)."""
    side = images.shape[1]
    centre = (side - 1) / 2
    from_centre = np.arange(side, dtype=np.float32) - centre
    x, y = (centre + place[:, axis, :1] * from_centre + place[:, axis, 1:] * side for axis in (0, 1))
    moved = _weights(y) @ images @ _weights(x).transpose(0, 2, 1)
    seen = [((at >= margin) & (at <= side - 1 - margin)).astype(np.float32) for at in (y, x)]
    return moved, seen[0][:, :, None] * seen[1][:, None, :]


def _weights(at: np.ndarray) -> np.ndarray:
    """Linear interpolation at positions (M, H) as matrices (M, H, H)."""
    return np.clip(1 - np.abs(at[..., None] - np.arange(at.shape[1], dtype=np.float32)), 0, 1)


def _centred(images: np.ndarray, inside: np.ndarray) -> np.ndarray:
    mean = (images * inside).sum((1, 2)) / np.maximum(inside.sum((1, 2)), 1)
    return (images - mean[:, None, None]) * inside


def _detail_correlation(one: np.ndarray, other: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Pearson's correlation of what differs from the surroundings, where both were seen: (M,)."""
    moved, inside = _moved(other, place, margin=1.5)
    smooth = _gaussian(one.shape[1], 1.5)
    weight = np.maximum(smooth @ inside @ smooth, 1e-6)
    fine, moved_fine = ((each - smooth @ (each * inside) @ smooth / weight) * inside for each in (one, moved))
    energy = (fine * fine).sum((1, 2)) * (moved_fine * moved_fine).sum((1, 2))
    return (fine * moved_fine).sum((1, 2)) / np.sqrt(np.maximum(energy, 1e-9))


def _gaussian(side: int, width: float) -> np.ndarray:
    """A symmetric matrix (side, side) whose product weighs neighbours by a Gaussian; not normalised at the edges."""
    step = np.arange(side, dtype=np.float32)
    weights = np.exp(-0.5 * ((step[:, None] - step) / width) ** 2)
    return (weights / weights.sum(axis=1).max()).astype(np.float32)


def _blurred(images: np.ndarray) -> np.ndarray:
    """Without the noise of single pixels, which recompression changes."""
    smooth = _gaussian(images.shape[1], 0.7)
    smooth /= smooth.sum(axis=1, keepdims=True)
    return smooth @ images @ smooth.T


def _halved(images: np.ndarray) -> np.ndarray:
    half = images.shape[1] // 2
    return images.reshape(len(images), half, 2, half, 2).mean((2, 4))
