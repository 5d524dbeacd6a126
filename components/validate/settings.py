"""The settings of the validate step."""

from __future__ import annotations

from pydantic import Field

from components.common.settings import Section
from data_schemas.anomaly_kinds import ERROR_KINDS


class ValidateSettings(Section):
    """What stops a run, and what is only reported."""

    errors: list[str] = Field(
        default=ERROR_KINDS,
        description="Kinds of anomalies that stop the run, as TFDV and checks.py name them; others are warnings",
    )
    baseline: str | None = Field(
        default=None, description="statistics.pb of an earlier validation, to measure drift against; null = none"
    )
    drift_threshold: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="Jensen-Shannon divergence from the baseline above which a feature has drifted",
    )
    rare_channel_fraction: float = Field(
        default=0.05, ge=0, le=1, description="A channel measured in fewer patients than this share is reported"
    )
    rejected_fraction: float = Field(
        default=0.01, ge=0, le=1, description="More rejected rows than this share of all rows are reported"
    )
