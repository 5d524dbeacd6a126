from dataclasses import replace

import numpy as np
import pytest

from components.ingest.demo.classes import DISEASES
from components.ingest.demo.patients import draw_patients
from components.ingest.demo.physiology import CHANNELS, simulate
from components.ingest.demo.settings import DemoSettings

SETTINGS = DemoSettings(patients=400, days=5, samples_a_day=24)


def _simulate(disease=None):
    """Simulate the same patients, all with one disease fully expressed and untreated, or with none."""
    patients = draw_patients(SETTINGS)
    shown = np.zeros_like(patients.severity)
    if disease is not None:
        shown[:, DISEASES.index(disease)] = 1.0
    patients = replace(
        patients,
        severity=shown,
        expression={**patients.expression, "series": shown},
        treated=np.zeros_like(patients.treated),
    )
    return simulate(np.random.default_rng(3), patients, SETTINGS)


@pytest.fixture(scope="module")
def healthy():
    return _simulate()


def _mean(series, channel):
    return series.values[..., CHANNELS.index(channel)].mean()


def _night_minus_day(series, channel):
    values = series.values[..., CHANNELS.index(channel)]
    hour = series.seconds / 3600 % 24
    return values[hour < 5].mean() - values[(hour > 11) & (hour < 17)].mean()


def test_healthy_values_are_healthy(healthy):
    expected = {
        "heart_rate": (70, 4),
        "systolic_pressure": (122, 5),
        "diastolic_pressure": (77, 4),
        "body_temperature": (36.6, 0.1),
        "blood_glucose": (100, 10),
        "oxygen_saturation": (97.2, 0.6),
    }
    for channel, (value, tolerance) in expected.items():
        assert _mean(healthy, channel) == pytest.approx(value, abs=tolerance)


def test_time_increases_and_stays_in_the_stay(healthy):
    assert (np.diff(healthy.seconds, axis=1) > 0).all()
    assert healthy.seconds.min() >= 0
    assert healthy.seconds.max() < SETTINGS.days * 86400
    assert np.isfinite(healthy.values).all()


@pytest.mark.parametrize(
    ("disease", "channel", "sign", "least"),
    [
        ("cardiovascular_disease", "heart_rate", 1, 5),
        ("cardiovascular_disease", "oxygen_saturation", -1, 0.6),
        ("diabetes", "blood_glucose", 1, 25),
        ("copd", "oxygen_saturation", -1, 2),
        ("copd", "body_temperature", 1, 0.08),
        ("hypertension", "systolic_pressure", 1, 15),
        ("hypertension", "diastolic_pressure", 1, 8),
        ("chronic_kidney_disease", "systolic_pressure", 1, 10),
        ("chronic_kidney_disease", "body_temperature", -1, 0.06),
    ],
)
def test_diseases_shift_levels_in_the_right_direction(healthy, disease, channel, sign, least):
    assert sign * (_mean(_simulate(disease), channel) - _mean(healthy, channel)) > least


def test_pressure_falls_at_night_but_not_in_kidney_disease(healthy):
    assert _night_minus_day(healthy, "systolic_pressure") < -6
    assert _night_minus_day(_simulate("hypertension"), "systolic_pressure") < -8
    kidney = _night_minus_day(_simulate("chronic_kidney_disease"), "systolic_pressure")
    assert abs(kidney) < 0.25 * abs(_night_minus_day(healthy, "systolic_pressure"))


def test_glucose_rises_after_meals_in_diabetes(healthy):
    def rise(series):
        glucose = series.values[..., CHANNELS.index("blood_glucose")]
        hour = series.seconds / 3600 % 24
        return glucose[(hour > 13.5) & (hour < 14.5)].mean() - glucose[(hour > 2) & (hour < 5)].mean()

    assert rise(_simulate("diabetes")) > rise(healthy) + 30


def test_heart_disease_makes_the_pulse_irregular(healthy):
    def irregularity(series):
        return np.diff(series.values[..., CHANNELS.index("heart_rate")], axis=1).std()

    assert irregularity(_simulate("cardiovascular_disease")) > 1.5 * irregularity(healthy)


def test_slow_changes_are_correlated_over_time(healthy):
    values = healthy.values[..., CHANNELS.index("blood_glucose")]
    hour = healthy.seconds / 3600 % 24
    night = (hour < 5).all(axis=0)
    columns = np.flatnonzero(night[:-1] & night[1:])
    assert len(columns)
    pairs = [np.corrcoef(values[:, c] - values.mean(1), values[:, c + 1] - values.mean(1))[0, 1] for c in columns]
    assert np.mean(pairs) > 0.1
