"""The settings of the prediction log."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field

from components.common.settings import Section
from data_schemas.errors import InputError

_SHORTEST_KEY = 16


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


def reference_key(settings: PredictionLogSettings) -> bytes | None:
    """Return the secret key of the references' pseudonyms.

    Args:
        settings: Name the environment variable.

    Returns:
        The key, or None where the variable is not set.

    Raises:
        InputError: It is shorter than 16 characters.
    """
    key = os.environ.get(settings.key_environment, "")
    if key and len(key) < _SHORTEST_KEY:
        raise InputError(
            f"the secret key of the prediction log is too short: it needs {_SHORTEST_KEY} characters at least",
            field=settings.key_environment,
            remedy="Set the variable to the output of `openssl rand -hex 32`",
        )
    return key.encode() or None
