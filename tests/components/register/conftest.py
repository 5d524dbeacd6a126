from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_schemas.cohort import SCHEMAS, write_table
from data_schemas.predictions import write_predictions
from evaluation.metrics import score
from tests.components.compare.conftest import write_features
from tests.registry_store import CLASSES, predicted_rows, predictions


class Outputs:
    """Outputs of the steps before ``register``, for 60 held-out patients of three classes."""

    def __init__(self, root: Path, signal: float = 2.0) -> None:
        self.root = root
        self.frame = predictions(signal)
        test = self.frame[self.frame["set"] == "test"]
        count = len(self.frame)
        self.samples = pd.DataFrame(
            {
                "patient_id": self.frame["patient_id"],
                "label": self.frame["label"],
                "window_end": pd.Timestamp("2022-06-10", tz="UTC"),
                "split": np.where(self.frame["set"] == "test", "test", "train"),
                "fold": self.frame["fold"],
            }
        )
        write_features(root / "features", self.samples, CLASSES, folds=2, synthetic=True, images=False)
        series = np.random.default_rng(0).normal(80, 10, size=(count, 24, 1)).astype(np.float32)
        np.save(root / "features" / "series.npy", series)
        np.save(root / "features" / "series_observed.npy", np.ones(series.shape, dtype=bool))
        self.patients = pd.DataFrame(
            {
                "patient_id": self.frame["patient_id"],
                "label": self.frame["label"],
                "labels": [[label] for label in self.frame["label"]],
                "site": ["north" if i % 2 else "south" for i in range(count)],
                "sex": ["female" if i < 30 else "male" for i in range(count)],
                "birth_year": [1990 if i % 4 else 1950 for i in range(count)],
            }
        )
        self.write_patients()
        (root / "candidate").mkdir()
        write_predictions(root / "candidate" / "predictions.parquet", test)
        self.write_timing({"healthy": 0.001, "copd": 0.004})
        overall = score(predicted_rows(test)).overall
        self.write_scores(overall | {"intervals": {name: [value, value] for name, value in overall.items()}})
        self.write_anomalies([])

    def write_patients(self) -> None:
        cohort = self.root / "cohort"
        cohort.mkdir(exist_ok=True)
        write_table(cohort, "patients", self.patients)
        manifest = {
            "contract_version": 1,
            "name": "ward",
            "classes": CLASSES,
            "channels": [],
            "image": None,
            "counts": {"patients": len(self.patients)},
            "digest": "c" * 64,
        }
        (cohort / "manifest.json").write_text(json.dumps(manifest))

    def write_timing(self, seconds: dict[str, float]) -> None:
        (self.root / "candidate" / "timing.json").write_text(json.dumps({"seconds_per_diagnosis": seconds}))

    def write_scores(self, scores: dict) -> None:
        folder = self.root / "comparison"
        folder.mkdir(exist_ok=True)
        self.scores = scores
        document = {"candidate": "a", "best_model": "a", "models": {"a": {"test": scores}}}
        (folder / "metrics.json").write_text(json.dumps(document))

    def write_anomalies(self, anomalies: list[dict[str, str]]) -> None:
        folder = self.root / "validation"
        folder.mkdir(exist_ok=True)
        (folder / "summary.json").write_text(json.dumps({"anomalies": anomalies}))

    def paths(self) -> dict[str, Path]:
        names = ("cohort", "features", "validation", "candidate", "comparison")
        return {name: self.root / name for name in names}


@pytest.fixture
def outputs(tmp_path) -> Outputs:
    assert "patients" in SCHEMAS
    return Outputs(tmp_path / "steps")
