"""How much of the uncertainty of a measure comes from the random seed of the training, measured within an ensemble.

The networks are trained on the same images and differ only in their seed. Leaving out one at a time gives the
jackknife's variance of a measure of the ensemble over trainings (Efron and Stein 1981, The Annals of Statistics 9(3),
586-596): (k - 1) / k times the sum of squares of the k values around their mean. It holds for any measure of a mean
probability, with two networks or more, and has k - 1 degrees of freedom.

Patients and trainings are crossed, as cases and readers are where several readers judge the same cases (Obuchowski and
Rockette 1995, Communications in Statistics 24(2), 285-308). The variance of a measure on new patients and after a new
training is at most the sum of the variance over patients, with fixed networks (core.evidence.intervals), and that over
trainings, from the jackknife with fixed patients: their interaction is in both (Owen 2007, The Annals of Applied
Statistics 1(2), 386-411). In the interval of a measure, it is small beside the variance over patients, and stays in
both. In a difference of two runs, what patients have in common cancels out, and the ``interaction`` is subtracted once:
otherwise, equal recipes are hardly ever called different, and better ones too seldom. The degrees of freedom of the sum
are Satterthwaite's (1946, Biometrics Bulletin 2(6), 110-114), but never more than those of the patients: otherwise the
interval of a recipe could be narrower than that of one of its models.
"""

from typing import NamedTuple

from core.evidence import calibration
from core.pipeline import tables

import numpy as np
import pandas as pd

WITHOUT = "without_"  # prefix of the columns with the probability by all networks but one
SINGLE_NETWORK = "the seed variance of one network is unknown: set train.ensemble_size to 2 or more"


class VarianceComponent(NamedTuple):
    """A component of the variance of a measure, and its degrees of freedom."""

    variance: float
    df: float


def add_leave_one_out(predictions: pd.DataFrame, temperature: "float | np.ndarray") -> pd.DataFrame:
    """Add the calibrated probability without the first network, the second, ...

    With fewer than two networks, no column is added. A temperature of 1 does not change the probabilities.

    Parameters
    ----------
    predictions : DataFrame of N rows, with the columns of tables.members
    temperature : float or (N,) float64, above 0

    Returns
    -------
    DataFrame with the columns without_1, without_2, ..., float64
    """
    members = tables.members(predictions)
    if len(members) < 2:
        return predictions
    left_out = {
        f"{WITHOUT}{number}": calibration.apply_temperature(
            predictions[members].drop(columns=name).to_numpy().mean(axis=1), temperature
        )
        for number, name in enumerate(members, start=1)
    }
    return predictions.assign(**left_out)


def leave_one_out_columns(predictions: pd.DataFrame) -> list[str]:
    """The names of the columns that ``add_leave_one_out`` added."""
    return [name for name in predictions.columns if name.startswith(WITHOUT)]


def jackknife(values: list[float | None]) -> VarianceComponent | None:
    """The variance of a measure over trainings (Efron and Stein 1981), from its values without each network in turn.

    None if a value is not defined (None), or if there are fewer than two.
    """
    defined = np.array([value for value in values if value is not None])
    if len(defined) < max(2, len(values)):
        return None
    variance = float((len(defined) - 1) / len(defined) * ((defined - defined.mean()) ** 2).sum())
    return VarianceComponent(variance, len(defined) - 1)


def interaction(value: float, members: list[float], patients: np.ndarray, crossed: np.ndarray) -> VarianceComponent:
    """The variance from the interaction of patients and trainings.

    It is that of a two-way analysis of variance, with its degrees of freedom, from the values without a network and a
    patient: exact for a mean over networks and patients.

    Parameters
    ----------
    value, members : the measure, and its K values without each network
    patients : (R,) float64, the measure without each patient
    crossed : (K, R) float64, without each network and each patient
    """
    effects = crossed - np.array(members)[:, None] - patients + value
    networks, rows = crossed.shape
    df = (networks - 1) * (rows - 1)
    return VarianceComponent(df / (networks * rows) * float(np.nansum(effects**2)), df)


def satterthwaite(*components: VarianceComponent) -> VarianceComponent:
    """The sum of independent components, of which some can be subtracted (negative), with Satterthwaite's degrees of
    freedom (1946); infinite if all are 0."""
    total = sum(component.variance for component in components)
    squares = sum(component.variance**2 / component.df for component in components)
    return VarianceComponent(total, total**2 / squares if squares > 0 else np.inf)


def combine(patients: VarianceComponent, *trainings: VarianceComponent) -> VarianceComponent:
    """The variance over patients and trainings; Satterthwaite's degrees of freedom, at most those of the patients."""
    total = satterthwaite(patients, *trainings)
    return total._replace(df=min(patients.df, total.df))
