"""Predicts with a model folder: ONNX through onnxruntime, no TensorFlow."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd

from data_schemas.features import MODALITIES
from training.text import encode_words

SERIES, OBSERVED, IMAGE, NOTE = "series", "series_observed", "image", "note"


@dataclass(frozen=True)
class Predictor:
    """A model folder, opened.

    Attributes:
        contract: Content of contract.json.
        vocabulary: Words by number.
        session: The ONNX model.
    """

    contract: dict[str, Any]
    vocabulary: list[str]
    session: onnxruntime.InferenceSession

    @classmethod
    def load(cls, folder: Path) -> Predictor:
        """Open a model folder.

        Args:
            folder: Output of ``train``.

        Returns:
            The predictor.
        """
        options = onnxruntime.SessionOptions()
        # Single diagnoses are fastest on one thread.
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        return cls(
            contract=json.loads((folder / "contract.json").read_text()),
            vocabulary=json.loads((folder / "vocabulary.json").read_text()),
            session=onnxruntime.InferenceSession(
                str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
            ),
        )

    def predict(self, samples: pd.DataFrame) -> pd.DataFrame:
        """Diagnose samples.

        Args:
            samples: One row a sample, with those of these columns that the model reads; None where a sample lacks the
                modality. ``series``: ``[steps][channels]`` numbers in the contract's units, preprocessed as in
                training, None in a channel that was never measured. ``series_observed``: the same shape, true where
                measured; without it every number counts as measured. ``image``: ``[height][width][channels]`` in
                [0, 1]. ``note``: text.

        Returns:
            One row a sample: ``diagnosis``, ``probability:<class>`` for each class, ``attention:<modality>``.

        Raises:
            ValueError: A value has another shape or range than the contract's, or a row has no modality at all.
        """
        inputs = self._inputs(samples)
        names = [output["onnx_name"] for output in self.contract["outputs"]]
        outputs = dict(
            zip(
                (output["name"] for output in self.contract["outputs"]),
                self.session.run(names, inputs),
                strict=True,
            )
        )
        classes = self.contract["classes"]
        probabilities = np.asarray(outputs["probabilities"], dtype=np.float64)
        attention = np.asarray(outputs["modality_attention"], dtype=np.float64)
        result = pd.DataFrame({"diagnosis": [classes[i] for i in probabilities.argmax(axis=1)]}, index=samples.index)
        for i, name in enumerate(classes):
            result[f"probability:{name}"] = probabilities[:, i]
        for i, name in enumerate(MODALITIES):
            result[f"attention:{name}"] = attention[:, i]
        return result

    def _inputs(self, samples: pd.DataFrame) -> dict[str, np.ndarray]:
        """Turn rows into the arrays of the ONNX model; an absent modality is masked, its values are never read."""
        shapes = {item["name"]: tuple(item["shape"][1:]) for item in self.contract["inputs"]}
        count = len(samples)
        present = np.zeros((count, len(MODALITIES)), dtype=bool)
        inputs: dict[str, np.ndarray] = {"present": present}
        if SERIES in shapes:
            inputs |= self._series(samples, shapes[SERIES], present)
        if IMAGE in shapes:
            inputs[IMAGE] = np.zeros((count, *shapes[IMAGE]), dtype=np.float32)
            for row, value in enumerate(_column(samples, IMAGE)):
                if not _absent(value):
                    inputs[IMAGE][row] = self._pixels(value, shapes[IMAGE], row)
                    present[row, MODALITIES.index("image")] = True
        if "tokens" in shapes:
            notes = ["" if _absent(value) else str(value) for value in _column(samples, NOTE)]
            inputs["tokens"] = encode_words(notes, self.vocabulary, shapes["tokens"][0])
            present[:, MODALITIES.index("text")] = [bool(note.strip()) for note in notes]
        if not present.any(axis=1).all():
            row = int(present.any(axis=1).argmin())
            modalities = self.contract["modalities"]
            raise ValueError(f"row {row} has no {' or '.join(modalities)}: nothing to diagnose from")
        return inputs

    def _pixels(self, value: object, shape: tuple[int, ...], row: int) -> np.ndarray:
        pixels = _array(value, shape, IMAGE, row)
        low, high = self.contract["image_range"]
        # A comparison with NaN is false, so the bounds are stated the other way round.
        if not (pixels.min() >= low and pixels.max() <= high):
            raise ValueError(
                f"image of row {row} needs values in [{low:g}, {high:g}]; received {pixels.min():g} to {pixels.max():g}"
            )
        return pixels

    def _series(self, samples: pd.DataFrame, shape: tuple[int, ...], present: np.ndarray) -> dict[str, np.ndarray]:
        values = np.full((len(samples), *shape), np.nan, dtype=np.float32)
        observed = np.zeros(values.shape, dtype=bool)
        masks = _column(samples, OBSERVED)
        for row, (value, mask) in enumerate(zip(_column(samples, SERIES), masks, strict=True)):
            if _absent(value):
                continue
            values[row] = _array(value, shape, SERIES, row)
            finite = np.isfinite(values[row])
            observed[row] = finite if _absent(mask) else finite & (_array(mask, shape, OBSERVED, row) > 0)
            present[row, MODALITIES.index("series")] = bool(finite.any())
        return {SERIES: values, OBSERVED: observed}


def _column(samples: pd.DataFrame, name: str) -> list:
    return samples[name].tolist() if name in samples else [None] * len(samples)


def _absent(value: object) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and value != value)


def _array(value: object, shape: tuple[int, ...], name: str, row: int) -> np.ndarray:
    """Return nested lists or arrays as one float32 array; None becomes NaN."""
    if isinstance(value, np.ndarray) and value.dtype == object:
        value = value.tolist()
    try:
        array = np.array(_plain(value), dtype=np.float32)
    except ValueError as error:
        raise ValueError(
            f"{name} of row {row} needs numbers in the shape {list(shape)}; received rows of unequal length, or text"
        ) from error
    if array.shape != shape:
        raise ValueError(f"{name} of row {row} needs the shape {list(shape)}; received {list(array.shape)}")
    return array


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray) and value.dtype == object:
        value = value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list) else value
