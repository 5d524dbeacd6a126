"""The cohort contract: the folder that ``ingest`` writes and every later step reads.

A cohort is a folder of Parquet tables, one image array and a manifest. Patients appear in one fixed order; the
order never depends on the pseudonyms, so that results do not change with the pseudonym key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from data_schemas.errors import InputError

CONTRACT_VERSION = 1
TIME = pa.timestamp("us", tz="UTC")
# Rows of a row group: what a reader of some patients has to read at least.
ROW_GROUP = 1 << 18

SCHEMAS: dict[str, pa.Schema] = {
    "patients": pa.schema(
        [
            ("patient_id", pa.string()),
            ("label", pa.string()),
            ("labels", pa.list_(pa.string())),
            ("site", pa.string()),
            ("sex", pa.string()),
            ("birth_year", pa.int32()),
        ]
    ),
    "annotations": pa.schema(
        [("patient_id", pa.string()), ("annotator", pa.string()), ("label", pa.string()), ("time", TIME)]
    ),
    "devices": pa.schema(
        [
            ("device_id", pa.string()),
            ("channel", pa.string()),
            ("gain", pa.float64()),
            ("bias", pa.float64()),
            ("clock_offset_seconds", pa.float64()),
        ]
    ),
    "observations": pa.schema(
        [
            ("patient_id", pa.string()),
            ("device_id", pa.string()),
            ("channel", pa.string()),
            ("time", TIME),
            ("value", pa.float64()),
            ("unit", pa.string()),
        ]
    ),
    "notes": pa.schema([("patient_id", pa.string()), ("time", TIME), ("text", pa.string())]),
    "images": pa.schema([("patient_id", pa.string()), ("time", TIME), ("modality", pa.string()), ("row", pa.int64())]),
    "rejected": pa.schema(
        [("file", pa.string()), ("row", pa.int64()), ("field", pa.string()), ("reason", pa.string())]
    ),
}


class _Contract(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Channel(_Contract):
    """One physiological channel of the series."""

    name: str = Field(description="Channel name, as in channels.yaml")
    unit: str = Field(description="Canonical unit, UCUM")
    low: float = Field(description="Lowest plausible value, in that unit")
    high: float = Field(description="Highest plausible value, in that unit")


class ImageShape(_Contract):
    """Shape of every image of the cohort."""

    height: int = Field(ge=1)
    width: int = Field(ge=1)
    channels: int = Field(ge=1)


class Demographics(_Contract):
    """Which facts on the patients stand among the observations, and at which of their time stamps."""

    names: list[Literal["age", "sex"]] = Field(default=[])
    at: Literal["first", "first_and_last"] = Field(default="first")


class SourceFile(_Contract):
    """One source file, or one group of files whose names would tell who the patients are."""

    name: str
    bytes: int = Field(ge=0)
    sha256: str


class Manifest(_Contract):
    """What a cohort holds, readable without opening its tables."""

    contract_version: int = CONTRACT_VERSION
    name: str
    classes: list[str] = Field(description="Class names in their fixed order")
    channels: list[Channel]
    image: ImageShape | None = Field(description="None where the whole cohort has no image")
    demographics: Demographics = Field(default=Demographics(), description="Channels made of the patients' own facts")
    counts: dict[str, int] = Field(description="Rows of each table, and rejected rows")
    sources: list[SourceFile] = Field(default_factory=list)
    provenance: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    digest: str = Field(description="SHA-256 of the content; the same for any pseudonym key")

    @property
    def channel_names(self) -> list[str]:
        """Channel names in their fixed order."""
        return [channel.name for channel in self.channels]


@dataclass(frozen=True)
class Cohort:
    """A cohort folder, opened for reading.

    Attributes:
        folder: Where it lies.
        manifest: Its manifest.
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> Cohort:
        """Open a cohort folder.

        Args:
            folder: The output of ``ingest``.

        Returns:
            The cohort; tables are read when asked for.

        Raises:
            InputError: The folder has no manifest, or one of another contract version.
        """
        path = folder / "manifest.json"
        if not path.is_file():
            raise InputError("is not a cohort: it has no manifest.json", file=str(folder), remedy="Run ingest first")
        content = json.loads(path.read_text())
        if content.get("contract_version") != CONTRACT_VERSION:
            raise InputError(
                f"has contract version {content.get('contract_version')!r}, not {CONTRACT_VERSION}",
                file=str(path),
                remedy="Ingest the source again",
            )
        return cls(folder=folder, manifest=Manifest.model_validate(content))

    def table(self, name: str, columns: list[str] | None = None) -> pd.DataFrame:
        """Read one table.

        Args:
            name: A key of ``SCHEMAS``.
            columns: Columns to read; all by default.

        Returns:
            The table; empty with the right columns where the cohort has no such file.
        """
        path = self.folder / f"{name}.parquet"
        if not path.is_file():
            empty = SCHEMAS[name].empty_table()
            return (empty.select(columns) if columns else empty).to_pandas()
        return pq.read_table(path, columns=columns).to_pandas()

    @cached_property
    def patients(self) -> pd.DataFrame:
        """One row a patient, in the cohort's order."""
        return self.table("patients")

    @property
    def observations(self) -> pd.DataFrame:
        """Observations, sorted by patient (in the order of ``patients``), channel and time."""
        return self.table("observations")

    @property
    def devices(self) -> pd.DataFrame:
        """Calibration certificates; empty where the source has none."""
        return self.table("devices")

    @property
    def notes(self) -> pd.DataFrame:
        """Clinical notes."""
        return self.table("notes")

    @property
    def image_index(self) -> pd.DataFrame:
        """One row an image; ``row`` points into ``images``."""
        return self.table("images")

    @property
    def rejected(self) -> pd.DataFrame:
        """Every row of the sources that was not taken, with the reason."""
        return self.table("rejected")

    @cached_property
    def images(self) -> np.ndarray:
        """Images, memory-mapped, float32 ``[n, height, width, channels]`` in [0, 1]."""
        path = self.folder / "images.npy"
        if not path.is_file():
            return np.zeros((0, 0, 0, 0), dtype=np.float32)
        return np.load(path, mmap_mode="r")


def arrow_slices(table: pd.DataFrame, schema: pa.Schema, rows: int = ROW_GROUP) -> Iterator[pa.Table]:
    """Turn a table into Arrow, some rows at a time; a categorical column costs no more than its rows.

    Args:
        table: Rows with at least the schema's columns.
        schema: Columns and types.
        rows: Rows at a time.

    Yields:
        Tables in the schema.
    """
    categories = {
        name: pa.array(table[name].cat.categories, schema.field(name).type, from_pandas=True)
        for name in schema.names
        if isinstance(table[name].dtype, pd.CategoricalDtype)
    }
    for start in range(0, len(table), rows):
        columns = []
        for name in schema.names:
            part = table[name].iloc[start : start + rows]
            if name in categories:
                codes = part.cat.codes.to_numpy()
                columns.append(categories[name].take(pa.array(codes, mask=codes < 0)))
            else:
                columns.append(pa.array(part, schema.field(name).type, from_pandas=True))
        yield pa.table(columns, schema=schema)


class TableWriter:
    """Writes one table of a cohort piece by piece; the file does not tell how it was cut.

    Args:
        folder: The cohort folder being written.
        name: A key of ``SCHEMAS``.
        schema: Columns and types; the contract's by default.
    """

    def __init__(self, folder: Path, name: str, schema: pa.Schema | None = None) -> None:
        self.rows = 0
        self._schema = schema or SCHEMAS[name]
        self._writer = pq.ParquetWriter(folder / f"{name}.parquet", self._schema)
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(self, kind: type | None, error: object, trace: object) -> None:
        if kind is None and (self._waiting_rows or not self.rows):
            self._flush(self._waiting_rows)
        self._writer.close()

    def write(self, table: pa.Table) -> None:
        """Append rows.

        Args:
            table: Rows in the schema.
        """
        self._waiting.append(table)
        self._waiting_rows += table.num_rows
        self.rows += table.num_rows
        while self._waiting_rows >= ROW_GROUP:
            self._flush(ROW_GROUP)

    def _flush(self, rows: int) -> None:
        joined = pa.concat_tables([self._schema.empty_table(), *self._waiting])
        self._writer.write_table(joined.slice(0, rows).combine_chunks(), row_group_size=ROW_GROUP)
        self._waiting, self._waiting_rows = [joined.slice(rows)], joined.num_rows - rows


def write_table(folder: Path, name: str, table: pd.DataFrame) -> None:
    """Write one table of a cohort in the contract's schema.

    Args:
        folder: The cohort folder being written.
        name: A key of ``SCHEMAS``.
        table: Rows with at least the schema's columns.
    """
    with TableWriter(folder, name) as writer:
        for part in arrow_slices(table, SCHEMAS[name]):
            writer.write(part)


def write_cohort(
    folder: Path, manifest: Manifest, tables: dict[str, pd.DataFrame], images: np.ndarray | None = None
) -> None:
    """Write a cohort folder; call it inside ``atomic_folder``.

    Args:
        folder: An existing, empty folder.
        manifest: The manifest.
        tables: Tables by name; ``patients`` and ``observations`` are required.
        images: float32 ``[n, height, width, channels]`` in [0, 1], or None.

    Raises:
        ValueError: A required table is missing, or a table is not in the contract.
    """
    missing = {"patients", "observations"} - tables.keys()
    unknown = tables.keys() - SCHEMAS.keys()
    if missing or unknown:
        raise ValueError(
            f"A cohort needs patients and observations, and takes {sorted(SCHEMAS)}; received {sorted(tables)}."
        )
    for name, table in tables.items():
        write_table(folder, name, table)
    if images is not None and len(images):
        np.save(folder / "images.npy", np.asarray(images, dtype=np.float32))
    (folder / "manifest.json").write_text(manifest.model_dump_json(indent=2))
