"""Reader of the hospital export: CSV and Parquet files, images and a source.yaml that explains them."""

from __future__ import annotations

import posixpath
from typing import NamedTuple

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.ingest.locations import FileGroup, SourceFiles
from components.ingest.patient_shard import WHOLE, PatientShard
from components.ingest.rejections import ABSENT, Rejections
from components.ingest.settings import TimeZone
from components.ingest.source_tables import SourceTables, build_table, map_values
from components.ingest.tabular import split_pressures, take_numbers, take_times
from components.ingest.text_tables import TextColumns, read_text_table
from data_schemas.channels import Catalogue
from data_schemas.errors import InputError

IMAGES = "images"
IMAGE_LIST = "images/images.csv"
_SEX = {"f": "female", "female": "female", "m": "male", "male": "male"}


class SourceDescription(BaseModel):
    """What source.yaml says; other keys are free."""

    model_config = ConfigDict(extra="ignore")

    name: str = Field(default="", description="Name of the export")
    classes: list[str] | None = Field(default=None, description="Class names in order")
    class_labels: dict[str, str] = Field(default_factory=dict, description="Class name by label in the files")
    time_zone: TimeZone = Field(default="UTC", description="Zone of time stamps without an offset")
    image_modality: str = Field(default="image", description="Modality where images.csv names none")
    synthetic: bool = Field(default=False, description="Whether the patients are not real")


def read_export(files: SourceFiles, shard: PatientShard, catalogue: Catalogue, rejections: Rejections) -> SourceTables:
    """Read a hospital export.

    Args:
        files: Its files.
        shard: Whose rows to take.
        catalogue: Maps measurements to channels.
        rejections: Takes malformed rows and empty values.

    Returns:
        Patients in the order of patients.csv.

    Raises:
        InputError: A file or column is not there, or a row is malformed and ``on_bad_row`` is "fail".
    """
    described = _describe(files)
    reading = _Reading(files, shard, described.time_zone, rejections)
    patients = _patients(reading)
    observations, not_used = _observations(reading, catalogue)
    images = [name for name in files.below(IMAGES) if not name.endswith(".csv")]
    listed = ["source.yaml", "patients.csv", *_observation_files(files)]
    listed += ["devices.csv", "notes.csv", "annotations.csv", IMAGE_LIST]
    return SourceTables(
        patients=patients,
        observations=observations,
        notes=_optional(reading, "notes", ["time", "text"], filled="text"),
        images=_images(reading, described),
        annotations=_optional(reading, "annotations", ["annotator", "label", "time"], filled="label"),
        devices=_devices(reading, catalogue),
        classes=described.classes,
        label_names=described.class_labels,
        not_used=not_used,
        listed=[
            *(FileGroup(name.rpartition("/")[2], files, [name]) for name in listed if name in files),
            *([FileGroup("images", files, images, named=False)] if images else []),
        ],
        provenance={"synthetic": described.synthetic},
    )


def export_patients(files: SourceFiles, rejections: Rejections) -> pd.Series:
    """Return the keys of the patients of an export, in its order.

    Args:
        files: Its files.
        rejections: Takes malformed rows.

    Raises:
        InputError: The file or a column is not there, or a row is malformed and ``on_bad_row`` is "fail".
    """
    return _patients(_Reading(files, WHOLE, "UTC", rejections))["key"]


class _Reading(NamedTuple):
    """What reading any file of the export takes."""

    files: SourceFiles
    shard: PatientShard
    time_zone: str
    rejections: Rejections

    def table(self, name: str, required: list[str], rename: dict[str, str] | None = None) -> pd.DataFrame:
        """Read one file, whose rows belong to patients."""
        columns = TextColumns(["mrn", *required], key="mrn", rename=rename or {})
        return read_text_table(self.files, name, columns, self.rejections, self.shard)


def _describe(files: SourceFiles) -> SourceDescription:
    if "source.yaml" not in files:
        problem = "is not a hospital export: it has no source.yaml"
        raise InputError(problem, file=files.location, remedy="Check the path")
    try:
        text = files.path("source.yaml").read_text(encoding="utf-8")
        return SourceDescription.model_validate(yaml.safe_load(text) or {})
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError("is not YAML", file="source.yaml", remedy="Mend the file") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(first["msg"], file="source.yaml", field=field, remedy="Mend the file") from error


def _patients(reading: _Reading) -> pd.DataFrame:
    rejections = reading.rejections
    table = reading.table("patients.csv", [])
    table = table.reindex(columns=["mrn", "sex", "birth_date", "site", "file", "row"], fill_value="")
    # A birth date may be absent; one that is written and does not parse is a fault.
    born = take_times(table[table["birth_date"] != ""], rejections, "UTC", column="birth_date")["birth_date"]
    table = table[(table["birth_date"] == "") | table.index.isin(born.index)]
    unnamed = table["mrn"] == ""
    rejections.add(table[unnamed], "mrn", "patient has no mrn")
    table = table[~unnamed]
    repeated = table["mrn"].duplicated()
    rejections.add(table[repeated], "mrn", "patient is listed twice")
    table = table[~repeated]
    return build_table(
        "patients",
        key=table["mrn"],
        sex=table["sex"].str.casefold().map(_SEX).fillna("unknown"),
        birth_date=born.dt.tz_localize(None).reindex(table.index),
        site=table["site"].where(table["site"] != "", None),
        file=table["file"],
        row=table["row"],
    )


def _observation_files(files: SourceFiles) -> list[str]:
    return files.below("observations", ".csv", ".csv.gz", ".parquet")


def _observations(reading: _Reading, catalogue: Catalogue) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the observations, and how many rows hold each measurement that no channel stands for."""
    files, rejections = _observation_files(reading.files), reading.rejections
    if not files:
        raise InputError("has no *.csv or *.parquet file", file="observations", remedy="Check the export")
    required = ["device_id", "measurement", "time", "value", "unit"]
    table = pd.concat([reading.table(file, required) for file in files], ignore_index=True)
    channels = {name: catalogue.by_name.get(name.casefold(), ()) for name in table["measurement"].unique()}
    known = table["measurement"].isin([name for name, found in channels.items() if found])
    not_used = {str(name): int(count) for name, count in table.loc[~known, "measurement"].value_counts().items()}
    table = take_times(table[known], rejections, reading.time_zone)
    paired = table["measurement"].isin([name for name, found in channels.items() if len(found) == 2])
    single = take_numbers(table[~paired], rejections)
    parts = [single.assign(channel=map_values(single["measurement"], {n: c[0] for n, c in channels.items() if c}))]
    pressures = split_pressures(table[paired], rejections)
    for position, column in enumerate(("first", "second")):
        names = {name: found[position] for name, found in channels.items() if len(found) == 2}
        half = pressures.assign(value=pressures[column], channel=map_values(pressures["measurement"], names))
        parts.append(half)
    rows = pd.concat([part.astype({"channel": object}) for part in parts]).sort_index(kind="stable")
    columns = {name: rows[name] for name in ("device_id", "channel", "time", "value", "unit", "file", "row")}
    return build_table("observations", key=rows["mrn"], **columns), not_used


def _optional(reading: _Reading, name: str, columns: list[str], filled: str) -> pd.DataFrame:
    """Read notes.csv or annotations.csv where the export has it; rows with an empty column ``filled`` are listed."""
    if f"{name}.csv" not in reading.files:
        return build_table(name)
    table = reading.table(f"{name}.csv", columns)
    blank = table[filled] == ""
    reading.rejections.add(table[blank], filled, ABSENT)
    table = take_times(table[~blank], reading.rejections, reading.time_zone).rename(columns={"mrn": "key"})
    return build_table(name, **{column: table[column] for column in ("key", *columns, "file", "row")})


def _images(reading: _Reading, described: SourceDescription) -> pd.DataFrame:
    if IMAGE_LIST not in reading.files:
        return build_table("images")
    table = reading.table(IMAGE_LIST, ["time", "file"], rename={"file": "image"})
    table = take_times(table, reading.rejections, reading.time_zone)
    names = [posixpath.normpath(posixpath.join(IMAGES, image)) for image in table["image"]]
    known = [name for name in dict.fromkeys(names) if name in reading.files]
    paths = dict(zip(known, reading.files.paths(known), strict=True))
    folder = reading.files.path(IMAGE_LIST).resolve().parent
    inside = np.array(
        [
            name.startswith(f"{IMAGES}/") and (name not in paths or paths[name].resolve().is_relative_to(folder))
            for name in names
        ],
        dtype=bool,
    )
    reading.rejections.malformed(
        table[~inside], "file", "leads out of the images folder", remedy="Name a file beside images.csv"
    )
    # An empty path stands for a file that is not there.
    table = table.assign(path=[str(paths.get(name, "")) for name in names])[inside]
    modality = table["modality"] if "modality" in table else pd.Series("", index=table.index)
    return build_table(
        "images",
        key=table["mrn"],
        time=table["time"],
        modality=modality.where(modality != "", described.image_modality),
        path=table["path"],
        file=table["file"],
        row=table["row"],
    )


def _devices(reading: _Reading, catalogue: Catalogue) -> pd.DataFrame:
    """Return calibration certificates by channel; a blood pressure's holds for both of its channels."""
    # Certificates belong to no patient: the first shard has them all.
    if "devices.csv" not in reading.files or not reading.shard.first:
        return build_table("devices")
    required = ["device_id", "measurement", "gain", "bias", "clock_offset_seconds"]
    table = read_text_table(reading.files, "devices.csv", TextColumns(required), reading.rejections)
    for column in required[2:]:
        table = take_numbers(table, reading.rejections, column)
    channels = table["measurement"].str.casefold().map(catalogue.by_name)
    table = table.assign(channel=channels)[channels.notna()].explode("channel")
    return build_table("devices", **{name: table[name] for name in ("device_id", "channel", *required[2:])})
