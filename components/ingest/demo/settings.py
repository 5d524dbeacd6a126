"""Settings of the demo cohort."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from components.common.settings import Section
from components.ingest.demo.classes import CLASSES, PAPER_COUNTS, scale_counts
from components.ingest.settings import TimeZone

Side = Annotated[int, Field(ge=8, le=1024)]
Count = Annotated[int, Field(ge=0)]


class DemoSettings(Section):
    """What the generator writes. The same settings give the same bytes."""

    patients: int = Field(
        default=300, ge=1, le=1_000_000, description="Patients, in the proportions of the paper's classes"
    )
    class_counts: dict[str, Count] | None = Field(
        default=None, description="Patients by class name; in place of the paper's proportions and of `patients`"
    )
    seed: int = Field(default=2022, ge=0, lt=2**32, description="Seed of everything random")
    days: int = Field(default=14, ge=1, le=200, description="Days that a patient is observed")
    samples_a_day: int = Field(
        default=8,
        ge=2,
        le=288,
        description="Readings a day of heart rate and oxygen saturation; the other channels have half as many",
    )
    image_size: tuple[Side, Side] = Field(default=(64, 64), description="Height and width of the images in pixels")
    deep_image_fraction: float = Field(
        default=0.7, ge=0, le=1, description="Share of the images that have 16 bits; the others have 8"
    )
    missing_series: float = Field(default=0.03, ge=0, le=0.9, description="Share of patients without any observation")
    missing_channels: float = Field(
        default=0.02, ge=0, le=0.9, description="Share of a patient's measurements that are never taken"
    )
    missing_images: float = Field(
        default=0.08, ge=0, le=1, description="Share of patients without an image; 1 writes no image at all"
    )
    missing_notes: float = Field(
        default=0.06, ge=0, le=1, description="Share of patients without a note; 1 writes no note at all"
    )
    dropout_rate: float = Field(
        default=0.08, ge=0, le=0.5, description="Share of readings that are lost in gaps of hours to days"
    )
    outlier_rate: float = Field(
        default=0.006, ge=0, le=0.5, description="Share of readings that are spikes or impossible values"
    )
    absent_rate: float = Field(default=0.003, ge=0, le=0.5, description="Share of readings whose value is empty")
    duplicate_rate: float = Field(default=0.004, ge=0, le=0.5, description="Share of rows that are written twice")
    comorbidity_rate: float = Field(
        default=0.2, ge=0, le=1, description="Share of the ill who have a second, less severe disease"
    )
    disagreement_rate: float = Field(
        default=0.12, ge=0, le=0.5, description="Share of patients on whom the two annotators differ"
    )
    time_zone: TimeZone = Field(default="Europe/Berlin", description="Zone of the naive time stamps")
    file_format: Literal["csv", "parquet"] = Field(default="csv", description="Format of the observation files")
    layout: Literal["export", "table_one"] = Field(
        default="export",
        description="A hospital's export; or the paper's Table I, daily means of five channels with a diagnosis",
    )

    @field_validator("class_counts")
    @classmethod
    def _known_classes(cls, counts: dict[str, int] | None) -> dict[str, int] | None:
        unknown = set(counts or ()) - set(CLASSES)
        if unknown:
            raise ValueError(f"class_counts names a class other than {', '.join(CLASSES)}; received {min(unknown)!r}")
        if counts is not None and sum(counts.values()) < 1:
            raise ValueError(f"class_counts must add up to at least one patient; received {counts}")
        return counts

    @model_validator(mode="after")
    def _something_to_read(self) -> DemoSettings:
        if self.missing_images == 1 and self.missing_notes == 1 and self.missing_series > 0:
            raise ValueError("missing_series must be 0 where there are neither images nor notes")
        return self

    @property
    def counts(self) -> dict[str, int]:
        """Patients of every class, in the order of the classes."""
        if self.class_counts is None:
            return scale_counts(PAPER_COUNTS, self.patients)
        return {name: self.class_counts.get(name, 0) for name in CLASSES}
