"""Time alignment: irregular readings of several devices onto one grid."""

from __future__ import annotations

from typing import Literal

import numpy as np

_LATEST = np.iinfo(np.int64).max
_EARLIEST = np.iinfo(np.int64).min


def window_references(
    patient: np.ndarray, time: np.ndarray, patients: int, anchor: Literal["first", "last"]
) -> tuple[np.ndarray, np.ndarray]:
    """Find the observation that anchors each patient's window.

    Args:
        patient: int ``[m]``, patient indices below ``patients``, in any order.
        time: int64 ``[m]``, microseconds.
        patients: Number of patients.
        anchor: "first" or "last" observation.

    Returns:
        int64 ``[patients]`` with the anchor's time (0 where a patient has no observation), and bool ``[patients]``:
        whether the patient has one.
    """
    reference = np.full(patients, _LATEST if anchor == "first" else _EARLIEST, dtype=np.int64)
    (np.minimum if anchor == "first" else np.maximum).at(reference, patient, time)
    seen = np.zeros(patients, dtype=bool)
    seen[patient] = True
    return np.where(seen, reference, 0), seen


def grid_steps(
    time: np.ndarray, reference: np.ndarray, *, anchor: Literal["first", "last"], step: int, steps: int
) -> np.ndarray:
    """Return the step of the grid that each reading falls into.

    With the anchor "first", step ``i`` covers ``[first + i * step, first + (i + 1) * step)``. With "last", the final
    step ends at the last observation and includes it: step ``i`` covers
    ``(last - (steps - i) * step, last - (steps - 1 - i) * step]``.

    Args:
        time: int64 ``[m]``, microseconds.
        reference: int64 ``[m]``, time of the anchor of each reading's patient, microseconds.
        anchor: "first" or "last" observation.
        step: Length of a step in microseconds.
        steps: Steps of the window.

    Returns:
        int64 ``[m]``; 0 to ``steps`` - 1 inside the window, below or above outside it.
    """
    if anchor == "first":
        return (time - reference) // step
    return steps - 1 - (reference - time) // step


def window_ends(reference: np.ndarray, *, anchor: Literal["first", "last"], step: int, steps: int) -> np.ndarray:
    """Return when each window ends.

    Args:
        reference: int64 ``[n]``, time of each patient's anchor, microseconds.
        anchor: "first" or "last" observation.
        step: Length of a step in microseconds.
        steps: Steps of the window.

    Returns:
        int64 ``[n]``, microseconds.
    """
    return reference + (steps * step if anchor == "first" else 0)


def aggregate_cells(
    cell: np.ndarray, time: np.ndarray, value: np.ndarray, cells: int, how: Literal["mean", "last"]
) -> np.ndarray:
    """Bring all readings of a cell down to one value.

    Args:
        cell: int64 ``[m]``, flat index of each reading's cell, below ``cells``.
        time: int64 ``[m]``, microseconds.
        value: float64 ``[m]``, finite.
        cells: Number of cells.
        how: "mean" of all readings of the cell, or the "last" one by time; readings that share the last time stamp
            are averaged, so that the order of the rows does not matter.

    Returns:
        float64 ``[cells]``; NaN where a cell has no reading.
    """
    if how == "last":
        latest = np.full(cells, _EARLIEST, dtype=np.int64)
        np.maximum.at(latest, cell, time)
        kept = time == latest[cell]
        cell, value = cell[kept], value[kept]
    count = np.bincount(cell, minlength=cells)
    total = np.bincount(cell, weights=value, minlength=cells)
    return np.divide(total, count, out=np.full(cells, np.nan), where=count > 0)
