"""Small cohorts in the contract's format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from components.preprocess.calibrate import read_certificates
from components.preprocess.series import COLUMNS, encode_readings, grid_series
from components.preprocess.settings import PreprocessSettings
from data_schemas.cohort import TIME, Channel, ImageShape, Manifest, write_cohort

CHANNELS = [
    Channel(name="heart_rate", unit="/min", low=20.0, high=300.0),
    Channel(name="body_temperature", unit="Cel", low=25.0, high=45.0),
]
START = pd.Timestamp("2022-06-01T08:00:00Z")


def build_patients(labels: list[str | None], prefix: str = "p") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "patient_id": [f"{prefix}{i:03d}" for i in range(len(labels))],
            "label": labels,
            "labels": pd.Series([[label] for label in labels], dtype=object),
            "site": None,
            "sex": "unknown",
            "birth_year": pd.array([1960] * len(labels), dtype="Int32"),
        }
    )


def build_observations(rows: list[tuple]) -> pd.DataFrame:
    """Rows of (patient, device, channel, hours since START, value)."""
    frame = pd.DataFrame(rows, columns=["patient_id", "device_id", "channel", "hours", "value"])
    frame["time"] = START + pd.to_timedelta(frame["hours"].astype(float), unit="h")
    frame["value"] = frame["value"].astype(float)
    return frame.assign(unit="1")


@pytest.fixture
def observations_frame() -> Callable[[list[tuple]], pd.DataFrame]:
    return build_observations


@pytest.fixture
def make_cohort(tmp_path: Path) -> Callable[..., Path]:
    """Write a cohort: by default 2 classes of 10 patients with 2 channels, an image and a note each."""

    def make(
        name: str = "cohort",
        labels: list[str | None] | None = None,
        observations: pd.DataFrame | None = None,
        *,
        prefix: str = "p",
        classes: list[str] | None = None,
        channels: list[Channel] | None = None,
        documents: bool = True,
        **tables: pd.DataFrame,
    ) -> Path:
        labels = ["ill", "well"] * 10 if labels is None else labels
        patients = build_patients(labels, prefix)
        if observations is None:
            random = np.random.default_rng(3)
            observations = build_observations(
                [
                    (patient, "", channel, hour, centre + random.normal())
                    for patient in patients["patient_id"]
                    for channel, centre in (("heart_rate", 80), ("body_temperature", 37))
                    for hour in (0, 5, 6.5, 30)
                ]
            )
        images = None
        if documents:
            size = len(patients)
            images = np.random.default_rng(4).random((size, 6, 5, 1)).astype(np.float32)
            dated = {"patient_id": patients["patient_id"], "time": START}
            tables.setdefault("notes", pd.DataFrame(dated | {"text": [f"note {i}" for i in range(size)]}))
            tables.setdefault("images", pd.DataFrame(dated | {"modality": "MR", "row": np.arange(size)[::-1]}))
        manifest = Manifest(
            name="small",
            classes=["well", "ill"] if classes is None else classes,
            channels=CHANNELS if channels is None else channels,
            image=ImageShape(height=6, width=5, channels=1) if documents else None,
            counts={"patients": len(patients)},
            provenance={"synthetic": True},
            digest="0" * 64,
        )
        folder = tmp_path / name
        folder.mkdir()
        write_cohort(folder, manifest, {"patients": patients, "observations": observations, **tables}, images)
        return folder

    return make


def prepare_series(
    observations: pd.DataFrame,
    devices: pd.DataFrame,
    channels: Sequence[Channel],
    settings: PreprocessSettings,
) -> tuple[np.ndarray, np.ndarray]:
    """Prepare the series of one or a few patients from tables in the cohort's form.

    Args:
        observations: Columns device_id, channel, time (with time zone), value, and patient_id where there is more
            than one patient; in any order.
        devices: Calibration certificates: device_id, channel, gain, bias, clock_offset_seconds; may be empty.
        channels: Channels in the order of the series' last axis, as in the features' manifest.
        settings: The settings that the model was trained with.

    Returns:
        float32 ``[n, steps, channels]`` and bool ``[n, steps, channels]`` (measured, not imputed), patients in the
        order of their first row; one patient where there is no column patient_id, even without rows.

    Raises:
        InputError: An observation lacks its device, channel or time, or a certificate cannot be used.
    """
    if "patient_id" not in observations:
        observations = observations.assign(patient_id="")
        patients = [""]
    else:
        patients = list(pd.unique(observations["patient_id"]))
    certificates = read_certificates(devices, [channel.name for channel in channels])
    types = {"patient_id": pa.string(), "device_id": pa.string(), "channel": pa.string(), "time": TIME}
    schema = pa.schema([(name, types.get(name, pa.float64())) for name in COLUMNS])
    table = pa.Table.from_pandas(observations[list(COLUMNS)], schema=schema, preserve_index=False)
    readings = encode_readings(table, patients, channels, certificates)
    prepared = grid_series(readings, len(patients), channels, certificates, settings)
    return prepared.series, prepared.observed
