"""What the checks need to know of the observations, counted some patients at a time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd

from components.validate.tables import CohortTables

# Patients at a time: bounds the memory.
PATIENTS = 10_000


@dataclass(frozen=True)
class ReadingTally:
    """What the observations of a cohort hold.

    Attributes:
        seen: Bool ``[patients]``: whether the patient has an observation.
        patients: int64 ``[channels]``: patients with an observation of the channel.
        low: float64 ``[channels]``: smallest value; infinite where it has none.
        high: float64 ``[channels]``: largest value; minus infinite where it has none.
        units: Rows by channel (index) and unit.
        counts: Rows by kind of anomaly: UNKNOWN_PATIENT, OTHER_CHANNEL, NOT_FINITE, FUTURE_TIME, REPEATED_TIME.
    """

    seen: np.ndarray
    patients: np.ndarray
    low: np.ndarray
    high: np.ndarray
    units: Counter[tuple[int, str]]
    counts: Counter[str]


def tally_readings(tables: CohortTables, now: pd.Timestamp) -> ReadingTally:
    """Count the observations of a cohort.

    Args:
        tables: The cohort's tables.
        now: Time stamps after it lie in the future.

    Returns:
        The tally.
    """
    channels = len(tables.manifest.channels)
    tally = ReadingTally(
        seen=np.zeros(len(tables.patients), dtype=bool),
        patients=np.zeros(channels, dtype=np.int64),
        low=np.full(channels, np.inf),
        high=np.full(channels, -np.inf),
        units=Counter(),
        counts=Counter(),
    )
    for start, stop, rows in tables.observations(PATIENTS):
        _add(tally, start, stop, rows, now)
    return tally


def _add(tally: ReadingTally, start: int, stop: int, rows: pd.DataFrame, now: pd.Timestamp) -> None:
    patient, channel = rows["patient"].to_numpy(), rows["channel"].to_numpy()
    value = rows["value"].to_numpy(np.float64)
    tally.seen[patient[patient >= 0]] = True
    measured = np.zeros((stop - start, len(tally.patients)), dtype=bool)
    own = (patient >= 0) & (channel >= 0)
    measured[patient[own] - start, channel[own]] = True
    tally.patients[:] += measured.sum(axis=0)
    known = (channel >= 0) & ~np.isnan(value)
    np.minimum.at(tally.low, channel[known], value[known])
    np.maximum.at(tally.high, channel[known], value[known])
    units = rows[channel >= 0].groupby(["channel", "unit"]).size().reset_index(name="rows")
    for place, unit, count in zip(units["channel"], units["unit"], units["rows"], strict=True):
        tally.units[int(place), str(unit)] += int(count)
    tally.counts.update(
        UNKNOWN_PATIENT=int((patient < 0).sum()),
        OTHER_CHANNEL=int((channel < 0).sum()),
        NOT_FINITE=int((~np.isfinite(value)).sum()),
        FUTURE_TIME=int((rows["time"] > now).sum()),
        REPEATED_TIME=int(rows.duplicated(["patient", "channel", "time"]).sum()),
    )
