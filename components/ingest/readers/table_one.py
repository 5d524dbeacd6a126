"""Reader of the paper's Table I: one row a day, one column a measurement, blood pressure as ``120/80``.

Either one CSV file with the columns Patient and Diagnosis, or a folder of one file a patient with a labels.csv
(columns file and label).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from components.ingest.locations import FileGroup, SourceFiles
from components.ingest.patient_shard import PatientShard
from components.ingest.rejections import Rejections
from components.ingest.settings import TableOneSource
from components.ingest.source_tables import SourceTables, build_table, constant
from components.ingest.tabular import split_pressures, take_numbers, take_times
from components.ingest.text_tables import TextColumns, read_text_table
from data_schemas.channels import Catalogue
from data_schemas.errors import InputError

_HEADING = r"^\s*(?P<name>.*?)\s*(?:[(（]\s*(?P<unit>[^()（）]*)\s*[)）])?\s*$"
_LABELS = "labels.csv"
_OWN = ["Patient", "Diagnosis", "Date", "file", "row"]


def read_table_one(
    settings: TableOneSource,
    files: SourceFiles,
    shard: PatientShard,
    catalogue: Catalogue,
    rejections: Rejections,
) -> SourceTables:
    """Read one file, or a folder of one file a patient.

    Args:
        settings: The source's settings.
        files: The file or folder; of a folder, only the files of the shard's patients are read.
        shard: Whose rows to take.
        catalogue: Maps headings to channels.
        rejections: Takes malformed rows.

    Returns:
        Patients in the order of their first rows.

    Raises:
        InputError: A file or column is not there, or a row is malformed and ``on_bad_row`` is "fail".
    """
    if files.single:
        name = files.names[0]
        columns = TextColumns(["Patient", "Diagnosis", "Date"], key="Patient")
        table = read_text_table(files, name, columns, rejections, shard)
        labels = build_table(
            "labels", key=table["Patient"], label=table["Diagnosis"], file=table["file"], row=table["row"]
        ).drop_duplicates(["key", "label"])
        listed = [FileGroup(name, files, [name])]
    else:
        table, labels = _read_folder(files, shard, rejections)
        listed = [FileGroup(_LABELS, files, [_LABELS]), FileGroup(files.name, files, _own_files(files), named=False)]
    nameless = table["Patient"] == ""
    rejections.add(table[nameless], "Patient", "row names no patient")
    table = table[~nameless]
    first = table.drop_duplicates("Patient")
    patients = build_table(
        "patients", key=first["Patient"], sex=["unknown"] * len(first), file=first["file"], row=first["row"]
    )
    channels = _channels(table, catalogue)
    observations, not_used = _observations(table, channels, settings, rejections)
    return SourceTables(
        patients=patients,
        observations=observations,
        labels=labels,
        not_used=not_used,
        listed=listed,
        without_channel=[] if channels["names"].notna().any() else [files.name],
    )


def table_one_patients(files: SourceFiles, rejections: Rejections) -> pd.Series:
    """Return the patients of one file, or of a folder of one file a patient.

    Args:
        files: The file, which is read as a whole; or the folder, which is listed.
        rejections: Takes malformed rows.

    Returns:
        Keys in the order of their first rows.

    Raises:
        InputError: A file or column is not there, or a row is malformed and ``on_bad_row`` is "fail".
    """
    if not files.single:
        return pd.Series(_own_files(files), dtype=object)
    table = read_text_table(files, files.names[0], TextColumns(["Patient"], key="Patient"), rejections)
    return table.loc[table["Patient"] != "", "Patient"].drop_duplicates()


def _own_files(files: SourceFiles) -> list[str]:
    """Return the names of the patients' files; a patient's key is the file's name, which messages do not repeat."""
    names = [name for name in files.below("", ".csv") if "/" not in name and name != _LABELS]
    if not names:
        remedy = "Check the path in the settings"
        raise InputError("has no CSV file beside labels.csv", file=files.name, remedy=remedy)
    return names


def _read_folder(files: SourceFiles, shard: PatientShard, rejections: Rejections) -> tuple[pd.DataFrame, pd.DataFrame]:
    columns = TextColumns(["file", "label"], key="file", rename={"file": "key"})
    listed = read_text_table(files, _LABELS, columns, rejections, shard)
    labels = build_table("labels", key=listed["key"], label=listed["label"], file=listed["file"], row=listed["row"])
    names = np.array(_own_files(files), dtype=object)
    taken = shard.takes(names)
    parts = [
        read_text_table(
            files,
            name,
            TextColumns(["Date"]),
            rejections,
            label=f"{files.name}, file {position + 1} in name order",
        ).assign(Patient=name)
        for position, name in enumerate(names)
        if taken[position]
    ]
    empty = pd.DataFrame({name: pd.Series(dtype=object) for name in ("Date", "file", "row", "Patient")})
    return pd.concat(parts or [empty], ignore_index=True), labels


def _channels(table: pd.DataFrame, catalogue: Catalogue) -> pd.DataFrame:
    """Return each column's heading, the names of its channels (None where it is none), and its unit."""
    headings = pd.Series([column for column in table.columns if column not in _OWN], dtype=object)
    parsed = headings.str.extract(_HEADING).fillna("")
    names = parsed["name"].str.casefold().map(catalogue.by_name)
    return pd.DataFrame({"heading": headings, "names": names, "unit": parsed["unit"]}, dtype=object)


def _observations(
    table: pd.DataFrame, channels: pd.DataFrame, settings: TableOneSource, rejections: Rejections
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the observations, and the rows of columns that are no channel."""
    known = channels[channels["names"].notna()]
    table = take_times(table, rejections, settings.time_zone, column="Date").rename(columns={"Date": "time"})
    parts = []
    for heading, names, unit in known.itertuples(index=False):
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
    # Cells of columns that another patient's file does not have are empty as well.
    others = channels.loc[channels["names"].isna(), "heading"]
    not_used = {str(heading): int((table[heading].fillna("") != "").sum()) for heading in others}
    if not parts:
        return build_table("observations"), not_used
    rows = pd.concat(parts).sort_index(kind="stable")
    columns = {name: rows[name] for name in ("channel", "time", "value", "unit", "file", "row")}
    observations = build_table("observations", key=rows["Patient"], device_id=constant("", len(rows)), **columns)
    return observations, not_used
