"""Find near copies: an index proposes candidate pairs (core/audit/neighbours.py), a correlation of their detail
confirms them.

Two images are near copies if one shows the details of the other after mirroring, quarter turns, and a small scaling
and shift. Their lowest frequencies, which the index compares, are not enough: mammograms have similar outlines and
differ in detail.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from core.audit import hashes, neighbours
from core.images.decoder import Grey
from core.pipeline import components, files, queries

import numpy as np
import pandas as pd

PAIRS = ["one", "other", "distance", "correlation"]

CROPS = (0.0, 0.03, 0.06)  # share of each side that is cut off an image before its hash is searched among the others
MOST = 24  # nearest neighbours of each image that are compared, so that the work grows linearly with the images
HOPEFUL = 0.2  # pairs with a smaller correlation of detail at half size before alignment are not aligned
ALIKE = 0.5  # pairs with a smaller correlation of detail at half size are not compared at full size
SAME = 0.96  # pairs with at least this correlation of detail at full size are copies
FLAT = 2.0  # grey levels: an image with a smaller standard deviation has no detail to compare
SCALES = (0.8, 1.25)  # range of the scale between two copies
SHIFT = 0.12  # largest shift between two copies, as a share of the side
AT_ONCE = 256  # images or pairs, which take the most memory
IMAGES = 4 * AT_ONCE  # of one batch
RANGE = 1 << 16  # images whose proposed pairs are sorted at a time
REJECTED = 100  # closest pairs that are no copies
SORTED = "96MB"  # of memory for proposed pairs
PROPOSED = """
select one, other, distance, turn, zoom from proposed where one >= $1 and one < $2
qualify row_number() over (partition by one, other, turn order by unlike, distance, crop, zoom) = 1
order by one, other, unlike, distance, crop, turn, zoom"""


def turned(images: np.ndarray, turn: int) -> np.ndarray:
    """Images (N, H, H) after ``turn`` % 4 quarter turns; if ``turn`` is 4 to 7, they are mirrored first."""
    return np.rot90(images[:, :, ::-1] if turn >= 4 else images, turn % 4, (1, 2))


def near_pairs(
    grey: Grey, phash: np.ndarray, members: np.ndarray, asked: np.ndarray | None = None, folder: str | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pairs of images that are near copies, and the 100 closest pairs that are not. ``asked``: those of ``members``
    whose copies are looked for; None: all.

    ``grey`` is uint8 (N, 64, 64); ``phash`` has their hashes, uint8 (N, 8); ``members`` (M,) has the positions of the
    images to compare, in ascending order. These must be distinct and have a standard deviation of FLAT or more: others
    have no detail to compare. Both tables have the columns of PAIRS: the two positions, the number of bits that differ
    between the hashes, and the correlation of detail (-1 to 1) after the best alignment. The highest correlation comes
    first. If an image has many copies, not every pair of them is compared, but enough pairs to connect them. What can
    outgrow memory is in temporary files in ``folder`` (None: the system's).
    """
    same = other = pd.DataFrame(columns=PAIRS).astype(dict(zip(PAIRS, (int, int, int, float), strict=True)))
    asked = members if asked is None else asked
    index = _index(grey, members, folder)
    while len(asked):
        found = [same[:0]]
        with queries.opened(folder, "copies", SORTED) as known, ThreadPoolExecutor(os.cpu_count()) as pool:
            _propose(pool, grey, phash, members, index, asked, known)
            for pairs in _confirm_all(pool, grey, known):
                found.append(pairs[pairs["correlation"] >= SAME])
                other = _best(pd.concat([other, pairs[pairs["correlation"] < SAME]]))[: 2 * REJECTED]
        # Many copies of one image can fill each other's MOST nearest neighbours and hide further copies. So keep the
        # first image of each group of copies only, and search again from these.
        joined = pd.concat(found)
        same = _best(pd.concat([same, joined]))
        ends, of = np.unique(joined[["one", "other"]].to_numpy(), return_inverse=True)
        of = of.reshape(-1, 2)
        first = np.unique(components.linked(len(ends), of[:, 0], of[:, 1]), return_index=True)[1]
        asked = np.sort(ends[first])
        if len(asked):
            kept = np.ones(len(members), dtype=bool)
            kept[np.searchsorted(members, np.setdiff1d(ends, asked))] = False
            members, descriptions, turns = (
                files.compressed(each, kept, folder) for each in (members, index.descriptions, index.turns)
            )
            index = neighbours.Index(descriptions, turns, folder)
    alone = other.merge(same[["one", "other"]], how="left", indicator=True)["_merge"] == "left_only"
    return same, other[alone.to_numpy()][:REJECTED].reset_index(drop=True)


def _confirm_all(pool: ThreadPoolExecutor, grey: Grey, known: queries.Tables) -> Iterator[pd.DataFrame]:
    """The proposed pairs with the correlation of their detail, a few thousand at a time: the columns of PAIRS."""
    for first in range(0, len(grey), RANGE):
        for proposed in known.chunks(PROPOSED, first, first + RANGE):
            batches = [proposed[start : start + AT_ONCE] for start in range(0, len(proposed), AT_ONCE)]
            correlation = [*pool.map(lambda batch: _confirm(grey, batch), batches), np.empty(0)]
            yield proposed.assign(correlation=np.concatenate(correlation).astype(np.float64).round(4))[PAIRS]


def _best(pairs: pd.DataFrame) -> pd.DataFrame:
    """Each pair once, the highest correlation first."""
    pairs = pairs.sort_values(["correlation", "one", "other"], ascending=[False, True, True])
    return pairs.drop_duplicates(["one", "other"], ignore_index=True)


def levels(grey: Grey, folder: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each image uint8 (N, H, H), in grey levels: two arrays float64 (N,), in temporary
    files in ``folder`` (None: the system's)."""
    mean, spread = (files.on_disk((len(grey),), np.float64, folder) for _ in range(2))
    for start in range(0, len(grey), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        values = grey[part].reshape(-1, grey[:1].size).astype(np.int64)
        count, total = values.shape[1], values.sum(axis=1)
        mean[part] = total / count
        spread[part] = np.sqrt(count * (values * values).sum(axis=1) - total * total) / count
    return mean, spread


def _index(grey: Grey, members: np.ndarray, folder: str | None) -> neighbours.Index:
    descriptions = files.on_disk((len(members), neighbours.NUMBERS), np.int8, folder)
    turns = np.empty(len(members), np.int8)

    def describe(start: int) -> None:
        part = slice(start, start + IMAGES)
        plain = neighbours.described(hashes.coefficients(grey[members[part]], kept=neighbours.KEPT))
        turns[part] = neighbours.upright(plain)[1]
        descriptions[part] = neighbours.turned(plain, turns[part])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(describe, range(0, len(members), IMAGES)))
    return neighbours.Index(descriptions, turns, folder)


def _propose(
    pool: ThreadPoolExecutor,
    grey: Grey,
    phash: np.ndarray,
    members: np.ndarray,
    index: neighbours.Index,
    asked: np.ndarray,
    known: queries.Tables,
) -> None:
    """Pairs of an image of ``asked`` and an image of ``members``, of which ``index`` is, that look alike, as the table
    proposed in ``known``, for the query PROPOSED.

    Columns one, other, distance (of their hashes), turn (of other), zoom (scale of other with which the alignment
    starts), unlike and crop.
    """
    parts = [asked[start : start + IMAGES] for start in range(0, len(asked), IMAGES)]
    for found in pool.map(lambda part: _alike(grey, phash, members, index, part), parts):
        # A pair can be found from either of its images. Store it with one < other; if that swaps them, invert the turn.
        swap = (found["one"] > found["other"]).to_numpy()
        one, other = found["one"].where(~swap, found["other"]), found["other"].where(~swap, found["one"])
        turn = np.where(swap, neighbours.BACK[found["turn"]], found["turn"])
        # ``one`` matches a crop of ``other``, so it shows everything larger. After a swap it is the reverse.
        zoom = np.where(swap, 1 / (1 - 2 * found["crop"]), 1 - 2 * found["crop"])
        found = found.assign(one=one, other=other, turn=turn, zoom=zoom, unlike=-found["likeness"])
        known.append("proposed", found.drop(columns="likeness"))


def _alike(
    grey: Grey, plain: np.ndarray, members: np.ndarray, index: neighbours.Index, asked: np.ndarray
) -> pd.DataFrame:
    """For each of ``asked``, with every crop and turn: the MOST images of ``members`` that look most alike."""
    images, seen = grey[asked], []
    for crop in CROPS:
        if crop:
            found = index.find(neighbours.described(hashes.coefficients(images, crop, neighbours.KEPT)), MOST + 1)
        else:
            found = index.find(index.of(np.searchsorted(members, asked)), MOST + 1)
        one, other = members[found.place], asked[found.line]
        pair = np.flatnonzero(one != other)  # an image finds itself
        line, turn = found.line[pair], found.turn[pair]
        lines, of = np.unique(line, return_inverse=True)
        frequencies = hashes.coefficients(images[lines], crop)
        distance = np.empty(len(pair), np.uint8)
        for each in range(8):
            rows = np.flatnonzero(turn == each)
            own = hashes.bits(hashes.turned(frequencies[of[rows]], each))
            distance[rows] = np.bitwise_count(own ^ plain[one[pair[rows]]]).sum(axis=1)
        columns = {"one": one[pair], "other": other[pair], "distance": distance, "turn": turn, "crop": crop}
        seen.append(pd.DataFrame(columns | {"likeness": found.likeness[pair]}))
    alike = pd.concat(seen)
    alike = alike.assign(unlike=-alike["likeness"]).sort_values(["other", "unlike", "crop", "turn", "one"])
    return alike[alike.groupby("other").cumcount() < MOST].drop(columns="unlike")


def _confirm(grey: Grey, proposed: pd.DataFrame) -> np.ndarray:
    """Correlation of detail of each proposed pair after alignment: float32 (len(proposed),)."""
    one = grey[proposed["one"].to_numpy()].astype(np.float32)
    other = grey[proposed["other"].to_numpy()].astype(np.float32)
    for turn in proposed["turn"].unique():
        rows = (proposed["turn"] == turn).to_numpy()
        other[rows] = turned(other[rows], turn)

    # Compare at half size first: this rejects most pairs at a fraction of the cost.
    place = np.zeros((len(one), 2, 2), np.float32)
    place[:, :, 0] = proposed[["zoom"]]
    one_half, other_half = _halved(one), _halved(other)
    correlation = _detail_correlation(one_half, other_half, place)
    close = np.flatnonzero(correlation >= HOPEFUL)
    one_half, other_half = one_half[close], other_half[close]
    place[close] = _align(one_half, other_half, place[close], 6)
    correlation[close] = _detail_correlation(one_half, other_half, place[close])

    close = np.flatnonzero(correlation >= ALIKE)
    one, other, place = one[close], other[close], place[close]
    # Put the image that shows more first: what only this image shows (such as padding) is then not compared.
    swap = place[:, :, 0].sum(axis=1) < 2
    one[swap], other[swap] = other[swap], one[swap]
    scale, shift = place[swap, :, 0], place[swap, :, 1]
    place[swap] = np.stack([1 / scale, -shift / scale], axis=2)
    one, other = _blurred(one), _blurred(other)
    correlation[close] = _detail_correlation(one, other, _align(one, other, place, 5))
    return correlation


def _align(one: np.ndarray, other: np.ndarray, place: np.ndarray, steps: int) -> np.ndarray:
    """The scale and shift that align ``other`` with ``one``, starting from ``place``.

    Images are float32 (M, H, H). ``place`` is (M, 2, 2): for x, then y, the scale about the centre and the shift as a
    share of the side. Gauss-Newton on the squared difference with free gain and offset, using the gradient of the
    fixed image (inverse compositional; Baker and Matthews 2004, IJCV 56(3), section 3.2).
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
    """Scaled and shifted images (bilinear), and a mask that is 1 at least ``margin`` pixels inside: (M, H, H) each."""
    side = images.shape[1]
    centre = (side - 1) / 2
    from_centre = np.arange(side, dtype=np.float32) - centre
    x, y = (centre + place[:, axis, :1] * from_centre + place[:, axis, 1:] * side for axis in (0, 1))
    moved = _weights(y) @ images @ _weights(x).transpose(0, 2, 1)
    seen = [((at >= margin) & (at <= side - 1 - margin)).astype(np.float32) for at in (y, x)]
    return moved, seen[0][:, :, None] * seen[1][:, None, :]


def _weights(at: np.ndarray) -> np.ndarray:
    """Matrices (M, H, H) that interpolate linearly at positions (M, H)."""
    return np.clip(1 - np.abs(at[..., None] - np.arange(at.shape[1], dtype=np.float32)), 0, 1)


def _centred(images: np.ndarray, inside: np.ndarray) -> np.ndarray:
    mean = (images * inside).sum((1, 2)) / np.maximum(inside.sum((1, 2)), 1)
    return (images - mean[:, None, None]) * inside


def _detail_correlation(one: np.ndarray, other: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Pearson correlation of the detail (image minus its local mean) where the images overlap: (M,)."""
    moved, inside = _moved(other, place, margin=1.5)
    smooth = _gaussian(one.shape[1], 1.5)
    weight = np.maximum(smooth @ inside @ smooth, 1e-6)
    fine, moved_fine = ((each - smooth @ (each * inside) @ smooth / weight) * inside for each in (one, moved))
    energy = (fine * fine).sum((1, 2)) * (moved_fine * moved_fine).sum((1, 2))
    return (fine * moved_fine).sum((1, 2)) / np.sqrt(np.maximum(energy, 1e-9))


def _gaussian(side: int, width: float) -> np.ndarray:
    """A symmetric matrix (side, side) that smooths with a Gaussian kernel; not normalised at the edges."""
    step = np.arange(side, dtype=np.float32)
    weights = np.exp(-0.5 * ((step[:, None] - step) / width) ** 2)
    return (weights / weights.sum(axis=1).max()).astype(np.float32)


def _blurred(images: np.ndarray) -> np.ndarray:
    """Slightly blurred, since recompression changes the noise of single pixels."""
    smooth = _gaussian(images.shape[1], 0.7)
    smooth /= smooth.sum(axis=1, keepdims=True)
    return smooth @ images @ smooth.T


def _halved(images: np.ndarray) -> np.ndarray:
    half = images.shape[1] // 2
    return images.reshape(len(images), half, 2, half, 2).mean((2, 4))
