"""Seconds for one diagnosis, by class (Fig. 7 of the paper)."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from data_schemas.features import Features

SAMPLES_PER_CLASS = 20


def seconds_by_class(
    diagnose: Callable[[int], object], features: Features, rows: np.ndarray, most: int = SAMPLES_PER_CLASS
) -> dict[str, float]:
    """Time a function on single samples.

    Args:
        diagnose: Predicts one row.
        features: The features, for the labels.
        rows: int ``[m]``, rows to time.
        most: Most rows of a class.

    Returns:
        Median wall seconds by class name, after one untimed call; classes without a row are left out.
    """
    if not len(rows):
        return {}
    diagnose(int(rows[0]))
    labels = features.labels[rows]
    return {
        name: float(np.median([_seconds(diagnose, int(row)) for row in rows[labels == place][:most]]))
        for place, name in enumerate(features.manifest.classes)
        if (labels == place).any()
    }


def _seconds(diagnose: Callable[[int], object], row: int) -> float:
    started = time.perf_counter()
    diagnose(row)
    return time.perf_counter() - started
