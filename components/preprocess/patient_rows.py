"""Rows of a cohort's tables that belong to a run of patients, without reading those of the others."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_schemas.cohort import SCHEMAS, Cohort
from data_schemas.errors import InputError


class PatientRows:
    """The rows of some patients, who follow each other in the cohort.

    Tables are in the order of the patients, so a search over their row groups finds where the rows begin and end.

    Args:
        source: The cohort.
        start: Position of the first patient.
        stop: Position after the last one.

    Attributes:
        patient_ids: ``[stop - start]``, the patients' ids.
        read: Rows of each table that were read so far.
    """

    def __init__(self, source: Cohort, start: int = 0, stop: int | None = None) -> None:
        self.source = source
        identifiers = pq.read_table(source.folder / "patients.parquet", columns=["patient_id"])["patient_id"]
        self._all = identifiers.combine_chunks()
        self._start = start
        self._stop = len(self._all) if stop is None else stop
        self.patient_ids = pd.Index(self._all[self._start : self._stop].to_pylist(), dtype=object)
        self.read: dict[str, int] = {}

    def __len__(self) -> int:
        """Return the number of patients."""
        return self._stop - self._start

    def positions(self, patient_ids: list[str]) -> np.ndarray:
        """Return where some patients stand among these.

        Args:
            patient_ids: Ids.

        Returns:
            int64 ``[len(patient_ids)]``, from 0; -1 for other patients.
        """
        return self.patient_ids.get_indexer(pd.Index(patient_ids, dtype=object))

    def batches(self, name: str, columns: list[str], rows: int) -> Iterator[pa.Table]:
        """Yield the patients' rows of a table.

        Args:
            name: A key of ``SCHEMAS``, other than patients.
            columns: Columns to read; patient_id among them.
            rows: Most rows at a time.

        Yields:
            Rows in the order of the table; patient_id as a dictionary.

        Raises:
            InputError: The table is not in the order of the patients.
        """
        self.read[name] = 0
        path = self.source.folder / f"{name}.parquet"
        if not path.is_file():
            return
        strings = [column for column in columns if SCHEMAS[name].field(column).type == pa.string()]
        with pq.ParquetFile(path, read_dictionary=[column for column in strings if column != "text"]) as parquet:
            whole = len(self) == len(self._all)
            first, last = (0, parquet.num_row_groups) if whole else self._row_groups(parquet, name)
            for batch in parquet.iter_batches(batch_size=rows, row_groups=list(range(first, last)), columns=columns):
                table = pa.Table.from_batches([batch])
                if not whole:
                    table = self._own(table)
                self.read[name] += table.num_rows
                if table.num_rows:
                    yield table

    def table(self, name: str, columns: list[str]) -> pd.DataFrame:
        """Return the patients' rows of a table that is small for each patient.

        Args:
            name: A key of ``SCHEMAS``, other than patients.
            columns: Columns to read; patient_id among them.

        Returns:
            The rows, strings as text.
        """
        schema = pa.schema([SCHEMAS[name].field(column) for column in columns])
        parts = [table.cast(schema) for table in self.batches(name, columns, 1 << 18)]
        return pa.concat_tables([schema.empty_table(), *parts]).to_pandas()

    def _row_groups(self, parquet: pq.ParquetFile, name: str) -> tuple[int, int]:
        """Return the first row group with rows of these patients, and the one after the last."""

        def first_patient(group: int) -> int:
            identifiers = parquet.read_row_group(group, columns=["patient_id"])["patient_id"]
            position = pc.index(self._all, identifiers[0].cast(pa.string())).as_py() if len(identifiers) else 0
            if position < 0:
                raise _not_in_order(name)
            return position

        groups = range(parquet.num_row_groups)
        # Rows of the first patient may stand at the end of the row group before.
        first = bisect_left(groups, self._start, key=first_patient) - 1
        return max(first, 0), bisect_left(groups, self._stop, key=first_patient)

    def _own(self, table: pa.Table) -> pa.Table:
        encoded = table["patient_id"].combine_chunks()
        known = self.positions(encoded.dictionary.to_pylist()) >= 0
        own = known[encoded.indices.to_numpy()] if len(known) else np.zeros(0, dtype=bool)
        return table if own.all() else table.filter(pa.array(own))


def check_all_read(source: Cohort, read: dict[str, int]) -> None:
    """Check that runs of patients together had all rows of the tables.

    Args:
        source: The cohort.
        read: Rows of each table that were read for all of its patients.

    Raises:
        InputError: Rows were left out, or read twice: they belong to no patient, or are not in the patients' order.
    """
    for name, rows in read.items():
        path = source.folder / f"{name}.parquet"
        if path.is_file() and pq.read_metadata(path).num_rows != rows:
            raise _not_in_order(name)


def _not_in_order(name: str) -> InputError:
    return InputError(
        "is not sorted in the order of patients.parquet, or has rows of other patients",
        file=f"{name}.parquet",
        remedy="Ingest the source again",
    )
