"""The pyfunc model that MLflow loads, as code and not as a pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from serving.package import ARTIFACT
from serving.predictor import Predictor


class DiagnosisModel(PythonModel):
    """Series, image and note in; class probabilities and attention by modality out."""

    def load_context(self, context: Any) -> None:
        """Open the model folder.

        Args:
            context: MLflow's context, with the artifact paths.
        """
        self._predictor = Predictor.load(Path(context.artifacts[ARTIFACT]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict | None = None) -> pd.DataFrame:
        """Diagnose samples; see ``Predictor.predict``.

        Args:
            context: MLflow's context.
            model_input: One row a sample.
            params: None are taken.

        Returns:
            One row a sample.
        """
        return self._predictor.predict(model_input)


set_model(DiagnosisModel())
