"""Find near copies: an index proposes pairs (core/audit/neighbours.py), the correlation of their detail confirms them.

Two images are near copies if one shows the details of the other after mirroring, quarter turns, and a small scaling
and shift. The lowest frequencies, which the index compares, are not enough: mammograms have similar outlines and
differ in detail.
"""

import functools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from core.audit import hashes, neighbours
from core.images.decoder import Grey
from core.pipeline import components, files, queries

import numpy as np
import pandas as pd

PAIRS = ["first", "second", "distance", "correlation"]

CROPS = (0.0, 0.03, 0.06)  # share of each side that is cut off an image before it is searched among the others
MAX_NEIGHBOURS = 24  # of each image that are compared, so that the cost grows linearly with the number of images
MIN_COARSE_CORRELATION = 0.2  # of detail at half size before alignment: other pairs are not aligned
MIN_HALF_CORRELATION = 0.5  # of detail at half size after alignment: other pairs are not compared at full size
MIN_CORRELATION = 0.96  # of detail at full size: pairs with at least this value are copies
MIN_BACKGROUND = 0.15  # of an image with an outline: the share of the area that is dark
FLATTEN = 0.3  # of the contrast of an image, added to that around each pixel before detail is divided by it
MIN_STD = 2.0  # grey levels: an image with a smaller standard deviation has no detail to compare
SCALES = (0.8, 1.25)  # range of the scale between two copies
SHIFT = 0.12  # largest shift between two copies, as a share of the side
BATCH = 256  # images or pairs that are in memory at a time
CHUNK_IMAGES = 4 * BATCH  # images whose descriptors are computed, or whose neighbours are searched, at a time
SORT_RANGE = 1 << 16  # images whose candidate pairs are sorted at a time
MAX_REJECTED = 100  # closest pairs that are not copies
SORT_MEMORY = "96MB"  # for candidate pairs
CANDIDATES = """
select "first", "second", distance, turn, zoom from candidates where "first" >= $1 and "first" < $2
qualify row_number() over (partition by "first", "second", turn order by dissimilarity, distance, crop, zoom) = 1
order by "first", "second", dissimilarity, distance, crop, turn, zoom"""


def apply_turn(images: np.ndarray, turn: int) -> np.ndarray:
    """Images after ``turn`` % 4 quarter turns; if ``turn`` is 4 to 7, they are mirrored first.

    Parameters
    ----------
    images : (N, H, H), of any dtype

    Returns
    -------
    (N, H, H), of the same dtype
    """
    return np.rot90(images[:, :, ::-1] if turn >= 4 else images, turn % 4, (1, 2))


def near_pairs(
    grey: Grey, phash: np.ndarray, members: np.ndarray, queried: np.ndarray | None = None, folder: str | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Find the pairs of images that are near copies, and the closest pairs that are not.

    Parameters
    ----------
    grey : Grey, (N, 64, 64) uint8
    phash : (N, 8) uint8, perceptual hashes
    members : (M,) int, positions of the images to compare, ascending
        They must be distinct and have a standard deviation of MIN_STD or more: others have no detail to compare.
    queried : those of ``members`` whose copies are searched; by default all
    folder : for temporary files with what can be larger than memory; by default the system's

    Returns
    -------
    copies, rejected : DataFrame with the columns of PAIRS, the highest correlation first
        The two positions, the number of bits that differ between the hashes, and the correlation of detail (-1 to 1)
        after the best alignment. If an image has many copies, not every pair of them is compared, but enough pairs to
        connect them. ``rejected`` has at most MAX_REJECTED pairs.
    """
    copies = rejected = pd.DataFrame(columns=PAIRS).astype(dict(zip(PAIRS, (int, int, int, float), strict=True)))
    queried = members if queried is None else queried
    index = _index(grey, members, folder)
    while len(queried):
        confirmed = [copies[:0]]
        opened = queries.open_database(folder, "copies", SORT_MEMORY)
        with opened as database, ThreadPoolExecutor(os.cpu_count()) as pool:
            parts = [queried[start : start + CHUNK_IMAGES] for start in range(0, len(queried), CHUNK_IMAGES)]
            for pairs in pool.map(functools.partial(_similar, grey, phash, members, index), parts):
                database.append("candidates", pairs)
            for pairs in _confirm_all(pool, grey, database):
                confirmed.append(pairs[pairs["correlation"] >= MIN_CORRELATION])
                rejected = pd.concat([rejected, pairs[pairs["correlation"] < MIN_CORRELATION]])
                rejected = _best(rejected)[: 2 * MAX_REJECTED]
        # Many copies of one image can fill each other's MAX_NEIGHBOURS and hide further copies. Therefore keep only the
        # first image of each component of copies, and search again from these.
        new = pd.concat(confirmed)
        copies = _best(pd.concat([copies, new]))
        nodes, edges = np.unique(new[["first", "second"]].to_numpy(), return_inverse=True)
        edges = edges.reshape(-1, 2)
        numbers = components.connected_components(len(nodes), edges[:, 0], edges[:, 1])
        queried = np.sort(nodes[np.unique(numbers, return_index=True)[1]])
        if len(queried):
            mask = np.ones(len(members), dtype=bool)
            mask[np.searchsorted(members, np.setdiff1d(nodes, queried))] = False
            members, descriptors, turns = (
                files.select_rows(array, mask, folder) for array in (members, index.descriptors, index.turns)
            )
            index = neighbours.Index(descriptors, turns, folder)
    # A pair is compared with every turn that was proposed: one turn can be confirmed and another rejected.
    unconfirmed = rejected.merge(copies[["first", "second"]], how="left", indicator=True)["_merge"] == "left_only"
    return copies, rejected[unconfirmed.to_numpy()][:MAX_REJECTED].reset_index(drop=True)


def _confirm_all(pool: ThreadPoolExecutor, grey: Grey, database: queries.Database) -> Iterator[pd.DataFrame]:
    """The candidate pairs with the correlation of their detail, a few thousand at a time: the columns of PAIRS."""
    for begin in range(0, len(grey), SORT_RANGE):
        for candidates in database.chunks(CANDIDATES, begin, begin + SORT_RANGE):
            batches = [candidates[start : start + BATCH] for start in range(0, len(candidates), BATCH)]
            correlation = [*pool.map(lambda batch: _confirm(grey, batch), batches), np.empty(0)]
            yield candidates.assign(correlation=np.concatenate(correlation).astype(np.float64).round(4))[PAIRS]


def _best(pairs: pd.DataFrame) -> pd.DataFrame:
    """Each pair once, the highest correlation first."""
    pairs = pairs.sort_values(["correlation", "first", "second"], ascending=[False, True, True])
    return pairs.drop_duplicates(["first", "second"], ignore_index=True)


def levels(grey: Grey, folder: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the grey levels of each image.

    Parameters
    ----------
    grey : Grey, (N, H, H) uint8
    folder : for temporary files with the result; by default the system's

    Returns
    -------
    mean, std : (N,) float64, in grey levels
    """
    mean, std = (files.temp_memmap((len(grey),), np.float64, folder) for _ in range(2))
    for start in range(0, len(grey), BATCH):
        part = slice(start, start + BATCH)
        values = grey[part].reshape(-1, grey[:1].size).astype(np.int64)
        count, total = values.shape[1], values.sum(axis=1)
        mean[part] = total / count
        std[part] = np.sqrt(count * (values * values).sum(axis=1) - total * total) / count
    return mean, std


def _index(grey: Grey, members: np.ndarray, folder: str | None) -> neighbours.Index:
    descriptors = files.temp_memmap((len(members), neighbours.DIMENSIONS), np.int8, folder)
    turns = np.empty(len(members), np.int8)

    def describe(start: int) -> None:
        part = slice(start, start + CHUNK_IMAGES)
        plain = neighbours.describe(hashes.coefficients(grey[members[part]], count=neighbours.FREQUENCIES))
        turns[part] = neighbours.canonicalise(plain)[1]
        descriptors[part] = neighbours.apply_turns(plain, turns[part])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(describe, range(0, len(members), CHUNK_IMAGES)))
    return neighbours.Index(descriptors, turns, folder)


def _similar(
    grey: Grey, phash: np.ndarray, members: np.ndarray, index: neighbours.Index, queried: np.ndarray
) -> pd.DataFrame:
    """For each of ``queried``, with every crop and turn: the MAX_NEIGHBOURS most similar of ``members``, for which
    ``index`` was built.

    Columns first, second, distance (of their hashes), turn (of second), crop (of the queried image), dissimilarity and
    zoom (scale of second with which the alignment starts).
    """
    images, tables = grey[queried], []
    for crop in CROPS:
        if crop:
            descriptors = neighbours.describe(hashes.coefficients(images, crop, neighbours.FREQUENCIES))
        else:
            descriptors = index.descriptors_at(np.searchsorted(members, queried))
        similar = index.search(descriptors, MAX_NEIGHBOURS + 1)
        first, second = members[similar.position], queried[similar.query]
        pair = np.flatnonzero(first != second)  # an image finds itself
        query, turn = similar.query[pair], similar.turn[pair]
        unique, inverse = np.unique(query, return_inverse=True)
        coefficients = hashes.coefficients(images[unique], crop)
        distance = np.empty(len(pair), np.uint8)
        for number in range(8):
            rows = np.flatnonzero(turn == number)
            turned = hashes.bits(hashes.apply_turn(coefficients[inverse[rows]], number))
            distance[rows] = np.bitwise_count(turned ^ phash[first[pair[rows]]]).sum(axis=1)
        columns = {"first": first[pair], "second": second[pair], "distance": distance, "turn": turn, "crop": crop}
        tables.append(pd.DataFrame(columns | {"dissimilarity": -similar.similarity[pair]}))
    pairs = pd.concat(tables).sort_values(["second", "dissimilarity", "crop", "turn", "first"])
    pairs = pairs[pairs.groupby("second").cumcount() < MAX_NEIGHBOURS]
    # A pair can be found from either of its images. Store it with first < second; a swap inverts the turn.
    swap = (pairs["first"] > pairs["second"]).to_numpy()
    # ``first`` matches a crop of ``second``, so it shows everything larger. After a swap it is the reverse.
    zoom = np.where(swap, 1 / (1 - 2 * pairs["crop"]), 1 - 2 * pairs["crop"])
    turn = np.where(swap, neighbours.INVERSE[pairs["turn"]], pairs["turn"])
    pairs[["first", "second"]] = np.sort(pairs[["first", "second"]], axis=1)
    return pairs.assign(turn=turn, zoom=zoom)


def _confirm(grey: Grey, candidates: pd.DataFrame) -> np.ndarray:
    """Correlation of detail of each candidate pair after alignment: float32 (len(candidates),)."""
    first = grey[candidates["first"].to_numpy()].astype(np.float32)
    second = grey[candidates["second"].to_numpy()].astype(np.float32)
    for turn in candidates["turn"].unique():
        rows = (candidates["turn"] == turn).to_numpy()
        second[rows] = apply_turn(second[rows], turn)

    # Compare at half size first: this rejects most pairs at a fraction of the cost.
    transform = np.zeros((len(first), 2, 2), np.float32)
    transform[:, :, 0] = candidates[["zoom"]]
    first_half, second_half = _halve(first), _halve(second)
    correlation = _detail_correlation(first_half, second_half, transform)
    close = np.flatnonzero(correlation >= MIN_COARSE_CORRELATION)
    first_half, second_half = first_half[close], second_half[close]
    transform[close] = _align(first_half, second_half, transform[close], 6)
    correlation[close] = _detail_correlation(first_half, second_half, transform[close])

    close = np.flatnonzero(correlation >= MIN_HALF_CORRELATION)
    first, second, transform = first[close], second[close], transform[close]
    # Put the image that shows more first: what only this image shows (such as padding) is then not compared.
    swap = transform[:, :, 0].sum(axis=1) < 2
    first[swap], second[swap] = second[swap], first[swap]
    scale, shift = transform[swap, :, 0], transform[swap, :, 1]
    transform[swap] = np.stack([1 / scale, -shift / scale], axis=2)
    first, second = _blur(first), _blur(second)
    transform = _align(first, second, transform, 5)
    correlation[close] = _detail_correlation(first, second, transform)
    # Both breasts of a woman have one outline, mirrored, which is most of the detail: tissue must correlate, too.
    dark = (first < first.max((1, 2), keepdims=True) / 8).mean((1, 2))
    mirrored = (candidates["turn"].to_numpy()[close] >= 4) & (dark > MIN_BACKGROUND)
    mirrored &= correlation[close] >= MIN_CORRELATION
    of_tissue = _detail_correlation(first[mirrored], second[mirrored], transform[mirrored], flat=True)
    correlation[close[mirrored]] = np.where(of_tissue < MIN_CORRELATION, of_tissue, correlation[close[mirrored]])
    return correlation


def _align(first: np.ndarray, second: np.ndarray, transform: np.ndarray, steps: int) -> np.ndarray:
    """The scale and shift that align ``second`` with ``first``, starting from ``transform``.

    Images are float32 (M, H, H). ``transform`` is (M, 2, 2): for x, then y, the scale about the centre and the shift as
    a share of the side. Gauss-Newton on the squared difference with free gain and offset, using the gradient of the
    fixed image (inverse compositional; Baker and Matthews 2004, IJCV 56(3), section 3.2).
    """
    side = first.shape[1]
    from_centre = np.arange(side, dtype=np.float32) - (side - 1) / 2
    down, along = np.gradient(first, axis=(1, 2))
    slopes = np.stack([along * from_centre, along * side, down * from_centre[:, None], down * side], axis=1)
    for _ in range(steps):
        moved, inside = _transform(second, transform, margin=1)
        fixed, moved = _centre(first, inside), _centre(moved, inside)
        gain = (fixed * moved).sum((1, 2)) / np.maximum((moved * moved).sum((1, 2)), 1e-9)
        residual = gain[:, None, None] * moved - fixed
        jacobian = (slopes * inside[:, None]).reshape(len(first), 4, side * side)
        curvature = jacobian @ jacobian.transpose(0, 2, 1)
        damping = 1e-4 * np.trace(curvature, axis1=1, axis2=2) + 1e-6
        curvature += damping[:, None, None] * np.identity(4)
        step = np.linalg.solve(curvature, jacobian @ residual.reshape(len(first), side * side, 1)).reshape(-1, 2, 2)
        scale = np.clip(transform[:, :, 0] / np.maximum(1 + step[:, :, 0], 0.5), *SCALES)
        shift = np.clip(transform[:, :, 1] - scale * step[:, :, 1], -SHIFT, SHIFT)
        transform = np.stack([scale, shift], axis=2).astype(np.float32)
    return transform


def _transform(images: np.ndarray, transform: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Scaled and shifted images (bilinear), and a mask that is 1 at least ``margin`` pixels inside: (M, H, H) each."""
    side = images.shape[1]
    centre = (side - 1) / 2
    from_centre = np.arange(side, dtype=np.float32) - centre
    x, y = (centre + transform[:, axis, :1] * from_centre + transform[:, axis, 1:] * side for axis in (0, 1))
    moved = _weights(y) @ images @ _weights(x).transpose(0, 2, 1)
    inside = [((at >= margin) & (at <= side - 1 - margin)).astype(np.float32) for at in (y, x)]
    return moved, inside[0][:, :, None] * inside[1][:, None, :]


def _weights(at: np.ndarray) -> np.ndarray:
    """Matrices (M, H, H) that interpolate linearly at positions (M, H)."""
    return np.clip(1 - np.abs(at[..., None] - np.arange(at.shape[1], dtype=np.float32)), 0, 1)


def _centre(images: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Subtract the mean of the pixels inside, and set those outside to 0."""
    mean = (images * inside).sum((1, 2)) / np.maximum(inside.sum((1, 2)), 1)
    return (images - mean[:, None, None]) * inside


def _detail_correlation(first: np.ndarray, second: np.ndarray, transform: np.ndarray, flat: bool = False) -> np.ndarray:
    """Pearson correlation of the detail (image minus its local mean) where the images overlap: (M,). If ``flat``,
    detail is divided by its local contrast, so that a bright edge weighs little more than faint tissue."""
    moved, inside = _transform(second, transform, margin=1.5)
    smooth = _gaussian(first.shape[1], 1.5)
    weight = np.maximum(smooth @ inside @ smooth, 1e-6)
    detail, moved_detail = (
        (images - smooth @ (images * inside) @ smooth / weight) * inside for images in (first, moved)
    )
    if flat:
        detail, moved_detail = _flatten(detail), _flatten(moved_detail)
    energy = (detail * detail).sum((1, 2)) * (moved_detail * moved_detail).sum((1, 2))
    return (detail * moved_detail).sum((1, 2)) / np.sqrt(np.maximum(energy, 1e-9))


def _flatten(detail: np.ndarray) -> np.ndarray:
    """Detail (M, H, H), divided by its local contrast."""
    energy, smooth = detail * detail, _gaussian(detail.shape[1], 3.0)
    return detail / np.sqrt(smooth @ energy @ smooth + FLATTEN**2 * energy.mean((1, 2), keepdims=True) + 1e-9)


def _gaussian(side: int, width: float) -> np.ndarray:
    """A symmetric matrix (side, side) that smooths with a Gaussian kernel; not normalised at the edges."""
    step = np.arange(side, dtype=np.float32)
    weights = np.exp(-0.5 * ((step[:, None] - step) / width) ** 2)
    return (weights / weights.sum(axis=1).max()).astype(np.float32)


def _blur(images: np.ndarray) -> np.ndarray:
    """Blur slightly, because recompression changes the noise of single pixels."""
    smooth = _gaussian(images.shape[1], 0.7)
    smooth /= smooth.sum(axis=1, keepdims=True)
    return smooth @ images @ smooth.T


def _halve(images: np.ndarray) -> np.ndarray:
    """Images at half size, by the mean of 2 x 2 pixels."""
    half = images.shape[1] // 2
    return images.reshape(len(images), half, 2, half, 2).mean((2, 4))
