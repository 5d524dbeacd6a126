"""All models by name, behind one door: ``create_model``, then ``fit`` and ``predict`` on rows of the features."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from data_schemas.features import Features
from training.data import InputSpec
from training.names import MODEL_NAMES
from training.networks import NEURAL_MODALITIES
from training.neural import FitReport, NeuralModel
from training.settings import TrainingSettings
from training.tabular import TABULAR_NAMES, TabularModel
from training.text import TextEmbedding
from training.word2vec import fit_embedding


class DiagnosisModel(Protocol):
    """What every model of the comparison can do."""

    name: str

    def unavailable(self) -> str | None:
        """Return why the model cannot be fitted on these features, or None where it can."""

    def fit(self, features: Features, rows: np.ndarray) -> FitReport:
        """Fit on some rows and on nothing else; an earlier fit leaves no trace.

        Args:
            features: The features.
            rows: int ``[m]``, training rows.

        Returns:
            Seconds, and the history where there is one.
        """

    def predict(self, features: Features, rows: np.ndarray) -> np.ndarray:
        """Predict class probabilities.

        Args:
            features: The features.
            rows: int ``[m]``.

        Returns:
            float64 ``[m, classes]``.
        """


def create_model(name: str, settings: TrainingSettings, spec: InputSpec) -> DiagnosisModel:
    """Create a model; nothing heavy happens before ``fit``.

    Args:
        name: One of ``MODEL_NAMES``.
        settings: Settings of all models; the seed is in them.
        spec: Shapes, from ``InputSpec.of``.

    Returns:
        The model, not fitted.

    Raises:
        ValueError: There is no such model.
    """
    if name in TABULAR_NAMES:
        return TabularModel(name, spec, settings)
    if name in NEURAL_MODALITIES:
        words = settings.words

        def embed(texts: list[str]) -> TextEmbedding:
            return fit_embedding(texts, words)

        return NeuralModel(name, spec, settings, words=words.max_words, dimensions=words.dimensions, embed=embed)
    raise ValueError(f"There are the models {', '.join(MODEL_NAMES)}; received {name!r}.")
