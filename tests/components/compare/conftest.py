"""Synthetic outputs of the steps before: features, a candidate, cross-validations and a validation summary."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from components.compare.settings import CompareSettings
from data_schemas.predictions import (
    OUT_OF_FOLD,
    TEST,
    empty_predictions,
    predictions_frame,
    write_predictions,
)

PAPER_CLASSES = (
    "healthy",
    "cardiovascular_disease",
    "diabetes",
    "copd",
    "hypertension",
    "chronic_kidney_disease",
)
CANDIDATE = "cnn_lstm_attention"


@dataclass(frozen=True)
class Steps:
    """Folders of the steps before, and what they were made from."""

    features: Path
    candidate: Path
    cross_validations: list[Path]
    validation: Path
    samples: pd.DataFrame
    classes: list[str]

    def arguments(self) -> dict[str, object]:
        return {
            "features": self.features,
            "candidate": self.candidate,
            "cross_validations": self.cross_validations,
            "validation": self.validation,
        }


def write_features(
    folder: Path, samples: pd.DataFrame, classes: list[str], *, folds: int, synthetic: bool, images: bool
) -> None:
    folder.mkdir(parents=True)
    samples.to_parquet(folder / "samples.parquet", index=False)
    present = np.ones((len(samples), 3), dtype=bool)
    present[:, 1] = images
    present[::7, 2] = False
    np.save(folder / "present.npy", present)
    manifest = {
        "name": "fixture",
        "classes": classes,
        "channels": [{"name": "heart_rate", "unit": "/min", "low": 20, "high": 300}],
        "steps": 24,
        "step_seconds": 3600,
        "image": {"height": 32, "width": 32, "channels": 1} if images else None,
        "folds": folds,
        "cohort_digest": "sha256:0123456789abcdef",
        "synthetic": synthetic,
    }
    (folder / "features.json").write_text(json.dumps(manifest))


def make_samples(classes: list[str], *, patients: int, folds: int, missing_in_test: str | None) -> pd.DataFrame:
    random = np.random.default_rng(5)
    labels = np.array(classes)[np.arange(patients) % len(classes)]
    place = np.arange(patients) // len(classes)
    test = (place % 5 == 0) & (labels != missing_in_test)
    return pd.DataFrame(
        {
            "patient_id": [random.bytes(8).hex() for _ in range(patients)],
            "label": labels,
            "window_end": pd.Timestamp("2022-06-10", tz="UTC"),
            "split": np.where(test, "test", "train"),
            "fold": np.where(test, -1, (place + place // 5) % folds),
        }
    )


def make_probabilities(samples: pd.DataFrame, classes: list[str], rows: np.ndarray, signal: float, seed: int):
    random = np.random.default_rng(seed)
    labels = samples["label"].map({name: k for k, name in enumerate(classes)}).to_numpy()[rows]
    logits = random.normal(size=(len(rows), len(classes))) + signal * np.eye(len(classes))[labels]
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def write_model(
    folder: Path,
    model: str,
    samples: pd.DataFrame,
    classes: list[str],
    *,
    sets: tuple[str, ...],
    signal: float,
    seed: int,
    reason: str | None = None,
) -> Path:
    folder.mkdir(parents=True)
    frames = [empty_predictions(classes)] if reason else []
    for kind in () if reason else sets:
        rows = np.flatnonzero(samples["split"] == ("test" if kind == TEST else "train"))
        frames.append(
            predictions_frame(
                model=model,
                rows=rows,
                samples=samples,
                classes=classes,
                probabilities=make_probabilities(samples, classes, rows, signal, seed + len(kind)),
                prediction_set=kind,
                fold=samples["fold"].to_numpy()[rows],
            )
        )
    write_predictions(folder / "predictions.parquet", pd.concat(frames, ignore_index=True))
    seconds = {} if reason else {name: 0.004 + 0.001 * k for k, name in enumerate(classes)}
    (folder / "timing.json").write_text(json.dumps({"fit_seconds": [2.5], "seconds_per_diagnosis": seconds}))
    status = "not_applicable" if reason else "done"
    (folder / "summary.json").write_text(json.dumps({"model": model, "status": status, "reason": reason}))
    return folder


def write_steps(
    root: Path,
    *,
    classes: tuple[str, ...] = PAPER_CLASSES,
    patients: int = 180,
    folds: int = 5,
    signals: dict[str, float] | None = None,
    missing_in_test: str | None = None,
    synthetic: bool = True,
    images: bool = True,
) -> Steps:
    """Write everything that ``compare_models`` reads."""
    names = list(classes)
    samples = make_samples(names, patients=patients, folds=folds, missing_in_test=missing_in_test)
    write_features(root / "features", samples, names, folds=folds, synthetic=synthetic, images=images)
    signals = signals or {CANDIDATE: 3.0, "cnn": 1.5, "lstm": 1.2, "random_forest": 2.0}
    candidate = write_model(
        root / "candidate", CANDIDATE, samples, names, sets=(TEST,), signal=signals[CANDIDATE], seed=1
    )
    folders = []
    for i, (model, signal) in enumerate(signals.items()):
        reason = "the cohort has no images." if model == "cnn" and not images else None
        sets = (OUT_OF_FOLD,) if model == CANDIDATE else (OUT_OF_FOLD, TEST)
        folder = root / f"cross_validate_{model}"
        folders.append(
            write_model(folder, model, samples, names, sets=sets, signal=signal, seed=10 * (i + 1), reason=reason)
        )
    validation = root / "validation"
    validation.mkdir()
    summary = {
        "status": "warnings",
        "tfdv_version": "1.16.1",
        "anomalies": [
            {
                "feature": "heart_rate",
                "kind": "OUT_OF_RANGE",
                "severity": "warning",
                "reason": "3 values above the plausible range.",
            }
        ],
        "rejected": {
            "total": 7,
            "by_reason": [
                {"field": "value", "reason": "value is not a number", "rows": 5},
                {"field": None, "reason": "unknown unit", "rows": 2},
            ],
        },
    }
    warnings = ["heart_rate: 3 values above the plausible range (OUT_OF_RANGE)", "2 notes were empty"]
    (validation / "record.json").write_text(json.dumps({"warnings": warnings}))
    (validation / "summary.json").write_text(json.dumps(summary))
    return Steps(root / "features", candidate, folders, validation, samples, names)


@pytest.fixture(autouse=True)
def evidence_key(monkeypatch) -> str:
    """The key that a run on this machine has."""
    key = "the key of these tests"
    monkeypatch.setenv("VITALFUSE_EVIDENCE_KEY", key)
    return key


@pytest.fixture
def quick() -> CompareSettings:
    return CompareSettings(resamples=100)
