"""Readings as devices show and lose them: gaps, noise, spikes, impossible and empty values, rows written twice."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from components.ingest.demo.devices import (
    MEASUREMENTS,
    Assignment,
    Devices,
    channel_positions,
    shown_values,
)
from components.ingest.demo.patients import Patients
from components.ingest.demo.physiology import DAY_SECONDS, TrueSeries
from components.ingest.demo.settings import DemoSettings

# Unit as the device writes it; the second one is that of devices with a foreign unit.
_UNITS = {
    "heart_rate": ("bpm", "bpm"),
    "blood_pressure": ("mmHg", "mmHg"),
    "body_temperature": ("°C", "°F"),
    "blood_glucose": ("mg/dL", "mmol/L"),
    "oxygen_saturation": ("%", "%"),
}
_DECIMALS = {"body_temperature": (1, 1), "blood_glucose": (0, 1)}
# What a failing sensor writes, in any unit, and the size of a spike in the canonical unit.
_IMPOSSIBLE = {"blood_glucose": 999.0}
_SPIKE = {
    "heart_rate": 60.0,
    "blood_pressure": 50.0,
    "body_temperature": 2.5,
    "blood_glucose": 180.0,
    "oxygen_saturation": 15.0,
}
_EVERY_READING = ("heart_rate", "oxygen_saturation")
_GAPS = 2


def observe(
    rng: np.random.Generator,
    patients: Patients,
    series: TrueSeries,
    devices: Devices,
    assignment: Assignment,
    settings: DemoSettings,
) -> pa.Table:
    """Measure a block of patients.

    Args:
        rng: Random generator.
        patients: The block.
        series: Their true vital signs.
        devices: All devices.
        assignment: The block's devices.
        settings: Rates of gaps, outliers, empty values and duplicates.

    Returns:
        mrn, device_id, measurement, time (timestamp[s], local wall clock of the device), value (text), unit; ordered
        by patient and time.
    """
    parts = [
        _measure(rng, name, position, patients, series, devices, assignment, settings)
        for position, name in enumerate(MEASUREMENTS)
    ]
    patient = np.concatenate([part["patient"] for part in parts])
    seconds = np.concatenate([part["seconds"] for part in parts])
    device = np.concatenate([part["device"] for part in parts])
    order = np.lexsort((seconds, patient))
    twice = rng.random(len(order)) < settings.duplicate_rate
    order = np.repeat(order, 1 + twice)
    measurement = devices.measurement[device[order]]
    unit = np.array(list(_UNITS.values()), dtype=object)[measurement, devices.foreign_unit[device[order]].astype(int)]
    value = pa.chunked_array([part["value"] for part in parts]).combine_chunks().take(pa.array(order))
    return pa.table(
        {
            "mrn": pa.array(patients.mrn, pa.string()).take(pa.array(patient[order])),
            "device_id": pa.array(devices.device_id, pa.string()).take(pa.array(device[order])),
            "measurement": pa.array(list(MEASUREMENTS)).take(pa.array(measurement)),
            "time": pa.array(local_times(patients.start[patient[order]], seconds[order], settings.time_zone)),
            "value": value,
            "unit": pa.array(unit, pa.string()),
        }
    )


def _measure(
    rng: np.random.Generator,
    name: str,
    position: int,
    patients: Patients,
    series: TrueSeries,
    devices: Devices,
    assignment: Assignment,
    settings: DemoSettings,
) -> dict:
    """Return the readings of one measurement: patient and device (int), seconds (by the device's clock), value."""
    taken = _taken(rng, name, patients, series.seconds, settings)
    patient, reading = np.nonzero(taken)
    seconds = series.seconds[patient, reading]
    late = seconds >= assignment.switch[patient, position]
    device = np.where(late, assignment.second[patient, position], assignment.first[patient, position])
    values = series.values[patient, reading][:, channel_positions(name)]
    values = values * devices.gain[device][:, None] + devices.bias[device][:, None]
    values += rng.standard_normal(values.shape) * devices.noise[device][:, None]
    kind = rng.random(len(values))
    spike, impossible = kind < settings.outlier_rate * 0.6, kind >= 1 - settings.outlier_rate * 0.4
    signs = rng.choice([-1.0, 1.0], size=len(values))
    spiked = values + (signs * _SPIKE[name] * rng.uniform(0.8, 1.6, size=len(values)))[:, None]
    values = np.where(spike[:, None], np.maximum(spiked, 0.3 * values), values)
    if name == "oxygen_saturation":
        values = np.minimum(values, 100.0)
    foreign = devices.foreign_unit[device]
    shown = np.stack([shown_values(column, name, foreign) for column in values.T], axis=-1)
    shown = np.where(impossible[:, None], _IMPOSSIBLE.get(name, 0.0), np.maximum(shown, 0.0))
    empty = rng.random(len(values)) < settings.absent_rate
    return {
        "patient": patient,
        "device": device,
        "seconds": np.rint(seconds + devices.clock_offset[device]),
        "value": _as_text(shown, name, foreign, empty),
    }


def _taken(
    rng: np.random.Generator, name: str, patients: Patients, seconds: np.ndarray, settings: DemoSettings
) -> np.ndarray:
    """Return which readings there are, bool ``[n, t]``: not those in gaps, nor of patients without the measurement."""
    count, readings = seconds.shape
    measured = patients.present["series"] & (rng.random(count) >= settings.missing_channels)
    every = 1 if name in _EVERY_READING else 2
    taken = np.repeat(measured[:, None], readings, axis=1) & (np.arange(readings) % every == 0)
    whole = settings.days * DAY_SECONDS
    start = rng.uniform(0, whole, size=(count, _GAPS, 1))
    length = rng.exponential(settings.dropout_rate / _GAPS * whole, size=(count, _GAPS, 1))
    # A gap that reaches past the end goes on at the start, so that the share of lost readings is as set.
    inside = (seconds[:, None] - start) % whole < length
    return taken & ~inside.any(axis=1)


def _as_text(values: np.ndarray, name: str, foreign: np.ndarray, empty: np.ndarray) -> pa.Array:
    """Write values as the device shows them: rounded, and two of them as ``120/80``."""
    own, other = _DECIMALS.get(name, (0, 0))
    rounded = np.where(foreign[:, None], values.round(other), values.round(own))
    texts = [pc.cast(pa.array(column), pa.string()) for column in rounded.T]
    if own == other == 0:
        texts = [pc.cast(pa.array(column.astype(np.int64)), pa.string()) for column in rounded.T]
    joined = texts[0] if len(texts) == 1 else pc.binary_join_element_wise(*texts, "/")
    return pc.if_else(pa.array(empty), "", joined)


def local_times(start: np.ndarray, seconds: np.ndarray, time_zone: str) -> np.ndarray:
    """Return wall-clock times.

    Args:
        start: datetime64[D] ``[m]``, local days.
        seconds: float64 ``[m]``, time passed since the start of that day.
        time_zone: IANA name; when the clock is put back, an hour occurs twice, as on a real ward.

    Returns:
        datetime64[s] ``[m]``, without a zone.
    """
    days, places = np.unique(start, return_inverse=True)
    midnights = pd.DatetimeIndex(days.astype("datetime64[s]")).tz_localize(time_zone, nonexistent="shift_forward")
    passed = midnights.tz_convert("UTC").tz_localize(None).to_numpy("datetime64[s]")[places]
    utc = pd.DatetimeIndex(passed + seconds.astype("timedelta64[s]")).tz_localize("UTC")
    return utc.tz_convert(time_zone).tz_localize(None).to_numpy("datetime64[s]")
