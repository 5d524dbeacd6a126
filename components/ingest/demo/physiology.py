"""Vital signs that follow from the severities, as devices of uneven quality read them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from components.ingest.demo.people import DISEASES, People
from components.ingest.demo.settings import DemoSettings

CHANNELS = (
    "heart_rate",
    "systolic_pressure",
    "diastolic_pressure",
    "body_temperature",
    "blood_glucose",
    "oxygen_saturation",
)
MEASUREMENTS = ("heart_rate", "blood_pressure", "body_temperature", "blood_glucose", "oxygen_saturation")
UNITS = ("/min", "mm[Hg]", "mm[Hg]", "Cel", "mg/dL", "%")
START = pd.Timestamp("2022-06-01")
_MG_DL_PER_MMOL_L = 18.0182

# Channels in the order of CHANNELS. The healthy level, its spread between people, within a day, between readings.
_LEVEL = np.array([71.0, 119.0, 76.0, 36.6, 94.0, 97.6])
_BETWEEN = np.array([7.0, 8.0, 6.0, 0.2, 8.0, 0.7])
_CIRCADIAN = np.array([5.0, 5.0, 3.5, 0.25, 7.0, 0.3])
_WITHIN = np.array([4.0, 5.0, 4.0, 0.12, 8.0, 0.6])
_PER_YEAR = np.array([0.0, 0.25, 0.08, -0.003, 0.15, -0.012])
# What each disease at full severity adds to the level, to the circadian swing and to the spread between readings:
# diseases overlap on purpose (hypertension and kidney disease share high pressure).
_SHIFT = {
    "cardiovascular_disease": ((9, 5, -3, 0.0, 2, -1.0), (-3, 0, 0, 0, 0, 0), (7, 4, 2, 0, 0, 0.2)),
    "diabetes": ((2, 3, 1, 0.0, 46, -0.1), (0, 0, 0, 0, 22, 0), (0, 1, 0, 0, 16, 0)),
    "copd": ((8, 0, 0, 0.12, 1, -3.6), (0, 0, 0, 0.05, 0, 0.8), (1, 0, 0, 0.03, 0, 0.9)),
    "hypertension": ((2, 20, 12, 0.0, 1, 0.0), (0, 4, 2, 0, 0, 0), (0, 4, 2, 0, 0, 0)),
    "chronic_kidney_disease": ((1, 17, 8, -0.14, 6, -0.2), (0, -4, -2, -0.08, 0, 0), (0, 2, 1, 0.02, 3, 0)),
}
_EFFECT = np.array([_SHIFT[name] for name in DISEASES], dtype=float)
# Reads of nonsense, as real devices give: no contact, error codes, slipped cuffs.
_NONSENSE = np.array([[0, 255], [0, 300], [0, 879], [0.0, 45.9], [0, 999], [0, 127]], dtype=float)


@dataclass(frozen=True)
class Devices:
    """The devices of the cohort, a pool for each measurement.

    Attributes:
        table: device_id, measurement, gain, bias, clock_offset_seconds; those with a certificate alone.
        index: int ``[n, 5]``: each patient's device of each measurement.
        gain: float ``[devices]``.
        bias: float ``[devices, 2]``, in the channel's unit (the second for diastolic pressure).
        offset: float ``[devices]``, seconds that the clock is ahead.
        ids: ``[devices]``.
        molar: Bool ``[devices]``: shows glucose in mmol/L.
    """

    table: pd.DataFrame
    index: np.ndarray
    gain: np.ndarray
    bias: np.ndarray
    offset: np.ndarray
    ids: np.ndarray
    molar: np.ndarray


def true_signals(people: People, settings: DemoSettings, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Simulate the patients' true vital signs at the times of the readings.

    Args:
        people: The patients.
        settings: The settings.
        random: Source of chance.

    Returns:
        float ``[n, readings]``, hours since ``START``; float ``[n, readings, 6]`` in ``UNITS``.
    """
    n, readings = len(people), settings.days * settings.samples_a_day
    slot = 24 / settings.samples_a_day
    hours = (np.arange(readings) + random.uniform(0.15, 0.85, size=(n, readings))) * slot
    effect = people.severity * people.treatment
    level = _LEVEL + random.normal(size=(n, 6)) * _BETWEEN + (people.age[:, None] - 50) * _PER_YEAR
    level = level + effect @ _EFFECT[:, 0]
    swing = np.maximum(_CIRCADIAN + effect @ _EFFECT[:, 1], 0)
    spread = _WITHIN + effect @ _EFFECT[:, 2]
    phase = random.normal(15, 1.5, size=(n, 1, 1))
    daily = np.cos(2 * np.pi * (hours[:, :, None] - phase) / 24)
    signal = level[:, None] + swing[:, None] * daily + spread[:, None] * _correlated(n, readings, random)
    return hours, _with_exacerbations(signal, hours, people, random)


def _correlated(n: int, readings: int, random: np.random.Generator) -> np.ndarray:
    """Autoregressive noise of unit variance, ``[n, readings, 6]``; the two pressures move together."""
    noise = random.normal(size=(readings, n, 6))
    noise[..., 2] = 0.7 * noise[..., 1] + np.sqrt(1 - 0.49) * noise[..., 2]
    memory = 0.5
    for t in range(1, readings):
        noise[t] = memory * noise[t - 1] + np.sqrt(1 - memory**2) * noise[t]
    return noise.transpose(1, 0, 2)


def _with_exacerbations(
    signal: np.ndarray, hours: np.ndarray, people: People, random: np.random.Generator
) -> np.ndarray:
    """Some patients with COPD get worse for a few days: less oxygen, faster heart, warmer."""
    copd = people.severity[:, DISEASES.index("copd")]
    happens = random.random(len(people)) < 0.7 * copd
    start = random.uniform(0, hours.max(), size=len(people))
    during = ((hours >= start[:, None]) & (hours < start[:, None] + 60)) & happens[:, None]
    signal = signal + during[:, :, None] * np.array([9.0, 2.0, 0.0, 0.5, 4.0, -2.8])
    signal[..., 5] = np.minimum(signal[..., 5], 100)
    return signal


def make_devices(people: People, random: np.random.Generator) -> Devices:
    """Make a pool of devices for each measurement, and hand them to the patients.

    Args:
        people: The patients.
        random: Source of chance.

    Returns:
        The devices; one in eight has no calibration certificate.
    """
    pool = max(4, len(people) // 12)
    count = pool * len(MEASUREMENTS)
    kind = np.repeat(np.arange(len(MEASUREMENTS)), pool)
    scale = np.array([2.0, 4.0, 0.25, 6.0, 0.8])[kind]
    bias = random.normal(size=(count, 2)) * scale[:, None]
    # One certificate a measurement: the cuff's bias is the same for both pressures.
    bias[:, 1] = bias[:, 0]
    gain = 1 + random.normal(0, 0.01, size=count)
    offset = np.round(random.normal(0, 400, size=count))
    ids = np.array([f"{MEASUREMENTS[k][:4].upper()}-{i:05d}" for i, k in enumerate(kind)])
    table = pd.DataFrame(
        {
            "device_id": ids,
            "measurement": np.asarray(MEASUREMENTS)[kind],
            "gain": np.round(gain, 5),
            "bias": np.round(bias[:, 0], 4),
            "clock_offset_seconds": offset,
        }
    )
    index = random.integers(0, pool, size=(len(people), len(MEASUREMENTS))) + np.arange(len(MEASUREMENTS)) * pool
    return Devices(
        table=table[random.random(count) >= 0.125],
        index=index,
        gain=gain,
        bias=bias,
        offset=offset,
        ids=ids,
        molar=(kind == MEASUREMENTS.index("blood_glucose")) & (random.random(count) < 0.35),
    )


def read_devices(
    people: People,
    hours: np.ndarray,
    signal: np.ndarray,
    devices: Devices,
    settings: DemoSettings,
    random: np.random.Generator,
) -> pd.DataFrame:
    """Let the devices read the true signals: bias, noise, clock, drop-outs, nonsense, repeats, units.

    Args:
        people: The patients.
        hours: From ``true_signals``.
        signal: From ``true_signals``.
        devices: From ``make_devices``.
        settings: The settings.
        random: Source of chance.

    Returns:
        mrn, device_id, measurement, time (local, without zone), value (text), unit; in order of time.
    """
    parts = []
    for k, measurement in enumerate(MEASUREMENTS):
        columns = [i for i, name in enumerate(CHANNELS) if _measurement_of(name) == measurement]
        device = devices.index[:, k]
        shown = signal[:, :, columns] * devices.gain[device][:, None, None]
        shown = shown + devices.bias[device, : len(columns)][:, None, :]
        shown = shown + random.normal(size=shown.shape) * (0.25 * _WITHIN[columns])
        odd = random.random(shown.shape[:2]) < settings.outliers
        pick = random.integers(0, 2, size=odd.sum())
        for j, column in enumerate(columns):
            shown[odd, j] = _NONSENSE[column][pick]
        kept = _kept(shown.shape[:2], settings, random) & people.present[:, :1]
        rows, times = np.nonzero(kept)
        seconds = hours[rows, times] * 3600 + devices.offset[device[rows]]
        frame = pd.DataFrame(
            {
                "mrn": people.table["mrn"].to_numpy()[rows],
                "device_id": devices.ids[device[rows]],
                "measurement": measurement,
                "time": START + pd.to_timedelta(np.round(seconds), unit="s"),
            }
        )
        site = people.table["site"].to_numpy()[rows]
        frame["value"], frame["unit"] = _as_shown(measurement, shown[rows, times], site, devices.molar[device[rows]])
        parts.append(frame)
    table = pd.concat(parts, ignore_index=True)
    repeated = table[random.random(len(table)) < 0.002]
    return pd.concat([table, repeated]).sort_values(["time", "mrn"], kind="stable", ignore_index=True)


def _measurement_of(channel: str) -> str:
    return "blood_pressure" if channel.endswith("_pressure") else channel


def _kept(shape: tuple[int, int], settings: DemoSettings, random: np.random.Generator) -> np.ndarray:
    """Half of the losses are single readings, the other half whole stretches of some hours or days."""
    n, readings = shape
    kept = random.random(shape) >= settings.dropout / 2
    length = max(1, readings // 8)
    lost = random.random(n) < min(1.0, settings.dropout / 2 * readings / length)
    start = random.integers(0, readings, size=n)
    place = np.arange(readings)
    stretch = (place >= start[:, None]) & (place < start[:, None] + length)
    return kept & ~(stretch & lost[:, None])


def _as_shown(
    measurement: str, values: np.ndarray, site: np.ndarray, molar: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return each reading as text with its unit; ``values`` is ``[rows, 1]``, or ``[rows, 2]`` for the pressures."""
    if measurement == "blood_pressure":
        text = np.char.mod("%d", np.round(values))
        return np.char.add(np.char.add(text[:, 0], "/"), text[:, 1]), np.full(len(values), "mmHg")
    value = values[:, 0]
    if measurement == "body_temperature":
        fahrenheit = site == "east"
        value = np.where(fahrenheit, value * 9 / 5 + 32, value)
        return np.char.mod("%.1f", value), np.where(fahrenheit, "degF", "degC")
    if measurement == "blood_glucose":
        text = np.where(molar, np.char.mod("%.1f", value / _MG_DL_PER_MMOL_L), np.char.mod("%d", np.round(value)))
        return text, np.where(molar, "mmol/L", "mg/dL")
    unit = "%" if measurement == "oxygen_saturation" else "bpm"
    return np.char.mod("%d", np.round(value)), np.full(len(value), unit)

