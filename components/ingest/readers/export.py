"""Reader of the hospital export: CSV and Parquet files, images and a source.yaml that explains them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.ingest.rejections import ABSENT, Rejections
from components.ingest.settings import TimeZone
from components.ingest.source_tables import SourceTables, build_table, map_values
from components.ingest.tabular import read_text_table, split_pressures, take_numbers, take_times
from data_schemas.channels import Catalogue
from data_schemas.errors import InputError

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


def read_export(path: Path, catalogue: Catalogue, rejections: Rejections) -> SourceTables:
    """Read a hospital export.

    Args:
        path: Its folder.
        catalogue: Maps measurements to channels.
        rejections: Takes malformed rows and empty values.

    Returns:
        Patients in the order of patients.csv.

    Raises:
        InputError: A file or column is not there, or a row is malformed and ``on_bad_row`` is "fail".
    """
    described = _describe(path)
    patients = _patients(path, rejections)
    observations, not_used = _observations(path, described.time_zone, catalogue, rejections)
    annotations = _optional(path, "annotations", ["mrn", "annotator", "label", "time"], described, rejections)
    notes = _optional(path, "notes", ["mrn", "time", "text"], described, rejections)
    image_files = sorted(file for file in (path / "images").rglob("*") if file.is_file() and file.suffix != ".csv")
    listed = [path / "source.yaml", path / "patients.csv", *_observation_files(path)]
    listed += [path / name for name in ("devices.csv", "notes.csv", "annotations.csv", "images/images.csv")]
    return SourceTables(
        patients=patients,
        observations=observations,
        notes=notes,
        images=_images(path, described, rejections),
        annotations=annotations,
        devices=_devices(path, catalogue, rejections),
        classes=described.classes,
        label_names=described.class_labels,
        not_used=not_used,
        files=[file for file in listed if file.is_file()],
        groups={"images": image_files} if image_files else {},
        provenance={"synthetic": described.synthetic},
    )


def _describe(path: Path) -> SourceDescription:
    file = path / "source.yaml"
    if not file.is_file():
        raise InputError("is not a hospital export: it has no source.yaml", file=str(path), remedy="Check the path")
    try:
        return SourceDescription.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError("is not YAML", file="source.yaml", remedy="Mend the file") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(first["msg"], file="source.yaml", field=field, remedy="Mend the file") from error


def _patients(path: Path, rejections: Rejections) -> pd.DataFrame:
    table = read_text_table(path / "patients.csv", "patients.csv", ["mrn"], rejections)
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


def _observation_files(path: Path) -> list[Path]:
    folder = path / "observations"
    return sorted(file for file in folder.rglob("*") if file.name.endswith((".csv", ".csv.gz", ".parquet")))


def _observations(
    path: Path, time_zone: str, catalogue: Catalogue, rejections: Rejections
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the observations, and how many rows hold each measurement that no channel stands for."""
    files = _observation_files(path)
    if not files:
        raise InputError("has no *.csv or *.parquet file", file="observations", remedy="Check the export")
    required = ["mrn", "device_id", "measurement", "time", "value", "unit"]
    parts = [read_text_table(file, file.relative_to(path).as_posix(), required, rejections) for file in files]
    table = pd.concat(parts, ignore_index=True)
    channels = {name: catalogue.by_name.get(name.casefold(), ()) for name in table["measurement"].unique()}
    known = table["measurement"].isin([name for name, found in channels.items() if found])
    not_used = {str(name): int(count) for name, count in table.loc[~known, "measurement"].value_counts().items()}
    table = take_times(table[known], rejections, time_zone)
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


def _optional(
    path: Path, name: str, columns: list[str], described: SourceDescription, rejections: Rejections
) -> pd.DataFrame:
    """Read notes.csv or annotations.csv where the export has it."""
    if not (path / f"{name}.csv").is_file():
        return build_table(name)
    table = read_text_table(path / f"{name}.csv", f"{name}.csv", columns, rejections)
    blank = table[columns[-1] if name == "notes" else "label"] == ""
    rejections.add(table[blank], "text" if name == "notes" else "label", ABSENT)
    table = take_times(table[~blank], rejections, described.time_zone).rename(columns={"mrn": "key"})
    return build_table(name, **{column: table[column] for column in ("key", *columns[1:], "file", "row")})


def _images(path: Path, described: SourceDescription, rejections: Rejections) -> pd.DataFrame:
    name = "images/images.csv"
    if not (path / name).is_file():
        return build_table("images")
    table = read_text_table(path / name, name, ["mrn", "time", "file"], rejections, rename={"file": "image"})
    table = take_times(table, rejections, described.time_zone)
    folder = (path / "images").resolve()
    paths = table["image"].map(lambda image: (folder / image).resolve())
    outside = ~paths.map(lambda image: image.is_relative_to(folder)).astype(bool)
    rejections.malformed(
        table[outside], "file", "leads out of the images folder", remedy="Name a file beside images.csv"
    )
    table = table.assign(path=paths.astype(str))[~outside]
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


def _devices(path: Path, catalogue: Catalogue, rejections: Rejections) -> pd.DataFrame:
    """Return calibration certificates by channel; a blood pressure's holds for both of its channels."""
    if not (path / "devices.csv").is_file():
        return build_table("devices")
    required = ["device_id", "measurement", "gain", "bias", "clock_offset_seconds"]
    table = read_text_table(path / "devices.csv", "devices.csv", required, rejections)
    for column in required[2:]:
        table = take_numbers(table, rejections, column)
    channels = table["measurement"].str.casefold().map(catalogue.by_name)
    table = table.assign(channel=channels)[channels.notna()].explode("channel")
    return build_table("devices", **{name: table[name] for name in ("device_id", "channel", *required[2:])})
