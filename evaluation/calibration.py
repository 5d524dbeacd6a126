"""How far a probability can be taken at its word: Brier score, calibration error, reliability curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DEFAULT_BINS = 10


@dataclass(frozen=True)
class Reliability:
    """Reliability curve of the top class's probability, over equal-width bins; empty bins are left out.

    Attributes:
        confidence: float ``[bins]``, mean probability given to the predicted class.
        accuracy: float ``[bins]``, share of right predictions.
        count: int ``[bins]``, rows in the bin.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray


def brier_scores(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return each row's multi-class Brier score, the sum over classes of (probability - truth) squared.

    Args:
        labels: int ``[n]``.
        probabilities: float ``[n, classes]``.

    Returns:
        float64 ``[n]`` in [0, 2].
    """
    truth = np.eye(probabilities.shape[1])[labels]
    return np.square(probabilities - truth).sum(axis=1)


def confidence_bins(probabilities: np.ndarray, bins: int = DEFAULT_BINS) -> np.ndarray:
    """Return the equal-width bin that each row's highest probability falls in.

    Args:
        probabilities: float ``[n, classes]``.
        bins: Number of bins over [0, 1]; a bin holds its upper edge.

    Returns:
        int ``[n]`` in 0 to ``bins`` - 1.
    """
    return np.clip(np.ceil(probabilities.max(axis=1) * bins).astype(np.int64) - 1, 0, bins - 1)


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = DEFAULT_BINS) -> float:
    """Return the expected calibration error: mean over rows of the gap of their bin.

    A bin's gap is the absolute difference of its accuracy and its mean top probability.

    Args:
        labels: int ``[n]``, one row at least.
        probabilities: float ``[n, classes]``.
        bins: Number of equal-width bins.

    Returns:
        A number in [0, 1]; 0 is perfect.
    """
    curve = reliability(labels, probabilities, bins)
    return float((np.abs(curve.accuracy - curve.confidence) * curve.count).sum() / curve.count.sum())


def reliability(labels: np.ndarray, probabilities: np.ndarray, bins: int = DEFAULT_BINS) -> Reliability:
    """Return the reliability curve.

    Args:
        labels: int ``[n]``.
        probabilities: float ``[n, classes]``.
        bins: Number of equal-width bins.

    Returns:
        The curve over the bins that have rows.
    """
    place = confidence_bins(probabilities, bins)
    count = np.bincount(place, minlength=bins)
    right = np.bincount(place, weights=probabilities.argmax(axis=1) == labels, minlength=bins)
    confidence = np.bincount(place, weights=probabilities.max(axis=1), minlength=bins)
    filled = count > 0
    return Reliability(
        confidence=confidence[filled] / count[filled],
        accuracy=right[filled] / count[filled],
        count=count[filled],
    )
