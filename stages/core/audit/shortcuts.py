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

NUMBERS = [
    "image_width", "image_height", "aspect_ratio", "bit_depth", "file_size", "mean_brightness", "uniform_border",
    "jpeg_quality", "window_center", "window_width",
]  # fmt: skip
WORDS = ["file_format", "file_name_ending", "colour_mode"]
_COLUMNS = {
    "width": "image_width", "height": "image_height", "bytes": "file_size", "brightness": "mean_brightness",
    "border": "uniform_border", "format": "file_format", "mode": "colour_mode",
}  # fmt: skip
_BITS = {"1": 1, "I": 16}  # of Pillow's modes; others have 8, or say how many


def collect(database: Database, clusters: pd.DataFrame) -> pd.DataFrame:
    """The properties of the images of a set, or of a sample of a large one.

    Parameters
    ----------
    database : Database
        Has the views ``images`` (tables.INDEX), ``clusters``, ``properties`` (tables.PROPERTIES) and ``groups`` (file
        and the columns whose names start with tables.GROUP).
    clusters : DataFrame
        From quality.cluster.

    Returns
    -------
    DataFrame
        Columns row, label, unit, the properties NUMBERS (float64) and WORDS, and the groups. All units if there
        are at most MAX_UNITS of each kind, and about MAX_IMAGES images or fewer.
    """
    sample = _sample(queries.by_patient(database), clusters)
    groups = [name for name in database.frame("from groups limit 0").columns if name.startswith(tables.GROUP)]
    interned: dict[str, str] = {}  # one string for all images, to save memory
    measured = ", ".join(f"properties.{name}" for name in tables.PROPERTIES[1:])
    levels = "".join(f", groups.{queries.quoted(name)}" for name in groups)
    chunks = []
    for chunk in database.chunks(
        f"""select images.row, file, label, patient, width, height, mode, {measured}{levels} from images
        join properties using (row) left join groups using (file) order by images.row"""
    ):
        images = queries.expand(chunk, sample, ["unit", "unit_share", "image_share"])
        alone = images["unit"].isna()
        images["unit"] = images["unit"].mask(alone, len(sample) + images["row"]).astype("int64")
        keep = _uniform(images["unit"].to_numpy(), 1) < images["unit_share"].to_numpy(dtype=float)
        keep &= _uniform(images["row"].to_numpy(), 2) < images["image_share"].to_numpy(dtype=float)
        derived = _derive(images[keep], groups)
        for name in (*WORDS, *groups):
            words = [interned.setdefault(word, word) if isinstance(word, str) else None for word in derived[name]]
            derived[name] = pd.Series(words, derived.index, dtype=object)
        chunks.append(derived)
    return pd.concat(chunks, ignore_index=True)


def _sample(by_patient: pd.DataFrame, clusters: pd.DataFrame) -> pd.DataFrame:
    """``by_patient`` with the unit of each row, missing for images that are units of their own, and the shares of units
    and of images of a block to keep."""
    alone = by_patient["patient"].isna() & by_patient["single"].isna()
    unit = components.of_images(by_patient, clusters).mask(alone)
    labels = by_patient["label"]
    mixed = labels.groupby(unit).transform("nunique") == 2
    kind = labels.astype(int).mask(mixed, MIXED)
    number = pd.Series(np.where(alone, by_patient["images"], 1), by_patient.index)
    joined = by_patient.assign(unit=unit, kind=kind)[~alone].drop_duplicates("unit")["kind"].value_counts()
    counts = joined.add(number[alone].groupby(kind[alone]).sum(), fill_value=0)
    unit_share = kind.map((MAX_UNITS / counts).clip(upper=1.0))

    size = by_patient["images"].groupby([unit, labels]).transform("sum").astype(float).mask(alone, 1.0)
    kept = counts.clip(upper=MAX_UNITS)
    per_block = max(MIN_BLOCK, MAX_IMAGES / (kept.sum() + kept.get(MIXED, 0)))  # a mixed unit has two blocks
    return by_patient.assign(unit=unit, unit_share=unit_share, image_share=(per_block / size).clip(upper=1.0))


def _uniform(numbers: np.ndarray, salt: int) -> np.ndarray:
    """A pseudo-random number in [0, 1) for each integer: splitmix64 (Steele, Lea and Flood 2014)."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    mixed = (numbers.astype(np.uint64) + np.uint64(salt << 40) + np.uint64(1)) * golden
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) / 2.0**53


def _derive(images: pd.DataFrame, groups: list[str]) -> pd.DataFrame:
    table = images.rename(columns=_COLUMNS)
    mode = table["colour_mode"].astype(object)
    written = pd.to_numeric(mode.str.extract(r"[ ;](\d+)", expand=False))  # "MONOCHROME2 12", "RGB;16"
    table["bit_depth"] = written.fillna(mode.map(_BITS)).fillna(8)
    table["aspect_ratio"] = table["image_width"] / table["image_height"]
    ending = table["file"].astype(object).str.extract(r"(\.[A-Za-z][A-Za-z0-9]{1,4})(?:#\d+)?$", expand=False)
    table["file_name_ending"] = ending.fillna("none")  # what is longer can be part of a name
    table[NUMBERS] = table[NUMBERS].astype("float64")
    return table[["row", "label", "unit", *NUMBERS, *WORDS, *groups]]


class Blocks(NamedTuple):
    """The images of each unit and label.

    Attributes
    ----------
    of_image : int64 (N,)
        The block of each image.
    labels : int64 (B,)
    first, second : int64 (M,)
        The negative and the positive block of each unit of both labels.
    """

    of_image: np.ndarray
    labels: np.ndarray
    first: np.ndarray
    second: np.ndarray

    def arrangements(self) -> int:
        """In how many ways the labels can be permuted."""
        pure = self.pure()
        return math.comb(len(pure), int(self.labels[pure].sum())) * 2 ** len(self.first)

    def pure(self) -> np.ndarray:
        """The blocks of units of one label."""
        return np.setdiff1d(np.arange(len(self.labels)), np.concatenate([self.first, self.second]))

    def permuted(self, count: int, random: np.random.RandomState) -> np.ndarray:
        """The labels after ``count`` permutations: float64 (count, B)."""
        labels, pure = np.empty((count, len(self.labels))), self.pure()
        of_pure = self.labels[pure]
        for row in labels:
            row[pure] = random.permutation(of_pure)
        swapped = random.random_sample((count, len(self.first))) < 0.5
        labels[:, self.first], labels[:, self.second] = swapped, ~swapped
        return labels


def blocks(labels: np.ndarray, units: np.ndarray) -> Blocks:
    number = np.unique(units, return_inverse=True)[1]
    keys, of_image = np.unique(2 * number + labels, return_inverse=True)
    mixed = np.flatnonzero(keys[1:] // 2 == keys[:-1] // 2)
    return Blocks(of_image, keys % 2, mixed, mixed + 1)


class Design(NamedTuple):
    """One property of the blocks, as whole multiples of 1 / SCALE.

    Attributes
    ----------
    levels : float64 (B, K)
        The weight of each block in each level; a block without any value has none.
    ranks : float64 (B, 1) or (B, 0)
        Of a number: the mean share of all blocks that are below the value, ties half.
    codes : int64 (N,)
        The level of each image, -1 without a value.
    names : list of str
        Of the levels.
    """

    levels: np.ndarray
    ranks: np.ndarray
    codes: np.ndarray
    names: list[str]


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
        ranks: np.ndarray = np.bincount(block, weight * below[inverse], count)[:, None]
        of_valid, names = _ranges(distinct, inverse, mass, num_valid)
    else:
        words = values[valid].astype(object)
        totals = pd.Series(weight).groupby(words.to_numpy()).sum().sort_values(ascending=False, kind="stable")
        # Of equally rare levels, all or none are kept.
        rare = totals.iloc[MAX_LEVELS] if len(totals) > MAX_LEVELS else 0.0
        kept = {name: code for code, name in enumerate(totals.index[totals > rare])}
        names = [str(name) for name in kept] + (["other"] if rare else [])
        of_valid = words.map(kept).fillna(len(kept)).to_numpy(dtype=np.int64)
        ranks = np.empty((count, 0))
    weights = np.bincount(block * len(names) + of_valid, weight, count * len(names)).reshape(count, len(names))
    codes = np.full(len(values), -1)
    codes[valid] = of_valid
    return Design(np.rint(weights * SCALE), np.rint(ranks * SCALE), codes, names)


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


class Statistics(NamedTuple):
    """Of one property, for each of R assignments of labels, float64 (R,): the ROC AUC of its value (NaN for words), and
    that of the share of positives in its level, counted in the same blocks."""

    of_value: np.ndarray
    of_level: np.ndarray


def statistics(labels: np.ndarray, properties: list[Design]) -> list[Statistics]:
    """``labels`` is float64 (R, B)."""
    levels = np.concatenate([entry.levels for entry in properties], axis=1)
    ranks = np.concatenate([entry.ranks for entry in properties], axis=1)
    # Exact in any order of addition: all are whole numbers, with sums below 2**53.
    positive, rank_sums = labels @ levels / SCALE, labels @ ranks / SCALE
    negative = levels.sum(axis=0) / SCALE - positive
    results, start, rank = [], 0, 0
    for entry in properties:
        sides = [side[:, start : start + entry.levels.shape[1]] for side in (positive, negative)]
        start += entry.levels.shape[1]
        of_value = np.full(len(labels), np.nan)
        if entry.ranks.size:
            num_positive, num_negative = (np.rint(side.sum(axis=1)) for side in sides)
            with np.errstate(invalid="ignore", divide="ignore"):
                # The ranks are among all blocks; the mean of those among positives is 1/2.
                below = (num_positive + num_negative) * rank_sums[:, rank] / num_positive - num_positive / 2
                of_value = below / num_negative
            rank += 1
        results.append(Statistics(of_value, level_auc(pair_wins(share(*sides)), *sides)))
    return results


def share(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """The share of positives in each level, drawn to the overall one by the weight of one block: all (R, K)."""
    total = positive + negative
    with np.errstate(invalid="ignore", divide="ignore"):
        overall = positive.sum(axis=1, keepdims=True) / total.sum(axis=1, keepdims=True)
    return (positive + overall) / (total + 1)


def pair_wins(shares: np.ndarray) -> np.ndarray:
    """Whether a positive in level a is scored above a negative in level b, ties half: (R, K) to (R, K, K)."""
    difference = shares[:, :, None] - shares[:, None, :]
    return (difference > TOLERANCE) + 0.5 * (np.abs(difference) <= TOLERANCE)


def level_auc(wins: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """ROC AUC of levels with these weights of positives and negatives, (R, K): (R,). NaN without a class."""
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
    pure = random.permutation(parts.pure())
    for label in (0, 1):
        of_label = pure[parts.labels[pure] == label]
        fold[of_label] = np.arange(len(of_label)) % FOLDS
    fold[parts.first] = fold[parts.second] = random.permutation(len(parts.first)) % FOLDS
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


def assess(images: pd.DataFrame, properties: list[str], seed: int = 0) -> dict[str, Any]:
    """How well each property alone predicts the label.

    Parameters
    ----------
    images : DataFrame
        Columns label (0 or 1), unit, and the properties: numbers or words; missing values are left out.
    properties : list of str
    seed : int
        Of the permutations.

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
    compared = [name for name in properties if len(designs[name].names) > 1]
    # If even a property that separates the labels, or their opposite, could have a corrected p of LEVEL or more.
    testable = bool(compared) and parts.arrangements() > 2 * len(compared) / LEVEL
    entries = {name: _description(images, name, designs[name], parts) for name in properties}
    if compared:
        observed = statistics(parts.labels[None].astype(float), [designs[name] for name in compared])
        p_values = _permute(parts, designs, compared, observed, seed) if testable else dict.fromkeys(compared)
        for name, entry in zip(compared, observed, strict=True):
            of_level = cross_fitted_auc(designs[name], parts)
            entries[name] |= _summary(float(entry.of_value[0]), of_level, p_values[name])
    named = [name for name in compared if _is_shortcut(entries[name])]
    units = len(parts.labels) - len(parts.first)
    return {
        "units": units,
        "positive_units": int(parts.labels.sum()),
        "mixed_units": len(parts.first),
        "permutations": PERMUTATIONS,
        "level": LEVEL,
        "compared": len(compared),
        "reason": None if testable else tables.TOO_FEW if compared else CONSTANT,
        "shortcuts": sorted(named, key=lambda name: (-entries[name]["auc"], name)),
        "properties": entries,
    }


def _permute(
    parts: Blocks, designs: dict[str, Design], compared: list[str], observed: list[Statistics], seed: int
) -> dict[str, float | None]:
    """The corrected p of each property; None if nothing varies over the permutations."""
    random = np.random.RandomState(seed)
    permuted: list[np.ndarray] = []
    for start in range(0, PERMUTATIONS, CHUNK):
        rows = parts.permuted(min(CHUNK, PERMUTATIONS - start), random)
        permuted.append(np.stack(_deviations(statistics(rows, [designs[name] for name in compared]))))
    null = np.concatenate(permuted, axis=2)  # (properties, 2, permutations)
    actual = np.stack(_deviations(observed))
    null, actual = np.nan_to_num(null), np.nan_to_num(actual)
    center = null.mean(axis=2, keepdims=True)
    center[:, 0] = 0  # the first is folded at 0, so that its mean is not
    scale = np.sqrt(((null - center) ** 2).mean(axis=2, keepdims=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        null, actual = (np.where(scale > TOLERANCE, (values - center) / scale, -np.inf) for values in (null, actual))
    largest = null.max(axis=(0, 1))
    best = actual.max(axis=(1, 2))
    return {
        name: None if statistic == -np.inf else (1 + int((largest >= statistic - TOLERANCE).sum())) / (1 + PERMUTATIONS)
        for name, statistic in zip(compared, best, strict=True)
    }


def _deviations(results: list[Statistics]) -> list[np.ndarray]:
    """From chance, of its value and of its level: (2, R) for each property."""
    return [np.stack([np.abs(entry.of_value - 0.5), entry.of_level - 0.5]) for entry in results]


def _summary(of_value: float, of_level: float, p: float | None) -> dict[str, Any]:
    """``of_level`` is cross-fitted; NaN for what is not defined."""
    if np.isnan(of_level):
        return {"auc": None, "p": None, "relation": None, "reason": "a class is missing"}
    relation, auc = "levels", of_level
    if max(of_value, 1 - of_value) >= of_level:
        relation, auc = ("higher", of_value) if of_value >= 0.5 else ("lower", 1 - of_value)
    return {"auc": round(auc, 9), "p": p, "relation": relation} | ({"reason": tables.TOO_FEW} if p is None else {})


def _description(images: pd.DataFrame, name: str, entry: Design, parts: Blocks) -> dict[str, Any]:
    """What a property is in each class."""
    content: dict[str, Any] = {"auc": None, "p": None, "relation": None}
    if len(entry.names) < 2:
        content["reason"] = CONSTANT
    if entry.ranks.size:
        medians = images.groupby("label")[name].median()
        content["medians"] = {
            side: float(medians[label]) if label in medians and pd.notna(medians[label]) else None
            for label, side in ((1, "positive"), (0, "negative"))
        }
        return content
    positive = parts.labels @ entry.levels / SCALE
    total = entry.levels.sum(axis=0) / SCALE
    content["levels"] = [
        {"level": level, "weight": float(weight), "positive_share": float(share / weight)}
        for level, weight, share in list(zip(entry.names, total, positive, strict=True))[:SHOWN_LEVELS]
    ]
    return content


def _is_shortcut(entry: dict[str, Any]) -> bool:
    return entry["p"] is not None and entry["p"] < LEVEL and entry["auc"] >= MIN_AUC


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
        for side in extremes(images, name, figures["properties"][name]["relation"], SHOWN):
            rows.append(side[["row", "label"]].assign(property=name, value=side[name].astype(object)))
    shown = pd.concat(rows[1:] or rows, ignore_index=True)
    database.add("telling", shown[["row"]].astype("int64").drop_duplicates())
    names = database.frame("select row, file from images where coalesce(row in (from telling), false)")
    return figures, shown.merge(names, on="row", how="left")


def extremes(images: pd.DataFrame, name: str, relation: str, most: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The positive images that are most like positives by a property, and the negative ones most like negatives: at
    most one of each unit, ``most`` in all. ``relation`` is that of ``assess``."""
    images = images[images[name].notna()]
    parts = blocks(images["label"].to_numpy(dtype=np.int64), images["unit"].to_numpy(dtype=np.int64))
    if relation == "levels":
        entry = design(images[name], parts)
        share = (parts.labels @ entry.levels + SCALE / 2) / (entry.levels.sum(axis=0) + SCALE)
        score = share[entry.codes]
    else:
        score = images[name].to_numpy(dtype=float) * (1 if relation == "higher" else -1)
    table = images.assign(score=score)
    positive, negative = (
        table[table["label"] == label].sort_values("score", ascending=not label, kind="stable") for label in (1, 0)
    )
    return tuple(rows.drop_duplicates("unit").head(most) for rows in (positive, negative))  # type: ignore[return-value]


def count(figures: dict[str, Any]) -> int | None:
    """The number of shortcuts; None if nothing could be tested."""
    return None if figures["reason"] == tables.TOO_FEW else len(figures["shortcuts"])


def draw(figures: dict[str, Any], shown: pd.DataFrame, thumbnails: np.ndarray, synthetic: bool, path: str) -> None:
    """Save a contact sheet of the most telling images of each shortcut.

    ``figures`` and ``shown`` are from ``find``; ``thumbnails`` is uint8 (N, H, H, C) in the order of the index.
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
