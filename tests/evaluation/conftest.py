"""Predicted rows to compute metrics from."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.rows import PredictedRows


def make_rows(labels: np.ndarray, probabilities: np.ndarray, *, groups: np.ndarray | None = None) -> PredictedRows:
    count = len(labels)
    return PredictedRows(
        labels=np.asarray(labels),
        probabilities=np.asarray(probabilities, dtype=np.float64),
        groups=np.arange(count) if groups is None else groups,
        rows=np.arange(count),
        folds=np.full(count, -1),
    )


def random_rows(count: int, classes: int, *, seed: int = 0, signal: float = 1.0) -> PredictedRows:
    """Every class occurs; probabilities favour the true class by ``signal`` in log odds."""
    random = np.random.default_rng(seed)
    labels = np.r_[np.arange(classes), random.integers(classes, size=count - classes)]
    logits = random.normal(size=(count, classes)) + signal * np.eye(classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return make_rows(labels, probabilities)


@pytest.fixture
def six_class_rows() -> PredictedRows:
    return random_rows(180, 6, seed=3, signal=1.5)
