"""Measuring devices: each has its own gain, bias, noise, clock and unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from components.ingest.demo.patients import SITES, Patients
from components.ingest.demo.physiology import CHANNELS
from components.ingest.demo.randomness import stream

MEASUREMENTS: dict[str, tuple[str, ...]] = {
    "heart_rate": ("heart_rate",),
    "blood_pressure": ("systolic_pressure", "diastolic_pressure"),
    "body_temperature": ("body_temperature",),
    "blood_glucose": ("blood_glucose",),
    "oxygen_saturation": ("oxygen_saturation",),
}
_PREFIXES = ("HR", "BP", "BT", "BG", "OX")
# Deviations of gain, bias (canonical unit) and noise (canonical unit) by measurement.
_GAIN = np.array([0.01, 0.02, 0.0, 0.04, 0.0])
_BIAS = np.array([1.0, 2.5, 0.15, 3.0, 0.4])
_NOISE = np.array([1.0, 2.0, 0.05, 3.0, 0.3])
_PATIENTS_A_DEVICE = 12
_CERTIFIED = 0.93
_MMOL_SHARE = 0.4
_FAHRENHEIT_SITE = SITES.index("south")
_GLUCOSE = list(MEASUREMENTS).index("blood_glucose")
_TEMPERATURE = list(MEASUREMENTS).index("body_temperature")
_MG_DL_IN_A_MMOL_L = 18.016


@dataclass(frozen=True)
class Devices:
    """The devices of a cohort, as arrays of one row a device; errors are in canonical units, before any conversion.

    Attributes:
        device_id: Names.
        measurement: Index into ``MEASUREMENTS``.
        site: Index into ``SITES``.
        gain: Factor on the true value.
        bias: Added after the gain.
        noise: Deviation of the reading's own noise.
        clock_offset: Seconds that the clock is fast.
        certified: Whether there is a calibration certificate.
        foreign_unit: Shows mmol/L (glucose) or °F (temperature).
    """

    device_id: np.ndarray
    measurement: np.ndarray
    site: np.ndarray
    gain: np.ndarray
    bias: np.ndarray
    noise: np.ndarray
    clock_offset: np.ndarray
    certified: np.ndarray
    foreign_unit: np.ndarray

    def certificates(self) -> pd.DataFrame:
        """Return devices.csv: device_id, measurement, gain, bias, clock_offset_seconds; not all devices are in it."""
        table = pd.DataFrame(
            {
                "device_id": self.device_id,
                "measurement": np.array(list(MEASUREMENTS), dtype=object)[self.measurement],
                "gain": self.gain.round(4),
                "bias": self.bias.round(3),
                "clock_offset_seconds": self.clock_offset,
            }
        )
        return table[self.certified]


@dataclass(frozen=True)
class Assignment:
    """Which device measures whom. All arrays are ``[n, measurements]``.

    Attributes:
        first: Device at the start, index into ``Devices``.
        second: Device after the switch.
        switch: Seconds since the start at which it is exchanged; infinite where it is not.
    """

    first: np.ndarray
    second: np.ndarray
    switch: np.ndarray

    def block(self, start: int, stop: int) -> Assignment:
        """Return the rows of the patients from ``start`` up to, but without, ``stop``."""
        return Assignment(self.first[start:stop], self.second[start:stop], self.switch[start:stop])


def draw_devices(seed: int, patients: Patients, days: int) -> tuple[Devices, Assignment]:
    """Draw the devices of all sites and hand them out.

    Args:
        seed: Seed of the cohort.
        patients: All patients.
        days: Days of observation.

    Returns:
        The devices, and which of them, of the patient's own site, measures whom.
    """
    rng = stream(seed, "devices")
    pools = np.bincount(patients.site, minlength=len(SITES)) // _PATIENTS_A_DEVICE + 2
    # Devices are ordered by measurement, then by site: the pools of one measurement follow each other.
    measurement = np.repeat(np.arange(len(MEASUREMENTS)), pools.sum())
    site = np.tile(np.repeat(np.arange(len(SITES)), pools), len(MEASUREMENTS))
    count = len(measurement)
    place = np.tile(np.concatenate([np.arange(size) for size in pools]), len(MEASUREMENTS))
    names = (
        pd.Series(np.array(_PREFIXES, dtype=object)[measurement])
        + "-"
        + pd.Series(np.array(SITES, dtype=object)[site]).str[0].str.upper()
        + pd.Series(place + 1).astype(str).str.zfill(4)
    )
    slow_clock = rng.random(count) < 0.05
    mmol = (measurement == _GLUCOSE) & (rng.random(count) < _MMOL_SHARE)
    devices = Devices(
        device_id=names.to_numpy(object),
        measurement=measurement,
        site=site,
        gain=rng.normal(1, _GAIN[measurement]).round(4),
        bias=rng.normal(0, _BIAS[measurement]).round(3),
        noise=_NOISE[measurement] * rng.lognormal(0, 0.3, size=count),
        clock_offset=(rng.normal(0, 120, size=count) + slow_clock * rng.choice([-3600, 3600], size=count)).round(),
        certified=rng.random(count) < _CERTIFIED,
        foreign_unit=mmol | ((measurement == _TEMPERATURE) & (site == _FAHRENHEIT_SITE)),
    )
    shape = (len(patients), len(MEASUREMENTS))
    first_of_pool = (np.cumsum(pools) - pools)[patients.site][:, None] + np.arange(len(MEASUREMENTS)) * pools.sum()
    pool = pools[patients.site][:, None]
    switched = rng.random(shape) < 0.1
    assignment = Assignment(
        first=first_of_pool + rng.integers(pool, size=shape),
        second=first_of_pool + rng.integers(pool, size=shape),
        switch=np.where(switched, rng.uniform(0.2, 0.8, size=shape) * days * 86400, np.inf),
    )
    return devices, assignment


def channel_positions(measurement: str) -> list[int]:
    """Return the positions in ``CHANNELS`` of a measurement's channels."""
    return [CHANNELS.index(name) for name in MEASUREMENTS[measurement]]


def shown_values(values: np.ndarray, measurement: str, foreign: np.ndarray) -> np.ndarray:
    """Convert readings into the unit that the device shows.

    Args:
        values: float64 ``[m]`` or ``[m, 2]`` in the canonical unit.
        measurement: Name of the measurement.
        foreign: Bool ``[m]``: whether the device shows mmol/L or °F.

    Returns:
        float64 of the same shape.
    """
    if measurement == "blood_glucose":
        return np.where(foreign, values / _MG_DL_IN_A_MMOL_L, values)
    if measurement == "body_temperature":
        return np.where(foreign, values * 1.8 + 32, values)
    return values
