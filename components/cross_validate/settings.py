"""The settings of the cross_validate step."""

from __future__ import annotations

from components.common.settings import Section
from training.settings import TrainingSettings


class CrossValidateSettings(Section, TrainingSettings):
    """How every model is fitted in every fold: the same settings for all, no model is tuned on its own."""
