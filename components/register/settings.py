"""The settings of the ``register`` step."""

from __future__ import annotations

from pydantic import Field

from components.common.settings import Section


class RegisterSettings(Section):
    """Where a trained model is registered."""

    model_name: str = Field(
        default="vitalfuse-diagnosis",
        min_length=1,
        pattern=r"^[^/:]+$",
        description="Name of the registered model in MLflow",
    )
