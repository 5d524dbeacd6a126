"""What MLflow needs to log a model folder: code, signature, input example, requirements, metadata."""

from __future__ import annotations

import base64
import io
import json
import shutil
from importlib import metadata as package_metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from PIL import Image

from serving.patients import Patient
from serving.predictor import ARTIFACT

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

__all__ = ["ARTIFACT", "MODEL_SCRIPT", "input_example", "metadata", "requirements", "signature", "stage_code"]

_ROOT = Path(__file__).resolve().parent.parent
MODEL_SCRIPT = _ROOT / "serving" / "mlflow_model.py"
# What the predictor imports at run time: none of it imports TensorFlow, Keras, KFP or scikit-learn.
_CODE = (
    "components/__init__.py",
    *(f"components/common/{name}.py" for name in ("__init__", "result", "settings")),
    *(f"components/ingest/{name}.py" for name in ("__init__", "clean", "images", "rejections", "source_tables")),
    "components/ingest/tabular.py",
    *(f"components/preprocess/{name}.py" for name in ("__init__", "align", "calibrate", "denoise", "documents")),
    *(f"components/preprocess/{name}.py" for name in ("impute", "series", "settings")),
    "data_schemas",
    *(f"evaluation/{name}.py" for name in ("__init__", "recalibration")),
    *(
        f"serving/{name}.py"
        for name in ("__init__", "images", "patients", "predictor", "preparation", "readings", "table")
    ),
    "training/__init__.py",
    "training/onnx_session.py",
    "training/text.py",
)
_LIBRARIES = ("mlflow", "onnxruntime", "numpy", "scipy", "pandas", "pyarrow", "pydantic", "pillow", "PyYAML")


def stage_code(target: Path) -> list[str]:
    """Copy the code that travels with the model, so that it needs no installation of vitalfuse.

    Args:
        target: A folder to make.

    Returns:
        The packages in it, as MLflow's ``code_paths``.
    """
    target.mkdir()
    for name in _CODE:
        source, copy = _ROOT / name, target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__", "README.md"))
        else:
            shutil.copy(source, copy)
    return [str(folder) for folder in sorted(target.iterdir())]


def requirements() -> list[str]:
    """Return the pinned libraries that the served model needs: no TensorFlow among them."""
    return [f"{name}=={package_metadata.version(name)}" for name in _LIBRARIES]


def _contract(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "contract.json").read_text())


def signature(folder: Path) -> ModelSignature:
    """Return the model's signature.

    Observations and images are left to ``serving.patients`` to check: its messages name the field and repeat nothing of
    the patient, while MLflow's repeat the values.

    Args:
        folder: Output of ``train``.

    Returns:
        Optional columns, those of ``Patient``; the columns of ``Diagnosis``.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec
    from mlflow.types.schema import AnyType, Array, Map, Object, Property

    inputs: list[ColSpec | TensorSpec] = [ColSpec(AnyType(), name, required=False) for name in Patient.model_fields]
    model = Object([Property(name, DataType.string, required=False) for name in ("name", "version", "cohort_digest")])
    outputs: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.string, "diagnosis"),
        ColSpec(Map(DataType.double), "probabilities"),
        ColSpec(Array(DataType.string), "conformal_set", required=False),
        ColSpec(Map(DataType.double), "attention"),
        ColSpec(Array(DataType.string), "modalities"),
        ColSpec(model, "model"),
        ColSpec(Array(DataType.string), "warnings"),
    ]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs))


def input_example(folder: Path) -> pd.DataFrame:
    """Return an input example that no patient is behind: each channel in the middle of its plausible range.

    Args:
        folder: Output of ``train``.

    Returns:
        One row.
    """
    contract = _contract(folder)
    row: dict[str, Any] = {}
    if "series" in contract["modalities"]:
        row["observations"] = [
            {
                "channel": channel["name"],
                "time": f"2022-06-01T{8 + hour:02d}:00:00+02:00",
                "value": (channel["low"] + channel["high"]) / 2,
                "unit": channel["unit"],
            }
            for hour in range(2)
            for channel in contract["channels"]
        ]
    if "image" in contract["modalities"]:
        row["image"] = _grey_image(contract["image"])
    if "text" in contract["modalities"]:
        row["note"] = "No history of chest pain. Blood pressure 120/80."
    return pd.DataFrame([row])


def _grey_image(shape: dict[str, int]) -> str:
    stream = io.BytesIO()
    mode, colour = ("L", 128) if shape["channels"] == 1 else ("RGB", (128, 128, 128))
    Image.new(mode, (shape["width"], shape["height"]), colour).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def metadata(folder: Path) -> dict[str, Any]:
    """Return what MLflow keeps with the model: the contract in short, and the form of a request.

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
        "request_schema": Patient.model_json_schema(),
    }
