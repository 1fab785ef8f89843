"""How many patients a test set needs for an interval of a given width, from the variance between those already tested.

The variance of a measure over patients comes from the jackknife, and shrinks with their number. It is itself estimated
from few patients, with a relative standard error of about sqrt(2 / degrees of freedom). Therefore the number of
patients needed has a range, from the quantiles of chi-squared (Searle, Casella and McCulloch 1992, Variance Components,
section 3.6).
"""

from collections.abc import Callable
from typing import Any

from core.evidence import intervals, metrics
from core.evidence.intervals import Scores

import numpy as np
from scipy.special import gammaincinv

PLANNED = metrics.PREVALENCE_FREE
WIDTHS = (0.2, 0.1, 0.05)  # of a 95 % interval of the model
MAX_FACTOR = 1e7  # times the patients tested; larger test sets are not searched


def plan(scores: Scores, seed: int, left_out: dict[str, np.ndarray] | None = None) -> dict[str, Any]:
    """The number of test patients for intervals of WIDTHS: the block ``planning`` of the details.

    ``patients``: those tested (patients who share copies count as one). For each measure of PLANNED: the ``width`` of
    its interval, the width with twice as many patients (``doubled``), and for each of WIDTHS how many ``patients`` are
    ``needed``, with the 95 % range of this number, ``ci_low`` and ``ci_high``; None if it is not bounded. A measure
    that can't be planned has a ``reason``.

    Parameters
    ----------
    left_out : dict of (R,) float64, of intervals.jackknife, if it has been computed
    """
    if left_out is None:
        left_out = intervals.jackknife(scores, seed) if len(scores.labels) else {}
    entries = metrics.metrics_with_ci(scores._replace(leave_one_out=()), seed, PLANNED, left_out=left_out)
    patients = len(np.unique(scores.units))
    block: dict[str, Any] = {"patients": patients}
    for measure, entry in entries.items():
        if entry["ci_low"] is None or entry["value"] in (0, 1):
            block[measure] = {"reason": entry.get("reason", f"a value of {entry['value']} has no variance")}
            continue
        estimate = intervals.patient_variance(measure, entry["value"], left_out[measure], scores)
        assert not isinstance(estimate, str)  # the measure has an interval
        width, df = intervals.predict_width(measure, entry["value"], estimate, scores)
        low, high = (2 * gammaincinv(df / 2, share) for share in (0.975, 0.025))  # quantiles of chi-squared
        variances = {"patients": 1.0, "ci_low": float(df / low), "ci_high": float(df / high)}
        needed = {
            f"{goal:g}": {
                name: _patients_needed(width, variance, goal, patients) for name, variance in variances.items()
            }
            for goal in WIDTHS
        }
        block[measure] = {"width": width(1, 1), "doubled": width(2, 1), "needed": needed}
    return block


def _patients_needed(width: Callable[[float, float], float], variance: float, goal: float, patients: int) -> int | None:
    """How many patients give this width (see intervals.predict_width); None if MAX_FACTOR times as many would not."""
    from scipy.optimize import brentq  # slow to import

    if width(MAX_FACTOR, variance) > goal:
        return None
    lowest = 0.01 / patients  # a hundredth of a patient: any interval is wide
    return int(np.ceil(patients * brentq(lambda factor: width(factor, variance) - goal, lowest, MAX_FACTOR)))
