"""Checks of a cohort's tables that TFDV's one-example-a-patient view cannot make. Each returns anomalies."""

from __future__ import annotations

import numpy as np
import pandas as pd

from components.validate.anomalies import Anomaly
from components.validate.readings import ReadingTally, tally_readings
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
    readings = tally_readings(tables, now)
    return [
        *check_patients(tables, readings),
        *check_relations(tables, readings),
        *check_channels(tables, readings, settings),
        *check_readings(readings),
        *check_images(tables),
        *check_rejected(tables, settings),
    ]


def _counted(feature: str, kind: str, count: int, text: str) -> list[Anomaly]:
    """Return an anomaly when something was counted."""
    return [Anomaly(feature, kind, f"{count} {text}")] if count else []


def check_patients(tables: CohortTables, readings: ReadingTally) -> list[Anomaly]:
    """Check that patients are distinct and that every class has some.

    Args:
        tables: The cohort's tables.
        readings: What the observations hold.

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
    seen = readings.seen.copy()
    for table in (tables.notes, tables.images):
        owner = table["patient"].to_numpy()
        seen[owner[owner >= 0]] = True
    found += _counted(
        "patients",
        "PATIENTS_WITHOUT_DATA",
        len(tables.identifiers) - int(seen.sum()),
        "patients have no observation, note or image",
    )
    return found


def check_relations(tables: CohortTables, readings: ReadingTally) -> list[Anomaly]:
    """Check that rows belong to known patients, and that observations are in the order of the patients.

    Args:
        tables: The cohort's tables.
        readings: What the observations hold.

    Returns:
        UNKNOWN_PATIENT, UNSORTED.
    """
    unknown = {"observations": readings.counts["UNKNOWN_PATIENT"]}
    for name in ("notes", "images", "annotations"):
        unknown[name] = int((getattr(tables, name)["patient"] < 0).sum())
    found = []
    for name, count in unknown.items():
        found += _counted(name, "UNKNOWN_PATIENT", count, "rows belong to no patient")
    if not tables.in_order:
        found.append(Anomaly("observations", "UNSORTED", "rows are not in the order of the patients"))
    return found


def check_channels(tables: CohortTables, readings: ReadingTally, settings: ValidateSettings) -> list[Anomaly]:
    """Check that every channel is measured, in its unit, in enough patients, and varies.

    Args:
        tables: The cohort's tables.
        readings: What the observations hold.
        settings: Thresholds.

    Returns:
        CHANNEL_NEVER_MEASURED, WRONG_UNIT, RARE_CHANNEL, CONSTANT_CHANNEL.
    """
    found = []
    for position, channel in enumerate(tables.manifest.channels):
        patients = int(readings.patients[position])
        if not patients:
            found.append(Anomaly(channel.name, "CHANNEL_NEVER_MEASURED", "no patient has an observation of it"))
            continue
        others = {
            unit: count
            for (place, unit), count in sorted(readings.units.items())
            if place == position and unit != channel.unit
        }
        found += _counted(
            channel.name,
            "WRONG_UNIT",
            sum(others.values()),
            f"observations are in {', '.join(map(repr, others))}, not in {channel.unit!r}",
        )
        if patients < settings.rare_channel_fraction * len(tables.patients):
            found += _counted(
                channel.name,
                "RARE_CHANNEL",
                patients,
                f"of {len(tables.patients)} patients have an observation of it",
            )
        if readings.low[position] == readings.high[position] and len(tables.patients) > 1:
            found.append(Anomaly(channel.name, "CONSTANT_CHANNEL", "all its values are equal"))
    return found


def check_readings(readings: ReadingTally) -> list[Anomaly]:
    """Check values and time stamps of observations.

    Args:
        readings: What the observations hold.

    Returns:
        OTHER_CHANNEL, NOT_FINITE, FUTURE_TIME, REPEATED_TIME.
    """
    texts = {
        "OTHER_CHANNEL": "rows are of channels that the manifest does not have; they are not used",
        "NOT_FINITE": "values are missing or not finite",
        "FUTURE_TIME": "time stamps lie in the future (dates of de-identified sources may be shifted)",
        "REPEATED_TIME": "rows repeat patient, channel and time of another; preprocess brings them down to one value",
    }
    return [
        anomaly
        for kind, text in texts.items()
        for anomaly in _counted("observations", kind, readings.counts[kind], text)
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
    taken = sum(len(table) for table in (tables.patients, tables.notes, tables.images)) + tables.observation_rows
    rejected = len(tables.rejected)
    if rejected <= settings.rejected_fraction * (taken + rejected):
        return []
    return _counted("rejected", "REJECTED_ROWS", rejected, f"rows of the source were rejected, {taken} were taken")
