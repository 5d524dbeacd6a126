"""Denoising: a Hampel filter against single wild readings, then the paper's Gaussian filter (eq. 1)."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d

# Makes the median absolute deviation an estimate of the standard deviation of normal noise.
MAD_SCALE = 1.4826
# Fewer neighbours have no median that one of them could not have made.
FEWEST_NEIGHBOURS = 3


def _row_medians(rows: np.ndarray) -> np.ndarray:
    """Return the median of each row of float64 ``[m, k]``, leaving NaN out; NaN for a row without a number."""
    ordered = np.sort(rows, axis=1)  # NaN goes last.
    count = np.count_nonzero(~np.isnan(rows), axis=1)
    lower = np.take_along_axis(ordered, np.maximum((count - 1) // 2, 0)[:, None], axis=1)[:, 0]
    upper = np.take_along_axis(ordered, np.minimum(count // 2, rows.shape[1] - 1)[:, None], axis=1)[:, 0]
    return np.where(count > 0, (lower + upper) / 2, np.nan)


def hampel_outliers(
    value: np.ndarray,
    group: np.ndarray,
    time: np.ndarray,
    *,
    neighbours: int,
    span: int,
    deviations: float,
    floor: np.ndarray | float,
) -> np.ndarray:
    """Find readings that lie far from the readings before and after them.

    A reading is compared with the median of up to ``neighbours`` readings on each side (itself left out). It is an
    outlier when it is further away than ``deviations`` times their scaled median absolute deviation.

    Args:
        value: float64 ``[m]``, finite, ordered by group and then by time.
        group: int ``[m]``, what may be compared with each other: one channel of one patient.
        time: int64 ``[m]``, time of each reading.
        neighbours: Readings on each side.
        span: Readings further away in time than this, in the unit of ``time``, are no neighbours: what changes from one
            month to the next is no outlier.
        deviations: Scaled MADs beyond which a reading is an outlier; 0 finds none.
        floor: Smallest scaled MAD, in the unit of the values; one for all or float ``[m]``. It keeps a run of equal
            readings from making an outlier of the first that differs.

    Returns:
        Bool ``[m]``: outliers. Readings with fewer than three neighbours are never outliers.
    """
    if deviations == 0 or len(value) == 0:
        return np.zeros(len(value), dtype=bool)
    around = np.full((len(value), 2 * neighbours), np.nan)
    # One turn for each distance of neighbours, never for each reading.
    for distance in range(1, neighbours + 1):
        same = (group[distance:] == group[:-distance]) & (time[distance:] - time[:-distance] <= span)
        around[distance:, distance - 1][same] = value[:-distance][same]
        around[:-distance, neighbours + distance - 1][same] = value[distance:][same]
    centre = _row_medians(around)
    spread = MAD_SCALE * _row_medians(np.abs(around - centre[:, None]))
    enough = np.count_nonzero(~np.isnan(around), axis=1) >= FEWEST_NEIGHBOURS
    return enough & (np.abs(value - centre) > deviations * np.fmax(spread, floor))


def smooth_series(series: np.ndarray, sigma: float) -> np.ndarray:
    """Smooth series along time with a Gaussian kernel (eq. 1 in one dimension).

    Missing cells stay missing and weigh nothing: the kernel is normalised over the measured cells (normalised
    convolution). On a series without missing cells the result is ``scipy.ndimage.gaussian_filter1d``'s.

    Args:
        series: float ``[n, steps, channels]``; NaN where a cell was not measured.
        sigma: Standard deviation of the kernel in steps; 0 leaves the series as it is.

    Returns:
        The smoothed series, of the same shape and dtype, with NaN in the same cells.
    """
    if sigma == 0 or series.size == 0:
        return series
    observed = ~np.isnan(series)
    weight = gaussian_filter1d(observed.astype(series.dtype), sigma, axis=1)
    total = gaussian_filter1d(np.where(observed, series, 0), sigma, axis=1)
    return np.divide(total, weight, out=np.full_like(series, np.nan), where=observed)


def smooth_images(images: np.ndarray, sigma: float) -> np.ndarray:
    """Smooth images with a Gaussian kernel over height and width (eq. 1).

    Args:
        images: float ``[n, height, width, channels]``.
        sigma: Standard deviation of the kernel in pixels; 0 leaves the images as they are.

    Returns:
        The smoothed images, of the same shape and dtype, within the range of the originals.
    """
    if sigma == 0 or images.size == 0:
        return images
    return gaussian_filter(images, sigma=(0, sigma, sigma, 0))
