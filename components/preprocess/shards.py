"""Preprocess by shards of the patients: arrays of a part of the patients, and the parts joined into the features."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from components.common.arrays import join_arrays
from components.common.files import atomic_folder
from components.common.result import StepResult, ignore_progress
from components.common.shards import Shard, places_in_order
from components.preprocess.patient_rows import PatientRows, check_all_read
from components.preprocess.preprocess import (
    FEATURE_TABLES,
    Tally,
    check_measured,
    split_cohort,
    write_arrays,
    write_features,
)
from components.preprocess.settings import PreprocessSettings
from data_schemas.cohort import ROW_GROUP, Cohort, TableWriter
from data_schemas.errors import InputError

ARRAYS = ("series", "series_observed", "images", "present")
FACTS_FILE = "part.json"


class FeaturesPart(BaseModel):
    """What joining the parts needs to know of one.

    Attributes:
        number: Number of the shard.
        count: How many shards there are.
        cohort_digest: Digest of the cohort.
        tally: What happened to the readings.
    """

    number: int
    count: int
    cohort_digest: str
    tally: Tally


def preprocess_shard(
    cohort: Path,
    output: Path,
    settings: PreprocessSettings,
    shard: Shard,
    progress: Callable[[str], None] = ignore_progress,
) -> StepResult:
    """Make the arrays of one shard of a cohort's patients; only their rows are read.

    Args:
        cohort: The cohort folder.
        output: Folder of the part to write.
        settings: The settings of the step.
        shard: Which patients.
        progress: Receives short texts on what is being done.

    Returns:
        Metrics: samples and readings of the shard.

    Raises:
        InputError: The cohort's tables are not in the order of its patients, or hold rows that cannot be used.
    """
    source = Cohort.open(cohort)
    total = pq.read_metadata(cohort / "patients.parquet").num_rows
    rows = PatientRows(source, *shard.bounds(total))
    with atomic_folder(output) as folder:
        tally = write_arrays(rows, folder, settings, progress)
        facts = FeaturesPart(number=shard.number, count=shard.count, cohort_digest=source.manifest.digest, tally=tally)
        (folder / FACTS_FILE).write_text(facts.model_dump_json(indent=2))
    return StepResult(
        metrics={"samples": len(rows), "readings": tally.counts.get("readings", 0)}, params={"shard": str(shard)}
    )


def merge_features(
    cohort: Path,
    parts: list[Path],
    output: Path,
    settings: PreprocessSettings,
    progress: Callable[[str], None] = ignore_progress,
) -> StepResult:
    """Join the parts of all shards into the features that a single shard would have given; make the split and folds.

    Args:
        cohort: The cohort folder.
        parts: Outputs of ``preprocess_shard``, in any order.
        output: The features folder to write.
        settings: The settings of the step, as the shards had them.
        progress: Receives short texts on what is being done.

    Returns:
        What ``preprocess_cohort`` returns.

    Raises:
        InputError: The cohort is empty, has a single class or a class with too few patients, an unknown label, a
            channel that is never measured, or rows that are not in the order of its patients.
        ValueError: The parts are not those of all shards of this cohort.
    """
    source = Cohort.open(cohort)
    facts = [_facts(part) for part in parts]
    if {part.cohort_digest for part in facts} - {source.manifest.digest}:
        raise ValueError("A part was made from another cohort.")
    places = places_in_order([Shard(part.number, part.count) for part in facts])
    ordered = [parts[place] for place in places]
    tally = Tally.total([facts[place].tally for place in places])
    check_all_read(source, tally.read)
    fold = split_cohort(source, settings)
    check_measured(source, tally)
    with atomic_folder(output) as folder:
        for name in ARRAYS:
            progress(f"joining {name}")
            join_arrays([part / f"{name}.npy" for part in ordered], folder / f"{name}.npy")
        for name, schema in FEATURE_TABLES.items():
            with TableWriter(folder, name, schema) as writer:
                for part in ordered:
                    with pq.ParquetFile(part / f"{name}.parquet") as parquet:
                        for batch in parquet.iter_batches(batch_size=ROW_GROUP):
                            writer.write(pa.Table.from_batches([batch], schema))
        return write_features(source, folder, fold, tally, settings)


def _facts(part: Path) -> FeaturesPart:
    path = part / FACTS_FILE
    if not path.is_file():
        raise InputError(f"is not a part of features: it has no {FACTS_FILE}", file=str(part))
    return FeaturesPart.model_validate(json.loads(path.read_text()))
