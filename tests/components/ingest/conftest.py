from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from components.common.result import StepResult
from components.ingest.ingest import ingest_sources
from components.ingest.settings import IngestSettings
from data_schemas.cohort import Cohort

KEY = b"a secret key of tests"

SOURCE = """
name: tiny
synthetic: true
classes: [healthy, diabetes]
class_labels: {Z1: healthy, Z3: diabetes}
time_zone: Europe/Berlin
image_modality: XR
"""
# P3 tells neither sex nor birth date; on P4 the annotators disagree and nobody adjudicates.
PATIENTS = """mrn,name,sex,birth_date,site
P1,Ann Example,F,1960-07-01,north
P2,Bob Example,M,1970-01-01,south
P3,Cy Example,U,,north
P4,Di Example,F,1980-01-01,south
"""
OBSERVATIONS = """mrn,device_id,measurement,time,value,unit
P1,D1,blood_pressure,2024-07-01T10:00:00,120/80,mmHg
P1,D1,body_temperature,2024-07-01T10:00:00,98.6,°F
P1,D2,body_temperature,2024-07-01T11:00:00,98.6,°C
P1,D1,blood_glucose,2024-07-01T10:00:00,5.0,mmol/L
P1,D1,heart_rate,2024-07-01T10:00:00,70,bpm
P1,D1,heart_rate,2024-07-01T10:00:00,70,bpm
P1,D1,heart_rate,2024-07-01T10:05:00,0,bpm
P1,D1,heart_rate,2024-07-01T10:10:00,,bpm
P2,D1,heart_rate,2024-01-01T10:00:00,80,bpm
P2,D1,heart_rate,2024-01-01T10:00:00+05:00,81,bpm
P9,D1,heart_rate,2024-01-01T10:00:00,80,bpm
P1,D1,steps,2024-07-01T10:00:00,100,1
P4,D1,heart_rate,2024-01-01T10:00:00,80,bpm
"""
DEVICES = """device_id,measurement,gain,bias,clock_offset_seconds
D1,blood_pressure,1.02,1.5,30
D1,heart_rate,1,0,30
"""
NOTES = """mrn,time,text
P1,2024-07-01T10:00:00,"Thirsty, no chest pain
second line"
P2,2024-01-01T10:00:00,
"""
ANNOTATIONS = """mrn,annotator,label,time
P1,first,Z1,2024-08-01T00:00:00
P1,second,Z1,2024-08-01T00:00:00
P2,first,Z1,2024-08-01T00:00:00
P2,second,Z3,2024-08-01T00:00:00
P2,adjudicator,Z3,2024-08-02T00:00:00
P3,first,Z3,2024-08-01T00:00:00
P3,second,Z3,2024-08-01T00:00:00
P4,first,Z1,2024-08-01T00:00:00
P4,second,Z3,2024-08-01T00:00:00
"""
IMAGES = """mrn,time,modality,file
P2,2024-01-01T10:00:00,,deep.png
P1,2024-07-01T10:00:00,CT,grey.png
P3,2024-01-01T10:00:00,,large.png
"""


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A hospital export of four patients, small enough to compute everything by hand."""
    folder = tmp_path / "export"
    (folder / "observations").mkdir(parents=True)
    (folder / "images").mkdir()
    files = {
        "source.yaml": SOURCE,
        "patients.csv": PATIENTS,
        "observations/a.csv": OBSERVATIONS,
        "devices.csv": DEVICES,
        "notes.csv": NOTES,
        "annotations.csv": ANNOTATIONS,
        "images/images.csv": IMAGES,
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    pd.DataFrame(
        {
            "mrn": ["P3"],
            "device_id": ["D3"],
            "measurement": ["heart_rate"],
            "time": pd.to_datetime(["2024-01-01T10:00:00"]),
            "value": [65.5],
            "unit": ["/min"],
        }
    ).to_parquet(folder / "observations" / "b.parquet")
    Image.fromarray(np.full((4, 6), 51, dtype=np.uint8)).save(folder / "images" / "grey.png")
    Image.fromarray(np.full((4, 6), 32768, dtype=np.uint16)).save(folder / "images" / "deep.png")
    Image.fromarray(np.full((8, 12), 255, dtype=np.uint8)).save(folder / "images" / "large.png")
    return folder


Ingest = Callable[..., tuple[StepResult, Cohort]]


@pytest.fixture
def ingest(tmp_path: Path) -> Ingest:
    """Run the step with settings given as keywords; returns its result and the cohort."""

    def run(*sources: dict, key: bytes = KEY, output: str = "cohort", **settings: object) -> tuple[StepResult, Cohort]:
        section = IngestSettings.model_validate({"name": "tests", "sources": list(sources), **settings})
        result = ingest_sources(tmp_path / output, section, pseudonym_key=key)
        return result, Cohort.open(tmp_path / output)

    return run
