"""How many patients a test set needs for an interval of a given width, from the spread between those that were tested.

The variance of a figure over patients comes from the bootstrap, and shrinks with their number. It is itself estimated
from few patients, with a relative spread of about sqrt(2 / degrees of freedom): so the number of patients that are
needed has a range, from the quantiles of chi-squared (Searle, Casella and McCulloch 1992, Variance Components, section
3.6).
"""

from collections.abc import Callable
from typing import Any

from core.evidence import bootstrap, metrics
from core.evidence.bootstrap import Scores

import numpy as np
from scipy.special import gammaincinv

PLANNED = metrics.SHAREFREE
WIDTHS = (0.2, 0.1, 0.05)  # of a 95 % interval of the model
MOST = 1e7  # times the patients tested: more are not looked for


def plan(scores: Scores, seed: int) -> dict[str, Any]:
    """The block ``planning`` of metrics/evaluate.json. ``patients``: those tested (with patients who share copies as
    one). Then for each measure of PLANNED: the ``width`` of its interval, with ``doubled`` patients, and how many are
    ``needed`` for each of WIDTHS, with the 95 % range of this number, ``low`` and ``high``; None if it has no end."""
    known = bootstrap.resample(scores, seed) if len(scores.labels) else {}
    entries = metrics.figures(scores._replace(fewer=()), seed, PLANNED)
    patients = len(np.unique(scores.units))
    found: dict[str, Any] = {"patients": patients}
    for measure, entry in entries.items():
        if entry["ci_low"] is None or entry["value"] in (0, 1):
            found[measure] = {"reason": entry.get("reason", f"a figure of {entry['value']} has no spread")}
            continue
        width, freedom = bootstrap.foreseen(measure, entry["value"], known[measure], scores)
        wide = {"patients": 1.0, "ci_low": freedom / _chi2(0.975, freedom)}
        wide["ci_high"] = freedom / _chi2(0.025, freedom)
        found[measure] = {"width": width(1, 1), "doubled": width(2, 1), "needed": {}}
        for goal in WIDTHS:
            found[measure]["needed"][f"{goal:g}"] = {
                name: _needed(width, factor, goal, patients) for name, factor in wide.items()
            }
    return found


def _chi2(share: float, freedom: float) -> float:
    """The quantile of the chi-square distribution."""
    return float(2 * gammaincinv(freedom / 2, share))


def _needed(width: Callable[[float, float], float], wide: float, goal: float, patients: int) -> int | None:
    """How many patients give this width (see bootstrap.foreseen); None if MOST times as many would not."""
    from scipy.optimize import brentq  # slow to import

    if width(MOST, wide) > goal:
        return None
    least = 0.01 / patients  # a hundredth of a patient: any interval is wide
    return int(np.ceil(patients * brentq(lambda times: width(times, wide) - goal, least, MOST)))
