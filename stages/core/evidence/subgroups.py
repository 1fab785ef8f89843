"""How well a classifier does in each part of the test set, such as each site, scanner or range of age.

Each part is compared with the rest by a permutation test: patients are dealt to the parts anew, those with a positive
image among themselves, and so are the others. The images of a patient who is in several parts are dealt among these
parts alone. The test is exact if the part makes no difference, with any number of patients. Each difference is divided
by its standard deviation over the permutations; the largest of them all, over the parts and measures of one group,
gives the p of each (Westfall and Young 1993, Resampling-Based Multiple Testing, section 2.6).
With several groups, each p is multiplied by their number (Bonferroni).

A group can predict the label by itself: that is a shortcut, and the commonest one. Then two figures belong beside the
result: what the group alone reaches, and what the network reaches among images of the same part, which no property of
the part as a whole can help.
"""

import re
from typing import Any, NamedTuple

from core.evidence import bootstrap, metrics
from core.evidence.bootstrap import Scores
from core.pipeline import tables

import numpy as np
import pandas as pd

COMPARED = metrics.SHAREFREE
FEW = "too few"  # patients of a class on one side, as the reason why there is no p


class Dealt(NamedTuple):
    """A group on the test images: ``scores``, whose units are the images of one patient in one part; the ``part`` and
    the ``patient`` of each unit, numbered from 0; and the ``kind`` of units that it can change places with."""

    scores: Scores
    part: np.ndarray
    patient: np.ndarray
    kind: np.ndarray


def summarise(test: pd.DataFrame, rest: pd.DataFrame, threshold: float, seed: int) -> dict[str, Any]:
    """The block ``groups`` of metrics/evaluate.json, from the columns of tables.groups; empty if there are none.

    ``test``: the test images to judge, as for metrics.summarise. ``rest``: the images of train and val, with file,
    label and unit; without any, nothing is said of shortcuts.
    """
    names = tables.groups(test)
    found = {name.removeprefix(tables.GROUP): _group(test, rest, name, len(names), threshold, seed) for name in names}
    return {"groups": found, "worst": _worst(found)} if found else {}


def _group(test: pd.DataFrame, rest: pd.DataFrame, name: str, looked: int, threshold: float, seed: int) -> Any:
    known = test[test[name].notna()]
    parts = {
        str(part): metrics.counts(rows) | metrics.figures(metrics.scores(rows, threshold), seed)
        for part, rows in sorted(known.groupby(name), key=lambda one: _order(str(one[0])))
    }
    differences = compare(known, name, looked, threshold, seed)
    for part, entry in parts.items():
        entry["difference"] = differences[part]
    found: dict[str, Any] = {"unknown": len(test) - len(known), "levels": parts}
    if len(rest):
        found["shortcut"] = shortcut(known, rest[rest[name].notna()], name, looked, threshold, seed)
    return found


def _order(part: str) -> tuple[float, bool, str]:
    """Ranges of numbers in their order, before words."""
    found = re.match(r"(?:under )?(-?\d+\.?\d*)", part)
    return (float(found[1]) if found else np.inf), not part.startswith("under "), part


def compare(known: pd.DataFrame, name: str, looked: int, threshold: float, seed: int) -> dict[str, dict[str, Any]]:
    """For each part, and each measure of COMPARED: how far it is from the rest, ``value``, and ``p``, corrected for all
    parts and measures and for ``looked`` groups; or None and the ``reason``."""
    parts = sorted(known[name].unique())
    dealt = _deal(known, name, parts, threshold)
    found: dict[str, dict[str, Any]] = {part: {} for part in parts}
    least = np.zeros(bootstrap.RESAMPLES)
    standard: dict[tuple[str, str], float] = {}
    for number, part in enumerate(parts):
        inside = dealt.part == number
        observed = _difference(dealt, lambda first, many, inside=inside: np.tile(inside, (many, 1)), 1)
        permuted = None
        for measure in COMPARED:
            value = float(observed[measure][0])
            entry = found[part][measure] = {"value": None if np.isnan(value) else value, "p": None}
            if np.isnan(value):
                entry["reason"] = "a class is missing"
                continue
            if _fewest(dealt, inside, measure) < tables.MIN_PATIENTS:
                entry["reason"] = FEW
                continue
            if permuted is None:
                permuted = _difference(dealt, _dealer(dealt, number, seed), bootstrap.RESAMPLES)
            spread = float(np.nanstd(permuted[measure]))
            if not spread > 1e-9:
                entry["reason"] = "nothing varies"
                continue
            standard[part, measure] = abs(value) / spread
            least = np.fmax(least, np.abs(permuted[measure]) / spread)
    for (part, measure), far in standard.items():
        p = (1 + int((least >= far - 1e-9).sum())) / (1 + len(least))
        found[part][measure]["p"] = min(1.0, looked * p)
    return found


def _deal(known: pd.DataFrame, name: str, parts: list[str], threshold: float) -> Dealt:
    blocks = known.groupby(["unit", name], sort=True, observed=True)
    number = blocks.ngroup().to_numpy()
    each = blocks["label"].max()
    patient = pd.factorize(each.index.get_level_values(0))[0]
    several = np.bincount(patient)[patient] > 1
    kind = each.to_numpy() + np.where(several, 2 * (1 + patient), 0)
    scores = metrics.scores(known, threshold)._replace(units=number, fewer=())
    return Dealt(scores, pd.Index(parts).get_indexer(each.index.get_level_values(1)), patient, kind)


def _dealer(dealt: Dealt, number: int, seed: int) -> Any:
    """A function that returns which units are in part ``number`` after permutations: bool (many, units). Equal
    arguments deal equally, whichever the part."""
    kind = dealt.kind.astype(np.float64)
    sort = np.argsort(kind, kind="stable")

    def draw(first: int, many: int) -> np.ndarray:
        keys = np.random.RandomState([seed % 2**32, first]).random_sample((many, len(kind))) + kind
        permuted = np.empty((many, len(kind)), dtype=bool)
        np.put_along_axis(permuted, np.argsort(keys, axis=1), dealt.part[sort][None] == number, axis=1)
        return permuted

    return draw


def _difference(dealt: Dealt, draw: Any, rows: int) -> dict[str, np.ndarray]:
    """Each measure of COMPARED inside a part minus outside, for ``rows`` ways to deal: float64 (rows,)."""
    size = max(len(dealt.scores.labels), len(dealt.part))
    inside = bootstrap.weighted(dealt.scores, lambda first, many: draw(first, many).astype(np.int64), rows, size)
    outside = bootstrap.weighted(dealt.scores, lambda first, many: 1 - draw(first, many).astype(np.int64), rows, size)
    return {measure: inside[measure] - outside[measure] for measure in COMPARED}


def _fewest(dealt: Dealt, inside: np.ndarray, measure: str) -> int:
    """The number of patients on the side, and of the kind of images that a measure rests on, which has the fewest."""
    counts = []
    for images in bootstrap.RESTS_ON[measure](dealt.scores):
        units = np.unique(dealt.scores.units[images])
        for side in (inside, ~inside):
            counts.append(len(np.unique(dealt.patient[units[side[units]]])))
    return min(counts)


def shortcut(
    test: pd.DataFrame, rest: pd.DataFrame, name: str, looked: int, threshold: float, seed: int
) -> dict[str, Any]:
    """Whether a group predicts the label. ``p``: of the Kruskal-Wallis test of the share of positives of each patient
    between the parts, in all images, times the number of groups ``looked`` at. ``alone``: ROC AUC on the test images of
    the share of positives that their part has in ``rest``. ``within``: ROC AUC of the network among images of the same
    part."""
    from scipy.stats import kruskal  # slow to import

    together = pd.concat([test, rest])
    shares = together.groupby(["unit", name], observed=True)["label"].mean()
    samples = [share.to_numpy() for _, share in shares.groupby(level=1)]
    varied = len(samples) > 1 and shares.nunique() > 1
    p = min(1.0, looked * float(kruskal(*samples).pvalue)) if varied else 1.0
    share = test[name].map(rest.groupby(name)["label"].mean()).fillna(rest["label"].mean()).astype(float)
    alone = metrics.of_model(metrics.scores(test.assign(probability=share), threshold), seed, "roc_auc")
    return {"p": p, "group_only_auc": alone, "within_group_auc": within(test, name, threshold, seed)}


def within(test: pd.DataFrame, name: str, threshold: float, seed: int) -> dict[str, Any]:
    """ROC AUC among pairs of images of the same part, as {value, low, high}: the mean of those of the parts, by their
    number of pairs."""
    whole = metrics.scores(test, threshold)._replace(fewer=())
    value, total = 0.0, 0
    paired = np.zeros(len(test), dtype=bool)  # the images of parts with both classes
    above, pairs = np.zeros(bootstrap.RESAMPLES), np.zeros(bootstrap.RESAMPLES)
    for part in test[name].unique():
        images = (test[name] == part).to_numpy(dtype=bool)
        some = _of(whole, images)
        area, count = metrics.measures(some)["roc_auc"], int((some.labels == 1).sum() * (some.labels == 0).sum())
        if area is None:
            continue
        value, total, paired = value + area * count, total + count, paired | images
        resampled = bootstrap.resample(some, seed, of=whole)
        above += np.nan_to_num(resampled["roc_auc"]) * resampled["pairs"]
        pairs += resampled["pairs"]
    if not total:
        return {"value": None, "ci_low": None, "ci_high": None, "reason": "no level has images of both classes"}
    with np.errstate(invalid="ignore", divide="ignore"):
        rest = _of(whole, paired)
        bounds = bootstrap.interval("roc_auc", value / total, above / pairs, rest)
    found = {"value": value / total, "ci_low": None, "ci_high": None}
    return found | ({"reason": bounds} if isinstance(bounds, str) else {"ci_low": bounds[0], "ci_high": bounds[1]})


def _of(scores: Scores, images: np.ndarray) -> Scores:
    return Scores(scores.labels[images], scores.probabilities[images], scores.called[images], scores.units[images])


def _worst(found: dict[str, Any]) -> dict[str, Any] | None:
    """The part and measure that are worse than the rest with the least p; None if all are too few to say."""
    behind = [
        (entry["p"], entry["value"], group, part, measure)
        for group, content in found.items()
        for part, figures in content["levels"].items()
        for measure, entry in figures["difference"].items()
        if entry["p"] is not None and entry["value"] < 0
    ]
    if not behind:
        return None
    p, value, group, part, measure = min(behind)
    return {"group": group, "level": part, "measure": measure, "difference": value, "p": p}
