"""What a model reaches on another set of images, beside what it reached on its own test images."""

from typing import Any

from core.evidence import metrics
from core.evidence.bootstrap import Scores

import numpy as np
import pandas as pd


def drop(here: dict[str, Any], there: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """How far each measure falls from one set to another without common patients: {value, low, high}; negative if it
    rises. ``here`` and ``there``: blocks of metrics/evaluate.json.

    The 95 % interval of the difference comes from those of the two figures (MOVER: Zou and Donner 2008, Statistics in
    Medicine 27(10), 1693-1702). It holds for this model and new patients of both kinds.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in metrics.MEASURES:
        one, other = here[name], there[name]
        known = None not in (one["value"], other["value"])
        found[name] = {"value": one["value"] - other["value"] if known else None, "low": None, "high": None}
        if not known or None in (one["low"], other["low"]):
            found[name]["reason"] = next(entry["reason"] for entry in (one, other) if entry["low"] is None)
            continue
        value = found[name]["value"]
        found[name]["low"] = value - np.hypot(one["value"] - one["low"], other["high"] - other["value"])
        found[name]["high"] = value + np.hypot(one["high"] - one["value"], other["value"] - other["low"])
    return found


def share(marked: np.ndarray, units: np.ndarray, seed: int) -> dict[str, Any]:
    """The share of images that are ``marked``, bool (N,), with its 95 % interval over ``units``."""
    ones = Scores(np.ones(len(marked), dtype=np.int64), marked.astype(float), marked, pd.factorize(units)[0])
    entry = metrics.figures(ones, seed, ("sensitivity",))["sensitivity"]
    return {key: value for key, value in entry.items() if key != "recipe"}
