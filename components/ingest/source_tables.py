"""What every reader returns: tables in source terms, keyed by the source's own patient key."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pandas.api.types import pandas_dtype, union_categoricals

if TYPE_CHECKING:
    from components.ingest.locations import FileGroup

TIME_DTYPE = "datetime64[us, UTC]"

_DTYPES = {
    "key": "object",
    "file": "object",
    "row": "int64",
    "sex": "object",
    "site": "object",
    "birth_date": "datetime64[us]",
    "age": "float64",
    "start": TIME_DTYPE,
    "device_id": "object",
    "channel": "object",
    "time": TIME_DTYPE,
    "value": "float64",
    "unit": "object",
    "text": "object",
    "modality": "object",
    "path": "object",
    "annotator": "object",
    "label": "object",
    "labels": "object",
    "gain": "float64",
    "bias": "float64",
    "clock_offset_seconds": "float64",
}

TABLE_COLUMNS = {
    # age: years at the start, where the source tells no birth date; start: first time stamp where nothing is measured.
    "patients": ["key", "sex", "birth_date", "age", "site", "start", "file", "row"],
    "observations": ["key", "device_id", "channel", "time", "value", "unit", "file", "row"],
    "notes": ["key", "time", "text", "file", "row"],
    "images": ["key", "time", "modality", "path", "file", "row"],
    "annotations": ["key", "annotator", "label", "time", "file", "row"],
    "devices": ["device_id", "channel", "gain", "bias", "clock_offset_seconds"],
    "labels": ["key", "label", "labels", "file", "row"],
}


def build_table(name: str, **columns: object) -> pd.DataFrame:
    """Build one table with the columns and dtypes that all readers share.

    Args:
        name: A key of ``TABLE_COLUMNS``.
        **columns: Values or scalars; columns not given are missing (NaN, NaT, None).

    Returns:
        The table; empty where no columns are given.
    """
    names = TABLE_COLUMNS[name]
    length = max(
        (len(value) for value in columns.values() if isinstance(value, Sized) and not isinstance(value, str)), default=0
    )
    data: dict[str, object] = {}
    for column in names:
        value = columns.get(column)
        if isinstance(value, pd.Series):
            value = value.array
        if value is None:
            value = np.full(length, np.nan) if _DTYPES[column] == "float64" else None
        series = pd.Series(value, index=range(length))
        if _DTYPES[column] == TIME_DTYPE:
            series = pd.to_datetime(series, utc=True)
        # Categories are kept: files and patients repeat over millions of rows.
        keep = isinstance(series.dtype, pd.CategoricalDtype)
        data[column] = series if keep else series.astype(pandas_dtype(_DTYPES[column]))
    return pd.DataFrame(data, columns=names)


def map_values(values: pd.Series, mapping: dict[str, str]) -> pd.Series:
    """Replace texts that repeat over many rows by looking up each distinct one once.

    Args:
        values: Texts, or a categorical column.
        mapping: New text by old text; it knows every value.

    Returns:
        A categorical column with the same index.
    """
    codes, texts = pd.factorize(values)
    new_codes, new_texts = pd.factorize(pd.Index([mapping[text] for text in texts], dtype=object))
    return pd.Series(pd.Categorical.from_codes(new_codes[codes], new_texts), index=values.index)


def constant(value: str, length: int) -> pd.Categorical[str]:
    """Return one text for all rows, at one byte a row.

    Args:
        value: The text.
        length: Number of rows.

    Returns:
        A categorical of that length.
    """
    return pd.Categorical.from_codes(np.zeros(length, dtype=np.int8), pd.Index([value]))


def stack_tables(name: str, tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Put tables of one kind below each other; categorical columns stay categorical.

    Args:
        name: A key of ``TABLE_COLUMNS``.
        tables: Tables with its columns.

    Returns:
        One table with a fresh index.
    """
    filled = [table for table in tables if len(table)]
    if not filled:
        return build_table(name)
    stacked = {}
    for column in TABLE_COLUMNS[name]:
        parts = [table[column] for table in filled]
        if any(isinstance(part.dtype, pd.CategoricalDtype) for part in parts):
            stacked[column] = pd.Series(union_categoricals([part.astype("category") for part in parts]))
        else:
            stacked[column] = pd.concat(parts, ignore_index=True)
    return pd.DataFrame(stacked)


@dataclass
class SourceTables:
    """One source, read.

    Attributes:
        patients: One row a patient, in source order.
        observations: Values in the source's units.
        notes: Clinical notes.
        images: Image files, not yet decoded.
        annotations: Labels by annotator.
        devices: Calibration certificates, in canonical units.
        labels: Labels that the source itself holds.
        classes: Ordered class names that the source itself declares.
        label_names: Class name by label in the source.
        not_used: Rows by kind that hold no channel of the catalogue; not rejected, only counted.
        listed: Files for the manifest.
        without_channel: Files none of whose columns is a channel; a fault where that is so in every shard.
        provenance: Facts for the manifest.
    """

    patients: pd.DataFrame
    observations: pd.DataFrame = field(default_factory=lambda: build_table("observations"))
    notes: pd.DataFrame = field(default_factory=lambda: build_table("notes"))
    images: pd.DataFrame = field(default_factory=lambda: build_table("images"))
    annotations: pd.DataFrame = field(default_factory=lambda: build_table("annotations"))
    devices: pd.DataFrame = field(default_factory=lambda: build_table("devices"))
    labels: pd.DataFrame = field(default_factory=lambda: build_table("labels"))
    classes: list[str] | None = None
    label_names: dict[str, str] = field(default_factory=dict)
    not_used: dict[str, int] = field(default_factory=dict)
    listed: list[FileGroup] = field(default_factory=list)
    without_channel: list[str] = field(default_factory=list)
    provenance: dict[str, str | int | float | bool | None] = field(default_factory=dict)
