"""Figures on a model's answers that monitoring follows over time: with labels and without."""

from __future__ import annotations

import math

import numpy as np

from data_schemas.reference import AnswersReference, Figure
from evaluation.intervals import bootstrap_weights, percentile_interval
from evaluation.metrics import score
from evaluation.resampled import resampled_scores, weighted_mean
from evaluation.rows import PredictedRows

SCORES = ("macro_auc", "calibration_error", "coverage")


def score_answers(
    predicted: PredictedRows, sets: np.ndarray | None, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Figure]:
    """Score answers whose labels are known.

    Args:
        predicted: Rows with calibrated probabilities, one at least.
        sets: Bool ``[n, classes]``, the conformal sets; None where there are none.
        resamples: Bootstrap resamples of patients.
        confidence: Share of the resamples inside the intervals.
        seed: Seed of the resampling.

    Returns:
        macro_auc, calibration_error, and coverage (share of rows whose class is in the set) where there are sets.
    """
    values = {name: score(predicted).overall[name] for name in SCORES[:2]}
    weights = bootstrap_weights(predicted.labels, predicted.groups, resamples=resamples, seed=seed)
    resampled = {name: values for name, values in resampled_scores(predicted, weights)[0].items() if name in SCORES}
    if sets is not None:
        covered = sets[np.arange(len(predicted)), predicted.labels].astype(np.float64)
        values["coverage"] = float(covered.mean())
        resampled["coverage"] = weighted_mean(covered, weights)
    return {name: _figure(value, resampled[name], confidence) for name, value in values.items()}


def _figure(value: float, resampled: np.ndarray, confidence: float) -> Figure:
    bounds = percentile_interval(resampled, confidence)
    return Figure(value=_known(value), low=_known(bounds.low), high=_known(bounds.high))


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def describe_answers(
    probabilities: np.ndarray, abstained: np.ndarray | None, classes: list[str], scores: dict[str, Figure]
) -> AnswersReference:
    """Describe answers without their labels.

    Args:
        probabilities: float ``[n, classes]``, calibrated.
        abstained: Bool ``[n]``; None where the model never abstains for want of a calibration.
        classes: Class names.
        scores: Figures that needed labels, if any.

    Returns:
        The description.
    """
    rows = len(probabilities)
    top = np.bincount(probabilities.argmax(axis=1), minlength=len(classes)) if rows else np.zeros(len(classes))
    return AnswersReference(
        rows=rows,
        class_shares={name: float(top[place] / rows) if rows else 0.0 for place, name in enumerate(classes)},
        mean_confidence=float(probabilities.max(axis=1).mean()) if rows else None,
        abstention_rate=float(abstained.mean()) if abstained is not None and rows else None,
        scores=scores,
    )
