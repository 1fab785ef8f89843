"""How well a classifier does in each level of a group, such as each site, scanner or range of age.

Each level is compared with all other images by a permutation test: the levels of patients are permuted, among those
with a positive image and among those without. The images of a patient who is in several levels are permuted among these
levels alone. The test is exact if the level makes no difference, with any number of patients. Each difference is
divided by its standard deviation over the permutations; the largest of them all, over the levels and measures of one
group, gives the p of each (Westfall and Young 1993, Resampling-Based Multiple Testing, section 2.6). With several
groups, each p is multiplied by their number (Bonferroni).

A group can predict the label by itself: that is a shortcut, and the commonest one. Then two values belong beside the
result: the ROC AUC of the group alone, and that of the network among images of the same level, which no property of
the level as a whole can raise.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from core.evidence import intervals, metrics
from core.evidence.intervals import Scores
from core.pipeline import tables

import numpy as np
import pandas as pd

COMPARED = metrics.PREVALENCE_FREE
PERMUTATIONS = 2000

Draw = Callable[[int, int], np.ndarray]


class PermutationUnits(NamedTuple):
    """What is permuted between the levels of a group: U units, the images of one patient in one level."""

    scores: Scores  # of the images; their ``units`` are the units of the permutation
    level: np.ndarray  # int64 (U,), numbered from 0
    patient: np.ndarray  # int64 (U,), numbered from 0
    stratum: np.ndarray  # int64 (U,): units are permuted within a stratum


def summarise(test: pd.DataFrame, train_val: pd.DataFrame, threshold: float, seed: int) -> dict[str, Any]:
    """The blocks ``groups`` and ``worst`` of the details, from the columns of tables.groups; {} if there are none.

    Parameters
    ----------
    test : DataFrame
        The test images, as for metrics.summarise.
    train_val : DataFrame
        The images of training and validation, with file, label and unit. Without rows, shortcuts are not tested.

    Returns
    -------
    dict
        ``groups``: by the name of the group, its ``levels`` with their measures and differences, the number of images
        without a value (``unknown``), and the ``shortcut``. ``worst``: see ``_worst``.
    """
    names = tables.groups(test)
    groups = {
        name.removeprefix(tables.GROUP): _group(test, train_val, name, len(names), threshold, seed) for name in names
    }
    return {"groups": groups, "worst": _worst(groups)} if groups else {}


def _group(
    test: pd.DataFrame, train_val: pd.DataFrame, name: str, num_groups: int, threshold: float, seed: int
) -> dict[str, Any]:
    images = test[test[name].notna()]
    levels = {
        str(level): metrics.counts(rows) | metrics.metrics_with_ci(metrics.scores(rows, threshold), seed)
        for level, rows in sorted(images.groupby(name), key=lambda item: _sort_key(str(item[0])))
    }
    differences = compare(images, name, num_groups, threshold, seed)
    for level, entry in levels.items():
        entry["difference"] = differences[level]
    group: dict[str, Any] = {"unknown": len(test) - len(images), "levels": levels}
    if len(train_val):
        others = train_val[train_val[name].notna()]
        group["shortcut"] = shortcut(images, others, name, num_groups, threshold, seed)
    return group


def _sort_key(level: str) -> tuple[float, bool, str]:
    """Ranges of numbers in their order, before words."""
    number = re.match(r"(?:under )?(-?\d+\.?\d*)", level)
    return (float(number[1]) if number else np.inf), not level.startswith("under "), level


def compare(images: pd.DataFrame, name: str, num_groups: int, threshold: float, seed: int) -> dict[str, dict[str, Any]]:
    """Compare each level of a group with all other images (Westfall and Young 1993, as above), by measure of COMPARED.

    ``images`` have a value in the column ``name``. ``value`` is the difference from the others, ``p`` is corrected for
    all levels and measures and for the ``num_groups`` that are compared; None with a ``reason`` where not defined.
    """
    levels = sorted(images[name].unique())
    units = _permutation_units(images, name, levels, threshold)
    differences: dict[str, dict[str, Any]] = {level: {} for level in levels}
    largest = np.zeros(PERMUTATIONS)
    standardised: dict[tuple[str, str], float] = {}
    for number, level in enumerate(levels):
        inside = units.level == number
        observed = _difference(units, lambda *_, inside=inside: inside[None], 1)
        permuted = None
        for measure in COMPARED:
            value = float(observed[measure][0])
            entry = differences[level][measure] = {"value": None if np.isnan(value) else value, "p": None}
            if np.isnan(value):
                entry["reason"] = "a class is missing"
                continue
            if _min_patients(units, inside, measure) < tables.MIN_PATIENTS:
                entry["reason"] = tables.TOO_FEW
                continue
            if permuted is None:
                permuted = _difference(units, _permute(units, number, seed), PERMUTATIONS)
            deviation = float(np.nanstd(permuted[measure]))
            if not deviation > 1e-9:
                entry["reason"] = "nothing varies"
                continue
            standardised[level, measure] = abs(value) / deviation
            largest = np.fmax(largest, np.abs(permuted[measure]) / deviation)
    for (level, measure), statistic in standardised.items():
        p = (1 + int((largest >= statistic - 1e-9).sum())) / (1 + len(largest))
        differences[level][measure]["p"] = min(1.0, num_groups * p)
    return differences


def _permutation_units(images: pd.DataFrame, name: str, levels: list[str], threshold: float) -> PermutationUnits:
    blocks = images.groupby(["unit", name], sort=True, observed=True)
    number = blocks.ngroup().to_numpy()
    labels = blocks["label"].max()
    patient = pd.factorize(labels.index.get_level_values(0))[0]
    several = np.bincount(patient)[patient] > 1
    stratum = labels.to_numpy() + np.where(several, 2 * (1 + patient), 0)
    scores = metrics.scores(images, threshold)._replace(units=number, leave_one_out=())
    return PermutationUnits(scores, pd.Index(levels).get_indexer(labels.index.get_level_values(1)), patient, stratum)


def _permute(units: PermutationUnits, number: int, seed: int) -> Draw:
    """A function that returns which units are in level ``number`` after permutations: bool (count, U). Equal arguments
    permute equally, whichever the level."""
    stratum = units.stratum.astype(np.float64)
    order = np.argsort(stratum, kind="stable")

    def draw(first: int, count: int) -> np.ndarray:
        keys = np.random.RandomState([seed % 2**32, first]).random_sample((count, len(stratum))) + stratum
        permuted = np.empty((count, len(stratum)), dtype=bool)
        np.put_along_axis(permuted, np.argsort(keys, axis=1), units.level[order][None] == number, axis=1)
        return permuted

    return draw


def _difference(units: PermutationUnits, draw: Draw, rows: int) -> dict[str, np.ndarray]:
    """Each measure of COMPARED inside a level minus outside, for ``rows`` permutations: float64 (rows,)."""
    size = max(len(units.scores.labels), len(units.level))
    inside, outside = (
        intervals.weighted_measures(
            units.scores, lambda *chunk, side=side: (draw(*chunk) == side).astype(np.int64), rows, size
        )
        for side in (True, False)
    )
    return {measure: inside[measure] - outside[measure] for measure in COMPARED}


def _min_patients(units: PermutationUnits, inside: np.ndarray, measure: str) -> int:
    """The number of patients on the side, and in the images that a measure is computed from, which has the fewest."""
    support = [np.unique(units.scores.units[images]) for images in intervals.SUPPORT[measure](units.scores)]
    return min(
        len(np.unique(units.patient[numbers[side[numbers]]])) for numbers in support for side in (inside, ~inside)
    )


def shortcut(
    test: pd.DataFrame, train_val: pd.DataFrame, name: str, num_groups: int, threshold: float, seed: int
) -> dict[str, Any]:
    """Whether a group predicts the label without the image, from images that have a value of the group.

    ``p`` of the Kruskal-Wallis test of the share of positives of each patient between the levels, in all images.
    ``group_only_auc``: ROC AUC on the test images of the share of positives that their level has in ``train_val``.
    ``within_group_auc``: ROC AUC of the network among images of the same level.
    """
    from scipy.stats import kruskal  # slow to import

    images = pd.concat([test, train_val])
    shares = images.groupby(["unit", name], observed=True)["label"].mean()
    samples = [share.to_numpy() for _, share in shares.groupby(level=1)]
    varied = len(samples) > 1 and shares.nunique() > 1
    p = min(1.0, num_groups * float(kruskal(*samples).pvalue)) if varied else 1.0
    of_level = test[name].map(train_val.groupby(name)["label"].mean())
    share = of_level.fillna(train_val["label"].mean()).astype(float)
    group_only = metrics.scores(test.assign(probability=share), threshold)
    return {
        "p": p,
        "group_only_auc": metrics.model_metric(group_only, seed, "roc_auc"),
        "within_group_auc": within_group_auc(test, name, threshold, seed),
    }


def within_group_auc(test: pd.DataFrame, name: str, threshold: float, seed: int) -> dict[str, Any]:
    """ROC AUC among pairs of images of the same level: the mean over the levels, weighted by their number of pairs."""
    return metrics.model_metric(metrics.scores(test, threshold), seed, "roc_auc", test[name].to_numpy())


def _worst(groups: dict[str, Any]) -> dict[str, Any] | None:
    """The level and measure that is below the others with the least p; None if there are too few patients."""
    below = [
        (difference["p"], difference["value"], group, level, measure)
        for group, content in groups.items()
        for level, entry in content["levels"].items()
        for measure, difference in entry["difference"].items()
        if difference["p"] is not None and difference["value"] < 0
    ]
    if not below:
        return None
    p, value, group, level, measure = min(below)
    return {"group": group, "level": level, "measure": measure, "difference": value, "p": p}
