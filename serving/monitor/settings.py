"""The settings of monitoring."""

from __future__ import annotations

from pydantic import Field

from components.common.settings import Section


class MonitorSettings(Section):
    """When `vitalfuse monitor` says that a model should be trained anew."""

    days: int | None = Field(default=None, ge=1, description="Predictions of so many last days; null: all")
    smallest_sample: int = Field(default=100, ge=10, description="With fewer predictions, no drift is judged")
    number_drift: float = Field(
        default=0.2, gt=0, le=1, description="Jensen-Shannon divergence of a number above which it has drifted"
    )
    category_drift: float = Field(
        default=0.2, gt=0, le=1, description="L-infinity distance of a category above which it has drifted"
    )
    most_drifted: int = Field(
        default=0, ge=0, description="So many inputs (channels, age, sex, modalities) may drift without advice to train"
    )
    class_share_drift: float = Field(
        default=0.2, gt=0, le=1, description="Most that the predicted classes' shares may differ (total variation)"
    )
    confidence_drift: float = Field(default=0.15, gt=0, le=1, description="Most that the mean confidence may differ")
    abstention_drift: float = Field(
        default=0.15, gt=0, le=1, description="Most that the share of abstentions may differ"
    )
    smallest_labelled: int = Field(default=50, ge=10, description="With fewer labelled patients, no score is judged")
    auc_fall: float = Field(default=0.05, gt=0, le=1, description="Most that the macro AUC may fall")
    calibration_rise: float = Field(default=0.1, gt=0, le=1, description="Most that the calibration error may rise")
    coverage_fall: float = Field(
        default=0.05, gt=0, le=1, description="Most that the coverage of conformal sets may fall"
    )
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="Of all intervals")
    resamples: int = Field(default=1000, ge=100, le=100_000, description="Bootstrap resamples of patients")
    seed: int = Field(default=0, ge=0, description="Seed of the resampling")
    experiment: str = Field(default="vitalfuse-monitor", min_length=1, description="MLflow experiment of the results")
