"""The settings of the ``register`` step."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from components.common.settings import Section
from data_schemas.anomaly_kinds import ERROR_KINDS

GateName = Literal[
    "macro_auc", "kappa", "calibration_error", "worst_subgroup_auc", "non_inferiority", "validation", "latency"
]


class GateSettings(Section):
    """What a version has to reach, on held-out patients, before it may be called challenger or champion."""

    macro_auc: float = Field(default=0.7, ge=0, le=1, description="Lowest macro AUC")
    kappa: float = Field(default=0.2, ge=-1, le=1, description="Lowest Cohen's kappa")
    calibration_error: float = Field(default=0.25, ge=0, le=1, description="Highest expected calibration error")
    worst_subgroup_auc: float = Field(
        default=0.6, ge=0, le=1, description="Lowest macro AUC of any subgroup by sex, site or age band"
    )
    smallest_group: int = Field(default=20, ge=2, description="A subgroup with fewer held-out patients is left out")
    smallest_class: int = Field(
        default=3, ge=1, description="In a subgroup, a class with fewer patients, or fewer others, is left out"
    )
    age_bands: list[int] = Field(
        default=[18, 40, 65, 80], description="Ages in years at which a new band begins; [] = no subgroups by age"
    )
    non_inferiority_margin: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="The macro AUC may be at most this much below the champion's, on the patients both held out",
    )
    confidence: float = Field(
        default=0.95, gt=0.5, lt=1, description="Of the one-sided bootstrap bound on the difference to the champion"
    )
    smallest_common: int = Field(
        default=30, ge=2, description="With fewer patients held out by both, the champion is not compared with"
    )
    error_kinds: list[str] = Field(
        default=ERROR_KINDS,
        description="Kinds of anomalies that fail the gate, also where validate.errors lets them pass",
    )
    latency_ms: float = Field(
        default=50, gt=0, description="Most milliseconds for one diagnosis by the ONNX model, as timed by train"
    )
    skip: list[GateName] = Field(default_factory=list, description="Gates that are not looked at")
    strict: bool = Field(default=False, description="A gate that can't be evaluated counts as failed")
    resamples: int = Field(default=1000, ge=100, le=100_000, description="Bootstrap resamples of patients")
    seed: int = Field(default=0, ge=0, description="Seed of the resampling")

    @field_validator("age_bands")
    @classmethod
    def _rising(cls, bands: list[int]) -> list[int]:
        if bands != sorted(set(bands)) or (bands and not 0 < bands[0] <= bands[-1] < 150):
            raise ValueError(f"age_bands must be rising ages between 1 and 149; received {bands}")
        return bands


class RegisterSettings(Section):
    """Where a trained model is registered, and what makes it a candidate."""

    model_name: str = Field(
        default="vitalfuse-diagnosis",
        min_length=1,
        pattern=r"^[^/:@]+$",
        description="Name of the registered model in MLflow",
    )
    gates: GateSettings = GateSettings()
