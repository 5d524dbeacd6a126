"""Scores of one model on some rows, and settings as flat parameters."""

from __future__ import annotations

import math

import numpy as np
from pydantic import BaseModel

from components.common.result import Scalar
from data_schemas.features import Features
from evaluation.metrics import score
from evaluation.rows import PredictedRows


def overall_scores(features: Features, rows: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Score a model's probabilities.

    Args:
        features: The features, for labels and patients.
        rows: int ``[m]``, the rows predicted, one at least.
        probabilities: float ``[m, classes]``.

    Returns:
        The finite ones of ``evaluation.metrics.OVERALL_METRICS``.
    """
    patients = features.samples["patient_id"].to_numpy()[rows]
    predicted = PredictedRows(
        labels=features.labels[rows],
        probabilities=probabilities,
        groups=np.unique(patients, return_inverse=True)[1],
        rows=rows,
        folds=features.samples["fold"].to_numpy()[rows],
    )
    return {name: float(value) for name, value in score(predicted).overall.items() if math.isfinite(value)}


def flat_settings(settings: BaseModel) -> dict[str, Scalar]:
    """Flatten settings to one level, as MLflow parameters are.

    Args:
        settings: Settings, possibly nested.

    Returns:
        Values by dotted name; sequences as text.
    """
    flat: dict[str, Scalar] = {}
    for name, value in settings.model_dump(mode="json").items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": _scalar(content) for inner, content in value.items()}
        else:
            flat[name] = _scalar(value)
    return flat


def _scalar(value: object) -> Scalar:
    return value if isinstance(value, str | int | float | bool) else str(value)
