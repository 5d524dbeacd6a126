"""Checks of a cohort's tables that TFDV's one-example-a-patient view cannot make. Each returns anomalies."""

from __future__ import annotations

import numpy as np
import pandas as pd

from components.validate.anomalies import Anomaly
from components.validate.settings import ValidateSettings
from components.validate.tables import CohortTables


def check_tables(tables: CohortTables, settings: ValidateSettings, now: pd.Timestamp) -> list[Anomaly]:
    """Run all checks.

    Args:
        tables: The cohort's tables.
        settings: Thresholds.
        now: Time stamps after it lie in the future.

    Returns:
        Anomalies in a fixed order.
    """
    return [
        *check_patients(tables),
        *check_relations(tables),
        *check_channels(tables, settings),
        *check_readings(tables, now),
        *check_images(tables),
        *check_rejected(tables, settings),
    ]


def _counted(feature: str, kind: str, count: int, text: str) -> list[Anomaly]:
    """Return an anomaly when something was counted."""
    return [Anomaly(feature, kind, f"{count} {text}")] if count else []


def check_patients(tables: CohortTables) -> list[Anomaly]:
    """Check that patients are distinct and that every class has some.

    Args:
        tables: The cohort's tables.

    Returns:
        DUPLICATE_PATIENTS, EMPTY_CLASS, SINGLE_CLASS, PATIENTS_WITHOUT_DATA.
    """
    patients, classes = tables.patients, tables.manifest.classes
    found = _counted(
        "patients", "DUPLICATE_PATIENTS", int(patients["patient_id"].duplicated().sum()), "rows repeat a patient"
    )
    counts = patients["label"].value_counts().reindex(classes, fill_value=0)
    empty = [str(name) for name in counts.index[counts == 0]]
    if len(classes) - len(empty) < 2:
        names = [name for name in classes if name not in empty] or ["none of the classes"]
        found.append(Anomaly("label", "SINGLE_CLASS", f"all {len(patients)} patients are {', '.join(names)}"))
    elif empty:
        found.append(Anomaly("label", "EMPTY_CLASS", f"no patient is {', '.join(empty)}"))
    owners = [table["patient"].to_numpy() for table in (tables.observations, tables.notes, tables.images)]
    with_data = len(np.unique(np.concatenate([owner[owner >= 0] for owner in owners])))
    found += _counted(
        "patients",
        "PATIENTS_WITHOUT_DATA",
        patients["patient_id"].nunique() - with_data,
        "patients have no observation, note or image",
    )
    return found


def check_relations(tables: CohortTables) -> list[Anomaly]:
    """Check that rows belong to known patients, and that observations are in the order of the patients.

    Args:
        tables: The cohort's tables.

    Returns:
        UNKNOWN_PATIENT, UNSORTED.
    """
    found = []
    for name in ("observations", "notes", "images", "annotations"):
        owner = getattr(tables, name)["patient"].to_numpy()
        found += _counted(name, "UNKNOWN_PATIENT", int((owner < 0).sum()), "rows belong to no patient")
    if (np.diff(tables.observations["patient"].to_numpy()) < 0).any():
        found.append(Anomaly("observations", "UNSORTED", "rows are not in the order of the patients"))
    return found


def check_channels(tables: CohortTables, settings: ValidateSettings) -> list[Anomaly]:
    """Check that every channel is measured, in its unit, in enough patients, and varies.

    Args:
        tables: The cohort's tables.
        settings: Thresholds.

    Returns:
        CHANNEL_NEVER_MEASURED, WRONG_UNIT, RARE_CHANNEL, CONSTANT_CHANNEL.
    """
    observations, channels = tables.observations, tables.manifest.channels
    known = observations[observations["channel"] >= 0]
    grouped = known.groupby("channel")
    every = range(len(channels))
    patients = grouped["patient"].nunique().reindex(every, fill_value=0)
    spread = (grouped["value"].max() - grouped["value"].min()).reindex(every)
    units = known.groupby(["channel", "unit"], observed=True).size()
    found = []
    for position, channel in enumerate(channels):
        if not patients[position]:
            found.append(Anomaly(channel.name, "CHANNEL_NEVER_MEASURED", "no patient has an observation of it"))
            continue
        others = units.loc[
            (units.index.get_level_values(0) == position) & (units.index.get_level_values(1) != channel.unit)
        ]
        found += _counted(
            channel.name,
            "WRONG_UNIT",
            int(others.sum()),
            f"observations are in {', '.join(map(repr, others.index.get_level_values(1)))}, not in {channel.unit!r}",
        )
        if patients[position] < settings.rare_channel_fraction * len(tables.patients):
            found += _counted(
                channel.name,
                "RARE_CHANNEL",
                int(patients[position]),
                f"of {len(tables.patients)} patients have an observation of it",
            )
        if spread[position] == 0 and len(tables.patients) > 1:
            found.append(Anomaly(channel.name, "CONSTANT_CHANNEL", "all its values are equal"))
    return found


def check_readings(tables: CohortTables, now: pd.Timestamp) -> list[Anomaly]:
    """Check values and time stamps of observations.

    Args:
        tables: The cohort's tables.
        now: Time stamps after it lie in the future.

    Returns:
        OTHER_CHANNEL, NOT_FINITE, FUTURE_TIME, REPEATED_TIME.
    """
    observations = tables.observations
    repeated = observations.duplicated(["patient", "channel", "time"])
    return [
        *_counted(
            "observations",
            "OTHER_CHANNEL",
            int((observations["channel"] < 0).sum()),
            "rows are of channels that the manifest does not have; they are not used",
        ),
        *_counted(
            "observations",
            "NOT_FINITE",
            int((~np.isfinite(observations["value"].to_numpy(np.float64))).sum()),
            "values are missing or not finite",
        ),
        *_counted(
            "observations",
            "FUTURE_TIME",
            int((observations["time"] > now).sum()),
            "time stamps lie in the future (dates of de-identified sources may be shifted)",
        ),
        *_counted(
            "observations",
            "REPEATED_TIME",
            int(repeated.sum()),
            "rows repeat patient, channel and time of another; preprocess brings them down to one value",
        ),
    ]


def check_images(tables: CohortTables) -> list[Anomaly]:
    """Check that images are there, in range, and not blank.

    Args:
        tables: The cohort's tables.

    Returns:
        IMAGE_MISSING, IMAGE_RANGE, BLANK_IMAGE.
    """
    rows = tables.images["row"].to_numpy(np.int64)
    number = len(tables.brightness)
    absent = (rows < 0) | (rows >= number)
    found = _counted("images", "IMAGE_MISSING", int(absent.sum()), f"rows point outside the {number} stored images")
    low, high = tables.image_range
    if number and not (low >= 0 and high <= 1):
        found.append(Anomaly("images", "IMAGE_RANGE", f"pixels reach from {low:g} to {high:g}, not 0 to 1"))
    blank = tables.contrast[rows[~absent]] == 0
    return found + _counted("images", "BLANK_IMAGE", int(blank.sum()), "images have one grey value all over")


def check_rejected(tables: CohortTables, settings: ValidateSettings) -> list[Anomaly]:
    """Check that ingest did not reject too much.

    Args:
        tables: The cohort's tables.
        settings: Thresholds.

    Returns:
        REJECTED_ROWS.
    """
    taken = sum(len(table) for table in (tables.patients, tables.observations, tables.notes, tables.images))
    rejected = len(tables.rejected)
    if rejected <= settings.rejected_fraction * (taken + rejected):
        return []
    return _counted("rejected", "REJECTED_ROWS", rejected, f"rows of the source were rejected, {taken} were taken")
