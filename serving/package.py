"""What MLflow needs to log a model folder: code, signature, input example, requirements, metadata."""

from __future__ import annotations

import json
from importlib import metadata as package_metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from data_schemas.features import MODALITIES
from serving.predictor import IMAGE, NOTE, OBSERVED, SERIES

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

ARTIFACT = "model"
_ROOT = Path(__file__).resolve().parent.parent
MODEL_SCRIPT = _ROOT / "serving" / "mlflow_model.py"
# What the predictor imports at run time; training/text.py imports neither TensorFlow nor Keras.
_PACKAGES = ("data_schemas", "serving", "training")
_LIBRARIES = ("mlflow", "onnxruntime", "numpy", "pandas", "pyarrow", "pydantic")


def code_paths() -> list[str]:
    """Return the packages that travel with the model, so that it needs no installation of vitalfuse."""
    return [str(_ROOT / name) for name in _PACKAGES]


def requirements() -> list[str]:
    """Return the pinned libraries that the served model needs: no TensorFlow among them."""
    return [f"{name}=={package_metadata.version(name)}" for name in _LIBRARIES]


def _contract(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "contract.json").read_text())


def signature(folder: Path) -> ModelSignature:
    """Return the model's signature.

    Args:
        folder: Output of ``train``.

    Returns:
        Optional columns for the modalities that the model reads; a diagnosis, probabilities and attention.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec
    from mlflow.types.schema import Array

    contract = _contract(folder)
    numbers = Array(Array(DataType.double))
    columns: list[ColSpec | TensorSpec] = []
    if SERIES in contract["modalities"]:
        columns.append(ColSpec(numbers, SERIES, required=False))
        columns.append(ColSpec(Array(Array(DataType.boolean)), OBSERVED, required=False))
    if IMAGE in contract["modalities"]:
        columns.append(ColSpec(Array(numbers), IMAGE, required=False))
    if "text" in contract["modalities"]:
        columns.append(ColSpec(DataType.string, NOTE, required=False))
    outputs: list[ColSpec | TensorSpec] = [ColSpec(DataType.string, "diagnosis")]
    outputs += [ColSpec(DataType.double, f"probability:{name}") for name in contract["classes"]]
    outputs += [ColSpec(DataType.double, f"attention:{name}") for name in MODALITIES]
    return ModelSignature(inputs=Schema(columns), outputs=Schema(outputs))


def input_example(folder: Path) -> pd.DataFrame:
    """Return an input example that no patient is behind: each channel in the middle of its plausible range.

    Args:
        folder: Output of ``train``.

    Returns:
        One row.
    """
    contract = _contract(folder)
    shapes = {item["name"]: item["shape"][1:] for item in contract["inputs"]}
    row: dict[str, Any] = {}
    if SERIES in contract["modalities"]:
        middle = [(channel["low"] + channel["high"]) / 2 for channel in contract["channels"]]
        row[SERIES] = [middle] * contract["steps"]
        row[OBSERVED] = [[True] * len(middle)] * contract["steps"]
    if IMAGE in contract["modalities"]:
        row[IMAGE] = np.full(shapes[IMAGE], 0.5).tolist()
    if "text" in contract["modalities"]:
        row[NOTE] = "No history of chest pain. Blood pressure 120/80."
    return pd.DataFrame([row])


def metadata(folder: Path) -> dict[str, Any]:
    """Return what MLflow keeps with the model: the contract in short.

    Args:
        folder: Output of ``train``.

    Returns:
        JSON values.
    """
    contract = _contract(folder)
    return {
        "classes": contract["classes"],
        "channels": [f"{channel['name']} ({channel['unit']})" for channel in contract["channels"]],
        "modalities": contract["modalities"],
        "cohort_digest": contract["cohort_digest"],
        "intended_use": contract["intended_use"],
    }
