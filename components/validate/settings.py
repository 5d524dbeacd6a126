"""The settings of the validate step."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from components.common.settings import Section
from components.common.uris import holds_credentials
from data_schemas.anomaly_kinds import ERROR_KINDS

Runner = Literal["in_memory", "DirectRunner", "FlinkRunner", "SparkRunner", "DataflowRunner", "PortableRunner"]


class BeamSettings(Section):
    """Where TFDV computes its statistics."""

    runner: Runner = Field(
        default="in_memory",
        description="in_memory: in the step's own process, without Beam; else the Apache Beam runner. DirectRunner: "
        "processes of the step's own machine",
    )
    workers: int = Field(default=1, ge=1, le=256, description="Processes of the DirectRunner")
    options: dict[str, str | int | float | bool] = Field(
        default_factory=dict,
        description="Further Beam pipeline options, such as flink_master: host:8081; nothing secret",
    )
    folder: str | None = Field(
        default=None,
        min_length=1,
        description="Where the examples lie while the job runs; the workers of all runners but the DirectRunner must "
        "reach it: s3://, gs://, hdfs:// or a shared folder. null: a temporary folder of the step's machine",
    )
    examples_per_file: int = Field(
        default=10_000, ge=1, le=1_000_000, description="Patients in a file of examples, which one worker reads"
    )

    @field_validator("options")
    @classmethod
    def _holds_no_secret(cls, options: dict) -> dict:
        for name, value in options.items():
            named = any(word in name.lower() for word in ("secret", "password", "token", "access_key"))
            if named or holds_credentials(str(value)):
                raise ValueError(f"{name} looks like a credential; give it to the workers by their environment")
        return options

    @field_validator("folder")
    @classmethod
    def _names_no_user(cls, folder: str | None) -> str | None:
        if folder and holds_credentials(folder):
            raise ValueError("it names a user or a password; give them to the workers by their environment")
        return folder

    @model_validator(mode="after")
    def _workers_reach_the_examples(self) -> BeamSettings:
        if self.runner not in ("in_memory", "DirectRunner") and self.folder is None:
            raise ValueError(f"folder must name a place that the workers of the {self.runner} reach")
        if self.runner != "DirectRunner" and self.workers != 1:
            raise ValueError(f"workers is for the DirectRunner; give the {self.runner} its own options")
        return self


class ValidateSettings(Section):
    """What stops a run, and what is only reported."""

    errors: list[str] = Field(
        default=ERROR_KINDS,
        description="Kinds of anomalies that stop the run, as TFDV and checks.py name them; others are warnings",
    )
    baseline: str | None = Field(
        default=None, description="statistics.pb of an earlier validation, to measure drift against; null = none"
    )
    drift_threshold: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="Jensen-Shannon divergence from the baseline above which a feature has drifted",
    )
    rare_channel_fraction: float = Field(
        default=0.05, ge=0, le=1, description="A channel measured in fewer patients than this share is reported"
    )
    rejected_fraction: float = Field(
        default=0.01, ge=0, le=1, description="More rejected rows than this share of all rows are reported"
    )
    beam: BeamSettings = BeamSettings()
