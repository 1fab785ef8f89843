"""Evaluate a model on an external set of images, and compare the result with that on its own test images."""

from typing import Any

from core.evidence import calibration, metrics, subgroups, utility
from core.evidence.intervals import Scores

import numpy as np
import pandas as pd
from scipy.special import ndtri


def summarise(
    test: pd.DataFrame, val: pd.DataFrame, first: dict[str, Any], threshold: float | str, seed: int
) -> dict[str, Any]:
    """The details of an external set, with the threshold and the temperature of the first set.

    Parameters
    ----------
    test : DataFrame
        All images of the external set, as for metrics.summarise, with ``raw``, the probability before calibration, and
        ``ood``, whether the image is out of distribution.
    val, first
        The validation images of the first set, and its details.
    threshold : float or str
        evaluate.threshold.

    Returns
    -------
    dict
        The blocks of metrics.summarise, and on the images that the first set lacks: those of utility.summarise, drop,
        ood_share, calibration, mean_probability, and groups if there are any.
    """
    of_first, non_leaking = first["calibration"], metrics.non_leaking(test)
    details = {"threshold": first["threshold"]} | metrics.summarise(test, val, first["threshold"], threshold, seed)
    details["combine"] |= {
        level: choice for level, choice in first.get("combine", {}).items() if level in details["combine"]
    }
    details |= subgroups.summarise(non_leaking, non_leaking[:0], first["threshold"], seed)
    details |= utility.summarise(metrics.scores(non_leaking, first["threshold"]))
    labels, raw = non_leaking["label"].to_numpy(), non_leaking["raw"].to_numpy()
    return details | {
        "drop": drop(first["test_unseen"], details["test_unseen"]),
        "ood_share": share(non_leaking["ood"].to_numpy(), non_leaking["unit"].to_numpy(), seed),
        "calibration": calibration.summarise(labels, raw, of_first["temperature"], of_first["applied"]),
        "mean_probability": float(non_leaking["probability"].mean()),
    }


def headline(details: dict[str, Any]) -> dict[str, float | None]:
    """The content of metrics/evaluate.json of an external set."""
    names = ("roc_auc", "roc_auc_ci_low", "roc_auc_ci_high", "sensitivity", "specificity")
    values = metrics.headline(details)
    return {name: values[name] for name in names} | {
        "roc_auc_drop": details["drop"]["roc_auc"]["value"],
        "ood_share": details["ood_share"]["value"],
    }


def drop(first: dict[str, Any], external: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """How far each measure falls from one set to another without common patients, from two blocks of metrics.summarise.

    The drop is {value, ci_low, ci_high}, negative if the measure rises; None with a ``reason`` where not defined. Its
    interval holds for this model and new patients of both kinds. PREVALENCE_FREE measures have ``worse``: whether the
    drop is significant, corrected for their number (the interval is widened to that of Bonferroni).

    Zou and Donner 2008, Statistics in Medicine 27(10), 1693-1702: the interval of a difference from those of both
    values (MOVER).
    """
    widening = ndtri(1 - 0.025 / len(metrics.PREVALENCE_FREE)) / ndtri(0.975)
    drops: dict[str, dict[str, Any]] = {}
    for name in metrics.MEASURES:
        here, there = first[name], external[name]
        value = None if None in (here["value"], there["value"]) else here["value"] - there["value"]
        drops[name] = {"value": value, "ci_low": None, "ci_high": None}
        if value is None or None in (here["ci_low"], there["ci_low"]):
            drops[name]["reason"] = next(entry["reason"] for entry in (here, there) if entry["ci_low"] is None)
            continue
        low = value - np.hypot(here["value"] - here["ci_low"], there["ci_high"] - there["value"])
        high = value + np.hypot(here["ci_high"] - here["value"], there["value"] - there["ci_low"])
        drops[name] |= {"ci_low": low, "ci_high": high}
        if name in metrics.PREVALENCE_FREE:
            drops[name]["worse"] = bool(value - widening * (value - low) > 0)
    return drops


def share(marked: np.ndarray, units: np.ndarray, seed: int) -> dict[str, Any]:
    """The share of ``marked`` images with its 95 % interval over patients, as metrics.model_metric.

    Parameters
    ----------
    marked : (N,) bool
    units : (N,) int, the patient, or component of patients and copies, of each image
    """
    positives = Scores(np.ones(len(marked), dtype=np.int64), marked.astype(float), marked, pd.factorize(units)[0])
    return metrics.model_metric(positives, seed, "sensitivity")
