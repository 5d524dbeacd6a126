"""The pyfunc model that MLflow loads, as code and not as a pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from serving.patients import Diagnosis, Fault, InvalidRequest, Patient
from serving.predictor import ARTIFACT, Predictor
from serving.table import patients_of


class DiagnosisModel(PythonModel):
    """Patients as a hospital has them in; diagnoses out."""

    def load_context(self, context: Any) -> None:
        """Open the model folder.

        Args:
            context: MLflow's context, with the artifact paths.
        """
        self._predictor = Predictor.load(Path(context.artifacts[ARTIFACT]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict | None = None) -> pd.DataFrame:
        """Diagnose patients, all in one batch.

        Args:
            context: MLflow's context.
            model_input: One row a patient, with the columns of ``serving.patients.Patient``.
            params: None are taken.

        Returns:
            One row a patient, with the columns of ``serving.patients.Diagnosis``.

        Raises:
            InvalidRequest: A patient cannot be diagnosed. Not MLflow's own exception: with that its server would repeat
                the whole request in the answer.
        """
        if not len(model_input.columns):
            # MLflow drops columns that the signature lacks; of rows that have no other one, it leaves nothing.
            known = ", ".join(Patient.model_fields)
            raise InvalidRequest([Fault("patients", "have no column that is known", f"Known are {known}", True)])
        diagnoses = self._predictor.diagnose(patients_of(model_input))
        rows = [diagnosis.model_dump() for diagnosis in diagnoses]
        return pd.DataFrame(rows, columns=list(Diagnosis.model_fields), index=model_input.index)


set_model(DiagnosisModel())
