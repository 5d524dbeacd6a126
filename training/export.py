"""The files of a fitted network: Keras, ONNX and the contract, proven to agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnxruntime

from data_schemas.channels import load_catalogue
from data_schemas.cohort import write_table
from data_schemas.features import MODALITIES, Features, FeaturesManifest
from training.data import PREDICTION_BATCH, gather
from training.neural import NeuralModel
from training.onnx_session import open_onnx
from training.timing import seconds_by_class

TOLERANCE = 1e-5
INTENDED_USE = (
    "Research and evaluation of diagnosis support on data like the training cohort. Not a medical device; "
    "not for decisions on patients without a clinician and local validation."
)


def export_network(model: NeuralModel, features: Features, folder: Path) -> keras.Model:
    """Write the model and what its caller's raw data need.

    model.keras, model.onnx, vocabulary.json, channels.json (codes, units and ranges), devices.parquet (calibration
    certificates) and contract.json.

    Args:
        model: A fitted network.
        features: The features that it was fitted on, for channels and units.
        folder: An existing folder.

    Returns:
        The whole model, raw inputs to outputs.
    """
    whole = model.assemble()
    # Keras exports only models that have been called.
    whole.predict_on_batch(model.raw_inputs(features, features.train_rows[:1]))
    whole.save(folder / "model.keras")
    whole.export(folder / "model.onnx", format="onnx", verbose=False)
    vocabulary = json.dumps(model.embedding.vocabulary, ensure_ascii=False)
    (folder / "vocabulary.json").write_text(vocabulary)
    load_catalogue().write(folder / "channels.json")
    write_table(folder, "devices", features.devices)
    contract = build_contract(model, features.manifest, folder / "model.onnx")
    (folder / "contract.json").write_text(json.dumps(contract, indent=2, ensure_ascii=False))
    return whole


def build_contract(model: NeuralModel, manifest: FeaturesManifest, onnx_path: Path) -> dict[str, Any]:
    """Describe what the exported model takes and gives, for machines and for people.

    Args:
        model: The fitted network.
        manifest: Manifest of its features.
        onnx_path: The exported file, from which names, shapes and types are read.

    Returns:
        JSON content: classes, channels with units and ranges, steps, image shape, modalities, text length, inputs
        and outputs (name, shape with -1 for the batch, dtype), how raw data are prepared, intended use.
    """
    session = open_onnx(onnx_path)
    outputs = dict(zip(_output_names(model), session.get_outputs(), strict=True))
    return {
        "contract_version": 1,
        "model": model.name,
        "cohort": manifest.name,
        "cohort_digest": manifest.cohort_digest,
        "synthetic": manifest.synthetic,
        "classes": list(manifest.classes),
        "channels": [channel.model_dump() for channel in manifest.channels],
        "steps": manifest.steps,
        "step_seconds": manifest.step_seconds,
        "image": manifest.image.model_dump() if manifest.image else None,
        "image_range": [0.0, 1.0],
        "modalities": list(model.modalities),
        "present_columns": list(MODALITIES),
        "text_length": model.settings.network.text_length,
        "inputs": [_tensor(node.name, node) for node in session.get_inputs()],
        "outputs": [_tensor(name, node) | {"onnx_name": node.name} for name, node in outputs.items()],
        "preparation": manifest.preparation.model_dump(mode="json") if manifest.preparation else None,
        "intended_use": INTENDED_USE,
    }


def _output_names(model: NeuralModel) -> list[str]:
    """Names of the outputs in the order in which Keras flattens, and ONNX lists, them."""
    return sorted(model.network.output)


def _tensor(name: str, node: onnxruntime.NodeArg) -> dict[str, Any]:
    dtype = {"tensor(float)": "float32", "tensor(bool)": "bool", "tensor(int32)": "int32"}[node.type]
    shape = [size if isinstance(size, int) else -1 for size in node.shape]
    return {"name": name, "shape": shape, "dtype": dtype}


def onnx_difference(model: NeuralModel, folder: Path, features: Features, rows: np.ndarray) -> float:
    """Compare the saved ONNX file with the saved Keras file, loaded again in safe mode.

    Args:
        model: The network that was exported.
        folder: The output of ``export_network``.
        features: The features.
        rows: int ``[m]``, rows to compare on, one at least.

    Returns:
        The largest absolute difference of any output.

    Raises:
        RuntimeError: It exceeds 1e-5, or a value is not finite.
    """
    whole = keras.saving.load_model(folder / "model.keras", compile=False, safe_mode=True)
    session = open_onnx(folder / "model.onnx")
    names = _output_names(model)
    largest = 0.0
    for start in range(0, len(rows), PREDICTION_BATCH):
        inputs = model.raw_inputs(features, rows[start : start + PREDICTION_BATCH])
        expected = whole.predict_on_batch(inputs)
        received = session.run(None, inputs)
        for name, values in zip(names, received, strict=True):
            difference = float(np.abs(np.asarray(expected[name]) - values).max())
            # A comparison with NaN is false, so the bound is stated the other way round.
            if not difference <= TOLERANCE:
                raise RuntimeError(
                    f"The ONNX model differs from the Keras model by {difference:.2g} in {name}; "
                    f"at most {TOLERANCE:g} is allowed."
                )
            largest = max(largest, difference)
    return largest


def onnx_seconds(model: NeuralModel, folder: Path, features: Features, rows: np.ndarray) -> dict[str, float]:
    """Time single diagnoses as a server makes them: one sample through onnxruntime, its note encoded each time.

    Args:
        model: The network.
        folder: The output of ``export_network``.
        features: The features.
        rows: int ``[m]``, rows to time.

    Returns:
        Median seconds by class name; classes without a row are left out.
    """
    session = open_onnx(folder / "model.onnx")
    texts = features.texts

    def diagnose(row: int) -> None:
        inputs = gather(features, np.array([row]), model.modalities)
        if "text" in model.modalities:
            inputs["tokens"] = model.embedding.encode([texts[row]], model.settings.network.text_length)
        session.run(None, inputs)

    return seconds_by_class(diagnose, features, rows)
