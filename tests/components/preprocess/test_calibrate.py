import numpy as np
import pandas as pd
import pytest

from components.preprocess.calibrate import calibrate, read_certificates
from data_schemas.errors import InputError

COLUMNS = ["device_id", "channel", "gain", "bias", "clock_offset_seconds"]


def test_value_and_time_follow_the_certificate_of_device_and_channel():
    devices = pd.DataFrame([("a", "x", 2.0, 1.0, 90.0), ("b", "y", None, 0.5, None)], columns=COLUMNS)
    certificates = read_certificates(devices, ["x", "y"])
    assert certificates.device_ids == ["a", "b"]
    value, time, known = calibrate(
        value=np.array([9.0, 9.0, 9.0, 9.0]),
        time=np.array([100_000_000] * 4),
        device=np.array([0, 0, 1, -1]),
        channel=np.array([0, 1, 1, 0]),
        certificates=certificates,
    )
    assert value.tolist() == [4.0, 9.0, 8.5, 9.0]
    assert time.tolist() == [10_000_000, 100_000_000, 100_000_000, 100_000_000]
    assert known.tolist() == [True, False, True, False]


def test_no_certificates_change_nothing():
    certificates = read_certificates(pd.DataFrame(columns=COLUMNS), ["x"])
    value, time, known = calibrate(np.array([3.0]), np.array([7]), np.array([-1]), np.array([0]), certificates)
    assert (value[0], time[0], known[0]) == (3.0, 7, False)


def test_two_certificates_for_one_channel_of_a_device_are_refused():
    devices = pd.DataFrame([("a", "x", 2.0, 1.0, 0.0), ("a", "x", 1.0, 1.0, 0.0)], columns=COLUMNS)
    with pytest.raises(InputError, match="1 calibration certificates repeat"):
        read_certificates(devices, ["x"])


@pytest.mark.parametrize("gain", [0.0, np.inf])
def test_a_gain_that_cannot_be_divided_by_is_refused_with_its_row(gain):
    devices = pd.DataFrame([("a", "x", 1.0, 0.0, 0.0), ("b", "x", gain, 0.0, 0.0)], columns=COLUMNS)
    with pytest.raises(InputError, match="row 3, field gain: 1 calibration"):
        read_certificates(devices, ["x"])
