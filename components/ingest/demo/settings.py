"""Settings of the synthetic cohort."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from components.common.settings import Section

CLASSES = (
    "healthy",
    "cardiovascular_disease",
    "diabetes",
    "copd",
    "hypertension",
    "chronic_kidney_disease",
)
# Section II.A of the paper: 300 participants.
PAPER_COUNTS = (100, 60, 50, 40, 30, 20)

Fraction = Annotated[float, Field(ge=0, le=0.9)]


class DemoSettings(Section):
    """How the synthetic cohort is made."""

    patients: int = Field(default=300, ge=1, description="Patients; classes in the paper's proportions")
    class_counts: dict[str, int] | None = Field(
        default=None, description="Patients of each class, instead of the paper's proportions"
    )
    seed: int = Field(default=2022, ge=0, description="Seed of everything random")
    days: int = Field(default=14, ge=1, le=400, description="Days of observation")
    samples_a_day: int = Field(default=6, ge=1, le=96, description="Readings of each device a day")
    image_size: tuple[Annotated[int, Field(ge=8)], Annotated[int, Field(ge=8)]] = Field(
        default=(64, 64), description="Height and width of the images"
    )
    eight_bit: Fraction = Field(default=0.3, description="Share of images with 8 bits; the others have 16")
    without_series: Fraction = Field(default=0.03, description="Share of patients without observations")
    without_image: Fraction = Field(default=0.10, description="Share of patients without an image")
    without_note: Fraction = Field(default=0.08, description="Share of patients without a note")
    dropout: Fraction = Field(default=0.12, description="Share of readings that are lost")
    outliers: Fraction = Field(default=0.004, description="Share of readings that are nonsense")
    comorbid: Fraction = Field(default=0.2, description="Share of diseased patients with a second disease")
    file_format: Literal["csv", "parquet"] = Field(default="csv", description="Format of the observations")
    layout: Literal["export", "table_one"] = Field(
        default="export", description="A hospital's export, or one file in the format of the paper's Table I"
    )

    @model_validator(mode="after")
    def _known_classes(self) -> DemoSettings:
        unknown = set(self.class_counts or {}) - set(CLASSES)
        if unknown:
            raise ValueError(f"class_counts takes {', '.join(CLASSES)}; received {', '.join(sorted(unknown))}")
        return self

    @property
    def counts(self) -> list[int]:
        """Patients of each of ``CLASSES``."""
        if self.class_counts is not None:
            return [self.class_counts.get(name, 0) for name in CLASSES]
        return scaled_counts(self.patients)


def scaled_counts(patients: int) -> list[int]:
    """Scale the paper's class counts to another number of patients, by largest remainder.

    Args:
        patients: Patients in all.

    Returns:
        Patients of each class; each at least 1 where there are as many patients as classes.
    """
    total = sum(PAPER_COUNTS)
    shares = [count * patients / total for count in PAPER_COUNTS]
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(len(counts)), key=lambda i: (counts[i] - shares[i], i))
    for i in by_remainder[: patients - sum(counts)]:
        counts[i] += 1
    if patients >= len(counts):
        while 0 in counts:
            counts[counts.index(max(counts))] -= 1
            counts[counts.index(0)] += 1
    return counts
