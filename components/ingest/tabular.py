"""Reading CSV and Parquet as text with row numbers, and parsing its columns without a loop over rows."""

from __future__ import annotations

import zoneinfo
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from components.ingest.rejections import ABSENT, Rejections
from data_schemas.errors import InputError

BLOOD_PRESSURE = r"^\s*(-?\d{1,4}(?:\.\d+)?)\s*/\s*(-?\d{1,4}(?:\.\d+)?)\s*$"
_OFFSET = r"(?:[Zz]|[+-]\d{2}:?\d{2}|[+-]\d{2})$"


def read_text_table(
    path: Path,
    name: str,
    required: list[str],
    rejections: Rejections,
    rename: dict[str, str] | None = None,
) -> pd.DataFrame:
    """Read a CSV or Parquet file with every column as text.

    Args:
        path: ``*.csv``, ``*.csv.gz`` or ``*.parquet``.
        name: How messages call the file.
        required: Columns that must be there.
        rejections: Takes rows with too few or too many fields.
        rename: New names of columns, for those that would collide with ``file`` and ``row``.

    Returns:
        The columns as text (empty where missing), with ``file`` and ``row`` (1-based, header included).

    Raises:
        InputError: The file is absent, unreadable, or lacks a required column.
    """
    if not path.is_file():
        raise InputError("is not there", file=name, remedy="Check the source, or its path in the settings")
    try:
        if path.suffix == ".parquet":
            table, numbers = pq.read_table(path), None
        else:
            table, numbers = _read_csv(path, name, rejections)
    except (pa.ArrowException, OSError, EOFError) as error:
        detail = str(error).splitlines()[0] if isinstance(error, pa.ArrowInvalid) and "UTF8" in str(error) else ""
        raise InputError(f"cannot be read {detail}".strip(), file=name, remedy="Write it again as UTF-8") from error
    missing = [column for column in required if column not in table.column_names]
    if missing:
        raise InputError(
            f"has no such column; it has {len(table.column_names)} columns, and needs {', '.join(required)}",
            file=name,
            row=1,
            field=missing[0],
            remedy="Rename or add the column",
        )
    columns = {
        column: pc.utf8_trim_whitespace(pc.fill_null(pc.cast(table[column], pa.string()), "")).to_pandas()
        for column in table.column_names
    }
    frame = pd.DataFrame(columns, columns=table.column_names).rename(columns=rename or {})
    # Parquet has no header line.
    rows = np.arange(1, len(frame) + 1) if numbers is None else numbers
    return frame.assign(file=name, row=rows)


def _read_csv(path: Path, name: str, rejections: Rejections) -> tuple[pa.Table, np.ndarray]:
    """Read a CSV file; return the table and the row number of each of its rows."""
    bad: list[int] = []

    def note_invalid(row: pacsv.InvalidRow) -> str:
        bad.append(row.number)
        return "skip"

    header = _header(path)
    table = pacsv.read_csv(
        path,
        # One thread, because only then the handler is told the row's number.
        read_options=pacsv.ReadOptions(use_threads=False),
        parse_options=pacsv.ParseOptions(
            newlines_in_values=True, ignore_empty_lines=False, invalid_row_handler=note_invalid
        ),
        convert_options=pacsv.ConvertOptions(
            column_types={column: pa.string() for column in header}, strings_can_be_null=False
        ),
    )
    rejections.malformed(
        pd.DataFrame({"file": name, "row": bad}),
        "(all)",
        "has not as many fields as the header",
        remedy="Mend the row",
    )
    numbers = np.setdiff1d(np.arange(2, table.num_rows + len(bad) + 2), bad)
    # Arrow reads a blank line as a row of empty texts.
    used = pc.not_equal(pc.binary_join_element_wise(*table.columns, ""), "")
    return table.filter(used), numbers[used.to_numpy()]


def _header(path: Path) -> list[str]:
    """Return the column names of a CSV file."""
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
