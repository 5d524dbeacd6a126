"""Reading CSV and Parquet files as text with row numbers, whole or the rows of a shard of the patients."""

from __future__ import annotations

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
from components.ingest.rejections import Rejections
from data_schemas.errors import InputError

# Bytes of a CSV file that are parsed at a time.
_BLOCK = 1 << 24


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
