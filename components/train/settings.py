"""The settings of the train step."""

from __future__ import annotations

from components.common.settings import Section
from training.settings import NeuralSettings


class TrainSettings(Section, NeuralSettings):
    """How the candidate is fitted; the comparison is fair where ``cross_validate`` has the same values."""
