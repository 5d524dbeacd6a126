"""Diagnoses patients with a model folder: ONNX through onnxruntime, no TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import yaml

from data_schemas.errors import InputError
from data_schemas.features import MODALITIES
from serving.patients import Diagnosis, InvalidRequest, ModelInfo, Patient
from serving.preparation import Preparer
from training.onnx_session import open_onnx

ARTIFACT = "model"


@dataclass(frozen=True)
class Predictor:
    """A model folder, opened; it may be called from several threads at a time.

    Attributes:
        contract: Content of contract.json.
        info: Name, version and cohort, as every diagnosis repeats them.
        preparer: Turns patients into the model's inputs.
        session: The ONNX model.
    """

    contract: dict[str, Any]
    info: ModelInfo
    preparer: Preparer
    session: onnxruntime.InferenceSession

    @classmethod
    def load(cls, folder: Path, *, name: str | None = None, version: str | None = None) -> Predictor:
        """Open a model folder, in about a second.

        Args:
            folder: Output of ``train``, or a registered model as MLflow downloads it.
            name: Name of the registered model; by default what MLflow has written beside it, else the model's own.
            version: Its version; by default what MLflow has written beside it, else None.

        Returns:
            The predictor.

        Raises:
            InputError: The folder is no model folder, or one that does not say how raw data are prepared.
        """
        inside = find_model_folder(folder)
        contract = json.loads((inside / "contract.json").read_text(encoding="utf-8"))
        registered = _registered(inside)
        return cls(
            contract=contract,
            info=ModelInfo(
                name=name or registered.get("model_name") or contract["model"],
                version=version or registered.get("model_version"),
                cohort_digest=contract["cohort_digest"],
            ),
            preparer=Preparer.load(inside, contract),
            session=open_onnx(inside / "model.onnx"),
        )

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of the probabilities."""
        return list(self.contract["classes"])

    def diagnose(self, patients: Sequence[Patient]) -> list[Diagnosis]:
        """Diagnose patients, all or none.

        Args:
            patients: Any number; they are run through the model in one batch.

        Returns:
            One diagnosis a patient, in order.

        Raises:
            InvalidRequest: A patient cannot be diagnosed; fields begin with "patients[0]" and so on.
        """
        answers = self.diagnose_each(patients)
        diagnoses = [answer for answer in answers if isinstance(answer, Diagnosis)]
        if len(diagnoses) < len(answers):
            raise InvalidRequest(
                fault
                for place, answer in enumerate(answers)
                if isinstance(answer, InvalidRequest)
                for fault in answer.at(f"patients[{place}]").faults
            )
        return diagnoses

    def diagnose_each(self, patients: Sequence[Patient]) -> list[Diagnosis | InvalidRequest]:
        """Diagnose patients of several callers in one batch: a fault of one leaves the others' answers as they are.

        Args:
            patients: Any number.

        Returns:
            One diagnosis or error a patient, in order; an error's fields are those of the patient alone, such as
            "observations[3].unit" (``InvalidRequest.at`` puts a path before them).
        """
        if not patients:
            return []
        batch = self.preparer.prepare(patients)
        answers: list[Diagnosis | InvalidRequest | None] = [
            InvalidRequest(faults) if faults else None for faults in batch.faults
        ]
        usable = np.array([place for place, answer in enumerate(answers) if answer is None], dtype=np.int64)
        if len(usable):
            outputs = self._run({name: values[usable] for name, values in batch.inputs.items()})
            for row, place in enumerate(usable):
                answers[place] = self._answer(
                    outputs["probabilities"][row],
                    outputs["modality_attention"][row],
                    batch.present[place],
                    batch.warnings[place],
                )
        return [answer for answer in answers if answer is not None]

    def _run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        wanted = {output["name"]: output["onnx_name"] for output in self.contract["outputs"]}
        names = ("probabilities", "modality_attention")
        values = self.session.run([wanted[name] for name in names], inputs)
        return {name: np.asarray(value, dtype=np.float64) for name, value in zip(names, values, strict=True)}

    def _answer(
        self, probabilities: np.ndarray, attention: np.ndarray, present: np.ndarray, warnings: list[str]
    ) -> Diagnosis:
        probabilities = probabilities / probabilities.sum()
        classes = self.contract["classes"]
        return Diagnosis(
            diagnosis=classes[int(probabilities.argmax())],
            probabilities=dict(zip(classes, probabilities.tolist(), strict=True)),
            conformal_set=None,
            attention=dict(zip(MODALITIES, attention.tolist(), strict=True)),
            modalities=[name for name, there in zip(MODALITIES, present, strict=True) if there],
            model=self.info,
            warnings=warnings,
        )


def find_model_folder(folder: Path) -> Path:
    """Return the folder that holds contract.json.

    Args:
        folder: A model folder, or a registered model as MLflow downloads it.

    Returns:
        The model folder itself.

    Raises:
        InputError: Neither is there.
    """
    for candidate in (folder, folder / "artifacts" / ARTIFACT):
        if (candidate / "contract.json").is_file():
            return candidate
    raise InputError("is not a model folder: it has no contract.json", file=str(folder), remedy="Train a model first")


def _registered(folder: Path) -> dict[str, str]:
    """Return model_name and model_version as MLflow writes them beside a model that it downloads by its version."""
    path = folder.parent.parent / "registered_model_meta"
    if not path.is_file():
        return {}
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {name: str(value) for name, value in content.items()} if isinstance(content, dict) else {}
