import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.preprocess.settings import PreprocessSettings
from data_schemas.cohort import Channel
from data_schemas.errors import InputError
from tests.components.preprocess.conftest import prepare_series

CHANNELS = [Channel(name="x", unit="1", low=0, high=100), Channel(name="y", unit="1", low=0, high=100)]
START = pd.Timestamp("2022-06-01T00:00:00Z")
NO_DEVICES = pd.DataFrame(columns=["device_id", "channel", "gain", "bias", "clock_offset_seconds"])
PLAIN = PreprocessSettings(step="1h", steps=4, anchor="first", series_sigma=0, outlier_deviations=0)


def observations(rows: list[tuple]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["device_id", "channel", "minutes", "value"])
    frame["time"] = START + pd.to_timedelta(frame["minutes"].astype(float), unit="min")
    frame["value"] = frame["value"].astype(float)
    return frame


def prepare(rows: list[tuple], settings: PreprocessSettings = PLAIN, devices: pd.DataFrame = NO_DEVICES):
    series, observed = prepare_series(observations(rows), devices, CHANNELS, settings)
    assert series.shape == observed.shape == (1, settings.steps, 2)
    return series[0], observed[0]


def test_two_channels_meet_on_one_grid():
    rows = [("", "x", 0, 10), ("", "x", 30, 20), ("", "x", 120, 40), ("", "y", 61, 7), ("", "other", 5, 3)]
    series, observed = prepare(rows)
    np.testing.assert_array_equal(series, [[15, 7], [27.5, 7], [40, 7], [40, 7]])
    np.testing.assert_array_equal(observed, [[True, False], [False, True], [True, False], [False, False]])


def test_calibration_corrects_value_and_cell():
    devices = pd.DataFrame([("a", "x", 2.0, 1.0, 3600.0)], columns=NO_DEVICES.columns)
    rows = [("", "x", 0, 10), ("a", "x", 130, 41)]
    series, observed = prepare(rows, devices=devices)
    assert observed[:, 0].tolist() == [True, True, False, False]
    assert series[:2, 0].tolist() == [10, 20]
    off = prepare(rows, PLAIN.model_copy(update={"calibrate": False}), devices)
    assert off[1][:, 0].tolist() == [True, False, True, False]
    assert off[0][2, 0] == 41


def test_implausible_values_count_as_not_measured():
    rows = [("", "x", 0, 10), ("", "x", 60, -5), ("", "x", 120, 30), ("", "y", 0, np.nan)]
    series, observed = prepare(rows)
    assert series[:, 0].tolist() == [10, 20, 30, 30]
    assert observed[:, 0].tolist() == [True, False, True, False]
    assert np.isnan(series[:, 1]).all() and not observed[:, 1].any()
    kept, _ = prepare(rows, PLAIN.model_copy(update={"drop_implausible": False}))
    assert kept[1, 0] == -5


def test_outliers_are_removed_before_the_cell_is_averaged():
    rows = [("", "x", minute, 50 + minute % 2) for minute in range(0, 60, 5)] + [("", "x", 31, 99)]
    settings = PLAIN.model_copy(update={"outlier_deviations": 5.0})
    assert prepare(rows, settings)[0][0, 0] == pytest.approx(50.5)
    assert prepare(rows)[0][0, 0] > 54


def test_a_channel_measured_only_before_the_window_is_carried_in():
    settings = PLAIN.model_copy(update={"anchor": "last"})
    rows = [("", "x", 600, 10), ("", "y", 0, 60), ("", "y", 10, 61)]
    series, observed = prepare(rows, settings)
    assert series[:, 1].tolist() == [61] * 4
    assert not observed[:, 1].any()
    dropped, _ = prepare(rows, settings.model_copy(update={"carry_in": False}))
    assert np.isnan(dropped[:, 1]).all()


def test_nothing_is_carried_back_from_after_the_window():
    rows = [("", "x", 0, 10), ("", "y", 600, 60)]
    assert np.isnan(prepare(rows)[0][:, 1]).all()


def test_a_patient_without_observations_has_an_empty_series():
    series, observed = prepare([])
    assert np.isnan(series).all() and not observed.any()


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from(["", "a"]), st.sampled_from(["x", "y"]), st.integers(0, 300), st.integers(-10, 110)),
        min_size=1,
        max_size=40,
    ),
    random=st.randoms(use_true_random=False),
    aggregate=st.sampled_from(["mean", "last"]),
    anchor=st.sampled_from(["first", "last"]),
)
def test_the_order_of_the_rows_does_not_matter(rows, random, aggregate, anchor):
    chosen = PreprocessSettings(step="1h", steps=4, anchor=anchor, aggregate=aggregate)
    devices = pd.DataFrame([("a", "x", 1.5, 1.0, 1800.0)], columns=NO_DEVICES.columns)
    expected = prepare(rows, chosen, devices)
    shuffled = list(rows)
    random.shuffle(shuffled)
    received = prepare(shuffled, chosen, devices)
    np.testing.assert_array_equal(received[0], expected[0])
    np.testing.assert_array_equal(received[1], expected[1])
    assert np.isfinite(received[0][received[1]]).all()


def test_several_patients_keep_the_order_of_their_first_row():
    frame = observations([("", "x", 0, 1), ("", "x", 0, 2), ("", "x", 60, 3)]).assign(patient_id=["q", "p", "q"])
    series, _ = prepare_series(frame, NO_DEVICES, CHANNELS, PLAIN)
    assert series[:, :2, 0].tolist() == [[1, 3], [2, 2]]


def test_an_observation_without_time_is_refused():
    frame = observations([("", "x", 0, 1)])
    frame.loc[0, "time"] = pd.NaT
    with pytest.raises(InputError, match="1 observations have no time"):
        prepare_series(frame, NO_DEVICES, CHANNELS, PLAIN)


@pytest.mark.parametrize("step", ["", "6 bananas", "-1h", "0s"])
def test_a_step_that_is_no_duration_is_refused(step):
    with pytest.raises(ValueError, match="needs a duration"):
        PreprocessSettings(step=step)
