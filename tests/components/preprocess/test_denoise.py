import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from components.preprocess.denoise import hampel_outliers, smooth_images, smooth_series

VALUES = st.floats(-1e3, 1e3)
SERIES = arrays.arrays(np.float64, (2, 9, 2), elements=VALUES)
MASKS = arrays.arrays(np.bool_, (2, 9, 2))


@given(series=SERIES, sigma=st.floats(0.3, 3))
def test_a_complete_series_gets_scipys_gaussian_filter(series, sigma):
    np.testing.assert_allclose(smooth_series(series, sigma), gaussian_filter1d(series, sigma, axis=1), atol=1e-9)


@given(constant=VALUES, mask=MASKS, sigma=st.floats(0.3, 3))
def test_a_constant_stays_and_missing_cells_stay_missing(constant, mask, sigma):
    series = np.where(mask, constant, np.nan)
    np.testing.assert_allclose(smooth_series(series, sigma), series, rtol=1e-9, atol=1e-9)


@given(series=SERIES, mask=MASKS, sigma=st.floats(0.3, 3))
def test_smoothing_keeps_to_the_range_of_the_measured_values(series, mask, sigma):
    measured = np.where(mask, series, np.nan)
    smooth = smooth_series(measured, sigma)
    assert np.nanmax(smooth, initial=-np.inf) <= np.nanmax(measured, initial=-np.inf) + 1e-9
    np.testing.assert_array_equal(np.isnan(smooth), ~mask)


def test_missing_cells_weigh_nothing():
    """By hand: two measured cells, three steps apart, weighted with scipy's own kernel."""
    kernel = gaussian_filter1d(np.eye(1, 21, 10)[0], 1.0)[10:]  # Weight by distance, no edge in reach.
    series = np.full((1, 21, 1), np.nan)
    series[0, 9, 0], series[0, 12, 0] = 10.0, 40.0
    smooth = smooth_series(series, 1.0)[0, :, 0]
    expected = (kernel[0] * 10 + kernel[3] * 40) / (kernel[0] + kernel[3])
    assert smooth[9] == pytest.approx(expected)
    assert np.isnan(np.delete(smooth, [9, 12])).all()


def test_sigma_zero_is_off():
    series = np.array([[[1.0], [np.nan], [5.0]]])
    np.testing.assert_array_equal(smooth_series(series, 0), series)
    images = np.arange(8.0).reshape(1, 2, 4, 1)
    np.testing.assert_array_equal(smooth_images(images, 0), images)


def test_images_are_smoothed_in_two_dimensions_alone():
    images = np.random.default_rng(0).random((3, 8, 7, 2))
    smooth = smooth_images(images, 1.2)
    for number in range(3):
        for channel in range(2):
            expected = gaussian_filter(images[number, :, :, channel], 1.2)
            np.testing.assert_allclose(smooth[number, :, :, channel], expected, atol=1e-12)


def hampel(value, group=None, time=None, *, neighbours=3, span=10**9, deviations=3.0, floor=0.1):
    value = np.asarray(value, dtype=float)
    group = np.zeros(len(value)) if group is None else np.asarray(group)
    time = np.arange(len(value)) if time is None else np.asarray(time)
    return hampel_outliers(
        value, group, time, neighbours=neighbours, span=span, deviations=deviations, floor=floor
    ).tolist()


def test_hampel_finds_a_spike_and_leaves_a_level_change():
    outliers = hampel([10, 11, 10, 90, 10, 11, 10, 30, 31, 30, 31], deviations=4, floor=0.5)
    assert np.flatnonzero(outliers).tolist() == [3]


def test_hampel_compares_within_a_group_and_needs_three_neighbours():
    assert not any(hampel([1, 1, 1, 50, 50, 50], group=[0, 0, 0, 1, 1, 1]))
    assert not any(hampel([1, 99, 1]))
    assert hampel([1, 99, 1, 1]) == [False, True, False, False]


def test_hampel_compares_readings_near_in_time_alone():
    assert hampel([1, 1, 99, 1, 1], time=[0, 1, 2, 3, 4], span=2)[2]
    assert not any(hampel([1, 1, 99, 1, 1], time=[0, 1, 50, 98, 99], span=40))


def test_hampel_floor_protects_the_first_reading_that_differs():
    value = [36.6] * 6 + [36.8] + [36.6] * 3
    assert sum(hampel(value, floor=0.0)) == 1
    assert not any(hampel(value, floor=0.1))
    assert not any(hampel(value, deviations=0, floor=0.0))


@given(value=arrays.arrays(np.float64, st.integers(4, 25), elements=VALUES), neighbours=st.integers(2, 4))
def test_hampel_agrees_with_pandas_medians(value, neighbours):
    outliers = hampel(value, neighbours=neighbours, deviations=2.5, floor=1.0)
    for i, reading in enumerate(value):
        around = pd.Series(np.r_[value[max(0, i - neighbours) : i], value[i + 1 : i + 1 + neighbours]])
        centre = around.median()
        spread = max(1.4826 * (around - centre).abs().median(), 1.0)
        assert outliers[i] == (len(around) >= 3 and abs(reading - centre) > 2.5 * spread)
