"""Parsing columns of text (times, numbers, blood pressures) without a loop over rows."""

from __future__ import annotations

import zoneinfo

import numpy as np
import pandas as pd

from components.ingest.rejections import ABSENT, Rejections

BLOOD_PRESSURE = r"^\s*(-?\d{1,4}(?:\.\d+)?)\s*/\s*(-?\d{1,4}(?:\.\d+)?)\s*$"
_OFFSET = r"(?:[Zz]|[+-]\d{2}:?\d{2}|[+-]\d{2})$"


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
