"""Temperature scaling, conformal sets, and when to give no diagnosis; fitted on one set of rows, applied to others."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax, softmax

from data_schemas.calibration import Calibration

# Keeps the logarithm of a probability that float32 has rounded to zero finite.
_SMALLEST = 1e-12
_TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True)
class Decisions:
    """What a calibrated model says.

    Attributes:
        probabilities: float64 ``[n, classes]``, calibrated, rows summing to 1.
        sets: Bool ``[n, classes]``, conformal sets.
        abstained: Bool ``[n]``: no diagnosis.
    """

    probabilities: np.ndarray
    sets: np.ndarray
    abstained: np.ndarray


def scale(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Apply a temperature: softmax(log p / temperature).

    Args:
        probabilities: float ``[n, classes]``.
        temperature: Above 0; above 1 probabilities become flatter, below 1 sharper. The order of the classes stays.

    Returns:
        float64 ``[n, classes]``, rows summing to 1.
    """
    return softmax(_logarithms(probabilities) / temperature, axis=1)


def _logarithms(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), _SMALLEST))


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Find the temperature with the lowest log loss (Guo et al. 2017).

    Args:
        labels: int ``[n]``, one row at least.
        probabilities: float ``[n, classes]``, of rows that the model was not fitted on.

    Returns:
        A temperature between 0.05 and 20; where a model is never wrong, no other bound keeps it from zero.
    """
    # Serving applies a temperature and fits none: it starts sooner without this.
    from scipy.optimize import minimize_scalar

    logarithms = _logarithms(probabilities)
    rows = np.arange(len(labels))

    def log_loss(exponent: float) -> float:
        return -float(log_softmax(logarithms / math.exp(exponent), axis=1)[rows, labels].mean())

    low, high = (math.log(bound) for bound in _TEMPERATURES)
    return math.exp(minimize_scalar(log_loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x)


def lowest_probability(labels: np.ndarray, probabilities: np.ndarray, alpha: float) -> float:
    """Find the probability from which on a class is in the conformal set (least ambiguous sets, Sadinle et al. 2019).

    It is the true class's probability of the row at the finite-sample quantile: of ``n`` rows, at least
    ``ceil((n + 1) * (1 - alpha))`` have their true class in the set.

    Args:
        labels: int ``[n]``, one row at least.
        probabilities: float ``[n, classes]``, of rows that the model was not fitted on.
        alpha: Share of rows whose true class may be missing, of rows like these.

    Returns:
        A probability; 0, which puts every class into every set, where there are too few rows for the quantile.
    """
    count = len(labels)
    # Rounded first: 0.9 in binary is a little more than 0.9, and must not ask for a row more.
    needed = math.ceil(round((count + 1) * (1 - alpha), 9))
    if needed > count:
        return 0.0
    true = probabilities[np.arange(count), labels]
    return float(np.sort(true)[count - needed])


def decide(probabilities: np.ndarray, calibration: Calibration) -> Decisions:
    """Apply a calibration; ``compare`` and the served model call this.

    Args:
        probabilities: float ``[n, classes]``, as the model gives them.
        calibration: The calibration.

    Returns:
        Calibrated probabilities, conformal sets, and rows without a diagnosis: those whose set is empty or larger than
        ``largest_set``, or whose highest probability is below ``abstain_below``.
    """
    scaled = scale(probabilities, calibration.temperature)
    sets = scaled >= calibration.lowest_probability
    sizes = sets.sum(axis=1)
    abstained = (sizes == 0) | (sizes > calibration.largest_set) | (scaled.max(axis=1) < calibration.abstain_below)
    return Decisions(scaled, sets, abstained)
