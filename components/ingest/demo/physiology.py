"""True vital signs of a patient over time: what a perfect device would show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter

from components.ingest.demo.classes import DISEASES
from components.ingest.demo.patients import Patients
from components.ingest.demo.settings import DemoSettings

CHANNELS = (
    "heart_rate",
    "systolic_pressure",
    "diastolic_pressure",
    "body_temperature",
    "blood_glucose",
    "oxygen_saturation",
)
_HEART, _SYSTOLIC, _DIASTOLIC, _TEMPERATURE, _GLUCOSE, _OXYGEN = range(len(CHANNELS))
_CARDIAC, _DIABETES, _COPD, _HYPERTENSION, _KIDNEY = range(len(DISEASES))
DAY_SECONDS = 86400

# Columns are the channels, in beats/min, mmHg, mmHg, °C, mg/dL and %.
_BASE = np.array([71.0, 121.0, 77.0, 36.6, 95.0, 97.2])
# Deviation between persons, of slow changes within a person, and of quick ones.
_BETWEEN = np.array([8.0, 10.0, 7.0, 0.18, 9.0, 0.8])
_SLOW = np.array([2.5, 4.0, 2.5, 0.10, 4.0, 0.35])
_QUICK = np.array([3.0, 4.0, 3.0, 0.08, 6.0, 0.45])
# Half of the daily swing, and the hour of its peak.
_SWING = np.array([5.0, 6.5, 4.5, 0.28, 0.0, 0.25])
_PEAK_HOUR = np.array([15.0, 14.0, 14.0, 17.0, 12.0, 14.0])
# A shared factor, activity and stress, couples the channels.
_COUPLING = np.array([3.0, 3.0, 2.0, 0.04, 1.5, 0.0])
_AGE = np.array([-0.05, 0.22, 0.03, -0.003, 0.15, -0.015])
_MALE = np.array([-2.0, 2.0, 1.5, -0.03, 1.0, -0.1])

# What a fully expressed disease (row) does to a channel (column): change of level, of half the daily swing, of the
# logarithm of the quick noise, and over the whole stay.
_LEVEL = np.array(
    [
        [8.0, 3.0, -4.0, 0.00, 3.0, -1.2],  # cardiovascular disease: fast pulse, wide pulse pressure
        [3.0, 4.0, 1.0, 0.00, 34.0, 0.0],  # diabetes
        [6.0, 1.0, 0.0, 0.14, 3.0, -3.0],  # COPD
        [1.0, 20.0, 12.0, 0.00, 3.0, 0.0],  # hypertension
        [1.0, 14.0, 6.0, -0.12, 5.0, -0.3],  # chronic kidney disease
    ]
)
_SWING_CHANGE = np.array(
    [
        [-2.5, 0.0, 0.0, 0.00, 0.0, 0.1],
        [-2.0, -1.5, -1.0, 0.00, 0.0, 0.0],
        [0.0, 0.0, 0.0, -0.08, 0.0, 0.9],  # saturation falls at night
        [0.0, 2.5, 1.5, 0.00, 0.0, 0.0],
        [-1.0, -6.5, -4.5, -0.08, 0.0, 0.0],  # pressure does not dip at night
    ]
)
_NOISE_CHANGE = np.array(
    [
        [0.9, 0.2, 0.2, 0.0, 0.0, 0.3],  # irregular pulse
        [-0.3, 0.0, 0.0, 0.0, 0.6, 0.0],
        [0.1, 0.0, 0.0, 0.3, 0.0, 0.7],
        [0.0, 0.4, 0.3, 0.0, 0.0, 0.0],
        [-0.5, 0.1, 0.1, 0.0, 0.1, 0.0],
    ]
)
_TREND = np.array(
    [
        [4.0, 0.0, 0.0, 0.00, 0.0, -0.6],
        [0.0, 0.0, 0.0, 0.00, 10.0, 0.0],
        [2.0, 0.0, 0.0, 0.15, 0.0, -1.0],
        [0.0, 4.0, 2.0, 0.00, 0.0, 0.0],
        [0.0, 7.0, 3.0, -0.05, 0.0, 0.0],
    ]
)
# Nerve damage of the autonomic system loosens the coupling of the pulse.
_DECOUPLING = np.array([0.2, 0.6, 0.0, 0.0, 0.5])
# What medicine against a disease does to a channel, and the share of the disease's effect that it leaves.
_MEDICINE = np.zeros((len(DISEASES), len(CHANNELS)))
_MEDICINE[_CARDIAC, [_HEART, _SYSTOLIC]] = [-7.0, -5.0]
_MEDICINE[_COPD, _HEART] = 3.0
_LEFT_BY_MEDICINE = np.array([0.85, 0.7, 0.85, 0.65, 0.85])
_MEAL_HOURS = np.array([8.0, 13.0, 19.0])
# Correlation of slow changes between readings that are three hours apart.
_SLOW_CORRELATION = 0.85
_HIGHEST = np.array([220.0, 250.0, 150.0, 41.5, 600.0, 100.0])
_LOWEST = np.array([30.0, 60.0, 35.0, 34.0, 35.0, 60.0])


@dataclass(frozen=True)
class TrueSeries:
    """True vital signs of a block of patients.

    Attributes:
        seconds: float64 ``[n, t]``: since the midnight at which the patient's observation starts, increasing.
        values: float64 ``[n, t, channels]`` in the units of the channels, as in ``CHANNELS``.
    """

    seconds: np.ndarray
    values: np.ndarray


def simulate(rng: np.random.Generator, patients: Patients, settings: DemoSettings) -> TrueSeries:
    """Simulate the vital signs of a block of patients.

    Args:
        rng: Random generator.
        patients: The block.
        settings: Days, and readings a day.

    Returns:
        ``days * samples_a_day`` time points for every patient, at slightly irregular times.
    """
    count, readings = len(patients), settings.days * settings.samples_a_day
    spacing = DAY_SECONDS / settings.samples_a_day
    seconds = (np.arange(readings) + rng.uniform(0.05, 0.95, size=(count, readings))) * spacing
    hour = seconds / 3600 % 24
    shown = patients.expression["series"]
    effect = shown * np.where(patients.treated, _LEFT_BY_MEDICINE, 1.0)
    level = (
        _BASE
        + rng.normal(0, _BETWEEN, size=(count, len(CHANNELS)))
        + (patients.age - 55)[:, None] * _AGE
        + (patients.sex == "M")[:, None] * _MALE
        + effect @ _LEVEL
        + (patients.treated & (patients.severity > 0)).astype(np.float64) @ _MEDICINE
    )
    swing = _SWING * rng.normal(1, 0.45, size=(count, len(CHANNELS))) + effect @ _SWING_CHANGE
    trend = effect @ _TREND + rng.normal(0, 0.6, size=(count, len(CHANNELS))) * _SLOW
    correlation = _SLOW_CORRELATION ** (spacing / (3 * 3600))
    coupling = np.repeat(_COUPLING[None], count, axis=0)
    coupling[:, _HEART] *= 1 - np.clip(effect @ _DECOUPLING, 0, 0.9)
    quick = _QUICK * rng.lognormal(0, 0.3, size=(count, len(CHANNELS))) * np.exp(effect @ _NOISE_CHANGE)
    values = level[:, None] + trend[:, None] * (seconds / (settings.days * DAY_SECONDS) - 0.5)[..., None]
    values += swing[:, None] * np.cos(2 * np.pi * (hour[..., None] - _PEAK_HOUR) / 24)
    values += coupling[:, None] * _correlated(rng, (count, readings, 1), correlation)
    values += _SLOW * _correlated(rng, (count, readings, len(CHANNELS)), correlation)
    values += quick[:, None] * rng.standard_normal((count, readings, len(CHANNELS)))
    _add_events(rng, values, hour, effect, patients.treated)
    return TrueSeries(seconds, np.clip(values, _LOWEST, _HIGHEST))


def _correlated(rng: np.random.Generator, shape: tuple[int, int, int], correlation: float) -> np.ndarray:
    """Return stationary autoregressive noise along axis 1, with variance 1."""
    noise = rng.standard_normal(shape)
    noise[:, 1:] *= np.sqrt(1 - correlation**2)
    return lfilter([1.0], [1.0, -correlation], noise, axis=1)


def _add_events(
    rng: np.random.Generator, values: np.ndarray, hour: np.ndarray, effect: np.ndarray, treated: np.ndarray
) -> None:
    """Add meals, hypoglycaemia, runs of fast pulse and falls of the saturation at night, in place."""
    shape = hour.shape

    def person() -> np.ndarray:
        return rng.lognormal(0, 0.5, size=(shape[0], 1))

    after_meal = np.exp(-0.5 * ((hour[..., None] - _MEAL_HOURS - 1.0) / 1.2) ** 2).sum(axis=-1)
    meal = (17 + 40 * effect[:, None, _DIABETES]) * rng.lognormal(0, 0.25, size=shape) * person()
    values[..., _GLUCOSE] += after_meal * meal
    low = treated[:, None, _DIABETES] & (rng.random(shape) < 0.02)
    values[..., _GLUCOSE] -= low * rng.uniform(30, 60, size=shape)
    run = rng.random(shape) < (0.01 + 0.05 * effect[:, None, _CARDIAC]) * person()
    values[..., _HEART] += run * rng.gamma(3.0, 9.0, size=shape)
    night = (hour < 6) | (hour >= 22)
    fall = night & (rng.random(shape) < (0.05 + 0.25 * effect[:, None, _COPD]) * person())
    values[..., _OXYGEN] -= fall * rng.gamma(2.0, 1.4, size=shape)
