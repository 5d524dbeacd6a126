"""A few numbers a channel of a patient's series, the same for training rows and for requests, for monitoring."""

from __future__ import annotations

import numpy as np

STATISTICS = ("last", "mean", "min", "max", "count")
# Bounds the memory: arrays on the disk are read in parts.
_ROWS = 4096


def series_summaries(series: np.ndarray, observed: np.ndarray) -> dict[str, np.ndarray]:
    """Summarise what was measured within the window; imputed values do not count.

    Args:
        series: float ``[n, steps, channels]``.
        observed: Bool, the same shape: measured, not imputed.

    Returns:
        float64 ``[n, channels]`` for each of ``STATISTICS``: the last measured step, mean, smallest and largest of the
        measured steps (NaN where there is none), and how many there are.

    Example:
        >>> found = series_summaries(np.array([[[1.0], [3.0], [9.0]]]), np.array([[[True], [True], [False]]]))
        >>> [found[name].item() for name in STATISTICS]
        [3.0, 2.0, 1.0, 3.0, 2.0]
    """
    shape = (series.shape[0], series.shape[2])
    found = {name: np.full(shape, np.nan) for name in STATISTICS}
    for start in range(0, len(series), _ROWS):
        rows = slice(start, start + _ROWS)
        values, measured = np.asarray(series[rows], dtype=np.float64), np.asarray(observed[rows])
        count = measured.sum(axis=1)
        known = count > 0
        last = values.shape[1] - 1 - measured[:, ::-1].argmax(axis=1)
        parts = {
            "last": np.take_along_axis(values, last[:, None, :], axis=1)[:, 0],
            "mean": np.where(measured, values, 0).sum(axis=1) / np.maximum(count, 1),
            "min": np.where(measured, values, np.inf).min(axis=1),
            "max": np.where(measured, values, -np.inf).max(axis=1),
        }
        for name, part in parts.items():
            found[name][rows] = np.where(known, part, np.nan)
        found["count"][rows] = count
    return found


def summary_columns(channels: list[str], summaries: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Name each channel's summaries as the columns of a table.

    Args:
        channels: Channel names, in the order of the last axis.
        summaries: From ``series_summaries``.

    Returns:
        float64 ``[n]`` by name, such as ``channel:heart_rate:mean``.
    """
    return {
        f"channel:{channel}:{statistic}": summaries[statistic][:, place]
        for place, channel in enumerate(channels)
        for statistic in STATISTICS
    }
