"""Writer of the paper's Table I: one row a day, without devices, gaps in clocks, images or notes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from components.common.files import atomic_file, atomic_folder
from components.common.result import ignore_progress
from components.ingest.demo.classes import CLASSES
from components.ingest.demo.patients import Patients, draw_patients
from components.ingest.demo.physiology import CHANNELS, DAY_SECONDS, simulate
from components.ingest.demo.randomness import stream
from components.ingest.demo.settings import DemoSettings

PRESSURE = "Blood pressure (mmHg)"
TEMPERATURE = "Body temperature (°C)"
GLUCOSE = "Blood glucose (mg/dL)"
SATURATION = "Blood oxygen saturation (%)"
_BLOCK = 1000


def write_table_one(output: Path, settings: DemoSettings, progress: Callable[[str], None] = ignore_progress) -> None:
    """Write a cohort's daily means in the format of the paper's Table I.

    Args:
        output: A path that ends in ``.csv`` gets one file with the columns Patient and Diagnosis. Any other becomes a
            folder with one file a patient, without these columns, and labels.csv (file, label).
        settings: Settings of the cohort; every patient has a value every day, as in the paper.
        progress: Called with a few words on what is being done.
    """
    patients = draw_patients(settings)
    parts = []
    for number, start in enumerate(range(0, len(patients), _BLOCK)):
        progress(f"patients {start + 1} to {min(start + _BLOCK, len(patients))} of {len(patients)}")
        parts.append(_daily_means(number, patients.block(start, start + _BLOCK), settings))
    table = pd.concat(parts, ignore_index=True)
    if output.suffix == ".csv":
        with atomic_file(output) as file:
            table.to_csv(file, index=False)
    else:
        _write_folder(output, table)
    progress("done")


def _daily_means(number: int, patients: Patients, settings: DemoSettings) -> pd.DataFrame:
    """Return Table I of a block: Patient, Diagnosis, Date and the four measurements, as text where they are."""
    rng = stream(settings.seed, "series", number)
    series = simulate(rng, patients, settings)
    shape = (len(patients), settings.days, settings.samples_a_day, len(CHANNELS))
    means = series.values.reshape(shape).mean(axis=2)
    rows = np.repeat(np.arange(len(patients)), settings.days)
    daily = dict(zip(CHANNELS, means.reshape(-1, len(CHANNELS)).T, strict=True))
    dates = pd.Series(np.repeat(patients.start, settings.days)).astype("datetime64[s]")
    dates += pd.to_timedelta(np.tile(np.arange(settings.days), len(patients)) * DAY_SECONDS, unit="s")
    whole = {name: pd.Series(daily[name]).round().astype(int).astype(str) for name in CHANNELS}
    columns = {
        PRESSURE: whole["systolic_pressure"] + "/" + whole["diastolic_pressure"],
        TEMPERATURE: pd.Series(daily["body_temperature"]).round(1).astype(str),
        GLUCOSE: whole["blood_glucose"],
        SATURATION: whole["oxygen_saturation"],
    }
    return pd.DataFrame(
        {
            "Patient": patients.mrn[rows],
            "Diagnosis": np.array(CLASSES, dtype=object)[patients.label[rows]],
            # Without leading zeros, as in the paper: 2022-6-1.
            "Date": dates.dt.year.astype(str) + "-" + dates.dt.month.astype(str) + "-" + dates.dt.day.astype(str),
            **columns,
        }
    )


def _write_folder(output: Path, table: pd.DataFrame) -> None:
    with atomic_folder(output) as folder:
        groups = table.groupby("Patient", sort=False)
        labels = groups["Diagnosis"].first()
        files = pd.Series(
            [f"patient-{number:06d}.csv" for number in range(1, len(labels) + 1)], index=labels.index, name="file"
        )
        for patient, rows in groups:
            rows.drop(columns=["Patient", "Diagnosis"]).to_csv(folder / files[patient], index=False)
        pd.DataFrame({"file": files, "label": labels}).to_csv(folder / "labels.csv", index=False)
