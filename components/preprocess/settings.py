"""The settings of the preprocess step."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import pandas as pd
from pydantic import Field, field_validator

from components.common.settings import Section


class PreprocessSettings(Section):
    """How a cohort becomes arrays: the grid, the cleaning, the split."""

    step: str = Field(default="1d", description="Length of a step of the common grid, such as '30min', '6h' or '1d'")
    steps: int = Field(default=14, ge=1, le=100_000, description="Steps of the window")
    anchor: Literal["first", "last"] = Field(
        default="last",
        description="Whether a patient's window starts at the first observation or ends at the last one",
    )
    aggregate: Literal["mean", "last"] = Field(
        default="mean", description="What stands in a grid cell that has several observations"
    )
    carry_in: bool = Field(
        default=True,
        description="A channel measured only before the window keeps its last value, marked as not observed",
    )
    calibrate: bool = Field(default=True, description="Apply the calibration certificates of the devices")
    drop_implausible: bool = Field(
        default=True, description="Treat values outside a channel's plausible range as not measured"
    )
    outlier_deviations: float = Field(
        default=6.0,
        ge=0,
        description="Hampel filter: readings further than this many scaled MADs from their neighbours' median are "
        "treated as not measured; 0 = off",
    )
    outlier_neighbours: int = Field(
        default=3,
        ge=1,
        le=50,
        description="Hampel filter: readings on each side that a reading is compared with",
    )
    outlier_span: str = Field(
        default="1d", description="Hampel filter: readings further apart than this are not compared with each other"
    )
    outlier_floor: float = Field(
        default=0.03,
        ge=0,
        le=1,
        description="Hampel filter: smallest scaled MAD, as a fraction of the channel's plausible range",
    )
    series_sigma: float = Field(
        default=0.5, ge=0, le=100, description="Gaussian filter of the series, sigma in steps; 0 = off"
    )
    image_sigma: float = Field(
        default=0.5, ge=0, le=100, description="Gaussian filter of the images, sigma in pixels; 0 = off"
    )
    longest_gap: int = Field(
        default=7,
        ge=1,
        description="Longest gap, in steps, that is interpolated; longer ones take the nearer value",
    )
    later_documents: Literal["keep", "drop"] = Field(
        default="keep", description="Whether notes and images dated after the window's end are used"
    )
    test_fraction: float = Field(default=0.2, gt=0, lt=1, description="Share of each class's patients held out")
    folds: int = Field(default=5, ge=2, le=100, description="Folds of the cross-validation over the training patients")
    seed: int = Field(default=17, ge=0, lt=2**32, description="Seed of the split and the folds")

    @field_validator("step", "outlier_span")
    @classmethod
    def _is_duration(cls, text: str) -> str:
        try:
            duration = pd.Timedelta(text)
        except ValueError as error:
            raise ValueError(f"needs a duration such as '30min', '6h' or '1d'; received {text!r}") from error
        if not duration >= pd.Timedelta(1, "us"):
            raise ValueError(f"needs a duration above zero; received {text!r}")
        return text

    @property
    def step_microseconds(self) -> int:
        """Length of a step in microseconds, the resolution of the cohort's time stamps."""
        return _microseconds(self.step)

    @property
    def outlier_span_microseconds(self) -> int:
        """The Hampel filter's span in microseconds."""
        return _microseconds(self.outlier_span)

    @property
    def step_seconds(self) -> float:
        """Length of a step in seconds."""
        return self.step_microseconds / 1e6


@lru_cache
def _microseconds(duration: str) -> int:
    return pd.Timedelta(duration) // pd.Timedelta(1, "us")
