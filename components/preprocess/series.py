"""From observations to series on the common grid: the one path that training and serving share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.preprocess.align import aggregate_cells, grid_steps, window_ends, window_references
from components.preprocess.calibrate import Certificates, calibrate
from components.preprocess.denoise import hampel_outliers, smooth_series
from components.preprocess.impute import Filling, impute_series
from components.preprocess.settings import PreprocessSettings
from data_schemas.cohort import TIME, Channel
from data_schemas.errors import InputError

COLUMNS = ("patient_id", "device_id", "channel", "time", "value")


@dataclass(frozen=True)
class Readings:
    """Observations as arrays, one element a reading.

    Attributes:
        patient: int64 ``[m]``, patient indices.
        device: int64 ``[m]``, indices of the certificates; -1 for a device without one.
        channel: int64 ``[m]``, channel indices.
        time: int64 ``[m]``, microseconds since 1970 (UTC).
        value: float64 ``[m]``, in the channel's unit; NaN where the row has none.
    """

    patient: np.ndarray
    device: np.ndarray
    channel: np.ndarray
    time: np.ndarray
    value: np.ndarray

    def take(self, which: np.ndarray | slice) -> Readings:
        """Return some of the readings.

        Args:
            which: Bool mask, int indices or a slice.

        Returns:
            The chosen readings.
        """
        return Readings(
            self.patient[which], self.device[which], self.channel[which], self.time[which], self.value[which]
        )


def concatenate_readings(first: Readings, second: Readings) -> Readings:
    """Join two sets of readings.

    Args:
        first: Readings.
        second: Readings of the same patients, devices and channels.

    Returns:
        Both, in this order.
    """
    names = Readings.__dataclass_fields__
    return Readings(**{name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in names})


@dataclass(frozen=True)
class PreparedSeries:
    """Series of some patients on the common grid.

    Attributes:
        series: float32 ``[n, steps, channels]``; NaN over all steps where a channel was not measured.
        observed: Bool ``[n, steps, channels]``: measured in that cell, not imputed.
        window_end: int64 ``[n]``, microseconds since 1970 (UTC).
        present: Bool ``[n]``: whether the patient has a usable observation.
        measured: int64 ``[channels]``, readings of each channel that stand on the grid.
        counts: Numbers of readings and cells by what happened to them.
        left_out: int64 ``[n]`` by reason: how many readings of each patient were "not_finite", "implausible",
            "outliers" or "outside_window".
    """

    series: np.ndarray
    observed: np.ndarray
    window_end: np.ndarray
    present: np.ndarray
    measured: np.ndarray
    counts: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, np.ndarray] = field(default_factory=dict)


def encode_readings(
    table: pa.Table,
    patients: Sequence[str] | Callable[[list[str]], np.ndarray],
    channels: Sequence[Channel],
    certificates: Certificates,
) -> Readings:
    """Turn rows of the observations table into index arrays.

    Args:
        table: ``COLUMNS`` of observations; string columns may be dictionary-encoded.
        patients: The patients whose index is their position here; or what tells the positions of some (-1 where
            unknown), for those who have many patients and look them up often.
        channels: Channels in the order of the series' last axis; rows of other channels are left out.
        certificates: The devices whose index is their position in it.

    Returns:
        The readings, in the order of the rows.

    Raises:
        InputError: A row lacks its patient, device, channel or time, or a patient that is not in ``patients``.
    """
    for name in COLUMNS[:-1]:
        if table[name].null_count:
            raise InputError(
                f"{table[name].null_count} observations have no {name}",
                file="observations.parquet",
                field=name,
                remedy="Ingest the source again",
            )
    patient = _indices(table["patient_id"], patients)
    if (patient < 0).any():
        raise InputError(
            f"{int((patient < 0).sum())} observations belong to no patient of patients.parquet",
            file="observations.parquet",
            field="patient_id",
            remedy="Ingest the source again",
        )
    readings = Readings(
        patient=patient,
        device=_indices(table["device_id"], certificates.device_ids),
        channel=_indices(table["channel"], [channel.name for channel in channels]),
        time=table["time"].cast(TIME).cast(pa.int64()).to_numpy(),
        value=table["value"].cast(pa.float64()).to_numpy(),
    )
    return readings.take(readings.channel >= 0)


def _indices(column: pa.ChunkedArray, names: Sequence[str] | Callable[[list[str]], np.ndarray]) -> np.ndarray:
    """Return each string's position in ``names``, -1 where it is not there, as int64."""
    encoded = column.combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # A column without chunks stays chunked.
        encoded = pa.concat_arrays(encoded.chunks) if encoded.num_chunks else pa.array([], encoded.type)
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()
    if not len(encoded.dictionary):
        return np.zeros(0, dtype=np.int64)
    distinct = encoded.dictionary.cast(pa.string())
    if callable(names):
        positions = names(distinct.to_pylist())
    else:
        found = pc.index_in(distinct, value_set=pa.array(names, pa.string()))
        positions = found.fill_null(-1).to_numpy(zero_copy_only=False)
    return positions.astype(np.int64)[encoded.indices.to_numpy()]


def clean_readings(
    readings: Readings, channels: Sequence[Channel], certificates: Certificates, settings: PreprocessSettings
) -> tuple[Readings, dict[str, int], dict[str, np.ndarray]]:
    """Calibrate readings, put them in order, and leave out those that cannot be true.

    Args:
        readings: Readings in any order.
        channels: Channels with their plausible ranges.
        certificates: Calibration certificates.
        settings: Which corrections to make.

    Returns:
        Readings ordered by patient, channel, time and value, and the numbers of readings: ``readings`` received,
        ``calibrated``, ``not_finite``, ``implausible`` and ``outliers`` (the last three are left out); and the patient
        of each reading that was left out, by reason.
    """
    counts = {"readings": len(readings.value), "calibrated": 0}
    value, time = readings.value, readings.time
    if settings.calibrate and certificates.device_ids:
        value, time, known = calibrate(value, time, readings.device, readings.channel, certificates)
        counts["calibrated"] = int(known.sum())
    low, high = (np.array([getattr(channel, end) for channel in channels]) for end in ("low", "high"))
    finite = np.isfinite(value)
    kept = finite
    if settings.drop_implausible and len(channels):
        kept = finite & (value >= low[readings.channel]) & (value <= high[readings.channel])
    left_out = {"not_finite": readings.patient[~finite], "implausible": readings.patient[finite & ~kept]}
    cleaned = Readings(readings.patient, readings.device, readings.channel, time, value).take(kept)
    group = cleaned.patient * len(channels) + cleaned.channel
    order = np.lexsort((cleaned.value, cleaned.time, group))
    cleaned, group = cleaned.take(order), group[order]
    outlier = hampel_outliers(
        cleaned.value,
        group,
        cleaned.time,
        span=settings.outlier_span_microseconds,
        neighbours=settings.outlier_neighbours,
        deviations=settings.outlier_deviations,
        floor=settings.outlier_floor * (high - low)[cleaned.channel] if len(channels) else 0.0,
    )
    left_out["outliers"] = cleaned.patient[outlier]
    counts |= {reason: len(patient) for reason, patient in left_out.items()}
    return cleaned.take(~outlier), counts, left_out


def grid_series(
    readings: Readings,
    patients: int,
    channels: Sequence[Channel],
    certificates: Certificates,
    settings: PreprocessSettings,
) -> PreparedSeries:
    """Calibrate, align, denoise and impute the readings of some patients.

    Args:
        readings: Readings whose patient indices are below ``patients``, in any order.
        patients: Number of patients.
        channels: Channels in the order of the series' last axis.
        certificates: Calibration certificates.
        settings: The settings of the step.

    Returns:
        The series; ``counts`` has those of ``clean_readings``, ``outside_window`` readings, and cells by ``Filling``
        name (``carried_in`` for cells that took a value from before the window).
    """
    readings, counts, left_out = clean_readings(readings, channels, certificates, settings)
    shape = (patients, settings.steps, len(channels))
    step = settings.step_microseconds
    reference, present = window_references(readings.patient, readings.time, patients, settings.anchor)
    steps = grid_steps(
        readings.time, reference[readings.patient], anchor=settings.anchor, step=step, steps=settings.steps
    )
    inside = (steps >= 0) & (steps < settings.steps)
    left_out["outside_window"] = readings.patient[~inside]
    counts["outside_window"] = len(left_out["outside_window"])
    used = readings.take(inside)
    cell = (used.patient * settings.steps + steps[inside]) * len(channels) + used.channel
    grid = aggregate_cells(cell, used.time, used.value, int(np.prod(shape)), settings.aggregate).reshape(shape)
    observed = ~np.isnan(grid)
    series, filling = impute_series(smooth_series(grid, settings.series_sigma), settings.longest_gap)
    number = np.bincount(filling.ravel(), minlength=len(Filling))
    counts |= {kind.name.lower(): int(number[kind]) for kind in Filling}
    counts["carried_in"] = 0
    if settings.carry_in:
        counts["carried_in"] = _carry_in(series, readings.take(steps < 0))
        counts["never_measured"] -= counts["carried_in"]
    return PreparedSeries(
        series=series.astype(np.float32),
        observed=observed,
        window_end=window_ends(reference, anchor=settings.anchor, step=step, steps=settings.steps),
        present=present,
        measured=np.bincount(used.channel, minlength=len(channels)),
        counts=counts,
        left_out={reason: np.bincount(patient, minlength=patients) for reason, patient in left_out.items()},
    )


def _carry_in(series: np.ndarray, earlier: Readings) -> int:
    """Fill channels without a value in the window with their last one before it; return the number of cells."""
    if not len(earlier.value):
        return 0
    group = earlier.patient * series.shape[2] + earlier.channel  # Ordered by group, then time.
    last = earlier.take(np.append(group[1:] != group[:-1], True))
    empty = np.isnan(series[last.patient, 0, last.channel])
    last = last.take(empty)
    series[last.patient, :, last.channel] = last.value[:, None]
    return len(last.value) * series.shape[1]
