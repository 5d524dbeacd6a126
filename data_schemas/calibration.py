"""The calibration contract: what ``compare`` learns from out-of-fold rows, and the served model applies."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

CALIBRATION_FILE = "calibration.json"


class Calibration(BaseModel):
    """How probabilities become calibrated ones, a conformal set, and a diagnosis or none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    contract_version: int = 1
    classes: list[str] = Field(min_length=2, description="Class names, in the order of the probabilities")
    temperature: float = Field(gt=0, description="Divides the logarithms of the probabilities; above 1 it flattens")
    alpha: float = Field(gt=0, lt=1, description="Share of patients whose class may be missing from the conformal set")
    lowest_probability: float = Field(
        ge=0, le=1, description="A class is in the conformal set where its calibrated probability is at least this"
    )
    largest_set: int = Field(
        ge=1, description="No diagnosis where the conformal set has more classes than this, or none"
    )
    abstain_below: float = Field(
        ge=0, le=1, description="No diagnosis where no calibrated probability is as high as this"
    )
    rows: int = Field(ge=1, description="Out-of-fold rows that it was fitted on")

    @classmethod
    def read(cls, folder: Path) -> Calibration | None:
        """Read the calibration of a model folder.

        Args:
            folder: The folder.

        Returns:
            The calibration, or None where the folder has none.
        """
        path = folder / CALIBRATION_FILE
        return cls.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None

    def write(self, folder: Path) -> None:
        """Write calibration.json.

        Args:
            folder: An existing folder.
        """
        (folder / CALIBRATION_FILE).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
