"""Patients as MLflow hands them on: a table with one row a patient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from serving.patients import Patient, parse_patients


def patients_of(table: pd.DataFrame) -> list[Patient]:
    """Turn a table into patients.

    Args:
        table: The columns of ``Patient``; None, NaN and NaT stand for what is not known.

    Returns:
        The patients.

    Raises:
        InvalidRequest: They are none.
    """
    return parse_patients([_known(row) for row in table.to_dict("records")])


def _known(row: dict[Any, Any]) -> dict[Any, Any]:
    """Leave out what a table has to have and a patient does not; turn arrays into lists."""
    kept = {name: value for name, value in row.items() if not _is_missing(value)}
    if isinstance(kept.get("observations"), np.ndarray | list):
        kept["observations"] = [
            {name: value for name, value in reading.items() if name == "value" or not _is_missing(value)}
            if isinstance(reading, dict)
            else reading
            for reading in kept["observations"]
        ]
    if isinstance(kept.get("image"), np.ndarray):
        kept["image"] = list(kept["image"])
    return kept


def _is_missing(value: object) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value)
