"""The settings of the train step."""

from __future__ import annotations

from pydantic import Field, model_validator

from components.common.settings import Section
from training.settings import NeuralSettings


class TrainSettings(Section, NeuralSettings):
    """How the candidate is fitted; the comparison is fair where ``cross_validate`` has the same values."""

    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes that fit the candidate together, on the step's own machine; each takes a part of every "
        "batch, with optimiser.threads and, where there are GPUs, one of them",
    )

    @model_validator(mode="after")
    def _has_work_for_all(self) -> TrainSettings:
        if self.workers > self.optimiser.batch_size:
            raise ValueError(
                f"workers {self.workers} is more than optimiser.batch_size {self.optimiser.batch_size}: "
                "each worker takes one sample of a batch at least"
            )
        return self
