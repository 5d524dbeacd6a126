"""Reader of MEDS events: Parquet with subject_id, time, code and a numeric value.

A code such as ``LAB//220045//bpm`` holds the measurement and its unit; ``channels.yaml`` maps it to a channel. Codes
that stand for no channel are counted, not rejected.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from components.ingest.locations import FileGroup, SourceFiles
from components.ingest.patient_shard import PatientShard
from components.ingest.rejections import Rejections
from components.ingest.settings import MedsSource
from components.ingest.source_tables import SourceTables, build_table, constant
from components.ingest.tabular import localise
from components.ingest.text_tables import as_text, shard_row_groups
from data_schemas.channels import Catalogue
from data_schemas.errors import InputError

_SUBJECT = "subject_id"
_VALUES = ("numeric_value", "value")
_BIRTH = "MEDS_BIRTH"
_SEX = {"GENDER//F": "female", "GENDER//M": "male", "GENDER//FEMALE": "female", "GENDER//MALE": "male"}
_UNKNOWN_UNIT = "UNK"


def read_meds(
    settings: MedsSource, files: SourceFiles, shard: PatientShard, catalogue: Catalogue, rejections: Rejections
) -> SourceTables:
    """Read MEDS events.

    Args:
        settings: The source's settings.
        files: One Parquet file, or a folder of them; row groups without a patient of the shard are not read.
        shard: Whose rows to take.
        catalogue: Maps codes to channels.
        rejections: Takes events of a channel without a time.

    Returns:
        Patients in the order of the events.

    Raises:
        InputError: There is no Parquet file, or one cannot be read or lacks a column.
    """
    names = _event_files(files)
    parts = [_read_events(files, name, shard) for name in names]
    events = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    codes = pd.Index(events["code"].unique())
    channels, units = _channels_of(codes, catalogue)
    channel = events["code"].map(pd.Series(channels, index=codes))
    used = channel.notna()
    counts = events.loc[~used & ~events["code"].isin([_BIRTH, *_SEX]), "code"].value_counts()
    taken = events[used].assign(channel=channel[used], unit=events["code"].map(pd.Series(units, index=codes))[used])
    timeless = taken["time"].isna()
    rejections.malformed(taken[timeless], "time", "event of a channel has no time stamp", remedy="Mend the event")
    taken = taken[~timeless]
    observations = build_table(
        "observations",
        key=taken["key"],
        device_id=constant("", len(taken)),
        channel=taken["channel"],
        time=localise(taken["time"], settings.time_zone),
        value=taken["value"],
        unit=taken["unit"],
        file=taken["file"],
        row=taken["row"],
    )
    return SourceTables(
        patients=_patients(events),
        observations=observations,
        not_used={str(code): int(count) for code, count in counts.items() if count},
        listed=[FileGroup(name.rpartition("/")[2], files, [name]) for name in names],
    )


def meds_patients(files: SourceFiles) -> pd.Series:
    """Return the patients of MEDS events; reads the column of subjects alone.

    Args:
        files: One Parquet file, or a folder of them.

    Returns:
        Keys in the order of the events.

    Raises:
        InputError: There is no Parquet file, or one cannot be read or lacks a column.
    """
    found = []
    for name in _event_files(files):
        with _open_events(files, name) as parquet:
            for group in range(parquet.num_row_groups):
                subjects = parquet.read_row_group(group, columns=[_SUBJECT])[_SUBJECT]
                found.append(as_text(subjects.unique()).to_pandas())
    keys = pd.concat([pd.Series(dtype=object), *found])
    return keys[keys != ""].drop_duplicates()


def _event_files(files: SourceFiles) -> list[str]:
    names = files.names if files.single else files.below("", ".parquet")
    if not names:
        raise InputError("has no *.parquet file", file=files.name, remedy="Check the path in the settings")
    return names


@contextmanager
def _open_events(files: SourceFiles, name: str) -> Iterator[pq.ParquetFile]:
    """Open one file; what Arrow cannot read of it is the user's to mend."""
    try:
        with files.open(name) as stream:
            parquet = pq.ParquetFile(stream)
            missing = [column for column in (_SUBJECT, "time", "code") if column not in parquet.schema_arrow.names]
            missing += [] if set(_VALUES) & set(parquet.schema_arrow.names) else [_VALUES[0]]
            if missing:
                raise InputError("has no such column", file=name, field=missing[0], remedy="Give MEDS events")
            yield parquet
    except (pa.ArrowException, OSError) as error:
        raise InputError("is not a readable Parquet file", file=name, remedy="Copy it again") from error


def _read_events(files: SourceFiles, name: str, shard: PatientShard) -> pd.DataFrame:
    """Return key, time, code, value, file, row of the shard's rows of one file."""
    tables, rows = [], [np.zeros(0, dtype=np.int64)]
    with _open_events(files, name) as parquet:
        schema = parquet.schema_arrow
        value = next(column for column in _VALUES if column in schema.names)
        columns = [_SUBJECT, "time", "code", value]
        for group, taken, first in shard_row_groups(parquet, _SUBJECT, shard):
            table = parquet.read_row_group(group, columns=columns)
            tables.append(table if taken is None else table.take(pa.array(taken)))
            rows.append((np.arange(table.num_rows) if taken is None else taken) + first + 1)
        table = pa.concat_tables(tables) if tables else schema.empty_table().select(columns)
    try:
        # Wall-clock times; microseconds reach past the year 2262.
        time = table["time"].cast(
            pa.timestamp("us", tz="UTC" if getattr(schema.field("time").type, "tz", None) else None)
        )
        numbers = table[value].to_numpy()
        if numbers.dtype == np.float32:
            # Through the shortest text, so that 98.6 stays 98.6 and not 98.5999984741.
            numbers = numbers.astype(str)
        numbers = numbers.astype(np.float64)
    except (pa.ArrowException, ValueError) as error:
        raise InputError("has times or values of the wrong type", file=name, remedy="Give MEDS events") from error
    return pd.DataFrame(
        {
            "key": as_text(table[_SUBJECT]).dictionary_encode().to_pandas(),
            "time": time.cast(pa.timestamp("us")).to_pandas().astype("datetime64[us]"),
            "code": table["code"].cast(pa.string()).to_pandas(),
            "value": numbers,
            "file": pd.Categorical.from_codes(np.zeros(table.num_rows, dtype=np.int8), pd.Index([name])),
            "row": np.concatenate(rows),
        }
    )


def _channels_of(codes: pd.Index, catalogue: Catalogue) -> tuple[list[str | None], list[str | None]]:
    """Return the channel and unit of each distinct code; None where it stands for no channel."""
    known = catalogue.by_meds
    parts = [code.split("//") for code in codes]
    whole = [known.get(code) or known.get("//".join(part[:2])) for code, part in zip(codes, parts, strict=True)]
    channels = [entry[0] if entry else None for entry in whole]
    units = [
        None if entry is None else (part[2] if len(part) > 2 and part[2] != _UNKNOWN_UNIT else entry[1])
        for entry, part in zip(whole, parts, strict=True)
    ]
    return channels, units


def _patients(events: pd.DataFrame) -> pd.DataFrame:
    """Return one row a subject; sex and birth from the events GENDER and MEDS_BIRTH."""
    first = events[events["key"] != ""].drop_duplicates("key")
    keys = first["key"].astype(object)
    sexes = events[events["code"].isin(list(_SEX))].drop_duplicates("key").set_index("key")["code"].map(_SEX)
    births = events[events["code"] == _BIRTH].drop_duplicates("key").set_index("key")["time"]
    return build_table(
        "patients",
        key=keys,
        sex=keys.map(dict(sexes.items())).fillna("unknown"),
        birth_date=births.reindex(keys).to_numpy(),
        file=first["file"].astype(object),
        row=first["row"],
    )
