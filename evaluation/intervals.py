"""Bootstrap percentile intervals: patients are drawn with replacement within their class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluation.resampled import resampled_scores
from evaluation.rows import PredictedRows

DEFAULT_RESAMPLES = 1000
DEFAULT_CONFIDENCE = 0.95
# Numbers that are drawn at a time.
_CELLS = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A percentile interval.

    Attributes:
        low: Lower bound; NaN where the metric is undefined in every resample.
        high: Upper bound.
    """

    low: float
    high: float


@dataclass(frozen=True)
class Intervals:
    """Intervals of all metrics of one model on some rows.

    Attributes:
        overall: By metric name.
        by_class: By metric name, one a class.
    """

    overall: dict[str, Interval]
    by_class: dict[str, list[Interval]]


def bootstrap_weights(
    labels: np.ndarray, groups: np.ndarray, *, resamples: int = DEFAULT_RESAMPLES, seed: int = 0
) -> np.ndarray:
    """Draw patients with replacement, as many of each class as there are.

    A patient's class is that of its first row. All rows of a patient are drawn together. The weights depend only on
    the arguments, so models that share rows share resamples, which makes their differences paired.

    Args:
        labels: int ``[n]``.
        groups: ``[n]``, a code for the patient.
        resamples: How many.
        seed: Seed of the random numbers.

    Returns:
        uint8 ``[resamples, n]``: how often each row was drawn.

    Raises:
        ValueError: There are no rows or no resamples.
    """
    if len(labels) == 0 or resamples < 1:
        raise ValueError(f"Resampling needs rows and resamples; received {len(labels)} rows, {resamples} resamples.")
    random = np.random.default_rng(seed)
    _, first, patient = np.unique(groups, return_index=True, return_inverse=True)
    strata = labels[first]
    # A byte each, for there are many; a patient is drawn once on average, and never 256 times.
    counts = np.zeros((resamples, len(first)), dtype=np.uint8)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        # Some resamples at a time, or the numbers that are drawn would take more memory than their counts.
        most = max(1, _CELLS // len(members))
        for start in range(0, resamples, most):
            drawn = random.integers(len(members), size=(min(most, resamples - start), len(members)))
            flat = drawn + np.arange(len(drawn))[:, None] * len(members)
            counted = np.bincount(flat.ravel(), minlength=drawn.size).reshape(drawn.shape)
            counts[start : start + len(drawn), members] = counted
    # One row a patient, in order: there is nothing to look up.
    return counts if np.array_equal(patient, np.arange(len(first))) else counts[:, patient]


def percentile_interval(values: np.ndarray, confidence: float = DEFAULT_CONFIDENCE) -> Interval:
    """Return the central interval of resampled values.

    Args:
        values: float ``[resamples]``; NaN values are left out.
        confidence: Share of the values inside, in (0, 1).

    Returns:
        The interval.
    """
    known = values[~np.isnan(values)]
    if known.size == 0:
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def bootstrap_intervals(
    predicted: PredictedRows, weights: np.ndarray, confidence: float = DEFAULT_CONFIDENCE
) -> Intervals:
    """Return the interval of every metric.

    Args:
        predicted: Rows of one model.
        weights: int or float ``[resamples, n]`` from ``bootstrap_weights``.
        confidence: Share of the resamples inside.

    Returns:
        The intervals.
    """
    overall, by_class = resampled_scores(predicted, weights)
    return Intervals(
        overall={name: percentile_interval(values, confidence) for name, values in overall.items()},
        by_class={
            name: [percentile_interval(column, confidence) for column in values.T] for name, values in by_class.items()
        },
    )
