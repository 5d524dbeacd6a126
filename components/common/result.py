"""What a step's core function returns; the wrapper in ``step`` logs it to MLflow."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

Scalar = str | int | float | bool


@dataclass
class NestedResult:
    """The result of one part of a step, such as a model's fold: a nested MLflow run of its own.

    Attributes:
        name: Name of the nested run.
        params: Settings of this part.
        metrics: Scalars.
        history: Values by epoch, one list a metric.
    """

    name: str
    params: dict[str, Scalar] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    history: dict[str, list[float]] = field(default_factory=dict)


@dataclass
class StepResult:
    """What a step has to say for itself beside its output folder.

    Attributes:
        metrics: Scalars.
        params: Settings that are worth comparing between runs.
        artifacts: MLflow artifact folder to a local file or folder.
        tags: Free tags.
        nested: Parts that get a nested run each.
        warnings: One line each; shown to the user and in the report.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    params: dict[str, Scalar] = field(default_factory=dict)
    artifacts: dict[str, Path] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    nested: list[NestedResult] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def ignore_progress(text: str) -> None:
    """Take a progress text and do nothing with it: the default of every core function.

    Args:
        text: A few words on what is being done.
    """
