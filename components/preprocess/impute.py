"""Imputation of missing cells: mean interpolation (eq. 2), and what the paper leaves open."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Filling(IntEnum):
    """How a cell of the grid got its value."""

    MEASURED = 0
    SINGLE_GAP = 1
    LONG_GAP = 2
    ENDS = 3
    NEVER_MEASURED = 4


def impute_series(series: np.ndarray, longest_gap: int) -> tuple[np.ndarray, np.ndarray]:
    """Fill the missing cells of series; measured cells stay exactly as they are.

    A gap of one step gets the mean of its neighbours, x(t) = (x(t-1) + x(t+1)) / 2 (eq. 2). Longer gaps, of which the
    paper says nothing, are interpolated linearly (eq. 2 generalised); in gaps above ``longest_gap`` each cell takes
    the nearer neighbour's value, the earlier one's in the middle. Ends take the nearest measured value. A channel
    that was never measured stays NaN.

    Args:
        series: float ``[n, steps, channels]``; NaN where a cell was not measured.
        longest_gap: Longest gap, in steps, that is interpolated.

    Returns:
        The filled series, of the same shape and dtype, and int8 ``[n, steps, channels]`` of ``Filling``.
    """
    steps = series.shape[1]
    if series.size == 0:
        return series.copy(), np.zeros(series.shape, dtype=np.int8)
    observed = ~np.isnan(series)
    position = np.arange(steps, dtype=np.int32)[None, :, None]
    before = np.maximum.accumulate(np.where(observed, position, -1), axis=1)
    after = np.minimum.accumulate(np.where(observed, position, steps)[:, ::-1], axis=1)[:, ::-1]
    has_before, has_after = before >= 0, after < steps

    filling = np.full(series.shape, Filling.NEVER_MEASURED, dtype=np.int8)
    filling[has_before ^ has_after] = Filling.ENDS
    gap = after - before - 1
    inside = has_before & has_after & ~observed
    filling[inside] = np.where(gap[inside] == 1, Filling.SINGLE_GAP, Filling.LONG_GAP)
    filling[observed] = Filling.MEASURED

    earlier = np.take_along_axis(series, np.where(has_before, before, np.minimum(after, steps - 1)), axis=1)
    later = np.take_along_axis(series, np.where(has_after, after, np.maximum(before, 0)), axis=1)
    share = np.zeros(series.shape, dtype=series.dtype)
    np.divide(position - before, after - before, out=share, where=inside, casting="same_kind")
    share = np.where(inside & (gap > longest_gap), share > 0.5, share)
    filled = (1 - share) * earlier + share * later
    return np.where(observed, series, filled).astype(series.dtype), filling
