"""The cross_validate step: one model through every fold, the same door for the candidate and every baseline."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from components.common.files import atomic_folder
from components.common.result import NestedResult, StepResult, ignore_progress
from components.common.scores import flat_settings, overall_scores
from components.cross_validate.settings import CrossValidateSettings
from data_schemas.features import Features
from data_schemas.predictions import (
    OUT_OF_FOLD,
    TEST,
    class_probabilities,
    empty_predictions,
    predictions_frame,
    write_predictions,
)
from training.data import InputSpec
from training.registry import DiagnosisModel, create_model
from training.timing import seconds_by_class


def cross_validate_model(
    model: str,
    features: Path,
    output: Path,
    settings: CrossValidateSettings,
    predict_test: bool,
    progress: Callable[[str], None] = ignore_progress,
) -> StepResult:
    """Fit a model on each fold's training rows and predict the rows that were held out.

    Everything that learns (z-score, Word2Vec, vocabulary, class weights, PCA, TF-IDF) is fitted again in every fold.

    Args:
        model: One of ``training.names.MODEL_NAMES``.
        features: The features folder.
        output: The folder to write: predictions.parquet, timing.json and summary.json.
        settings: The settings of the step.
        predict_test: Fit once more on all training rows and predict the test rows, once.
        progress: Receives short texts on what is being done.

    Returns:
        Metrics over all out-of-fold predictions, and on the test rows where asked; a nested result a fold with its
        metrics and history. Where the cohort lacks what the model reads: no predictions, status not_applicable, and
        a warning.

    Raises:
        ValueError: There is no such model.
    """
    opened = Features.open(features)
    fitted = create_model(model, settings, InputSpec.of(opened))
    reason = fitted.unavailable()
    if reason:
        return _not_applicable(model, reason, opened, output)
    frames: list[pd.DataFrame] = []
    nested: list[NestedResult] = []
    seconds: list[float] = []
    for fold in range(opened.manifest.folds):
        progress(f"fold {fold + 1}/{opened.manifest.folds}")
        fit_rows, held_out = opened.fold_rows(fold)
        frame, result = _fit_and_predict(fitted, opened, fit_rows, held_out, OUT_OF_FOLD, fold)
        frames.append(frame)
        nested.append(result)
        seconds.append(result.metrics["fit_seconds"])
    timed_rows = held_out
    metrics = _scores_of(opened, frames)
    if predict_test:
        progress("all training rows, then the test rows")
        timed_rows = opened.test_rows
        frame, result = _fit_and_predict(fitted, opened, opened.train_rows, timed_rows, TEST, -1)
        frames.append(frame)
        nested.append(result)
        metrics |= {f"test_{name}": value for name, value in _scores_of(opened, [frame]).items()}
    timing = {
        "fit_seconds": seconds,
        "seconds_per_diagnosis": seconds_by_class(
            lambda row: fitted.predict(opened, np.array([row])), opened, timed_rows
        ),
    }
    _write(
        output,
        pd.concat(frames, ignore_index=True),
        timing,
        {"model": model, "status": "done", "reason": None},
    )
    return StepResult(
        metrics=metrics | {"fit_seconds_mean": float(np.mean(seconds))},
        params={"model": model, **flat_settings(settings)},
        nested=nested,
    )


def _fit_and_predict(
    model: DiagnosisModel,
    features: Features,
    fit_rows: np.ndarray,
    predict_rows: np.ndarray,
    prediction_set: str,
    fold: int,
) -> tuple[pd.DataFrame, NestedResult]:
    report = model.fit(features, fit_rows)
    probabilities = model.predict(features, predict_rows)
    frame = predictions_frame(
        model=model.name,
        rows=predict_rows,
        samples=features.samples,
        classes=features.manifest.classes,
        probabilities=probabilities,
        prediction_set=prediction_set,
        fold=fold,
    )
    scores = overall_scores(features, predict_rows, probabilities)
    name = "test" if fold < 0 else f"fold {fold + 1}"
    return frame, NestedResult(
        name=f"{model.name} {name}",
        params={"model": model.name, "fold": fold, "set": prediction_set, "rows": len(fit_rows)},
        metrics=scores | report.metrics | {"fit_seconds": report.seconds},
        history=report.history,
    )


def _scores_of(features: Features, frames: list[pd.DataFrame]) -> dict[str, float]:
    joined = pd.concat(frames, ignore_index=True)
    probabilities = class_probabilities(joined, features.manifest.classes)
    return overall_scores(features, joined["sample"].to_numpy(), probabilities)


def _not_applicable(model: str, reason: str, features: Features, output: Path) -> StepResult:
    timing: dict[str, Any] = {"fit_seconds": [], "seconds_per_diagnosis": {}}
    summary = {"model": model, "status": "not_applicable", "reason": reason}
    _write(output, empty_predictions(features.manifest.classes), timing, summary)
    return StepResult(
        params={"model": model},
        tags={"status": "not_applicable"},
        warnings=[f"{model} was left out. {reason}"],
    )


def _write(output: Path, frame: pd.DataFrame, timing: dict[str, Any], summary: dict[str, Any]) -> None:
    with atomic_folder(output) as folder:
        write_predictions(folder / "predictions.parquet", frame)
        (folder / "timing.json").write_text(json.dumps(timing, indent=2))
        (folder / "summary.json").write_text(json.dumps(summary, indent=2))
