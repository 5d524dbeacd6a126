"""A small cohort with every table, and the interpreter that has TFDV."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from components.validate.interpreter import find_interpreter
from data_schemas.cohort import Channel, Cohort, ImageShape, Manifest, write_cohort
from data_schemas.errors import InputError

START = pd.Timestamp("2022-06-01T08:00:00Z")
PATIENTS = 12


def cohort_tables() -> dict[str, pd.DataFrame]:
    """Return the tables of 12 patients: 2 channels with 3 readings each, 2 annotators, a note and an image each."""
    identifiers = pd.Series([f"p{i:02d}" for i in range(PATIENTS)])
    labels = pd.Series(["well", "ill", "mixed"] * (PATIENTS // 3))
    channels = pd.DataFrame(
        {"channel": ["heart_rate", "body_temperature"], "unit": ["/min", "Cel"], "base": [80.0, 37.0]}
    )
    hours = pd.DataFrame({"hour": [0, 6, 12]})
    grid = pd.DataFrame({"patient_id": identifiers}).merge(channels, how="cross").merge(hours, how="cross")
    once = {"patient_id": identifiers, "time": START}
    return {
        "patients": pd.DataFrame(
            {
                "patient_id": identifiers,
                "label": labels,
                "labels": [[label] for label in labels],
                "site": "north",
                "sex": ["female", "male"] * (PATIENTS // 2),
                "birth_year": pd.array([1950 + i for i in range(PATIENTS)], dtype="Int32"),
            }
        ),
        "observations": pd.DataFrame(
            {
                "patient_id": grid["patient_id"],
                "device_id": "",
                "channel": grid["channel"],
                "time": START + pd.to_timedelta(grid["hour"], unit="h"),
                "value": grid["base"] + grid["hour"] / 10 + grid.index % 5,
                "unit": grid["unit"],
            }
        ),
        "notes": pd.DataFrame(once | {"text": "one two three"}),
        "images": pd.DataFrame(once | {"modality": "MR", "row": np.arange(PATIENTS)}),
        "annotations": pd.concat([pd.DataFrame(once | {"annotator": name, "label": labels}) for name in ("a", "b")]),
        "rejected": pd.DataFrame({"file": ["f.csv"], "row": [7], "field": ["value"], "reason": ["is not a number"]}),
    }


@pytest.fixture
def make_cohort(tmp_path: Path) -> Callable[..., Cohort]:
    """Write the cohort; ``change`` may alter its tables and images first."""

    def make(
        change: Callable[[dict[str, pd.DataFrame], np.ndarray], None] | None = None, *, name: str = "cohort"
    ) -> Cohort:
        tables = cohort_tables()
        images = np.random.default_rng(0).random((PATIENTS, 4, 5, 1)).astype(np.float32)
        if change is not None:
            change(tables, images)
        manifest = Manifest(
            name="small",
            classes=["well", "ill", "mixed"],
            channels=[
                Channel(name="heart_rate", unit="/min", low=20, high=300),
                Channel(name="body_temperature", unit="Cel", low=25, high=45),
            ],
            image=ImageShape(height=4, width=5, channels=1),
            counts={"patients": PATIENTS},
            digest="0" * 64,
        )
        folder = tmp_path / name
        folder.mkdir()
        write_cohort(folder, manifest, tables, images)
        return Cohort.open(folder)

    return make


@pytest.fixture
def tfdv_interpreter() -> Path:
    """Return the interpreter that has TFDV, or skip."""
    try:
        return find_interpreter()
    except InputError as error:
        pytest.skip(f"no environment with TFDV: {error}")
