"""How much of a figure is the luck of its training, from the members of an ensemble.

The members are trainings on the same images that differ only in their seed. Leaving out one at a time gives the
jackknife's variance of a figure of the ensemble over trainings (Efron and Stein 1981, The Annals of Statistics 9(3),
586-596): (k - 1) / k times the sum of squares of the k figures around their mean. It holds for any measure of a mean
probability, with two members or more, and has k - 1 degrees of freedom.

Patients and trainings are crossed, as cases and readers are where several readers judge the same cases (Obuchowski and
Rockette 1995, Communications in Statistics 24(2), 285-308). The variance of a figure on new patients and after a new
training is at most the sum of the variance over patients, from the bootstrap with fixed members, and that over
trainings, from the jackknife with fixed patients: their interaction is in both (Owen 2007, The Annals of Applied
Statistics 1(2), 386-411). It is left in both, since with few patients and members its estimate could be anything. The
degrees of freedom of the sum are Satterthwaite's (1946, Biometrics Bulletin 2(6), 110-114), but never more than those
of the patients: else the interval of a recipe could be narrower than that of one of its models.
"""

from typing import NamedTuple

from core.evidence import calibration
from core.pipeline import tables

import numpy as np
import pandas as pd

WITHOUT = "without_"  # prefix of the columns with the probability by all members but one
ALONE = "the seed variance of one network is unknown: set train.ensemble_size to 3 or more"


class Part(NamedTuple):
    """A part of the variance of a figure, and its degrees of freedom."""

    variance: float
    freedom: float


def leave_out(predictions: pd.DataFrame, temperature: float) -> pd.DataFrame:
    """``predictions`` with a column for each member: the probability, after calibration, if it is left out. None are
    added if there are fewer than two members."""
    members = tables.members(predictions)
    if len(members) < 2:
        return predictions
    found = {
        f"{WITHOUT}{number}": calibration.tempered(
            predictions[members].drop(columns=name).to_numpy().mean(axis=1), temperature
        )
        for number, name in enumerate(members, start=1)
    }
    return predictions.assign(**found)


def columns(predictions: pd.DataFrame) -> list[str]:
    """The names of the columns that ``leave_out`` added."""
    return [name for name in predictions.columns if name.startswith(WITHOUT)]


def of_training(values: list[float | None]) -> Part | None:
    """The variance of a figure over trainings. ``values``: the figure with each member left out; None if it is not
    defined for one of them, or if there are fewer than two."""
    known = np.array([value for value in values if value is not None])
    if len(known) < max(2, len(values)):
        return None
    return Part(float((len(known) - 1) / len(known) * ((known - known.mean()) ** 2).sum()), len(known) - 1)


def together(patients: Part, *trainings: Part) -> Part:
    """The variance over patients and trainings, and its degrees of freedom."""
    parts = [patients, *trainings]
    total = sum(part.variance for part in parts)
    squares = sum(part.variance**2 / part.freedom for part in parts)
    return Part(total, min(patients.freedom, total**2 / squares) if squares > 0 else patients.freedom)
