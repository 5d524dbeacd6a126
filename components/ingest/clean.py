"""Observations in source terms -> canonical units, plausible values, no duplicates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from components.ingest.rejections import ABSENT, DUPLICATE, IMPLAUSIBLE, UNKNOWN_PATIENT, Rejections
from components.ingest.source_tables import build_table, constant, map_values
from data_schemas.channels import Catalogue
from data_schemas.errors import InputError

_YEAR_SECONDS = 365.25 * 86400
# What makes two rows one reading that was sent twice.
READING = ["key", "channel", "device_id", "time", "value"]


@dataclass
class CleanObservations:
    """Observations that were taken, and what was done to them.

    Attributes:
        table: key, device_id, channel, time, value, unit, file, row; values in canonical units.
        corrected: Values taken in another unit than declared, by channel.
        not_selected: Rows of channels that the settings do not select.
        offered: Channels that the sources have rows of, whether or not they are selected.
    """

    table: pd.DataFrame
    corrected: dict[str, int] = field(default_factory=dict)
    not_selected: int = 0
    offered: tuple[str, ...] = ()


def clean_observations(
    raw: pd.DataFrame,
    *,
    patients: pd.Index,
    channels: list[str] | None,
    catalogue: Catalogue,
    rejections: Rejections,
) -> CleanObservations:
    """Convert, check and deduplicate the observations of all sources.

    Args:
        raw: Columns of ``source_tables.TABLE_COLUMNS["observations"]``.
        patients: Keys of the patients that the sources list.
        channels: Channels to take; None: all.
        catalogue: Units and ranges.
        rejections: Takes rows of unknown patients, absent or implausible values, duplicates and unknown units.

    Returns:
        The rows taken, in the given order.

    Raises:
        InputError: A unit is not known for its channel and ``on_bad_row`` is "fail".
    """
    selected = raw if channels is None else raw[raw["channel"].isin(channels)]
    not_selected = len(raw) - len(selected)
    offered = tuple(sorted(str(name) for name in raw["channel"].unique()))
    taken = drop_unknown_patients(selected, patients, rejections)
    absent = taken["value"].isna()
    rejections.add(taken[absent], taken.loc[absent, "channel"], ABSENT)
    taken = taken[~absent]
    if not len(taken):
        return CleanObservations(taken, not_selected=not_selected, offered=offered)
    converted = catalogue.convert(taken["channel"], taken["unit"], taken["value"].to_numpy())
    unknown = taken[~converted.unit_known]
    if len(unknown):
        rejections.malformed(
            unknown,
            "unit",
            f"has a unit that is not known for {unknown['channel'].iloc[0]}",
            remedy=f"Use {catalogue.channels[unknown['channel'].iloc[0]].unit}, or add the unit to channels.yaml",
        )
    implausible = taken[converted.unit_known & ~converted.plausible]
    rejections.add(implausible, implausible["channel"], IMPLAUSIBLE)
    units = map_values(taken["channel"], {name: entry.unit for name, entry in catalogue.channels.items()})
    corrected = taken.loc[converted.corrected, "channel"].value_counts()
    taken = taken.assign(value=converted.values, unit=units)[converted.plausible]
    duplicate = taken.duplicated(READING)
    rejections.add(taken[duplicate], taken.loc[duplicate, "channel"], DUPLICATE)
    counts = {str(name): int(count) for name, count in corrected.items() if count}
    return CleanObservations(taken[~duplicate], counts, not_selected, offered)


def drop_unknown_patients(rows: pd.DataFrame, patients: pd.Index, rejections: Rejections) -> pd.DataFrame:
    """Reject rows whose patient no source lists.

    Args:
        rows: Columns ``key``, ``file``, ``row``.
        patients: Keys of the patients.
        rejections: Takes the other rows.

    Returns:
        The rows of known patients.
    """
    known = rows["key"].isin(patients)
    rejections.add(rows[~known], "patient", UNKNOWN_PATIENT)
    return rows[known]


def channels_in_order(
    measured: set[str],
    chosen: list[str] | None,
    demographics: list[str],
    catalogue: Catalogue,
    offered: set[str],
) -> list[str]:
    """Return the cohort's channels in their fixed order.

    Args:
        measured: Channels of the clean observations of the cohort's patients, demographics among them.
        chosen: The settings' channels, or None for all measured ones in the catalogue's order.
        demographics: Demographics that the settings name; after the chosen channels.
        catalogue: The catalogue.
        offered: Channels that the sources have rows of, for the message.

    Returns:
        Channel names.

    Raises:
        InputError: A channel that the settings name is never measured.
    """
    for setting, names in (("ingest.channels", chosen or []), ("ingest.demographics", demographics)):
        for name in names:
            if name not in measured:
                others = sorted({*offered, *measured} - {name})
                raise InputError(
                    f"channel {name} is never measured in the sources",
                    file="settings",
                    field=setting,
                    remedy=f"Choose among {', '.join(others)}" if others else "Check the sources: they measure nothing",
                )
    return [name for name in candidate_channels(chosen, demographics, catalogue) if name in measured]


def candidate_channels(chosen: list[str] | None, demographics: list[str], catalogue: Catalogue) -> list[str]:
    """Return the channels that a cohort may have, in their fixed order.

    Args:
        chosen: The settings' channels, or None for the whole catalogue.
        demographics: Demographics that the settings name; after the chosen channels.
        catalogue: The catalogue.

    Returns:
        Channel names.
    """
    return list(catalogue.channels) if chosen is None else list(dict.fromkeys([*chosen, *demographics]))


@dataclass(frozen=True)
class DemographicRows:
    """Facts on patients as readings, one element each.

    Attributes:
        patient: int64, positions of the patients.
        channel: "age" or "sex".
        time: datetime64[us], UTC.
        value: float64, finite: age in years, sex as female 0 and male 1.
    """

    patient: np.ndarray
    channel: np.ndarray
    time: np.ndarray
    value: np.ndarray


def demographic_rows(
    demographics: Sequence[str],
    *,
    first: np.ndarray,
    last: np.ndarray,
    sex: Sequence[str],
    birth_date: np.ndarray,
    age: np.ndarray,
    last_too: bool,
) -> DemographicRows:
    """Write age and sex as readings; ingest and serving call this.

    Args:
        demographics: "age" and/or "sex".
        first: datetime64[us] ``[n]``, the patients' first time stamps (UTC); NaT for a patient without any.
        last: datetime64[us] ``[n]``, their last ones.
        sex: ``[n]``, "female", "male" or anything else.
        birth_date: datetime64[us] ``[n]``; NaT where not known.
        age: float64 ``[n]``, years at the first time stamp, where there is no birth date; NaN where not known.
        last_too: Whether to write them at the last time stamp as well; the age is then that of the day.

    Returns:
        The readings; none where not known.
    """
    at_first = np.flatnonzero(~np.isnat(first))
    at_last = np.flatnonzero(last > first) if last_too else at_first[:0]
    patient = np.concatenate([at_first, at_last])
    time = np.concatenate([first[at_first], last[at_last]])
    years = _years(time - birth_date[patient])
    elapsed = _years(time - first[patient])
    values = {
        "age": np.where(np.isnat(birth_date[patient]), age[patient] + elapsed, years),
        "sex": np.array([{"female": 0.0, "male": 1.0}.get(text, np.nan) for text in sex])[patient],
    }
    known = [np.isfinite(values[name]) for name in demographics]
    return DemographicRows(
        patient=np.concatenate([patient[rows] for rows in known]),
        channel=np.repeat(np.array(demographics, dtype=object), [int(rows.sum()) for rows in known]),
        time=np.concatenate([time[rows] for rows in known]),
        value=np.concatenate([values[name][rows] for name, rows in zip(demographics, known, strict=True)]),
    )


def _years(elapsed: np.ndarray) -> np.ndarray:
    """Return timedelta64[us] in years."""
    return elapsed.astype(np.int64) / 1e6 / _YEAR_SECONDS


def demographic_observations(patients: pd.DataFrame, demographics: list[str], last_too: bool) -> pd.DataFrame:
    """Write age and sex as observations, so that models see them as channels.

    Args:
        patients: Columns key, sex, birth_date, age, first, last (the patient's first and last time stamps), file, row.
        demographics: "age" and/or "sex".
        last_too: Whether to write them at the last time stamp as well; the age is then that of the day.

    Returns:
        Observations: age in years, sex as female 0 and male 1; none where not known.
    """
    rows = demographic_rows(
        demographics,
        first=patients["first"].to_numpy("datetime64[us]"),
        last=patients["last"].to_numpy("datetime64[us]"),
        sex=patients["sex"].tolist(),
        birth_date=patients["birth_date"].to_numpy("datetime64[us]"),
        age=patients["age"].to_numpy(np.float64),
        last_too=last_too,
    )
    chosen = patients.iloc[rows.patient]
    return build_table(
        "observations",
        key=chosen["key"],
        device_id=constant("", len(chosen)),
        channel=pd.Series(rows.channel).astype("category"),
        time=pd.Series(rows.time).dt.tz_localize("UTC"),
        value=rows.value,
        unit=pd.Series(np.where(rows.channel == "age", "a", "1")).astype("category"),
        file=chosen["file"],
        row=chosen["row"],
    )
