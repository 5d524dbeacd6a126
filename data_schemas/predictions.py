"""The predictions table: class probabilities of one model for some rows of the features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

OUT_OF_FOLD = "out_of_fold"
TEST = "test"
_PREFIX = "probability:"


def predictions_frame(
    *,
    model: str,
    rows: np.ndarray,
    samples: pd.DataFrame,
    classes: list[str],
    probabilities: np.ndarray,
    prediction_set: str,
    fold: int | np.ndarray = -1,
) -> pd.DataFrame:
    """Build the table for some rows.

    Args:
        model: Model name.
        rows: int ``[m]``, indices into the features.
        samples: The features' samples table (all rows).
        classes: Class names, in the order of the last axis of ``probabilities``.
        probabilities: float ``[m, classes]``, rows summing to 1.
        prediction_set: ``OUT_OF_FOLD`` or ``TEST``.
        fold: The fold that was held out, one for all rows or int ``[m]``; -1 for test rows.

    Returns:
        Columns sample, patient_id, label, model, set, fold and one ``probability:<class>`` a class.

    Raises:
        ValueError: Shapes do not fit.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.shape != (len(rows), len(classes)):
        raise ValueError(f"Probabilities need the shape {(len(rows), len(classes))}; received {probabilities.shape}.")
    chosen = samples.iloc[rows]
    frame = pd.DataFrame(
        {
            "sample": np.asarray(rows, dtype=np.int64),
            "patient_id": chosen["patient_id"].to_numpy(),
            "label": chosen["label"].to_numpy(),
            "model": model,
            "set": prediction_set,
            "fold": np.broadcast_to(np.asarray(fold, dtype=np.int64), (len(rows),)),
        }
    )
    columns = [f"{_PREFIX}{name}" for name in classes]
    return pd.concat([frame, pd.DataFrame(probabilities, columns=columns)], axis=1)


def empty_predictions(classes: list[str]) -> pd.DataFrame:
    """Return the table without rows, for a model that cannot run on this cohort.

    Args:
        classes: Class names.

    Returns:
        An empty table with all columns.
    """
    columns = {
        "sample": np.int64,
        "patient_id": object,
        "label": object,
        "model": object,
        "set": object,
        "fold": np.int64,
    }
    columns |= {f"{_PREFIX}{name}": np.float64 for name in classes}
    return pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in columns.items()})


def write_predictions(path: Path, frame: pd.DataFrame) -> None:
    """Write the table as Parquet.

    Args:
        path: File to write.
        frame: A table from ``predictions_frame`` or ``empty_predictions``.
    """
    frame.to_parquet(path, index=False)


def read_predictions(path: Path) -> pd.DataFrame:
    """Read the table.

    Args:
        path: A file from ``write_predictions``.

    Returns:
        The table.
    """
    return pd.read_parquet(path)


def class_probabilities(frame: pd.DataFrame, classes: list[str]) -> np.ndarray:
    """Return the probabilities as an array.

    Args:
        frame: A predictions table.
        classes: Class names, in the wanted order.

    Returns:
        float64 ``[rows, classes]``.
    """
    return frame[[f"{_PREFIX}{name}" for name in classes]].to_numpy(np.float64)
