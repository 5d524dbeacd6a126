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

from data_schemas.calibration import CALIBRATION_FILE, Calibration
from data_schemas.errors import InputError
from data_schemas.features import MODALITIES
from evaluation.recalibration import decide
from serving.patients import ABSTAIN, Diagnosis, InvalidRequest, ModelInfo, Patient
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
        calibration: What ``compare`` has learnt from out-of-fold rows; None where the folder has none.
        session: The ONNX model.
    """

    contract: dict[str, Any]
    info: ModelInfo
    preparer: Preparer
    calibration: Calibration | None
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
            calibration=_calibration(inside, contract),
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
                answers[place] = self._answer(outputs, row, batch.present[place], batch.warnings[place])
        return [answer for answer in answers if answer is not None]

    def _run(self, inputs: dict[str, np.ndarray]) -> _Outputs:
        wanted = {output["name"]: output["onnx_name"] for output in self.contract["outputs"]}
        values = self.session.run([wanted["probabilities"], wanted["modality_attention"]], inputs)
        probabilities, attention = (np.asarray(value, dtype=np.float64) for value in values)
        # float32 sums to 1 only nearly.
        probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
        if self.calibration is None:
            return _Outputs(probabilities, attention, None, np.zeros(len(probabilities), dtype=bool))
        decisions = decide(probabilities, self.calibration)
        return _Outputs(decisions.probabilities, attention, decisions.sets, decisions.abstained)

    def _answer(self, outputs: _Outputs, row: int, present: np.ndarray, warnings: list[str]) -> Diagnosis:
        classes, probabilities = self.contract["classes"], outputs.probabilities[row]
        order = np.argsort(-probabilities, kind="stable").tolist()
        conformal = None
        if outputs.sets is not None:
            conformal = [classes[k] for k in order if outputs.sets[row, k]]
        return Diagnosis(
            diagnosis=ABSTAIN if outputs.abstained[row] else classes[order[0]],
            probabilities=dict(zip(classes, probabilities.tolist(), strict=True)),
            conformal_set=conformal,
            attention=dict(zip(MODALITIES, outputs.attention[row].tolist(), strict=True)),
            modalities=[name for name, there in zip(MODALITIES, present, strict=True) if there],
            model=self.info,
            warnings=warnings,
        )


@dataclass(frozen=True)
class _Outputs:
    """What the model says: probabilities and sets ``[n, classes]``, attention ``[n, 3]``, abstained ``[n]``."""

    probabilities: np.ndarray
    attention: np.ndarray
    sets: np.ndarray | None
    abstained: np.ndarray


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


def _calibration(folder: Path, contract: dict[str, Any]) -> Calibration | None:
    calibration = Calibration.read(folder)
    if calibration is not None and calibration.classes != contract["classes"]:
        raise InputError(
            "names other classes than contract.json",
            file=str(folder / CALIBRATION_FILE),
            field="classes",
            remedy="Compare the models again",
        )
    return calibration


def _registered(folder: Path) -> dict[str, str]:
    """Return model_name and model_version as MLflow writes them beside a model that it downloads by its version."""
    path = folder.parent.parent / "registered_model_meta"
    if not path.is_file():
        return {}
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {name: str(value) for name, value in content.items()} if isinstance(content, dict) else {}
