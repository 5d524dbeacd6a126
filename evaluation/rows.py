"""Predicted rows of one model: what every metric, interval and plot is computed from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PROBABILITY_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class PredictedRows:
    """Labels and class probabilities of one model for some rows.

    Attributes:
        labels: int ``[n]``, index of the true class.
        probabilities: float ``[n, classes]``, in [0, 1], each row summing to 1.
        groups: int ``[n]``, a code for the patient; resampling keeps a patient's rows together.
        rows: int ``[n]``, index into the features; the same row means the same sample for every model.
        folds: int ``[n]``, the fold that was held out; -1 for test rows.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    groups: np.ndarray
    rows: np.ndarray
    folds: np.ndarray

    def __post_init__(self) -> None:
        """Check that the arrays fit together.

        Raises:
            ValueError: Lengths differ, a label is no class index, or probabilities are not probabilities.
        """
        if self.probabilities.ndim != 2 or self.probabilities.shape[1] < 2:
            raise ValueError(f"Probabilities need the shape [n, classes >= 2]; received {self.probabilities.shape}.")
        lengths = {len(a) for a in (self.labels, self.probabilities, self.groups, self.rows, self.folds)}
        if len(lengths) != 1:
            raise ValueError(f"All arrays need one length; received the lengths {sorted(lengths)}.")
        if len(self) == 0:
            return
        if self.labels.min() < 0 or self.labels.max() >= self.probabilities.shape[1]:
            raise ValueError(
                f"Labels need to be in 0 to {self.probabilities.shape[1] - 1}; "
                f"received {self.labels.min()} to {self.labels.max()}."
            )
        if not np.isfinite(self.probabilities).all() or self.probabilities.min() < 0:
            raise ValueError("Probabilities need to be finite and not negative.")
        deviation = np.abs(self.probabilities.sum(axis=1) - 1).max()
        if deviation > PROBABILITY_SUM_TOLERANCE:
            raise ValueError(f"Each row's probabilities need to sum to 1; one is off by {deviation:.3g}.")

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.labels)

    @property
    def class_count(self) -> int:
        """Number of classes, whether or not all of them occur among the rows."""
        return int(self.probabilities.shape[1])

    @property
    def predicted(self) -> np.ndarray:
        """Class of the highest probability (the first of them on a tie): int ``[n]``."""
        return self.probabilities.argmax(axis=1)

    @property
    def group_count(self) -> int:
        """Number of patients."""
        return len(np.unique(self.groups))

    def select(self, chosen: np.ndarray) -> PredictedRows:
        """Return some of the rows.

        Args:
            chosen: Bool ``[n]`` or int indices.

        Returns:
            The chosen rows, in the order of ``chosen``.
        """
        return PredictedRows(
            self.labels[chosen],
            self.probabilities[chosen],
            self.groups[chosen],
            self.rows[chosen],
            self.folds[chosen],
        )


def common_rows(models: dict[str, PredictedRows]) -> dict[str, PredictedRows]:
    """Keep the rows that every model has predicted, in one order, so that models can be compared in pairs.

    Args:
        models: Rows by model name.

    Returns:
        The same models, each with the same rows sorted by ``rows``; no rows where none is common.

    Raises:
        ValueError: Two models disagree on a row's label or patient, or a model has a row twice.
    """
    if not models:
        return {}
    shared = np.unique(next(iter(models.values())).rows)
    for name, predicted in models.items():
        if len(np.unique(predicted.rows)) != len(predicted):
            raise ValueError(f"Each row needs one prediction a model; {name} has a row twice.")
        shared = np.intersect1d(shared, predicted.rows)
    kept = {}
    for name, predicted in models.items():
        order = np.argsort(predicted.rows, kind="stable")
        chosen = order[np.isin(predicted.rows[order], shared)]
        kept[name] = predicted.select(chosen)
    first = next(iter(kept.values()))
    for name, predicted in kept.items():
        if not (np.array_equal(predicted.labels, first.labels) and np.array_equal(predicted.groups, first.groups)):
            raise ValueError(f"Labels or patients of the common rows differ between models; {name} disagrees.")
    return kept
