"""Whether a property of the files predicts the label without the picture: size, format, brightness, JPEG quality, ...

The unit is the patient, together with copies. The images of a unit with one label are a block of weight 1, in which all
images weigh the same, so that neither copies nor patients with many images count several times. A unit with images of
both labels is two blocks.

Two statistics say how well a property predicts the label of blocks:

- the ROC AUC of its value, or 1 - AUC where that is more (numbers only);
- the ROC AUC of the share of positives in its level, which need not rise or fall. The levels of a number are ranges.
  The AUC that is reported is cross-fitted: the shares are counted in other units. That of the test is not, in the
  permutations either.

Labels are permuted between units of one label, and swapped at random within units of both. Each statistic is
standardised by its mean (AUC of the value: 0.5) and standard deviation over the permutations. The largest of all
properties and statistics in each permutation gives the p of each property, corrected for all of them (max-T: Westfall
and Young 1993, Resampling-Based Multiple Testing, section 2.6).
"""

import math
from typing import Any, NamedTuple

from core.images import contact_sheets
from core.pipeline import components, queries, tables
from core.pipeline.queries import Database
from core.pipeline.text import format_p, format_property

import numpy as np
import pandas as pd

# Corrected p below which a property is named. At 5 %, one in 20 sets without any shortcut would name one; an audit that
# warns this often is not read. At 1 %, 1,999 permutations are enough.
LEVEL = 0.01
MIN_AUC = 0.6  # with thousands of patients, smaller effects are significant, too, but explain no result
PERMUTATIONS = 1999
MAX_UNITS = 5000  # positive, negative and mixed ones; with more, a random sample is tested: its AUC is exact to 0.01
MAX_IMAGES = 400_000  # that are held in memory, sampled equally from all blocks
MIN_BLOCK = 16  # images of a block that are kept at least, on average
MAX_LEVELS = 20  # of a property in words; the rarest ones are one level
QUANTILES = [0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98]  # the ends of the ranges
MIN_PER_RANGE = 8  # blocks in a range, on average
SCALE = 2.0**30  # blocks are scaled to whole numbers, whose sums are exact in any order, on every machine
CHUNK = 100  # permutations at a time
TOLERANCE = 1e-9
FOLDS = 10
SHOWN_LEVELS = 5
SHOWN = 8  # images of each label on the sheet
MIXED = 2  # the kind of a unit with both labels; the others are their label
CONSTANT = "does not vary"

# Properties of the tables images and properties, in SQL
NUMBERS = {
    "image_width": "width", "image_height": "height", "aspect_ratio": "width / height",
    # "MONOCHROME2 12", "RGB;16", or one of Pillow's modes
    "bit_depth": r"coalesce(try_cast(regexp_extract(mode, '[ ;](\d+)', 1) as int), "
    "case mode when '1' then 1 when 'I' then 16 else 8 end)",
    "file_size": "properties.bytes", "mean_brightness": "brightness", "uniform_border": "border",
    "jpeg_quality": "jpeg_quality", "window_center": "window_center", "window_width": "window_width",
}  # fmt: skip
WORDS = {
    "file_format": "format",
    # After the last dot; what is longer can be part of a name.
    "file_name_ending": "coalesce(nullif("
    r"regexp_extract(file, '(\.[A-Za-z][A-Za-z0-9]{1,4})(?:#\d+)?$', 1), ''), 'none')",
    "colour_mode": "mode",
}


def collect(database: Database, clusters: pd.DataFrame) -> pd.DataFrame:
    """The properties of the images of a set, or of a sample of a large one.

    Parameters
    ----------
    database : Database
        Has the views ``images`` (tables.INDEX), ``clusters``, ``properties`` (tables.PROPERTIES) and ``groups``.
    clusters : DataFrame, from quality.cluster

    Returns
    -------
    DataFrame
        Columns row, label, unit, the properties NUMBERS (float64) and WORDS, and the groups. All units if there
        are at most MAX_UNITS of each kind, and about MAX_IMAGES images or fewer.
    """
    sample = _sample(queries.by_patient(database), clusters)
    groups = [name for name in database.frame("from groups limit 0").columns if name.startswith(tables.GROUP)]
    columns = [f"cast({value} as double) as {name}" for name, value in NUMBERS.items()]
    columns += [f"{value} as {name}" for name, value in WORDS.items()]
    columns += [f"groups.{queries.quoted(name)}" for name in groups]
    chunks = []
    for chunk in database.chunks(
        f"""select images.row, file, label, patient, {", ".join(columns)} from images
        join properties using (row) left join groups using (file) order by images.row"""
    ):
        images = queries.expand(chunk, sample, ["unit", "unit_share", "image_share"])
        alone = images["unit"].isna()
        images["unit"] = images["unit"].mask(alone, len(sample) + images["row"]).astype("int64")
        keep = _uniform(images["unit"].to_numpy(), 1) < images["unit_share"].to_numpy(dtype=float)
        keep &= _uniform(images["row"].to_numpy(), 2) < images["image_share"].to_numpy(dtype=float)
        sampled = images.loc[keep, ["row", "label", "unit", *NUMBERS, *WORDS, *groups]]
        chunks.append(sampled.astype(dict.fromkeys([*WORDS, *groups], "category")))  # to save memory
    return pd.concat(chunks, ignore_index=True)


def _sample(by_patient: pd.DataFrame, clusters: pd.DataFrame) -> pd.DataFrame:
    """``by_patient`` with the unit of each row, missing for images that are units of their own, and the shares of units
    and of images of a block to keep."""
    alone = by_patient["patient"].isna() & by_patient["single"].isna()
    unit = components.of_images(by_patient, clusters).mask(alone)
    labels = by_patient["label"]
    mixed = labels.groupby(unit).transform("nunique") == 2
    kind = labels.astype(int).mask(mixed, MIXED)
    units = by_patient["images"].where(alone, 1)[alone | ~unit.duplicated()]
    counts = units.groupby(kind).sum()
    unit_share = kind.map((MAX_UNITS / counts).clip(upper=1.0))

    size = by_patient["images"].groupby([unit, labels]).transform("sum").astype(float).mask(alone, 1.0)
    kept = counts.clip(upper=MAX_UNITS)
    per_block = max(MIN_BLOCK, MAX_IMAGES / (kept.sum() + kept.get(MIXED, 0)))  # a mixed unit has two blocks
    return by_patient.assign(unit=unit, unit_share=unit_share, image_share=(per_block / size).clip(upper=1.0))


def _uniform(numbers: np.ndarray, salt: int) -> np.ndarray:
    """A pseudo-random number in [0, 1) for each integer."""
    hashes = pd.util.hash_array(numbers.astype(np.uint64) + np.uint64(salt << 40))
    return (hashes >> np.uint64(11)) / 2.0**53


class Blocks(NamedTuple):
    """The images of each unit and label."""

    of_image: np.ndarray  # int64 (N,): the block of each image
    labels: np.ndarray  # int64 (B,)
    pairs: np.ndarray  # int64 (2, M): the negative and the positive block of each unit of both labels
    pure: np.ndarray  # int64 (B - 2 * M,): the blocks of units of one label

    def permuted(self, count: int, random: np.random.RandomState) -> np.ndarray:
        """The labels after ``count`` permutations.

        Returns
        -------
        (count, B) float64, 0 or 1
        """
        labels = np.empty((count, len(self.labels)))
        for row in labels:
            row[self.pure] = random.permutation(self.labels[self.pure])
        swapped = random.random_sample((count, self.pairs.shape[1])) < 0.5
        labels[:, self.pairs[0]], labels[:, self.pairs[1]] = swapped, ~swapped
        return labels


def blocks(labels: np.ndarray, units: np.ndarray) -> Blocks:
    """Group images into blocks, by unit and label.

    Parameters
    ----------
    labels : (N,) int64, 0 or 1
    units : (N,) int64
    """
    number = np.unique(units, return_inverse=True)[1]
    keys, of_image = np.unique(2 * number + labels, return_inverse=True)
    first = np.flatnonzero(keys[1:] // 2 == keys[:-1] // 2)
    pairs = np.stack([first, first + 1])
    return Blocks(of_image, keys % 2, pairs, np.setdiff1d(np.arange(len(keys)), pairs))


class Design(NamedTuple):
    """One property of the blocks, as whole multiples of 1 / SCALE."""

    levels: np.ndarray  # float64 (B, K): the weight of each block in each level; a block without any value has none
    ranks: np.ndarray | None  # float64 (B,), of a number: the mean share of all blocks below the value, ties half
    codes: np.ndarray  # int64 (N,): the level of each image, -1 without a value
    names: list[str]  # of the levels


def design(values: "pd.Series[Any]", parts: Blocks) -> Design:
    valid = values.notna().to_numpy()
    block, count = parts.of_image[valid], len(parts.labels)
    sizes = np.bincount(block, minlength=count)
    weight, num_valid = 1.0 / sizes[block], int(np.count_nonzero(sizes))
    if pd.api.types.is_numeric_dtype(values):
        numbers = values.to_numpy(dtype=np.float64)[valid]
        distinct, inverse = np.unique(numbers, return_inverse=True)
        mass: np.ndarray = np.bincount(inverse, weight, len(distinct))
        below = (np.cumsum(mass) - mass / 2) / max(1, num_valid)
        ranks = np.rint(np.bincount(block, weight * below[inverse], count) * SCALE)
        of_valid, names = _ranges(distinct, inverse, mass, num_valid)
    else:
        words = values[valid].astype(object)
        totals = pd.Series(weight).groupby(words.to_numpy()).sum().sort_values(ascending=False, kind="stable")
        # Of equally rare levels, all or none are kept.
        rare = totals.iloc[MAX_LEVELS] if len(totals) > MAX_LEVELS else 0.0
        kept = {name: code for code, name in enumerate(totals.index[totals > rare])}
        names = [str(name) for name in kept] + (["other"] if rare else [])
        of_valid = words.map(kept).fillna(len(kept)).to_numpy(dtype=np.int64)
        ranks = None
    weights = np.bincount(block * len(names) + of_valid, weight, count * len(names)).reshape(count, len(names))
    codes = np.full(len(values), -1)
    codes[valid] = of_valid
    return Design(np.rint(weights * SCALE), ranks, codes, names)


def _ranges(distinct: np.ndarray, inverse: np.ndarray, mass: np.ndarray, count: int) -> tuple[np.ndarray, list[str]]:
    """Cut numbers into ranges; few different numbers are a level each."""
    most = max(2, min(len(QUANTILES) + 1, count // MIN_PER_RANGE))
    if len(distinct) <= most:
        return inverse, [f"{number:.6g}" for number in distinct]
    shares = QUANTILES if most > len(QUANTILES) else list(np.arange(1, most) / most)
    up_to = np.cumsum(mass)
    edges = np.unique(np.searchsorted(up_to, np.array(shares) * up_to[-1]))
    edges = edges[edges > 0] if edges.any() else np.array([1])
    bounds = [f"{distinct[edge]:.6g}" for edge in edges]
    names = [f"below {bounds[0]}", *(f"from {bound}" for bound in bounds)]
    return np.searchsorted(edges, inverse, side="right"), names


def statistics(labels: np.ndarray, entry: Design) -> tuple[np.ndarray, np.ndarray]:
    """How well a property predicts each of R assignments of labels.

    Parameters
    ----------
    labels : (R, B) float64, 0 or 1

    Returns
    -------
    of_value, of_level : (R,) float64
        The ROC AUC of the value of the property (NaN for words), and that of the share of positives in its level,
        counted in the same blocks.
    """
    # Exact in any order of addition: all are whole numbers, with sums below 2**53.
    positive = labels @ entry.levels / SCALE
    negative = entry.levels.sum(axis=0) / SCALE - positive
    of_value = np.full(len(labels), np.nan)
    if entry.ranks is not None:
        num_positive, num_negative = (np.rint(side.sum(axis=1)) for side in (positive, negative))
        with np.errstate(invalid="ignore", divide="ignore"):
            # The ranks are among all blocks; the mean of those among positives is 1/2.
            below = (num_positive + num_negative) * (labels @ entry.ranks / SCALE) / num_positive - num_positive / 2
            of_value = below / num_negative
    return of_value, level_auc(pair_wins(share(positive, negative)), positive, negative)


def share(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """The share of positives in each level, drawn to the overall one by the weight of one block.

    Parameters
    ----------
    positive, negative : (R, K) float64, the weight of each class in each level

    Returns
    -------
    (R, K) float64, in [0, 1]
    """
    total = positive + negative
    with np.errstate(invalid="ignore", divide="ignore"):
        overall = positive.sum(axis=1, keepdims=True) / total.sum(axis=1, keepdims=True)
    return (positive + overall) / (total + 1)


def pair_wins(shares: np.ndarray) -> np.ndarray:
    """Whether a positive in level a is scored above a negative in level b, ties half.

    Parameters
    ----------
    shares : (R, K) float64

    Returns
    -------
    (R, K, K) float64: 0, 0.5 or 1
    """
    difference = shares[:, :, None] - shares[:, None, :]
    return (difference > TOLERANCE) + 0.5 * (np.abs(difference) <= TOLERANCE)


def level_auc(wins: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """ROC AUC of levels.

    Parameters
    ----------
    wins : (R, K, K) float64, from ``pair_wins``
    positive, negative : (R, K) float64, the weight of each class in each level

    Returns
    -------
    (R,) float64, NaN without a class
    """
    area = ((wins @ negative[:, :, None])[:, :, 0] * positive).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return area / (positive.sum(axis=1) * negative.sum(axis=1))


def cross_fitted_auc(entry: Design, parts: Blocks) -> float:
    """ROC AUC of the share of positives in the level of each block.

    Units are in FOLDS folds. Each pair of a positive and a negative is scored by the shares in the units outside of
    their folds, so that an uninformative property has 0.5 (leave-pair-out: Airola et al. 2011, Computational Statistics
    & Data Analysis 55, 1828-1844).
    """
    random = np.random.RandomState(0)
    fold = np.empty(len(parts.labels), dtype=np.int64)
    pure = random.permutation(parts.pure)
    for label in (0, 1):
        of_label = pure[parts.labels[pure] == label]
        fold[of_label] = np.arange(len(of_label)) % FOLDS
    fold[parts.pairs] = random.permutation(parts.pairs.shape[1]) % FOLDS
    positive, negative = (
        np.stack([entry.levels[(parts.labels == label) & (fold == number)].sum(axis=0) for number in range(FOLDS)])
        / SCALE
        for label in (1, 0)
    )
    area = 0.0
    for first in range(FOLDS):
        others = np.arange(FOLDS)[:, None] != first  # a fold is left out once
        outside = [side.sum(axis=0) - side[first] - side * others for side in (positive, negative)]
        area += float((positive[first] @ pair_wins(share(*outside)) * negative).sum())
    pairs = float(positive.sum() * negative.sum())
    return area / pairs if pairs else math.nan


def assess(images: pd.DataFrame, properties: list[str]) -> dict[str, Any]:
    """How well each property alone predicts the label.

    Parameters
    ----------
    images : DataFrame
        Columns label (0 or 1), unit, and the properties: numbers or words; missing values are left out.
    properties : list of str

    Returns
    -------
    dict
        ``units``, ``positive_units`` and ``mixed_units`` (with both labels); ``permutations`` and ``level``;
        ``compared``, the number of properties that p is corrected for; ``reason``: None, or why nothing can be tested;
        ``shortcuts``: the properties with p below LEVEL and an AUC of MIN_AUC or more, the best first; ``properties``:
        for each its ``auc`` and ``p``, None with a ``reason`` where not defined; ``relation`` (higher, lower, levels);
        and what both classes have: ``medians`` of numbers, ``levels`` of words.
    """
    labels = images["label"].to_numpy(dtype=np.int64)
    parts = blocks(labels, images["unit"].to_numpy(dtype=np.int64))
    designs = {name: design(images[name], parts) for name in properties}
    compared = {name: entry for name, entry in designs.items() if len(entry.names) > 1}
    mixed = parts.pairs.shape[1]
    arrangements = math.comb(len(parts.pure), int(parts.labels[parts.pure].sum())) * 2**mixed
    # If even a property that separates the labels, or their opposite, could have a corrected p of LEVEL or more.
    testable = bool(compared) and arrangements > 2 * len(compared) / LEVEL
    p_values = _corrected_p(parts, list(compared.values())) if testable else [None] * len(compared)
    entries: dict[str, dict[str, Any]] = {}
    for name, entry in designs.items():
        entries[name] = {"auc": None, "p": None, "relation": None}
        if name not in compared:
            entries[name]["reason"] = CONSTANT
        entries[name] |= _in_each_class(images, name, entry, parts)
    for (name, entry), p in zip(compared.items(), p_values, strict=True):
        entries[name] |= _strength(entry, parts, p)
    tested = {name: entry for name, entry in entries.items() if entry["p"] is not None}
    named = [name for name, entry in tested.items() if entry["p"] < LEVEL and entry["auc"] >= MIN_AUC]
    return {
        "units": len(parts.labels) - mixed,
        "positive_units": int(parts.labels.sum()),
        "mixed_units": mixed,
        "permutations": PERMUTATIONS,
        "level": LEVEL,
        "compared": len(compared),
        "reason": None if testable else tables.TOO_FEW if compared else CONSTANT,
        "shortcuts": sorted(named, key=lambda name: (-entries[name]["auc"], name)),
        "properties": entries,
    }


def _corrected_p(parts: Blocks, designs: list[Design]) -> list[float | None]:
    """The corrected p of each property; None if nothing varies over the permutations."""

    def deviations(labels: np.ndarray) -> np.ndarray:
        """From chance, of the value and of the level of each property: (properties, 2, R)."""
        results = [statistics(labels, entry) for entry in designs]
        return np.nan_to_num([[np.abs(of_value - 0.5), of_level - 0.5] for of_value, of_level in results])

    random = np.random.RandomState(0)
    sizes = [min(CHUNK, PERMUTATIONS - start) for start in range(0, PERMUTATIONS, CHUNK)]
    null = np.concatenate([deviations(parts.permuted(size, random)) for size in sizes], axis=2)
    actual = deviations(parts.labels[None].astype(float))
    center = null.mean(axis=2, keepdims=True)
    center[:, 0] = 0  # the first is folded at 0, so that its mean is not
    scale = np.sqrt(((null - center) ** 2).mean(axis=2, keepdims=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        null, actual = (np.where(scale > TOLERANCE, (values - center) / scale, -np.inf) for values in (null, actual))
    largest = null.max(axis=(0, 1))
    return [
        None if statistic == -np.inf else (1 + int((largest >= statistic - TOLERANCE).sum())) / (1 + PERMUTATIONS)
        for statistic in actual.max(axis=(1, 2))
    ]


def _strength(entry: Design, parts: Blocks, p: float | None) -> dict[str, Any]:
    of_level = cross_fitted_auc(entry, parts)
    if np.isnan(of_level):
        return {"auc": None, "p": None, "relation": None, "reason": "a class is missing"}
    of_value = float(statistics(parts.labels[None].astype(float), entry)[0][0])
    relation, auc = "levels", of_level
    if max(of_value, 1 - of_value) >= of_level:
        relation, auc = ("higher", of_value) if of_value >= 0.5 else ("lower", 1 - of_value)
    return {"auc": round(auc, 9), "p": p, "relation": relation} | ({"reason": tables.TOO_FEW} if p is None else {})


def _in_each_class(images: pd.DataFrame, name: str, entry: Design, parts: Blocks) -> dict[str, Any]:
    if entry.ranks is not None:
        medians = images.groupby("label")[name].median().dropna()
        sides = {"positive": 1, "negative": 0}
        return {"medians": {side: float(medians[at]) if at in medians else None for side, at in sides.items()}}
    positive, total = parts.labels @ entry.levels / SCALE, entry.levels.sum(axis=0) / SCALE
    levels = list(zip(entry.names, total, positive, strict=True))[:SHOWN_LEVELS]
    return {
        "levels": [
            {"level": level, "weight": float(weight), "positive_share": float(share / weight)}
            for level, weight, share in levels
        ]
    }


def find(database: Database, clusters: pd.DataFrame) -> tuple[dict[str, Any], pd.DataFrame]:
    """The figures of ``assess`` for the images of a set, and the most telling images of each shortcut.

    Parameters
    ----------
    database, clusters : as for ``collect``

    Returns
    -------
    figures : dict
        From ``assess``, with ``unit``: "patient", or "image" if patients are not known.
    shown : DataFrame
        Columns row, file, label, property and value, from ``extremes``: SHOWN images of each label of a property.
    """
    images = collect(database, clusters)
    properties = [name for name in images.columns if name not in ("row", "label", "unit")]
    has_patients = database.frame("select count(patient) > 0 as has_patients from images")["has_patients"][0]
    figures = {"unit": "patient" if has_patients else "image"} | assess(images, properties)
    rows = [pd.DataFrame(columns=["row", "label", "property", "value"])]
    for name in figures["shortcuts"]:
        telling = extremes(images, name, figures["properties"][name]["relation"])
        rows.append(telling[["row", "label"]].assign(property=name, value=telling[name].astype(object)))
    shown = pd.concat(rows[1:] or rows, ignore_index=True)
    database.add("telling", shown[["row"]].astype("int64").drop_duplicates())
    names = database.frame("select row, file from images where coalesce(row in (from telling), false)")
    return figures, shown.merge(names, on="row", how="left")


def extremes(images: pd.DataFrame, name: str, relation: str) -> pd.DataFrame:
    """The SHOWN positive images that are most like positives by a property, and as many negative ones most like
    negatives, at most one of each unit. ``relation`` is that of ``assess``."""
    images = images[images[name].notna()]
    labels = images["label"].to_numpy(dtype=np.int64)
    if relation == "levels":
        parts = blocks(labels, images["unit"].to_numpy(dtype=np.int64))
        entry = design(images[name], parts)
        score = ((parts.labels @ entry.levels + SCALE / 2) / (entry.levels.sum(axis=0) + SCALE))[entry.codes]
    else:
        score = images[name].to_numpy(dtype=float) * (1 if relation == "higher" else -1)
    table = images.assign(score=np.where(labels == 1, score, -score))
    table = table.sort_values(["label", "score"], ascending=False).drop_duplicates(["label", "unit"])
    return table.groupby("label", sort=False).head(SHOWN)


def draw(figures: dict[str, Any], shown: pd.DataFrame, thumbnails: np.ndarray, synthetic: bool, path: str) -> None:
    """Save a contact sheet of the most telling images of each shortcut.

    Parameters
    ----------
    figures, shown : from ``find``
    thumbnails : (N, H, H, C) uint8, in the order of the index
    """
    rows = []
    for key, images in shown.groupby(["property", "label"], sort=False):
        name, label = str(key[0]), bool(key[1])
        entry = figures["properties"][name]
        heading = f"{format_property(name)} (AUC {entry['auc']:.3f}, {format_p(entry['p'])}): "
        end = "highest" if (entry["relation"] == "higher") == label else "lowest"
        which = "most typical" if entry["relation"] == "levels" else end
        heading += f"{which} {'positive' if label else 'negative'} images"
        captions = [
            f"{value if isinstance(value, str) else format(value, ',.0f' if value >= 1000 else '.4g')}\n"
            f"{file.rpartition('/')[2]}"
            for value, file in zip(images["value"], images["file"].astype(str), strict=True)
        ]
        rows.append(contact_sheets.Row(heading, [np.asarray(thumbnails[row]) for row in images["row"]], captions))
    title = "Properties of the files that predict the class without the picture (images are shown as squares)"
    contact_sheets.save(title if rows else "No property of the files predicts the class", rows, path, synthetic)
