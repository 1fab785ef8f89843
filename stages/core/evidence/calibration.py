"""Measure and correct calibration: of images with a probability of 0.8, eight in ten should be positive."""

from typing import Any

from core.evidence import messages
from core.pipeline.errors import PipelineError

import numpy as np
import pandas as pd
from scipy.special import expit, logit

BINS = 10
NEAREST = 1e-12  # probabilities are kept this far from 0 and 1, where the logit is infinite


def logits(probabilities: np.ndarray) -> np.ndarray:
    return logit(np.clip(probabilities, NEAREST, 1 - NEAREST))


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Divide the logits of the probabilities by ``temperature``; a temperature above 1 moves them towards 0.5."""
    return expit(logits(probabilities) / temperature)


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """The temperature, 0.05 to 20, of lowest log loss (Guo et al. 2017, ICML, section 4.2); None with one class."""
    if len(np.unique(labels)) < 2:
        return None
    from scipy.optimize import minimize_scalar  # slow to import

    given, sign = logits(probabilities), np.where(labels == 1, 1.0, -1.0)

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0, -sign * given / np.exp(log_temperature)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def reliability(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """One row per non-empty bin, of BINS equal bins of the probability: mean probability, share of positives, number
    of images."""
    place = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    table = pd.DataFrame({"bin": place, "probability": probabilities, "positive_share": labels.astype(float)})
    grouped = table.groupby("bin")
    return grouped.mean().assign(images=grouped.size()).reset_index(drop=True)


def ece(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Expected calibration error in BINS bins (Naeini et al. 2015, AAAI; here of the positive class): the absolute
    difference of mean probability and share of positives, averaged over the images. None without images."""
    if not len(labels):
        return None
    table = reliability(labels, probabilities)
    gap = (table["positive_share"] - table["probability"]).abs()
    return float((gap * table["images"]).sum() / len(labels))


def apply(predictions: pd.DataFrame, raw: np.ndarray, asked: bool) -> tuple[np.ndarray, dict[str, Any]]:
    """The probabilities to use, and the block ``calibration`` of the details.

    The temperature is fitted on the rows of validation. If ``asked``, it is applied to all of ``raw``. Raises
    PipelineError if ``asked`` and validation has one class only.
    """
    labels, part = predictions["label"].to_numpy(), predictions["split"]
    val, test = (part == "val").to_numpy(dtype=bool), (part == "test").to_numpy(dtype=bool)
    temperature = fit_temperature(labels[val], raw[val])
    if asked and temperature is None:
        raise PipelineError(messages.no_temperature())
    block = summarise(labels[test], raw[test], temperature, asked)
    return (tempered(raw, temperature) if asked and temperature is not None else raw), block


def used(block: dict[str, Any]) -> float:
    """The temperature that evaluate applied, from the block ``calibration``; 1 if it applied none."""
    return float(block["temperature"]) if block["applied"] else 1.0


def summarise(labels: np.ndarray, raw: np.ndarray, temperature: float | None, applied: bool) -> dict[str, Any]:
    """The block ``calibration``: the temperature fitted on validation, and the expected error and Brier score of the
    test set before and after applying it."""

    def both(probabilities: np.ndarray) -> dict[str, float | None]:
        brier = float(np.mean((probabilities - labels) ** 2)) if len(labels) else None
        return {"ece": ece(labels, probabilities), "brier": brier}

    block: dict[str, Any] = {"temperature": temperature, "applied": applied and temperature is not None}
    before = both(raw)
    after = both(tempered(raw, temperature)) if temperature is not None else dict.fromkeys(before)
    block |= {name: {"before": before[name], "after": after[name]} for name in before}
    if temperature is None:
        block["reason"] = "validation has one class only, so no temperature can be fitted"
    return block
