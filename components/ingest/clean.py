"""Observations in source terms -> canonical units, plausible values, no duplicates."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from components.ingest.rejections import ABSENT, DUPLICATE, IMPLAUSIBLE, UNKNOWN_PATIENT, Rejections
from components.ingest.source_tables import build_table, constant, map_values, stack_tables
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
    observations: pd.DataFrame,
    chosen: list[str] | None,
    demographics: list[str],
    catalogue: Catalogue,
    offered: tuple[str, ...] = (),
) -> list[str]:
    """Return the cohort's channels in their fixed order.

    Args:
        observations: Clean observations of the cohort's patients, demographics among them.
        chosen: The settings' channels, or None for all measured ones in the catalogue's order.
        demographics: Demographics that the settings name; after the chosen channels.
        catalogue: The catalogue.
        offered: Channels that the sources have rows of, for the message.

    Returns:
        Channel names.

    Raises:
        InputError: A channel that the settings name is never measured.
    """
    measured = set(observations["channel"].unique())
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
    if chosen is None:
        return [name for name in catalogue.channels if name in measured]
    return list(dict.fromkeys([*chosen, *demographics]))


def demographic_observations(patients: pd.DataFrame, demographics: list[str], last_too: bool) -> pd.DataFrame:
    """Write age and sex as observations, so that models see them as channels.

    Args:
        patients: Columns key, sex, birth_date, age, first, last (the patient's first and last time stamps).
        demographics: "age" and/or "sex".
        last_too: Whether to write them at the last time stamp as well; the age is then that of the day.

    Returns:
        Observations: age in years, sex as female 0 and male 1; none where not known.
    """
    at_first = patients.assign(time=patients["first"])
    at_last = patients[patients["last"] > patients["first"]].assign(time=lambda rows: rows["last"])
    rows = pd.concat([at_first, at_last]) if last_too else at_first
    rows = rows[rows["time"].notna()]
    years = (rows["time"].dt.tz_localize(None) - rows["birth_date"]).dt.total_seconds() / _YEAR_SECONDS
    elapsed = (rows["time"] - rows["first"]).dt.total_seconds() / _YEAR_SECONDS
    values = {
        "age": years.where(rows["birth_date"].notna(), rows["age"] + elapsed),
        "sex": rows["sex"].map({"female": 0.0, "male": 1.0}),
    }
    parts = [
        build_table(
            "observations",
            key=rows["key"],
            device_id=constant("", len(rows)),
            channel=constant(name, len(rows)),
            time=rows["time"],
            value=values[name],
            unit=constant("a" if name == "age" else "1", len(rows)),
            file=rows["file"],
            row=rows["row"],
        )
        for name in demographics
    ]
    table = stack_tables("observations", parts)
    return table[np.isfinite(table["value"].to_numpy(np.float64))]
