"""The settings of the prediction log."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from components.common.settings import Section


class PredictionLogSettings(Section):
    """Whether predictions are written down, for `vitalfuse monitor`, and where."""

    folder: Path | None = Field(
        default=None, description="Folder of the Parquet files, one below it for each day; null: nothing is logged"
    )
    key_environment: str = Field(
        default="VITALFUSE_PREDICTION_KEY",
        min_length=1,
        description="Environment variable with the secret key of the references' pseudonyms; without it, references "
        "are left out of the log",
    )
    flush_seconds: float = Field(
        default=30.0, gt=0, le=3600, description="How long a prediction waits to be written; a killed server loses it"
    )
    flush_rows: int = Field(default=1000, ge=1, description="Predictions that are written without further waiting")
    max_rows: int = Field(
        default=10_000, ge=1, description="Predictions that may wait; further ones are dropped, and counted"
    )
