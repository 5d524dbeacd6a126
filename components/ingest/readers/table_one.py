"""Reader of the paper's Table I: one row a day, one column a measurement, blood pressure as ``120/80``.

Either one CSV file with the columns Patient and Diagnosis, or a folder of one file a patient with a labels.csv
(columns file and label).
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from components.ingest.rejections import Rejections
from components.ingest.settings import TableOneSource
from components.ingest.source_tables import SourceTables, build_table, constant
from components.ingest.tabular import read_text_table, split_pressures, take_numbers, take_times
from data_schemas.channels import Catalogue
from data_schemas.errors import InputError

_HEADING = r"^\s*(?P<name>.*?)\s*(?:[(（]\s*(?P<unit>[^()（）]*)\s*[)）])?\s*$"
_LABELS = "labels.csv"
_OWN = ["Patient", "Diagnosis", "Date", "file", "row"]


def read_table_one(settings: TableOneSource, path: Path, catalogue: Catalogue, rejections: Rejections) -> SourceTables:
    """Read one file, or a folder of one file a patient.

    Args:
        settings: The source's settings.
        path: The file or folder.
        catalogue: Maps headings to channels.
        rejections: Takes malformed rows.

    Returns:
        Patients in the order of their first rows.

    Raises:
        InputError: A file or column is not there, no heading is a channel, or a row is malformed and ``on_bad_row``
            is "fail".
    """
    if path.is_dir():
        table, labels, paths = _read_folder(path, rejections)
        files, groups = [path / _LABELS], {path.name: paths}
    else:
        table = read_text_table(path, path.name, ["Patient", "Diagnosis", "Date"], rejections)
        labels = build_table(
            "labels", key=table["Patient"], label=table["Diagnosis"], file=table["file"], row=table["row"]
        ).drop_duplicates(["key", "label"])
        files, groups = [path], {}
    nameless = table["Patient"] == ""
    rejections.add(table[nameless], "Patient", "row names no patient")
    table = table[~nameless]
    first = table.drop_duplicates("Patient")
    patients = build_table(
        "patients", key=first["Patient"], sex=["unknown"] * len(first), file=first["file"], row=first["row"]
    )
    observations, not_used = _observations(table, path.name, settings, catalogue, rejections)
    return SourceTables(
        patients=patients, observations=observations, labels=labels, not_used=not_used, files=files, groups=groups
    )


def _read_folder(path: Path, rejections: Rejections) -> tuple[pd.DataFrame, pd.DataFrame, list[Path]]:
    """Read all files of a folder; a patient's key is the file's name, which messages do not repeat."""
    listed = read_text_table(path / _LABELS, _LABELS, ["file", "label"], rejections, rename={"file": "key"})
    paths = sorted(file for file in path.glob("*.csv") if file.name != _LABELS)
    if not paths:
        raise InputError("has no CSV file beside labels.csv", file=path.name, remedy="Check the path in the settings")
    parts = [
        read_text_table(file, f"{path.name}, file {position} in name order", ["Date"], rejections).assign(
            Patient=file.name
        )
        for position, file in enumerate(paths, start=1)
    ]
    labels = build_table("labels", key=listed["key"], label=listed["label"], file=listed["file"], row=listed["row"])
    return pd.concat(parts, ignore_index=True), labels, paths


def _observations(
    table: pd.DataFrame, source: str, settings: TableOneSource, catalogue: Catalogue, rejections: Rejections
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the observations, and the rows of columns that are no channel."""
    headings = pd.Series([column for column in table.columns if column not in _OWN], dtype=object)
    parsed = headings.str.extract(_HEADING).fillna("")
    channels = parsed["name"].str.casefold().map(catalogue.by_name)
    known = channels.notna()
    if not known.any():
        raise InputError(
            "no column is a measurement that the catalogue knows",
            file=source,
            row=1,
            remedy="Name columns as in Table I, such as Body temperature (°C)",
        )
    table = take_times(table, rejections, settings.time_zone, column="Date").rename(columns={"Date": "time"})
    parts = []
    for heading, names, unit in zip(headings[known], channels[known], parsed.loc[known, "unit"], strict=True):
        # An empty cell of a wide table is no measurement, not a rejected one.
        measured = table[table[heading].fillna("") != ""]
        if len(names) == 1:
            single = take_numbers(measured, rejections, heading)
            parts.append(single.assign(channel=names[0], value=single[heading], unit=unit))
            continue
        pair = split_pressures(measured, rejections, heading)
        parts += [
            pair.assign(channel=name, value=pair[column], unit=unit)
            for name, column in zip(names, ("first", "second"), strict=True)
        ]
    rows = pd.concat(parts).sort_index(kind="stable")
    columns = {name: rows[name] for name in ("channel", "time", "value", "unit", "file", "row")}
    observations = build_table("observations", key=rows["Patient"], device_id=constant("", len(rows)), **columns)
    not_used = {str(heading): int((table[heading] != "").sum()) for heading in headings[~known]}
    return observations, not_used
