"""The drift job: TFDV compares two Parquet files. It runs as ``PYTHON drift_job.py job.json``.

It imports TFDV, pyarrow and the standard library alone, like ``components/validate/tfdv_job.py``, because TFDV may
need an environment of its own.

The job file holds: ``reference`` and ``current`` (Parquet, list columns, one row an example), ``features`` (name to
"number" or "category"), ``thresholds`` (of each kind) and ``result`` (the JSON file to write).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import tensorflow_data_validation as tfdv
from tensorflow_data_validation.statistics.stats_impl import generate_statistics_in_memory
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2


def build_schema(features: dict, thresholds: dict) -> schema_pb2.Schema:
    """Return a schema that asks for the drift of every feature, and for nothing else.

    Args:
        features: Kind by name.
        thresholds: Threshold by kind.

    Returns:
        Jensen-Shannon divergence for numbers, L-infinity distance for categories.
    """
    schema = schema_pb2.Schema()
    for name, kind in features.items():
        feature = schema.feature.add()
        feature.name = name
        feature.value_count.min = feature.value_count.max = 1
        if kind == "number":
            feature.type = schema_pb2.FLOAT
            feature.drift_comparator.jensen_shannon_divergence.threshold = thresholds[kind]
        else:
            feature.type = schema_pb2.BYTES
            feature.drift_comparator.infinity_norm.threshold = thresholds[kind]
    return schema


def compute_statistics(path: Path, schema: schema_pb2.Schema) -> statistics_pb2.DatasetFeatureStatisticsList:
    """Compute the statistics of a Parquet file in this process.

    Args:
        path: The file.
        schema: The schema.

    Returns:
        The statistics.
    """
    table = pq.read_table(path).combine_chunks()
    return generate_statistics_in_memory(table.to_batches()[0], tfdv.StatsOptions(schema=schema))


def run(job: dict) -> None:
    """Run a job.

    Args:
        job: As in the module's docstring.
    """
    schema = build_schema(job["features"], job["thresholds"])
    reference, current = (compute_statistics(Path(job[name]), schema) for name in ("reference", "current"))
    anomalies = tfdv.validate_statistics(current, schema, previous_statistics=reference)
    drift = {
        ".".join(info.path.step): measurement.value
        for info in anomalies.drift_skew_info
        for measurement in info.drift_measurements
    }
    Path(job["result"]).write_text(json.dumps({"tfdv_version": tfdv.__version__, "drift": drift}, allow_nan=False))


if __name__ == "__main__":
    run(json.loads(Path(sys.argv[1]).read_text()))
