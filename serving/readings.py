"""Readings as they are sent, brought to the model's channels and units by the functions of ingest."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache, partial
from operator import attrgetter
from typing import TypeVar

import numpy as np

from components.ingest.tabular import BLOOD_PRESSURE
from components.preprocess.calibrate import Certificates
from components.preprocess.series import Readings
from data_schemas.channels import Catalogue, Conversion, apply_conversions
from data_schemas.cohort import Channel
from serving.patients import Fault, Observation, Patient

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_PRESSURE = re.compile(BLOOD_PRESSURE)
_PRESSURE_REMEDY = "Write systolic/diastolic, such as 120/80, or send systolic_pressure and diastolic_pressure"
_MOST_FAULTS = 100
_LATEST = np.iinfo(np.int64).max
_CALLED = attrgetter("channel", "code", "unit")
_NONE: Conversion = (np.nan,) * 6
_MOST_KINDS = 4096


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
class _Kind:
    """What readings with one name, code and unit are.

    Attributes:
        channels: The channels that are meant: one, a blood pressure's two, or none.
        index: Their positions in the model; -1 for a channel that it does not read.
        conversions: How their values become canonical.
    """

    channels: tuple[str, ...]
    index: tuple[int, ...]
    conversions: tuple[Conversion, ...]


@dataclass(frozen=True)
class _Rows:
    """Readings of the model's channels, one element each; patient and place say where they stand in the request.

    ``device`` numbers the devices of the batch, ``conversion`` is ``[n, 6]``.
    """

    patient: np.ndarray
    place: np.ndarray
    channel: np.ndarray
    device: np.ndarray
    time: np.ndarray
    value: np.ndarray
    conversion: np.ndarray


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

    @cached_property
    def _kind(self) -> Callable[[tuple[str | None, str | None, str | None]], _Kind]:
        """Returns the kind of a reading by its channel, code and unit; callers use few of them again and again."""
        return lru_cache(_MOST_KINDS)(self._find_kind)

    def _find_kind(self, called: tuple[str | None, str | None, str | None]) -> _Kind:
        name, code, unit = called
        channels = self._meant(name, code)
        return _Kind(
            channels=channels,
            index=tuple(self.index.get(channel, -1) for channel in channels),
            conversions=tuple(self.catalogue.conversion(channel, unit or "") for channel in channels),
        )

    def read(self, patients: Sequence[Patient], remarks: Remarks) -> Readings:
        """Bring all readings of a batch to canonical units; leave out what ingest would leave out.

        Args:
            patients: The patients.
            remarks: Takes faults and warnings.

        Returns:
            Readings of the model's channels in canonical units, by the devices' own clocks and scales; none twice.
        """
        sent = [reading for patient in patients for reading in patient.observations]
        rows, devices = self._rows(patients, sent, remarks)
        value, kept = self._clean(rows, remarks)
        known = np.array([self._devices.get(name, -1) for name in devices], dtype=np.int64)
        return Readings(
            patient=rows.patient[kept],
            device=known[rows.device[kept]],
            channel=rows.channel[kept],
            time=rows.time[kept],
            value=value[kept],
        )

    def _rows(self, patients: Sequence[Patient], sent: list[Observation], remarks: Remarks) -> tuple[_Rows, list[str]]:
        """Return one row for each reading of one of the model's channels, as it was sent, and the devices' names."""
        lengths = [len(patient.observations) for patient in patients]
        patient = np.repeat(np.arange(len(patients)), lengths)
        place = np.arange(len(sent)) - np.repeat(np.cumsum([0, *lengths[:-1]]), lengths)
        called, kind = _number(list(map(_CALLED, sent)))
        devices, device = _number([one.device_id or "" for one in sent])
        kinds = [self._kind(key) for key in called]
        first, second = _numbers([one.value for one in sent])
        single, pair = (np.array([len(one.channels) == count for one in kinds], dtype=bool)[kind] for count in (1, 2))
        readable = np.where(single, np.isnan(second), pair & ~np.isnan(second)) & (single | pair) & ~np.isnan(first)
        for at in np.flatnonzero(~readable).tolist():
            remarks.fault(patient[at], partial(self._unreadable, sent[at], place[at], kinds[kind[at]].channels))
        time = np.array([(one.time - EPOCH) // _MICROSECOND for one in sent], dtype=np.int64)
        known_by = np.array([microseconds(one.as_of) if one.as_of else _LATEST for one in patients], dtype=np.int64)
        late = readable & (time > known_by[patient])
        for number, count in Counter(patient[late].tolist()).items():
            remarks.warnings[number].append(f"observations: {counted(count)} left out, as dated after as_of")
        # A blood pressure becomes two rows.
        taken = np.flatnonzero(readable & ~late)
        row = np.concatenate([taken, taken[pair[taken]]])
        half = np.repeat([0, 1], [len(taken), len(row) - len(taken)])
        # Every kind has two places here, of which it may need none.
        index = np.array([[*one.index, -1, -1][:2] for one in kinds] or [[-1, -1]], dtype=np.int64)
        channel = index[kind[row], half]
        read = channel >= 0
        self._note_unread(
            patient[row[~read]],
            [kinds[of].channels[at] for of, at in zip(kind[row[~read]], half[~read], strict=True)],
            remarks,
        )
        row, half, channel = row[read], half[read], channel[read]
        conversions = np.array([[*one.conversions, _NONE, _NONE][:2] for one in kinds] or [[_NONE, _NONE]])
        rows = _Rows(
            patient=patient[row],
            place=place[row],
            channel=channel,
            device=device[row],
            time=time[row],
            value=np.where(half == 0, first[row], second[row]),
            conversion=conversions[kind[row], half],
        )
        return rows, devices

    def _meant(self, name: str | None, code: str | None) -> tuple[str, ...]:
        return self._names.get((name.strip().casefold() if name is not None else None, code), ())

    def _unreadable(self, reading: Observation, place: int, channels: tuple[str, ...]) -> Fault:
        """Say what is wrong with the name or the value of a reading."""
        field = f"observations[{place}]"
        if (reading.channel is None) == (reading.code is None):
            return Fault(field, "needs either a channel or a code", "Send one of the two", malformed=True)
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

    def _note_unread(self, patient: np.ndarray, channel: list[str], remarks: Remarks) -> None:
        """Warn of channels that the catalogue knows and the model does not read, one line a patient."""
        unread: dict[int, Counter[str]] = {}
        for number, name in zip(patient.tolist(), channel, strict=True):
            unread.setdefault(number, Counter())[name] += 1
        for number, found in unread.items():
            remarks.warnings[number].append(
                f"observations: {counted(found.total())} of {', '.join(sorted(found))} left out, as the model does not "
                f"read {'this channel' if len(found) == 1 else 'these channels'}"
            )

    def _clean(self, rows: _Rows, remarks: Remarks) -> tuple[np.ndarray, np.ndarray]:
        """Convert units; return the canonical values, and the rows that are neither implausible nor sent twice."""
        converted = apply_conversions(rows.conversion, rows.value)
        for row in np.flatnonzero(~converted.unit_known).tolist():
            remarks.fault(rows.patient[row], partial(self._unknown_unit, rows.place[row], rows.channel[row]))
        self._note(rows, converted.unit_known & ~converted.plausible, remarks, "left out, as outside {range}")
        corrected = "taken in another unit than sent, as plausible in that one only"
        self._note(rows, converted.corrected, remarks, corrected)
        repeated = _repeated(rows, converted.values, converted.plausible)
        self._note(rows, repeated, remarks, "left out, as sent twice")
        return converted.values, np.flatnonzero(converted.plausible & ~repeated)

    def _unknown_unit(self, place: int, index: int) -> Fault:
        channel = self.channels[index].name
        entry = self.catalogue.channels[channel]
        known = ", ".join(dict.fromkeys([entry.unit, *entry.units]))
        return Fault(f"observations[{place}].unit", f"does not fit {channel}", f"Send it in one of {known}")

    def _note(self, rows: _Rows, which: np.ndarray, remarks: Remarks, text: str) -> None:
        """Warn of some of the readings, one line for each patient and channel."""
        if not which.any():
            return
        names = [self.channels[index].name for index in rows.channel[which].tolist()]
        for (number, name), count in sorted(Counter(zip(rows.patient[which].tolist(), names, strict=True)).items()):
            entry = self.catalogue.channels[name]
            told = text.format(range=f"the plausible range {entry.low:g} to {entry.high:g} {entry.unit}")
            remarks.warnings[number].append(f"observations: {counted(count)} of {name} {told}")


def _repeated(rows: _Rows, value: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Return which readings were sent before (bool): of the same patient, channel, device, time and value.

    It is ``duplicated(READING)`` of the ingested table, without the table.
    """
    used = np.flatnonzero(among)
    columns = [column[used] for column in (value, rows.time, rows.device, rows.channel, rows.patient)]
    order = np.lexsort(columns)  # Equal ones stay in the order in which they were sent.
    same = np.ones(max(len(used) - 1, 0), dtype=bool)
    for column in columns:
        same &= column[order][1:] == column[order][:-1]
    repeated = np.zeros(len(value), dtype=bool)
    repeated[used[order[1:][same]]] = True
    return repeated


_Key = TypeVar("_Key", bound=Hashable)


def _number(keys: list[_Key]) -> tuple[list[_Key], np.ndarray]:
    """Return the distinct keys, and the position of each key among them."""
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return list(numbers), np.array([numbers[key] for key in keys], dtype=np.int64)


def _numbers(values: list[float | str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers that values hold: one and NaN, a blood pressure's two, or NaN twice for any other text."""
    first = np.array([value if isinstance(value, float) else np.nan for value in values], dtype=np.float64)
    second = np.full(len(values), np.nan)
    for row in np.flatnonzero(np.isnan(first)).tolist():
        parts = _PRESSURE.match(str(values[row]))
        if parts:
            first[row], second[row] = float(parts[1]), float(parts[2])
    return first, second


def microseconds(time: datetime) -> int:
    """Return microseconds since 1970, exactly.

    Args:
        time: A time with an offset.
    """
    return (time - EPOCH) // _MICROSECOND


def counted(number: int) -> str:
    """Return a number of readings in words.

    Args:
        number: How many.
    """
    return f"{number} reading" if number == 1 else f"{number} readings"
