"""Small cohorts in the contract's format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_cohorts import CHANNELS, START, observations_frame, patients_frame

from data_schemas.cohort import Channel, ImageShape, Manifest, write_cohort


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
        patients = patients_frame(labels, prefix)
        if observations is None:
            random = np.random.default_rng(3)
            observations = observations_frame(
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
