import numpy as np
import pandas as pd
import pytest

from components.ingest.demo.devices import draw_devices
from components.ingest.demo.observations import local_times, observe
from components.ingest.demo.patients import SITES, draw_patients
from components.ingest.demo.physiology import simulate
from components.ingest.demo.settings import DemoSettings

CLEAN = {
    "patients": 120,
    "days": 10,
    "missing_series": 0.0,
    "missing_channels": 0.0,
    "dropout_rate": 0.0,
    "outlier_rate": 0.0,
    "absent_rate": 0.0,
    "duplicate_rate": 0.0,
}


def _observe(**changes):
    settings = DemoSettings(**{**CLEAN, **changes})
    patients = draw_patients(settings)
    devices, assignment = draw_devices(settings.seed, patients, settings.days)
    series = simulate(np.random.default_rng(0), patients, settings)
    table = observe(np.random.default_rng(1), patients, series, devices, assignment, settings)
    return table.to_pandas(), patients, series, devices, assignment


@pytest.fixture(scope="module")
def clean():
    return _observe()


def test_without_dirt_every_reading_is_there(clean):
    table = clean[0]
    counts = table["measurement"].value_counts()
    assert counts["heart_rate"] == counts["oxygen_saturation"] == 120 * 10 * 8
    assert counts["blood_pressure"] == counts["body_temperature"] == counts["blood_glucose"] == 120 * 10 * 4
    assert not table.duplicated().any()
    assert table["value"].str.len().min() > 0


def test_certificates_lead_back_to_the_true_values(clean):
    table, patients, series, devices, _ = clean
    pulse = table[table["measurement"] == "heart_rate"].copy()
    known = pd.DataFrame({"device_id": devices.device_id, "gain": devices.gain, "bias": devices.bias})
    pulse = pulse.merge(known, on="device_id")
    pulse["true"] = (pulse["value"].astype(float) - pulse["bias"]) / pulse["gain"]
    measured = pulse.groupby("mrn")["true"].mean().reindex(patients.mrn)
    # The mean of 80 readings, rounded and with a noise of about 1.
    assert np.abs(measured.to_numpy() - series.values[..., 0].mean(axis=1)).max() < 0.7


def test_clock_offsets_shift_the_time_stamps(clean):
    table, patients, series, devices, assignment = clean
    stays = np.isinf(assignment.switch[:, 0])
    first = table[table["measurement"] == "heart_rate"].groupby("mrn")["time"].min().reindex(patients.mrn)
    utc = first.dt.tz_localize("Europe/Berlin", ambiguous="NaT", nonexistent="NaT").dt.tz_convert("UTC")
    midnight = pd.DatetimeIndex(patients.start).tz_localize("Europe/Berlin").tz_convert("UTC")
    late = (utc.to_numpy() - midnight.to_numpy()) / np.timedelta64(1, "s") - series.seconds[:, 0]
    expected = devices.clock_offset[assignment.first[:, 0]]
    assert np.abs(late - expected)[stays & utc.notna().to_numpy()].max() <= 1


def test_units_follow_device_and_site(clean):
    table, patients = clean[:2]
    units = table.groupby("measurement")["unit"].unique().map(set)
    assert units["body_temperature"] == {"°C", "°F"}
    assert units["blood_glucose"] == {"mg/dL", "mmol/L"}
    assert units["blood_pressure"] == {"mmHg"}
    site = dict(zip(patients.mrn, np.array(SITES)[patients.site], strict=True))
    fahrenheit = table[table["unit"] == "°F"]
    assert set(fahrenheit["mrn"].map(site)) == {"south"}
    assert fahrenheit["value"].astype(float).between(93, 108).all()
    assert table.loc[table["unit"] == "mmol/L", "value"].astype(float).between(1.5, 35).all()
    assert table.groupby("device_id")["unit"].nunique().max() == 1


def test_pressures_are_written_as_in_the_paper(clean):
    table = clean[0]
    texts = table.loc[table["measurement"] == "blood_pressure", "value"]
    parts = texts.str.extract(r"^(\d{2,3})/(\d{2,3})$").astype(float)
    assert parts.notna().all().all()
    assert (parts[0] > parts[1]).mean() > 0.99


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_gaps_take_the_share_that_is_set(rate):
    rows = len(_observe(dropout_rate=rate, patients=400)[0])
    # Two gaps may overlap, and none is longer than the stay.
    assert 1 - rows / (400 * 10 * 28) == pytest.approx(rate, abs=0.2 * rate + 0.01)


def test_duplicates_and_empty_values_have_the_rates_that_are_set():
    table = _observe(duplicate_rate=0.05, absent_rate=0.03)[0]
    assert table.duplicated().mean() == pytest.approx(0.05 / 1.05, abs=0.01)
    assert (table["value"] == "").mean() == pytest.approx(0.03, abs=0.006)


def test_outliers_are_spikes_and_impossible_values(clean):
    table = _observe(outlier_rate=0.1)[0]
    pulse = table.loc[table["measurement"] == "heart_rate", "value"].astype(float)
    glucose = table.loc[table["measurement"] == "blood_glucose", "value"]
    assert (pulse == 0).mean() == pytest.approx(0.04, abs=0.01)
    assert (glucose == "999").mean() == pytest.approx(0.04, abs=0.01)
    usual = clean[0].loc[clean[0]["measurement"] == "heart_rate", "value"].astype(float)
    assert (pulse > usual.quantile(0.999)).mean() > 0.01


def test_a_measurement_can_be_missing_altogether():
    table, patients, *_ = _observe(missing_channels=0.3)
    taken = table.groupby("measurement")["mrn"].nunique() / len(patients)
    assert taken.between(0.55, 0.85).all()


def test_local_times_follow_the_clock_change():
    start = np.array(["2022-10-30", "2022-10-30", "2022-07-01"], dtype="datetime64[D]")
    times = local_times(start, np.array([2.5, 3.5, 1.0]) * 3600, "Europe/Berlin")
    # At 3 o'clock in summer time it becomes 2 o'clock again.
    assert times.astype(str).tolist() == ["2022-10-30T02:30:00", "2022-10-30T02:30:00", "2022-07-01T01:00:00"]
