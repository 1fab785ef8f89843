"""Measure and correct calibration: of images with a probability of 0.8, eight in ten should be positive.

Temperature scaling: Guo et al. 2017, On calibration of modern neural networks, ICML, section 4.2.
"""

from typing import Any

from core.evidence import messages
from core.pipeline.errors import PipelineError

import numpy as np
import pandas as pd
from scipy.special import expit, logit

BINS = 10
EPSILON = 1e-12  # probabilities are kept this far from 0 and 1, where the logit is infinite


def logits(probabilities: np.ndarray) -> np.ndarray:
    """The logits of probabilities, clipped to finite values.

    Parameters
    ----------
    probabilities : (N,) float64, in [0, 1]

    Returns
    -------
    (N,) float64
    """
    return logit(np.clip(probabilities, EPSILON, 1 - EPSILON))


def apply_temperature(probabilities: np.ndarray, temperature: "float | np.ndarray") -> np.ndarray:
    """Divide the logits of probabilities by a temperature. Above 1, it moves them towards 0.5; 1 changes nothing.

    Parameters
    ----------
    probabilities : (N,) float64, in [0, 1]
    temperature : float or (N,) float64, above 0

    Returns
    -------
    (N,) float64, in [0, 1]
    """
    return np.where(np.equal(temperature, 1), probabilities, expit(logits(probabilities) / temperature))


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """The temperature of lowest log loss, from 0.05 to 20; None if all labels are equal.

    Parameters
    ----------
    labels : (N,) int64, 0 or 1
    probabilities : (N,) float64, in [0, 1]
    """
    if len(np.unique(labels)) < 2:
        return None
    from scipy.optimize import minimize_scalar  # slow to import

    raw_logits, sign = logits(probabilities), np.where(labels == 1, 1.0, -1.0)

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0, -sign * raw_logits / np.exp(log_temperature)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def fit_logistic(labels: np.ndarray, design: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """The coefficients of a logistic regression without penalty on ``design``, added to ``offset``.

    Parameters
    ----------
    labels : (N,) int64, 0 or 1, or float64, probabilities
    design : (N, K) float64
    offset : (N,) float64

    Returns
    -------
    (K,) float64
    """
    from scipy.optimize import minimize  # slow to import

    def loss(coefficients: np.ndarray) -> float:
        sums = offset + design @ coefficients
        return float((np.logaddexp(0, sums) - labels * sums).mean())

    def gradient(coefficients: np.ndarray) -> np.ndarray:
        return design.T @ (expit(offset + design @ coefficients) - labels) / len(labels)

    def hessian(coefficients: np.ndarray) -> np.ndarray:
        mean = expit(offset + design @ coefficients)
        return (design.T * (mean * (1 - mean))) @ design / len(labels)

    start, options = np.zeros(design.shape[1]), {"gtol": 1e-10}
    return np.asarray(minimize(loss, start, jac=gradient, hess=hessian, method="trust-exact", options=options).x)


def reliability(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """The reliability diagram as a table: one row per non-empty bin, of BINS equal bins of the probability.

    Parameters
    ----------
    labels : (N,) int64, 0 or 1
    probabilities : (N,) float64, in [0, 1]

    Returns
    -------
    DataFrame
        The mean ``probability``, the ``positive_share`` and the number of ``images``.
    """
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    table = pd.DataFrame({"bin": bins, "probability": probabilities, "positive_share": labels.astype(float)})
    grouped = table.groupby("bin")
    return grouped.mean().assign(images=grouped.size()).reset_index(drop=True)


def ece(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Expected calibration error in BINS bins of the probability of the positive class, in [0, 1]; None without images.

    It is the absolute difference of mean probability and share of positives of a bin, averaged over the images.

    Parameters
    ----------
    labels : (N,) int64, 0 or 1
    probabilities : (N,) float64, in [0, 1]

    References
    ----------
    Naeini et al. 2015, Obtaining well calibrated probabilities using Bayesian binning, AAAI.
    """
    if not len(labels):
        return None
    table = reliability(labels, probabilities)
    gap = (table["positive_share"] - table["probability"]).abs()
    return float((gap * table["images"]).sum() / len(labels))


def apply(predictions: pd.DataFrame, raw: np.ndarray, calibrate: bool) -> tuple[np.ndarray, dict[str, Any]]:
    """Fit the temperature on validation and, with ``calibrate``, apply it to all images.

    Parameters
    ----------
    predictions : DataFrame of N rows, with label and split
    raw : (N,) float64, in [0, 1], the probabilities before calibration

    Returns
    -------
    probabilities : (N,) float64, in [0, 1]
    block : the block ``calibration`` of the details, on the test images

    Raises
    ------
    PipelineError
        With ``calibrate``, if validation has one class only.
    """
    labels, split = predictions["label"].to_numpy(), predictions["split"]
    val, test = (split == "val").to_numpy(dtype=bool), (split == "test").to_numpy(dtype=bool)
    temperature = fit_temperature(labels[val], raw[val])
    if calibrate and temperature is None:
        raise PipelineError(messages.NO_TEMPERATURE)
    block = summarise(labels[test], raw[test], temperature, calibrate)
    return (apply_temperature(raw, temperature) if calibrate and temperature is not None else raw), block


def applied_temperature(block: dict[str, Any]) -> float:
    """The temperature that evaluate applied, from the block ``calibration``; 1 if it applied none."""
    return float(block["temperature"]) if block["applied"] else 1.0


def summarise(labels: np.ndarray, raw: np.ndarray, temperature: float | None, applied: bool) -> dict[str, Any]:
    """The block ``calibration`` of the details, from test images and the temperature fitted on validation.

    ``temperature``, ``applied``, and expected calibration error (``ece``) and Brier score (``brier``) before and after
    the temperature; None where not defined, with a ``reason`` if there is no temperature.

    Parameters
    ----------
    labels : (N,) int64, 0 or 1
    raw : (N,) float64, in [0, 1], the probabilities before calibration
    """

    def errors(probabilities: np.ndarray) -> dict[str, float | None]:
        brier = float(np.mean((probabilities - labels) ** 2)) if len(labels) else None
        return {"ece": ece(labels, probabilities), "brier": brier}

    block: dict[str, Any] = {"temperature": temperature, "applied": applied and temperature is not None}
    before, after = errors(raw), errors(apply_temperature(raw, temperature)) if temperature is not None else {}
    block |= {name: {"before": value, "after": after.get(name)} for name, value in before.items()}
    if temperature is None:
        block["reason"] = "validation has one class only, so no temperature can be fitted"
    return block
