"""Settings of the ``compare`` step."""

from __future__ import annotations

from pydantic import Field

from components.common.settings import Section


class CalibrationSettings(Section):
    """How the candidate is calibrated, on its out-of-fold rows, and when the served model gives no diagnosis."""

    alpha: float = Field(
        default=0.1, gt=0, lt=0.5, description="Share of patients whose class may be missing from the conformal set"
    )
    largest_set: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="The served model abstains where the set holds more than this share of the classes, or none",
    )
    abstain_below: float = Field(
        default=0.0, ge=0, lt=1, description="It abstains where no calibrated probability is as high as this; 0 = off"
    )


class CompareSettings(Section):
    """How models are compared."""

    resamples: int = Field(
        default=1000, ge=100, le=100_000, description="Bootstrap resamples of patients behind every interval"
    )
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="Share of the resamples inside an interval")
    significance: float = Field(
        default=0.05, gt=0, lt=0.5, description="A Holm-adjusted p-value below this counts as a real difference"
    )
    seed: int = Field(default=0, ge=0, description="Seed of the resampling; the same seed gives the same report")
    simple_models: list[str] = Field(
        default=["random_forest", "svm", "gradient_boosting"],
        description="Models that count as simple: where one of them wins, the report says so in its first lines",
    )
    calibration: CalibrationSettings = Field(
        default=CalibrationSettings(), description="Calibration of the registered model"
    )
