"""Settings of the ``ingest`` step: which sources, which labels, which channels."""

from __future__ import annotations

from typing import Annotated, Literal
from zoneinfo import available_timezones

from pydantic import AfterValidator, Field, model_validator

from components.common.settings import Section
from components.common.uris import holds_credentials


def _known_time_zone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError(f"is not an IANA time zone such as Europe/Berlin; received {name!r}")
    return name


TimeZone = Annotated[str, AfterValidator(_known_time_zone)]


def _without_credentials(location: str) -> str:
    if location.startswith("s3://") and holds_credentials(location) and not location.startswith("s3://arn:"):
        raise ValueError("holds credentials; leave them to the environment, as AWS_ACCESS_KEY_ID has them")
    return location


Location = Annotated[str, Field(min_length=1), AfterValidator(_without_credentials)]
_PATH = "Folder or file, relative to the current directory, or s3://bucket/prefix"


class ExportSource(Section):
    """A hospital export: source.yaml, patients.csv, observations/, notes.csv, images/, annotations.csv."""

    format: Literal["export"]
    path: Location = Field(description=_PATH)


class TableOneSource(Section):
    """The paper's Table I: one CSV file with Patient and Diagnosis, or a folder of one file a patient."""

    format: Literal["table_one"]
    path: Location = Field(description=_PATH)
    time_zone: TimeZone = Field(default="UTC", description="Time zone of the dates")


class PhysioNet2012Source(Section):
    """PhysioNet/Computing in Cardiology Challenge 2012: set-*.tar.gz, or a folder of unpacked text files."""

    format: Literal["physionet2012"]
    path: Location = Field(description=_PATH)
    label: Literal["icu_type", "in_hospital_death"] = Field(
        default="icu_type", description="What to predict; ICU type is never a feature"
    )
    outcomes: Location | None = Field(default=None, description="Outcomes-*.txt; needed for in_hospital_death")

    @model_validator(mode="after")
    def _needs_outcomes(self) -> PhysioNet2012Source:
        if self.label == "in_hospital_death" and self.outcomes is None:
            raise ValueError("outcomes must name the Outcomes-*.txt file where label is in_hospital_death")
        return self


class FhirSource(Section):
    """FHIR R4: a folder of ndjson files, or of bundles, plain or gzip."""

    format: Literal["fhir"]
    path: Location = Field(description=_PATH)
    identifier_system: str | None = Field(
        default=None, description="System of the Patient.identifier that is the patient's key; None: the resource id"
    )
    time_zone: TimeZone = Field(default="UTC", description="Time zone of times without an offset")


class MedsSource(Section):
    """MEDS: one Parquet file of events, or a folder of shards."""

    format: Literal["meds"]
    path: Location = Field(description=_PATH)
    time_zone: TimeZone = Field(default="UTC", description="Time zone of the events' times")


Source = Annotated[
    ExportSource | TableOneSource | PhysioNet2012Source | FhirSource | MedsSource, Field(discriminator="format")
]


class LabelSettings(Section):
    """A CSV file of labels, one row a patient."""

    file: Location = Field(description=_PATH.replace("Folder or file", "CSV file"))
    patient_column: str = Field(description="Column of the patient's key in the sources")
    label_column: str = Field(description="Column of the one label a patient")
    flag_columns: list[str] = Field(
        default_factory=list, description="Columns of 0 and 1, one a condition: the patient's list of labels"
    )


class IngestSettings(Section):
    """What to read, and into which cohort."""

    name: str = Field(min_length=1, description="Name of the cohort")
    sources: list[Source] = Field(min_length=1, description="Read together; patients are matched by their key")
    labels: LabelSettings | None = Field(default=None, description="Labels that the sources do not hold themselves")
    label_names: dict[str, str] = Field(
        default_factory=dict, description="Class name by label in the source, such as Z1: healthy"
    )
    classes: list[str] | None = Field(
        default=None, min_length=2, description="Class names in order; None: the source's, else all labels sorted"
    )
    channels: list[str] | None = Field(
        default=None, min_length=1, description="Channels of channels.yaml to take, in order; None: all measured ones"
    )
    demographics: list[Literal["age", "sex"]] = Field(
        default_factory=list, description="Also taken as channels (age in years; sex: female 0, male 1)"
    )
    demographics_at: Literal["first", "first_and_last"] = Field(
        default="first",
        description="Time stamps of the patient at which demographics are written; both where windows end late",
    )
    on_bad_row: Literal["fail", "reject"] = Field(
        default="fail",
        description="What a malformed row does (time stamp, number, 120/80, unit, label, image): end the step, or be "
        "rejected and listed. Implausible values, duplicates and absent values are always rejected and listed",
    )
    image_size: tuple[Annotated[int, Field(ge=1, le=4096)], Annotated[int, Field(ge=1, le=4096)]] | None = Field(
        default=None, description="Height and width of every image; None: the most common size in the source"
    )
    synthetic: bool = Field(default=False, description="Whether the patients are not real; an export says so itself")

    @model_validator(mode="after")
    def _no_repeats(self) -> IngestSettings:
        for field in ("classes", "channels", "demographics"):
            values = getattr(self, field) or []
            if len(set(values)) != len(values):
                raise ValueError(f"{field} names one twice; received {values}")
        return self
