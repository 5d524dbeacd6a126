"""A part of a cohort: what ``ingest`` finds in one shard of the patients, before the shards are joined."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from components.common.shards import Shard
from components.ingest.labels import Votes
from data_schemas.cohort import ROW_GROUP, SCHEMAS, TableWriter, arrow_slices
from data_schemas.errors import InputError

FACTS_FILE = "part.json"
PIXELS_FILE = "pixels.f32"
POSITION = pa.field("patient", pa.int64())
# Tables whose rows belong to patients tell their position in the part; images their own shape.
PART_SCHEMAS: dict[str, pa.Schema] = {
    name: pa.schema([POSITION if field.name == "patient_id" else field for field in schema])
    if name != "patients"
    else schema
    for name, schema in SCHEMAS.items()
} | {
    "images": pa.schema(
        [POSITION, *(SCHEMAS["images"].field(name) for name in ("time", "modality"))]
        + [(name, pa.int64()) for name in ("height", "width", "depth")]
    )
}


class ListedSource(BaseModel):
    """An entry of the manifest, for files that the shards read for their digest in turn.

    Attributes:
        name: How the manifest calls it.
        bytes: Size of its files.
        blocks: SHA-256 of each block of its files; None where another shard took it.
    """

    name: str
    bytes: int
    blocks: list[str | None]


class PartFacts(BaseModel):
    """What the decisions on the whole cohort need to know of a part.

    Attributes:
        number: Number of the shard.
        count: How many shards there are.
        source_digest: Digest of the sources' listing as the shard found it.
        patient_digest: Keyed digest of all patients' keys in their order; another for another key of the pseudonyms.
        declared_classes: Class names that settings or sources declare.
        found_labels: Distinct labels of the part's rows, also those of unknown patients.
        has_labels: Whether there was any row of labels.
        labelled: Distinct labels of the part's labelled patients.
        offered: Channels that the sources have rows of.
        measured: Channels of the clean observations.
        corrected: Values taken in another unit than declared, by channel.
        not_selected: Rows of channels that the settings do not select.
        not_used: Rows by kind that hold no channel.
        without_channel: Files none of whose columns is a channel.
        votes: Annotators' labels.
        sources: Source files.
        provenance: Facts for the manifest.
    """

    number: int
    count: int
    source_digest: str
    patient_digest: str
    declared_classes: list[str] | None
    found_labels: list[str]
    has_labels: bool
    labelled: list[str]
    offered: list[str]
    measured: list[str]
    corrected: dict[str, int]
    not_selected: int
    not_used: dict[str, int]
    without_channel: list[str]
    votes: list[Votes]
    sources: list[ListedSource]
    provenance: dict[str, str | int | float | bool | None]

    @property
    def shard(self) -> Shard:
        """Which shard it is of."""
        return Shard(self.number, self.count)


@dataclass
class CohortPart:
    """A part, in memory or in a folder.

    Attributes:
        facts: What the decisions on the whole cohort need to know.
        tables: By name, in ``PART_SCHEMAS``: a table in memory, or its Parquet file.
        pixels: The decoded images, as ``images.decode_images`` writes them; may be absent.
    """

    facts: PartFacts
    tables: dict[str, pd.DataFrame | Path]
    pixels: Path

    def batches(self, name: str) -> Iterator[pa.Table]:
        """Yield a table's rows, some at a time.

        Args:
            name: A key of ``PART_SCHEMAS``.

        Yields:
            Rows in the part's schema.
        """
        table = self.tables[name]
        if isinstance(table, pd.DataFrame):
            yield from arrow_slices(table, PART_SCHEMAS[name])
            return
        with pq.ParquetFile(table) as parquet:
            for batch in parquet.iter_batches(batch_size=ROW_GROUP):
                yield pa.Table.from_batches([batch], schema=PART_SCHEMAS[name])

    def table(self, name: str) -> pa.Table:
        """Return a table as a whole.

        Args:
            name: A key of ``PART_SCHEMAS``.
        """
        return pa.concat_tables([PART_SCHEMAS[name].empty_table(), *self.batches(name)])


def write_part(folder: Path, part: CohortPart) -> None:
    """Write a part's facts and tables; its images lie in the folder already.

    Args:
        folder: An existing folder.
        part: The part.
    """
    for name in PART_SCHEMAS:
        with TableWriter(folder, name, PART_SCHEMAS[name]) as writer:
            for batch in part.batches(name):
                writer.write(batch)
    (folder / FACTS_FILE).write_text(part.facts.model_dump_json(indent=2))


def open_part(folder: Path) -> CohortPart:
    """Open a part.

    Args:
        folder: What ``write_part`` wrote.

    Returns:
        The part; its tables stay in their files.

    Raises:
        InputError: The folder holds no part.
    """
    path = folder / FACTS_FILE
    if not path.is_file():
        raise InputError(f"is not a part of a cohort: it has no {FACTS_FILE}", file=str(folder))
    facts = PartFacts.model_validate(json.loads(path.read_text()))
    tables: dict[str, pd.DataFrame | Path] = {name: folder / f"{name}.parquet" for name in PART_SCHEMAS}
    return CohortPart(facts, tables, folder / PIXELS_FILE)
