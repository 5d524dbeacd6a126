"""The reference of a registered version: what monitoring compares later predictions with.

It holds no row of a patient. A number's distribution is kept as means of groups of patients that are neighbours in that
number alone, and a category that only few have is not named.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

REFERENCE_FOLDER = "monitoring"
REFERENCE_FILE = "reference.json"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NumberReference(_Part):
    """The distribution of a number among the training rows."""

    means: list[float] = Field(description="Means of groups of neighbouring values, rising")
    counts: list[int] = Field(description="Rows of each group")
    missing: int = Field(ge=0, description="Rows without a value")


class CategoryReference(_Part):
    """The distribution of a category among the training rows."""

    counts: dict[str, int] = Field(description="Rows by value; values of few rows stand together as rare")
    missing: int = Field(ge=0, description="Rows without a value")


class Figure(_Part):
    """A figure with its bootstrap interval."""

    value: float | None = Field(description="None where the rows do not define it")
    low: float | None = None
    high: float | None = None


class AnswersReference(_Part):
    """How the version answered on its held-out rows, calibrated as it is served."""

    rows: int = Field(ge=0)
    class_shares: dict[str, float] = Field(description="Share of the rows by most probable class")
    mean_confidence: float | None = Field(description="Mean probability of the most probable class")
    abstention_rate: float | None = Field(description="Share of the rows without a diagnosis")
    scores: dict[str, Figure] = Field(description="macro_auc, calibration_error and coverage")


class TrainingReference(_Part):
    """The whole reference."""

    contract_version: int = 1
    cohort_digest: str
    classes: list[str]
    rows: int = Field(ge=1, description="Training rows")
    numbers: dict[str, NumberReference]
    categories: dict[str, CategoryReference]
    held_out: AnswersReference

    @classmethod
    def read(cls, path: Path) -> TrainingReference:
        """Read a reference.

        Args:
            path: The JSON file.

        Returns:
            The reference.

        Raises:
            ValueError: It is none.
        """
        return cls.model_validate_json(path.read_text(encoding="utf-8"))

    def write(self, path: Path) -> None:
        """Write the reference.

        Args:
            path: The file to write.
        """
        path.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
