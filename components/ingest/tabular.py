"""Reading CSV and Parquet as text with row numbers, and parsing its columns without a loop over rows."""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from components.ingest.locations import SourceFiles
from components.ingest.patient_shard import WHOLE, PatientShard
from components.ingest.rejections import ABSENT, Rejections
from data_schemas.errors import InputError

# Bytes of a CSV file that are parsed at a time.
_BLOCK = 1 << 24
BLOOD_PRESSURE = r"^\s*(-?\d{1,4}(?:\.\d+)?)\s*/\s*(-?\d{1,4}(?:\.\d+)?)\s*$"
_OFFSET = r"(?:[Zz]|[+-]\d{2}:?\d{2}|[+-]\d{2})$"


@dataclass(frozen=True)
class TextColumns:
    """Which columns of a text table are read, and of which patients.

    Attributes:
        required: Columns that must be there.
        key: The column with the patient's key, where the rows belong to patients.
        rename: New names of columns, for those that would collide with ``file`` and ``row``.
    """

    required: list[str]
    key: str | None = None
    rename: dict[str, str] = field(default_factory=dict)


def read_text_table(
    files: SourceFiles,
    name: str,
    columns: TextColumns,
    rejections: Rejections,
    shard: PatientShard = WHOLE,
    label: str | None = None,
) -> pd.DataFrame:
    """Read a CSV or Parquet file with every column as text.

    A shard's other rows are left out while the file is read. Of a Parquet file, row groups without a row of the shard
    are not read, but for the key; a CSV file has to be read as a whole.

    Args:
        files: Where the file is.
        name: ``*.csv``, ``*.csv.gz`` or ``*.parquet``.
        columns: What to read.
        rejections: Takes rows with too few or too many fields.
        shard: Whose rows to take; all where ``columns.key`` is None.
        label: How messages call the file, where not by its name.

    Returns:
        The columns as text (empty where missing), with ``file`` and ``row`` (1-based, header included).

    Raises:
        InputError: The file is absent, unreadable, or lacks a required column.
    """
    label = label or name
    if name not in files:
        raise InputError("is not there", file=label, remedy="Check the source, or its path in the settings")
    if columns.key is None:
        shard = WHOLE
    read = _read_parquet if name.endswith(".parquet") else _read_csv
    try:
        table, numbers = read(files, name, label, columns, rejections, shard)
    except (pa.ArrowException, OSError, EOFError) as error:
        detail = str(error).splitlines()[0] if isinstance(error, pa.ArrowInvalid) and "UTF8" in str(error) else ""
        raise InputError(f"cannot be read {detail}".strip(), file=label, remedy="Write it again as UTF-8") from error
    texts = {column: table[column].to_pandas() for column in table.column_names}
    frame = pd.DataFrame(texts, columns=table.column_names).rename(columns=columns.rename)
    return frame.assign(file=label, row=numbers)


def as_text(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Turn a column of any type into text without blanks around it.

    Args:
        column: An Arrow column.

    Returns:
        Strings; empty where the value is missing.
    """
    return pc.utf8_trim_whitespace(pc.fill_null(pc.cast(column, pa.string()), ""))


def _check_columns(names: list[str], columns: TextColumns, label: str) -> None:
    missing = [column for column in columns.required if column not in names]
    if missing:
        raise InputError(
            f"has no such column; it has {len(names)} columns, and needs {', '.join(columns.required)}",
            file=label,
            row=1,
            field=missing[0],
            remedy="Rename or add the column",
        )


def _read_parquet(
    files: SourceFiles, name: str, label: str, columns: TextColumns, rejections: Rejections, shard: PatientShard
) -> tuple[pa.Table, np.ndarray]:
    """Read a Parquet file; return its rows of the shard as text, and the number of each."""
    with files.open(name) as stream:
        parquet = pq.ParquetFile(stream)
        _check_columns(parquet.schema_arrow.names, columns, label)
        tables, numbers = [], []
        for group, rows, first in shard_row_groups(parquet, columns.key, shard):
            table = parquet.read_row_group(group)
            tables.append(table if rows is None else table.take(pa.array(rows)))
            taken = np.arange(table.num_rows) if rows is None else rows
            # Parquet has no header line.
            numbers.append(taken + first + 1)
        empty = parquet.schema_arrow.empty_table()
    table = pa.concat_tables(tables) if tables else empty
    texts = pa.table({column: as_text(table[column]) for column in table.column_names})
    return texts, np.concatenate([np.zeros(0, dtype=np.int64), *numbers])


def shard_row_groups(
    parquet: pq.ParquetFile, key: str | None, shard: PatientShard
) -> Iterator[tuple[int, np.ndarray | None, int]]:
    """Tell which row groups of a Parquet file hold rows of a shard; reads their keys and nothing else.

    Args:
        parquet: The file.
        key: Column with the patients' keys; None: all rows are taken.
        shard: Whose rows to take.

    Yields:
        Number of the row group, the shard's rows in it (None: all of them), and how many rows come before it.
    """
    first = 0
    for group in range(parquet.num_row_groups):
        count = parquet.metadata.row_group(group).num_rows
        if shard.whole or key is None:
            yield group, None, first
        else:
            keys = as_text(parquet.read_row_group(group, columns=[key])[key])
            none = np.zeros(0, dtype=bool)
            rows = np.flatnonzero(np.concatenate([none, *(shard.takes_array(chunk) for chunk in keys.chunks)]))
            if len(rows):
                yield group, rows, first
        first += count


def _read_csv(
    files: SourceFiles, name: str, label: str, columns: TextColumns, rejections: Rejections, shard: PatientShard
) -> tuple[pa.Table, np.ndarray]:
    """Read a CSV file block by block; return its rows of the shard as text, and the number of each."""
    bad: list[int] = []

    def note_invalid(row: pacsv.InvalidRow) -> str:
        bad.append(row.number)
        return "skip"

    path = files.path(name)
    header = csv_header(path)
    _check_columns(header, columns, label)
    reader = pacsv.open_csv(
        path,
        # One thread, because only then the handler is told the row's number.
        read_options=pacsv.ReadOptions(use_threads=False, block_size=_BLOCK),
        parse_options=pacsv.ParseOptions(
            newlines_in_values=True, ignore_empty_lines=False, invalid_row_handler=note_invalid
        ),
        convert_options=pacsv.ConvertOptions(
            column_types={column: pa.string() for column in header}, strings_can_be_null=False
        ),
    )
    tables, places, done = [], [], 0
    with reader:
        for batch in reader:
            # Arrow reads a blank line as a row of empty texts.
            used = pc.not_equal(pc.binary_join_element_wise(*batch.columns, ""), "").to_numpy(zero_copy_only=False)
            table = pa.table({column: as_text(batch[column]) for column in header})
            if columns.key is not None and not shard.whole:
                used &= shard.takes_array(table[columns.key].chunk(0))
            rows = np.flatnonzero(used)
            tables.append(table if len(rows) == len(used) else table.take(pa.array(rows)))
            places.append(rows + done)
            done += len(used)
    if shard.first:
        rejections.malformed(
            pd.DataFrame({"file": label, "row": bad}),
            "(all)",
            "has not as many fields as the header",
            remedy="Mend the row",
        )
    place = np.concatenate([np.zeros(0, dtype=np.int64), *places])
    # A row's number counts the header and the rows that were skipped before it.
    before = np.asarray(bad, dtype=np.int64) - 2 - np.arange(len(bad))
    empty = pa.table({column: pa.array([], pa.string()) for column in header})
    return pa.concat_tables([empty, *tables]), place + 2 + np.searchsorted(before, place, side="right")


def csv_header(path: Path) -> list[str]:
    """Return the column names of a CSV file.

    Args:
        path: The file.
    """
    with pacsv.open_csv(
        path, parse_options=pacsv.ParseOptions(newlines_in_values=True, invalid_row_handler=lambda row: "skip")
    ) as reader:
        return reader.schema.names


def parse_times(text: pd.Series, time_zone: str = "UTC") -> pd.Series:
    """Parse ISO 8601 time stamps, with or without an offset, into UTC.

    Args:
        text: Such as ``2022-06-01T10:00:00+02:00``, ``2022-06-01 10:00``, ``2022-6-1`` or ``2022-06``.
        time_zone: IANA name of the zone of those without an offset. An hour that occurs twice is taken as the
            first, one that is skipped as the next one that exists.

    Returns:
        ``datetime64[us, UTC]``; NaT where the text is no time stamp between the years 1678 and 2261.
    """
    # Each distinct text is parsed once: devices and channels share their time stamps.
    codes, distinct = pd.factorize(text.astype(str))
    texts = pd.Series(distinct, dtype=object)
    # An offset can only follow a time of day, so that a date's last part is not taken for one.
    aware = texts.str.contains(":", regex=False) & texts.str.contains(_OFFSET, regex=True)
    # Apart, because pandas 2 reads a naive text that follows one with an offset as if it had that offset too.
    offset_times = pd.to_datetime(texts.where(aware), format="ISO8601", utc=True, errors="coerce")
    naive_texts = texts.where(~aware)
    naive_times = pd.to_datetime(naive_texts, format="ISO8601", errors="coerce")
    # "2022-6-1", as in the paper's Table I, is not ISO 8601.
    naive_times = naive_times.fillna(pd.to_datetime(naive_texts, format="%Y-%m-%d", errors="coerce"))
    times = offset_times.dt.as_unit("us").where(aware, localise(naive_times, time_zone))
    return pd.Series(times.array.take(codes), index=text.index)


def localise(naive: pd.Series, time_zone: str) -> pd.Series:
    """Turn wall-clock times of one zone into UTC, also past 2037, where pandas and Arrow forget summer time.

    Args:
        naive: ``datetime64`` without a zone; may hold NaT.
        time_zone: IANA name.

    Returns:
        ``datetime64[us, UTC]``.
    """
    naive = naive.astype("datetime64[us]")
    if time_zone == "UTC":
        return naive.dt.tz_localize("UTC")
    # All changes of the clock happen at a quarter of an hour, so one look-up a distinct quarter is enough.
    quarters, values = pd.factorize(naive.dt.floor("15min"))
    zone = zoneinfo.ZoneInfo(time_zone)
    index = pd.DatetimeIndex(values)
    utc = index.tz_localize(zone, ambiguous=np.ones(len(index), dtype=bool), nonexistent="shift_forward")
    offsets = (index - utc.tz_convert("UTC").tz_localize(None)).to_numpy("timedelta64[us]")
    offsets = np.append(offsets, np.timedelta64("NaT", "us"))
    return (naive - offsets[quarters]).astype("datetime64[us]").dt.tz_localize("UTC")


def take_times(frame: pd.DataFrame, rejections: Rejections, time_zone: str, column: str = "time") -> pd.DataFrame:
    """Parse a column of time stamps and drop the rows in which it is none.

    Args:
        frame: Columns ``file``, ``row`` and the time stamps as text.
        rejections: Takes the malformed rows.
        time_zone: Zone of naive time stamps.
        column: The column to parse.

    Returns:
        The remaining rows, with the column as ``datetime64[us, UTC]``.

    Raises:
        InputError: A time stamp does not parse and ``on_bad_row`` is "fail".
    """
    times = parse_times(frame[column], time_zone)
    bad = times.isna()
    rejections.malformed(
        frame[bad],
        column,
        "is not a time stamp",
        received=frame.loc[bad, column],
        remedy="Write times as 2022-06-01T10:00:00, with or without an offset",
    )
    return frame.assign(**{column: times})[~bad]


def take_numbers(frame: pd.DataFrame, rejections: Rejections, column: str = "value") -> pd.DataFrame:
    """Parse a column of numbers; drop rows in which it is empty (listed) or no number (malformed).

    Args:
        frame: Columns ``file``, ``row`` and the numbers as text.
        rejections: Takes the dropped rows.
        column: The column to parse.

    Returns:
        The remaining rows, with the column as float64.

    Raises:
        InputError: A value is not a number and ``on_bad_row`` is "fail".
    """
    text = frame[column].astype(str)
    absent = text.isin(["", "nan", "NaN", "NA", "null"])
    values = pd.to_numeric(text.where(~absent), errors="coerce")
    bad = values.isna() & ~absent
    rejections.add(frame[absent], column, ABSENT)
    rejections.malformed(
        frame[bad], column, "is not a number", received=text[bad], remedy="Write a number with a decimal point"
    )
    return frame.assign(**{column: values})[~absent & ~bad]


def split_pressures(frame: pd.DataFrame, rejections: Rejections, column: str = "value") -> pd.DataFrame:
    """Split blood pressures such as ``120/80`` into two columns of numbers.

    Args:
        frame: Columns ``file``, ``row`` and the pressures as text.
        rejections: Takes rows in which the pressure is empty (listed) or malformed.
        column: The column to split.

    Returns:
        The remaining rows, with float64 columns ``first`` and ``second`` beside the others.

    Raises:
        InputError: A pressure is malformed and ``on_bad_row`` is "fail".
    """
    text = frame[column].astype(str)
    absent = text.isin(["", " "])
    codes, distinct = pd.factorize(text)
    parts = pd.Series(distinct, dtype=object).str.extract(BLOOD_PRESSURE).astype(float)
    parts = parts.take(codes).set_axis(text.index)
    bad = parts[0].isna() & ~absent
    rejections.add(frame[absent], column, ABSENT)
    rejections.malformed(
        frame[bad],
        column,
        "is not a blood pressure",
        received=text[bad],
        remedy="Write systolic/diastolic, such as 120/80",
    )
    return frame.assign(first=parts[0], second=parts[1])[~absent & ~bad]
