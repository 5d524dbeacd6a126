import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from components.preprocess.impute import Filling, impute_series

NAN = np.nan
SERIES = arrays.arrays(np.float64, (2, 10, 2), elements=st.floats(-1e3, 1e3))
MASKS = arrays.arrays(np.bool_, (2, 10, 2))


def fill(values: list[float], longest_gap: int = 10) -> tuple[list[float], list[Filling]]:
    series, filling = impute_series(np.array(values)[None, :, None], longest_gap)
    return series[0, :, 0].tolist(), [Filling(kind) for kind in filling[0, :, 0]]


def test_a_single_gap_gets_the_mean_of_its_neighbours():
    values, kinds = fill([2.0, NAN, 6.0])
    assert values == [2.0, 4.0, 6.0]
    assert kinds == [Filling.MEASURED, Filling.SINGLE_GAP, Filling.MEASURED]


def test_a_longer_gap_is_interpolated_and_ends_keep_the_nearest_value():
    values, kinds = fill([NAN, 1.0, NAN, NAN, 7.0, NAN])
    assert values == pytest.approx([1.0, 1.0, 3.0, 5.0, 7.0, 7.0])
    assert kinds == [
        Filling.ENDS,
        Filling.MEASURED,
        Filling.LONG_GAP,
        Filling.LONG_GAP,
        Filling.MEASURED,
        Filling.ENDS,
    ]


def test_a_gap_above_the_limit_takes_the_nearer_value():
    values, kinds = fill([1.0, NAN, NAN, NAN, 9.0], longest_gap=2)
    assert values == [1.0, 1.0, 1.0, 9.0, 9.0]
    assert kinds[1:4] == [Filling.LONG_GAP] * 3
    assert fill([1.0, NAN, NAN, NAN, 9.0], longest_gap=3)[0] == [1.0, 3.0, 5.0, 7.0, 9.0]


def test_a_channel_that_was_never_measured_stays_nan():
    series = np.array([[[1.0, NAN], [NAN, NAN]]])
    filled, filling = impute_series(series, 5)
    np.testing.assert_array_equal(filled, [[[1.0, NAN], [1.0, NAN]]])
    assert (filling[0, :, 1] == Filling.NEVER_MEASURED).all()


def test_float32_stays_float32():
    assert impute_series(np.zeros((1, 3, 1), dtype=np.float32), 1)[0].dtype == np.float32


@given(series=SERIES, mask=MASKS, longest_gap=st.integers(1, 10))
def test_measured_cells_never_change_and_only_empty_channels_stay_empty(series, mask, longest_gap):
    filled, filling = impute_series(np.where(mask, series, NAN), longest_gap)
    np.testing.assert_array_equal(filled[mask], series[mask])
    np.testing.assert_array_equal(filling == Filling.MEASURED, mask)
    np.testing.assert_array_equal(np.isnan(filled).any(axis=1), ~mask.any(axis=1))


@given(series=SERIES, mask=MASKS)
def test_interpolation_agrees_with_pandas(series, mask):
    missing = np.where(mask, series, NAN)
    filled, _ = impute_series(missing, 10)
    for patient in range(2):
        expected = pd.DataFrame(missing[patient]).interpolate(limit_direction="both")
        np.testing.assert_allclose(filled[patient], expected, atol=1e-9)


@given(series=SERIES, mask=MASKS, scale=st.floats(-5, 5), shift=st.floats(-50, 50), longest_gap=st.integers(1, 10))
def test_a_change_of_unit_before_or_after_imputation_is_the_same(series, mask, scale, shift, longest_gap):
    missing = np.where(mask, series, NAN)
    before, _ = impute_series(missing * scale + shift, longest_gap)
    after = impute_series(missing, longest_gap)[0] * scale + shift
    np.testing.assert_allclose(before, after, atol=1e-8)
