"""Readings as they are sent, brought to the model's channels and units by the functions of ingest."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial

import numpy as np
import pandas as pd

from components.ingest.clean import READING
from components.ingest.tabular import BLOOD_PRESSURE
from components.preprocess.calibrate import Certificates
from components.preprocess.series import Readings
from data_schemas.channels import Catalogue
from data_schemas.cohort import Channel
from serving.patients import Fault, Observation, Patient

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PRESSURE = re.compile(BLOOD_PRESSURE)
_PRESSURE_REMEDY = "Write systolic/diastolic, such as 120/80, or send systolic_pressure and diastolic_pressure"
_MOST_FAULTS = 100
_LATEST = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Remarks:
    """What is said of each patient of a batch.

    Attributes:
        faults: What is wrong, by patient.
        warnings: What was left out or corrected, by patient.
    """

    faults: list[list[Fault]]
    warnings: list[list[str]]

    def fault(self, patient: int, make: Callable[[], Fault]) -> None:
        """Add a fault, unless the patient has a hundred already.

        Args:
            patient: Position of the patient.
            make: Makes the fault.
        """
        if len(self.faults[patient]) < _MOST_FAULTS:
            self.faults[patient].append(make())


@dataclass(frozen=True)
class _Rows:
    """Readings of the model's channels, one element each; patient and place say where they stand in the request."""

    patient: np.ndarray
    place: np.ndarray
    channel: np.ndarray
    device: np.ndarray
    time: np.ndarray
    value: np.ndarray
    unit: np.ndarray


@dataclass(frozen=True)
class Reader:
    """Reads what patients' observations say.

    Attributes:
        channels: Channels of the model, in order.
        catalogue: Codes, units and ranges.
        certificates: Calibration certificates of known devices.
    """

    channels: tuple[Channel, ...]
    catalogue: Catalogue
    certificates: Certificates

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of each of the model's channels."""
        return {channel.name: place for place, channel in enumerate(self.channels)}

    @cached_property
    def _devices(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.certificates.device_ids)}

    @cached_property
    def _names(self) -> dict[tuple[str | None, str | None], tuple[str, ...]]:
        """Channels by what a reading is called: (name in lower case, None) or (None, LOINC code)."""
        catalogue = self.catalogue
        names: dict[tuple[str | None, str | None], tuple[str, ...]] = {}
        names |= {(name, None): channels for name, channels in catalogue.by_name.items()}
        names |= {(None, code): (name,) for code, name in catalogue.by_loinc.items()}
        names |= {(None, code): tuple(catalogue.panels[n].channels) for code, n in catalogue.panel_by_loinc.items()}
        return names

    def read(self, patients: Sequence[Patient], remarks: Remarks) -> Readings:
        """Bring all readings of a batch to canonical units; leave out what ingest would leave out.

        Args:
            patients: The patients.
            remarks: Takes faults and warnings.

        Returns:
            Readings of the model's channels in canonical units, by the devices' own clocks and scales; none twice.
        """
        rows = self._rows(patients, remarks)
        table = pd.DataFrame(
            {
                "key": rows.patient,
                "channel": rows.channel,
                "device_id": rows.device,
                "time": rows.time,
                "value": rows.value,
            }
        )
        if len(table):
            table = self._clean(table, rows, remarks)
        return Readings(
            patient=table["key"].to_numpy(np.int64),
            device=np.array([self._devices.get(name, -1) for name in table["device_id"]], dtype=np.int64),
            channel=np.array([self.index[name] for name in table["channel"]], dtype=np.int64),
            time=table["time"].to_numpy(np.int64),
            value=table["value"].to_numpy(np.float64),
        )

    def _rows(self, patients: Sequence[Patient], remarks: Remarks) -> _Rows:
        """Return one row for each reading of one of the model's channels, as it was sent."""
        sent = [reading for patient in patients for reading in patient.observations]
        lengths = [len(patient.observations) for patient in patients]
        patient = np.repeat(np.arange(len(patients)), lengths)
        place = np.arange(len(sent)) - np.repeat(np.cumsum([0, *lengths[:-1]]), lengths)
        calls: dict[tuple[str | None, str | None], int] = {}
        call = np.array([calls.setdefault((one.channel, one.code), len(calls)) for one in sent], dtype=np.int64)
        meant = [self._meant(*called) for called in calls]
        first, second = _numbers(sent)
        single, pair = (np.array([len(names) == count for names in meant], dtype=bool)[call] for count in (1, 2))
        readable = np.where(single, np.isnan(second), pair & ~np.isnan(second)) & (single | pair) & ~np.isnan(first)
        for at in np.flatnonzero(~readable).tolist():
            remarks.fault(patient[at], partial(self._unreadable, sent[at], place[at], meant[call[at]]))
        time = np.array([microseconds(one.time) for one in sent], dtype=np.int64)
        known_by = np.array([microseconds(one.as_of) if one.as_of else _LATEST for one in patients], dtype=np.int64)
        late = readable & (time > known_by[patient])
        for number, count in Counter(patient[late].tolist()).items():
            remarks.warnings[number].append(f"observations: {counted(count)} left out, as dated after as_of")
        # A blood pressure becomes two rows.
        taken = np.flatnonzero(readable & ~late)
        row = np.concatenate([taken, taken[pair[taken]]])
        half = np.repeat([0, 1], [len(taken), len(row) - len(taken)])
        names = np.array([[*channels, "", ""][:2] for channels in meant] or [["", ""]], dtype=object)
        channel = names[call[row], half]
        read = np.array([name in self.index for name in channel], dtype=bool)
        self._note_unread(patient[row[~read]], channel[~read], remarks)
        row, half, channel = row[read], half[read], channel[read]
        return _Rows(
            patient=patient[row],
            place=place[row],
            channel=channel,
            device=np.array([one.device_id or "" for one in sent], dtype=object)[row],
            time=time[row],
            value=np.where(half == 0, first[row], second[row]),
            unit=np.array([one.unit or "" for one in sent], dtype=object)[row],
        )

    def _meant(self, name: str | None, code: str | None) -> tuple[str, ...]:
        return self._names.get((name.strip().casefold() if name is not None else None, code), ())

    def _unreadable(self, reading: Observation, place: int, channels: tuple[str, ...]) -> Fault:
        """Say what is wrong with the name or the value of a reading."""
        field = f"observations[{place}]"
        if not channels and reading.channel is None:
            return Fault(f"{field}.code", "is no LOINC code of a known channel", "Leave the reading out")
        if not channels:
            names = {name: meant for (name, _), meant in self._names.items() if name}
            close = difflib.get_close_matches((reading.channel or "").casefold(), names, n=1)
            guess = f"Did you mean {' and '.join(names[close[0]])}? " if close else ""
            remedy = f"{guess}The model reads {', '.join(self.index)}; leave others out"
            return Fault(f"{field}.channel", "is no known channel", remedy)
        if len(channels) == 1:
            return Fault(f"{field}.value", f"is a text, and {channels[0]} is a number", "Send a number", malformed=True)
        return Fault(f"{field}.value", "is not a blood pressure", _PRESSURE_REMEDY, malformed=True)

    def _note_unread(self, patient: np.ndarray, channel: np.ndarray, remarks: Remarks) -> None:
        """Warn of channels that the catalogue knows and the model does not read, one line a patient."""
        unread: dict[int, Counter[str]] = {}
        for number, name in zip(patient.tolist(), channel.tolist(), strict=True):
            unread.setdefault(number, Counter())[name] += 1
        for number, found in unread.items():
            remarks.warnings[number].append(
                f"observations: {counted(found.total())} of {', '.join(sorted(found))} left out, as the model does not "
                f"read {'this channel' if len(found) == 1 else 'these channels'}"
            )

    def _clean(self, table: pd.DataFrame, rows: _Rows, remarks: Remarks) -> pd.DataFrame:
        """Convert units; leave out what is implausible or sent twice."""
        converted = self.catalogue.convert(table["channel"], pd.Series(rows.unit), rows.value)
        for row in np.flatnonzero(~converted.unit_known).tolist():
            remarks.fault(rows.patient[row], partial(self._unknown_unit, rows.place[row], rows.channel[row]))
        self._note(table[converted.unit_known & ~converted.plausible], remarks, "left out, as outside {range}")
        corrected = "taken in another unit than sent, as plausible in that one only"
        self._note(table[converted.corrected], remarks, corrected)
        table = table.assign(value=converted.values)[converted.plausible]
        repeated = table.duplicated(READING)
        self._note(table[repeated], remarks, "left out, as sent twice")
        return table[~repeated]

    def _unknown_unit(self, place: int, channel: str) -> Fault:
        entry = self.catalogue.channels[channel]
        known = ", ".join(dict.fromkeys([entry.unit, *entry.units]))
        return Fault(f"observations[{place}].unit", f"does not fit {channel}", f"Send it in one of {known}")

    def _note(self, table: pd.DataFrame, remarks: Remarks, text: str) -> None:
        """Warn of readings, one line for each patient and channel."""
        found = Counter(zip(table["key"].tolist(), table["channel"].tolist(), strict=True))
        for (number, name), count in sorted(found.items()):
            entry = self.catalogue.channels[name]
            told = text.format(range=f"the plausible range {entry.low:g} to {entry.high:g} {entry.unit}")
            remarks.warnings[number].append(f"observations: {counted(count)} of {name} {told}")


def _numbers(sent: list[Observation]) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers that values hold: one and NaN, a blood pressure's two, or NaN twice for any other text."""
    first = np.array([one.value if isinstance(one.value, float) else np.nan for one in sent], dtype=np.float64)
    second = np.full(len(sent), np.nan)
    for row in np.flatnonzero(np.isnan(first)).tolist():
        parts = _PRESSURE.match(str(sent[row].value))
        if parts:
            first[row], second[row] = float(parts[1]), float(parts[2])
    return first, second


def microseconds(time: datetime) -> int:
    """Return microseconds since 1970, exactly.

    Args:
        time: A time with an offset.
    """
    elapsed = time - EPOCH
    return (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds


def counted(number: int) -> str:
    """Return a number of readings in words.

    Args:
        number: How many.
    """
    return f"{number} reading" if number == 1 else f"{number} readings"
