"""The candidate on all training rows, exported and proven, test rows predicted once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from components.common.files import atomic_folder
from components.common.result import NestedResult, StepResult, ignore_progress
from components.common.scores import flat_settings, overall_scores
from components.train.settings import TrainSettings
from data_schemas.errors import InputError
from data_schemas.features import Features
from data_schemas.predictions import TEST, predictions_frame, write_predictions
from training.data import InputSpec
from training.distributed import Workers
from training.export import export_network, onnx_difference, onnx_seconds
from training.names import CANDIDATE
from training.neural import NeuralModel
from training.text import TextEmbedding


def fit_candidate(
    features: Path,
    embedding: Path,
    output: Path,
    settings: TrainSettings,
    progress: Callable[[str], None] = ignore_progress,
    workers: Workers | None = None,
) -> StepResult:
    """Fit the CNN-LSTM-attention model on the training rows, export it, and predict the test rows once.

    Early stopping looks at a validation part of the training rows; the test rows are read only when the fit is done.

    Args:
        features: The features folder.
        embedding: The output of ``embed_notes`` on the same features.
        output: The folder to write: model.keras, model.onnx, vocabulary.json, contract.json, settings.json,
            predictions.parquet (test rows), timing.json, history.json and summary.json.
        settings: The settings of the step.
        progress: Receives short texts on what is being done.
        workers: The processes that fit together, of which this is the chief; the others call ``help_fitting`` on the
            same arguments. None: this process fits alone.

    Returns:
        Metrics on the test rows (``test_...``), the best epoch, seconds, and the largest difference between ONNX and
        Keras; the history by epoch as a nested result.

    Raises:
        InputError: The cohort has no modality, or there are no test rows.
        RuntimeError: ONNX and Keras differ by more than 1e-5.
    """
    opened, vectors, model = _prepare(features, embedding, settings, workers)
    spec, test = model.spec, opened.test_rows
    progress("fitting")
    report = model.fit(opened, opened.train_rows, embedding=vectors)
    with atomic_folder(output) as folder:
        progress("exporting")
        export_network(model, opened, folder)
        difference = onnx_difference(model, folder, opened, test)
        progress("predicting the test rows")
        outputs = model.explain(opened, test)
        probabilities = model.predict(opened, test)
        frame = predictions_frame(
            model=CANDIDATE,
            rows=test,
            samples=opened.samples,
            classes=opened.manifest.classes,
            probabilities=probabilities,
            prediction_set=TEST,
        )
        write_predictions(folder / "predictions.parquet", frame)
        seconds = onnx_seconds(model, folder, opened, test)
        scores = overall_scores(opened, test, probabilities)
        attention = dict(zip(("series", "image", "text"), outputs["modality_attention"].mean(axis=0), strict=True))
        metrics = {f"test_{name}": value for name, value in scores.items()}
        metrics |= {f"attention_{name}": float(value) for name, value in attention.items()}
        metrics |= report.metrics | {"fit_seconds": report.seconds, "onnx_max_difference": difference}
        timing = {"fit_seconds": [report.seconds], "seconds_per_diagnosis": seconds}
        summary: dict[str, Any] = {"model": CANDIDATE, "status": "done", "reason": None, "metrics": metrics}
        summary["onnx_max_difference"] = difference
        for name, content in (
            ("settings", settings.model_dump(mode="json")),
            ("timing", timing),
            ("history", report.history),
            ("summary", summary),
        ):
            (folder / f"{name}.json").write_text(json.dumps(content, indent=2))
    return StepResult(
        metrics=metrics,
        params=flat_settings(settings),
        nested=[NestedResult(name="fit", params={"model": CANDIDATE}, metrics=report.metrics, history=report.history)],
        warnings=_warnings(spec, opened, report.metrics, settings),
    )


def help_fitting(features: Path, embedding: Path, settings: TrainSettings, workers: Workers) -> None:
    """Take part in the chief's fit, and write nothing.

    Args:
        features: The features folder.
        embedding: The output of ``embed_notes`` on the same features.
        settings: The settings of the step.
        workers: The processes that fit together.

    Raises:
        InputError: The cohort has no modality, or there are no test rows.
    """
    opened, vectors, model = _prepare(features, embedding, settings, workers)
    model.fit(opened, opened.train_rows, embedding=vectors)


def _prepare(
    features: Path, embedding: Path, settings: TrainSettings, workers: Workers | None
) -> tuple[Features, TextEmbedding, NeuralModel]:
    opened = Features.open(features)
    vectors = TextEmbedding.load(embedding)
    model = NeuralModel(
        CANDIDATE,
        InputSpec.of(opened),
        settings,
        words=len(vectors.vocabulary),
        dimensions=vectors.dimensions,
        workers=workers,
    )
    reason = model.unavailable()
    if reason or not len(opened.test_rows):
        raise InputError(reason or "there are no test rows", file=str(features), field="present.npy")
    return opened, vectors, model


def _warnings(spec: InputSpec, features: Features, metrics: dict[str, float], settings: TrainSettings) -> list[str]:
    warnings = []
    present = np.asarray(features.present[features.test_rows])
    for place, name in enumerate(("series", "image", "text")):
        if name not in spec.modalities and present[:, place].any():
            warnings.append(f"No training patient has the modality {name}: the model leaves it out.")
    if metrics["best_epoch"] >= settings.optimiser.epochs:
        warnings.append(f"The candidate was still improving at epoch {settings.optimiser.epochs}, its last.")
    return warnings
