"""The examples that TFDV reads: one row a patient, every column a list."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from components.validate.tables import CohortTables

CHANNEL_PREFIX = "channel:"
_OF_PATIENTS = ("notes", "images", "annotations")
# Examples that TFDV takes at a time.
ROW_GROUP = 1000


def write_examples(tables: CohortTables, folder: Path, patients: int) -> int:
    """Write the examples of a cohort into some files, so that several workers may read them.

    Args:
        tables: The cohort's tables.
        folder: An existing, empty folder.
        patients: Examples in a file.

    Returns:
        Number of files.
    """
    ordered = _by_patient(tables)
    number = 0
    for start, stop, observations in tables.observations(patients):
        examples = build_examples(
            _of_patients(ordered, start, stop), observations.assign(patient=observations["patient"] - start)
        )
        pq.write_table(examples, folder / f"examples-{number:05d}.parquet", row_group_size=ROW_GROUP)
        number += 1
    return number


def _by_patient(tables: CohortTables) -> CohortTables:
    """Sort the tables by patient, where they are not; rows of unknown patients come first."""
    changed = {}
    for name in _OF_PATIENTS:
        table = getattr(tables, name)
        if not table["patient"].is_monotonic_increasing:
            changed[name] = table.sort_values("patient", kind="stable")
    return replace(tables, **changed)


def _of_patients(tables: CohortTables, start: int, stop: int) -> CohortTables:
    """Return the rows of some patients, who are numbered from 0 then; the tables are in the order of the patients."""
    parts = {}
    for name in _OF_PATIENTS:
        table = getattr(tables, name)
        first, last = np.searchsorted(table["patient"].to_numpy(), (start, stop))
        own = table.iloc[first:last]
        parts[name] = own.assign(patient=own["patient"] - start)
    return replace(tables, patients=tables.patients.iloc[start:stop].reset_index(drop=True), **parts)


def build_examples(tables: CohortTables, observations: pd.DataFrame) -> pa.Table:
    """Turn patients into one example each.

    Args:
        tables: The patients' tables.
        observations: Their observations, as ``CohortTables.observations`` yields them, but for the index of the
            patient, which is that in these tables; rows of other patients have a negative one.

    Returns:
        A table of list columns, null where a patient has no value: label, annotation, site, sex, age,
        observations, notes, note_words, images, image_brightness, and ``channel:<name>`` with all the patient's
        values. No identifiers, no text.
    """
    patients = tables.patients
    number = len(patients)
    first = observations.groupby("patient")["time"].min().reindex(range(number))
    age = first.dt.year.to_numpy(np.float64) - patients["birth_year"].to_numpy(np.float64, na_value=np.nan)
    image_rows = tables.images["row"].to_numpy(np.int64)
    stored = (image_rows >= 0) & (image_rows < len(tables.brightness))
    columns = {
        "label": _single(patients["label"], pa.string()),
        "annotation": _lists(tables.annotations["patient"], tables.annotations["label"], number, pa.string()),
        "site": _single(patients["site"], pa.string()),
        "sex": _single(patients["sex"], pa.string()),
        "age": _single(pd.Series(age), pa.float64()),
        "observations": _counts(observations["patient"], number),
        "notes": _counts(tables.notes["patient"], number),
        "note_words": _lists(tables.notes["patient"], tables.notes["words"], number, pa.int64()),
        "images": _counts(tables.images["patient"], number),
        "image_brightness": _lists(
            tables.images["patient"][stored], tables.brightness[image_rows[stored]], number, pa.float64()
        ),
    }
    channel = observations["channel"].to_numpy()
    for position, name in enumerate(tables.manifest.channel_names):
        rows = observations[channel == position]
        columns[f"{CHANNEL_PREFIX}{name}"] = _lists(rows["patient"], rows["value"], number, pa.float64())
    return pa.table(columns)


def _single(values: pd.Series, kind: pa.DataType) -> pa.ListArray:
    """Return lists of one value; null where it is missing."""
    return _lists(np.arange(len(values)), values, len(values), kind)


def _counts(patient: pd.Series, number: int) -> pa.ListArray:
    """Return how many rows each patient has, as lists of one value."""
    known = patient.to_numpy()[patient.to_numpy() >= 0]
    return _single(pd.Series(np.bincount(known, minlength=number)), pa.int64())


def _lists(
    patient: pd.Series | np.ndarray, values: pd.Series | np.ndarray, number: int, kind: pa.DataType
) -> pa.ListArray:
    """Gather values by patient into lists; null where a patient has none."""
    series = pd.Series(np.asarray(values, dtype=object) if kind == pa.string() else np.asarray(values))
    owner = np.asarray(patient, dtype=np.int64)
    kept = (owner >= 0) & series.notna().to_numpy()
    owner, series = owner[kept], series[kept]
    order = np.argsort(owner, kind="stable")
    offsets = np.searchsorted(owner[order], np.arange(number + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(
        pa.array(offsets),
        pa.array(series.to_numpy()[order], type=kind),
        mask=pa.array(np.diff(offsets) == 0),
    )
