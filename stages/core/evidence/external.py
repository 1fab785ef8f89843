"""What a model reaches on another set of images, beside what it reached on its own test images."""

from typing import Any

from core.evidence import calibration, metrics, subgroups
from core.evidence.bootstrap import Scores

import numpy as np
import pandas as pd
from scipy.special import ndtri


def judge(
    test: pd.DataFrame, val: pd.DataFrame, first: dict[str, Any], asked: float | str, seed: int
) -> dict[str, Any]:
    """The details of another set: the blocks of metrics.summarise, with the threshold of the
    first set, and drop, ood_share, calibration, mean_probability and groups, on the images that the first set lacks.

    ``test``: all its images, as for metrics.summarise, with ``raw``, the probability before calibration, and
    ``ood``, whether it is out of distribution. ``val``: the validation images of the first set, and ``first`` its
    figures; ``asked`` is evaluate.threshold.
    """
    threshold, of_first = first["threshold"], first["calibration"]
    fresh = metrics.unseen(test)
    figures = {"threshold": threshold} | metrics.summarise(test, val, threshold, asked, seed)
    figures |= subgroups.summarise(fresh, fresh[:0], threshold, seed)
    labels, raw = fresh["label"].to_numpy(), fresh["raw"].to_numpy()
    return figures | {
        "drop": drop(first["test_unseen"], figures["test_unseen"]),
        "ood_share": share(fresh["ood"].to_numpy(), fresh["unit"].to_numpy(), seed),
        "calibration": calibration.summarise(labels, raw, of_first["temperature"], of_first["applied"]),
        "mean_probability": float(fresh["probability"].mean()),
    }


def headline(figures: dict[str, Any]) -> dict[str, float | None]:
    """The figures of metrics/evaluate.json of another set."""
    kept = ("roc_auc", "roc_auc_ci_low", "roc_auc_ci_high", "sensitivity", "specificity")
    known = metrics.headline(figures)
    return {name: known[name] for name in kept} | {
        "roc_auc_drop": figures["drop"]["roc_auc"]["value"],
        "ood_share": figures["ood_share"]["value"],
    }


def drop(here: dict[str, Any], there: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """How far each measure falls from one set to another without common patients: {value, low, high}; negative if it
    rises. ``here`` and ``there``: blocks of metrics.summarise.

    The 95 % interval of the difference comes from those of the two figures (MOVER: Zou and Donner 2008, Statistics in
    Medicine 27(10), 1693-1702). It holds for this model and new patients of both kinds. ``worse``: for the measures
    that do not depend on the share of positives, whether the fall is more than chance, corrected for their number (the
    interval is widened to that of Bonferroni).
    """
    wider = ndtri(1 - 0.025 / len(metrics.SHAREFREE)) / ndtri(0.975)
    found: dict[str, dict[str, Any]] = {}
    for name in metrics.MEASURES:
        one, other = here[name], there[name]
        known = None not in (one["value"], other["value"])
        found[name] = {"value": one["value"] - other["value"] if known else None, "ci_low": None, "ci_high": None}
        if not known or None in (one["ci_low"], other["ci_low"]):
            found[name]["reason"] = next(entry["reason"] for entry in (one, other) if entry["ci_low"] is None)
            continue
        value = found[name]["value"]
        found[name]["ci_low"] = value - np.hypot(one["value"] - one["ci_low"], other["ci_high"] - other["value"])
        found[name]["ci_high"] = value + np.hypot(one["ci_high"] - one["value"], other["value"] - other["ci_low"])
        if name in metrics.SHAREFREE:
            found[name]["worse"] = bool(value - wider * (value - found[name]["ci_low"]) > 0)
    return found


def share(marked: np.ndarray, units: np.ndarray, seed: int) -> dict[str, Any]:
    """The share of images that are ``marked``, bool (N,), with its 95 % interval over ``units``."""
    ones = Scores(np.ones(len(marked), dtype=np.int64), marked.astype(float), marked, pd.factorize(units)[0])
    return metrics.of_model(ones, seed, "sensitivity")
