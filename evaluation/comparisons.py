"""Paired comparison of two models on the same rows, and the correction for having made several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import binomtest

from evaluation.intervals import DEFAULT_CONFIDENCE, Interval, percentile_interval
from evaluation.resampled import accuracy, macro_auc
from evaluation.rows import PredictedRows


@dataclass(frozen=True)
class Difference:
    """A paired difference of one metric, candidate minus baseline.

    Attributes:
        value: Difference on the rows.
        interval: Its bootstrap percentile interval.
        p_value: Two-sided, from the same resamples.
    """

    value: float
    interval: Interval
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """A candidate against one baseline on their common rows.

    Attributes:
        baseline: Name of the baseline.
        rows: Number of common rows.
        macro_auc: Difference of macro AUC.
        accuracy: Difference of accuracy.
        only_candidate: Rows that only the candidate got right.
        only_baseline: Rows that only the baseline got right.
        mcnemar_p_value: Exact McNemar test of equal accuracy; NaN where a patient has several rows, for the test
            takes rows to be independent.
        macro_auc_adjusted_p_value: Holm-adjusted over the baselines.
        mcnemar_adjusted_p_value: Holm-adjusted over the baselines.
    """

    baseline: str
    rows: int
    macro_auc: Difference
    accuracy: Difference
    only_candidate: int
    only_baseline: int
    mcnemar_p_value: float
    macro_auc_adjusted_p_value: float = float("nan")
    mcnemar_adjusted_p_value: float = float("nan")


def bootstrap_p_value(differences: np.ndarray) -> float:
    """Return the two-sided p-value of "no difference" from resampled differences.

    Twice the smaller share of resamples on either side of 0, each share with one added to both counts, so that a
    finite number of resamples never gives 0.

    Args:
        differences: float ``[resamples]``; NaN values are left out.

    Returns:
        A number in (0, 1]; NaN where nothing is left.
    """
    known = differences[~np.isnan(differences)]
    if known.size == 0:
        return float("nan")
    tail = min(np.count_nonzero(known <= 0), np.count_nonzero(known >= 0))
    return float(min(1.0, 2 * (tail + 1) / (known.size + 1)))


def mcnemar_p_value(only_first: int, only_second: int) -> float:
    """Return the exact two-sided McNemar p-value: a fair coin decides each discordant row.

    Args:
        only_first: Rows that only the first model got right.
        only_second: Rows that only the second model got right.

    Returns:
        A number in (0, 1]; 1 where the models never differ.
    """
    discordant = only_first + only_second
    return float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0


def holm(p_values: np.ndarray) -> np.ndarray:
    """Adjust p-values for several comparisons by Holm's step-down method.

    The smallest is multiplied by their number, the next by one less, and so on; none may be below an earlier one.

    Args:
        p_values: float ``[m]``; NaN values stay NaN and are not counted.

    Returns:
        float64 ``[m]``, each at most 1.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full_like(p_values, np.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p_values[order] * factors))
    return adjusted


def compare_pair(
    candidate: PredictedRows,
    baseline: PredictedRows,
    weights: np.ndarray,
    *,
    name: str,
    confidence: float = DEFAULT_CONFIDENCE,
) -> Comparison:
    """Compare a candidate with a baseline that has predicted the same rows in the same order.

    Args:
        candidate: Rows of the candidate.
        baseline: Rows of the baseline.
        weights: int or float ``[resamples, n]`` from ``intervals.bootstrap_weights``.
        name: Name of the baseline.
        confidence: Share of the resamples inside the intervals.

    Returns:
        The comparison, p-values not yet adjusted.

    Raises:
        ValueError: The rows differ.
    """
    if not np.array_equal(candidate.rows, baseline.rows):
        raise ValueError("A paired comparison needs the same rows in the same order; received different ones.")
    once = np.ones((1, len(candidate)))

    def difference(metric: Callable[[PredictedRows, np.ndarray], np.ndarray]) -> Difference:
        resampled = metric(candidate, weights) - metric(baseline, weights)
        return Difference(
            value=float((metric(candidate, once) - metric(baseline, once))[0]),
            interval=percentile_interval(resampled, confidence),
            p_value=bootstrap_p_value(resampled),
        )

    right, also_right = candidate.predicted == candidate.labels, baseline.predicted == baseline.labels
    only_candidate = int(np.count_nonzero(right & ~also_right))
    only_baseline = int(np.count_nonzero(~right & also_right))
    independent = candidate.group_count == len(candidate)
    return Comparison(
        baseline=name,
        rows=len(candidate),
        macro_auc=difference(macro_auc),
        accuracy=difference(accuracy),
        only_candidate=only_candidate,
        only_baseline=only_baseline,
        mcnemar_p_value=mcnemar_p_value(only_candidate, only_baseline) if independent else float("nan"),
    )


def adjust(comparisons: list[Comparison]) -> list[Comparison]:
    """Fill in the Holm-adjusted p-values of comparisons of one candidate.

    Args:
        comparisons: One a baseline.

    Returns:
        The same comparisons in the same order.
    """
    auc = holm(np.array([c.macro_auc.p_value for c in comparisons]))
    mcnemar = holm(np.array([c.mcnemar_p_value for c in comparisons]))
    return [
        replace(c, macro_auc_adjusted_p_value=float(a), mcnemar_adjusted_p_value=float(m))
        for c, a, m in zip(comparisons, auc, mcnemar, strict=True)
    ]
