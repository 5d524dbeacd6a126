"""The TFDV job: statistics, schema and anomalies of examples in Parquet files.

Runs in an interpreter of its own (``PYTHON tfdv_job.py job.json``), because TFDV may need an environment of its own. So
it imports TFDV with its Beam, pyarrow and the standard library alone; it works with TFDV 1.16 and 1.21, protobuf 4
and 6.

The job file holds: ``examples`` (folder of Parquet files, list columns, one row an example), ``beam`` (runner, workers,
options and folder), ``schema`` and ``channel_schema`` (text
protos), ``classes`` (names), ``channels`` (feature, low, high, unit), ``baseline`` (statistics.pb or null),
``drift_threshold``, ``output`` (an existing folder for ``statistics.pb``, ``schema.pbtxt`` and ``anomalies.pbtxt``) and
``result`` (the JSON file to write).
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from tensorflow_data_validation.statistics.stats_impl import generate_statistics_in_memory
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2

TOP_VALUES = 20


def build_schema(job: dict) -> schema_pb2.Schema:
    """Complete the base schema with what the cohort's manifest says.

    Args:
        job: The job.

    Returns:
        The base schema with the class names, one feature a channel, and drift thresholds where there is a baseline.
    """
    schema = text_format.Parse(Path(job["schema"]).read_text(), schema_pb2.Schema())
    template = text_format.Parse(Path(job["channel_schema"]).read_text(), schema_pb2.Schema()).feature[0]
    for domain in schema.string_domain:
        if domain.name == "classes":
            domain.value.extend(job["classes"])
    for channel in job["channels"]:
        feature = schema.feature.add()
        feature.CopyFrom(template)
        feature.name = channel["feature"]
        feature.float_domain.min = channel["low"]
        feature.float_domain.max = channel["high"]
        feature.annotation.comment.append(f"Unit (UCUM): {channel['unit']}")
    if job["baseline"]:
        for feature in schema.feature:
            feature.drift_comparator.jensen_shannon_divergence.threshold = job["drift_threshold"]
    return schema


def compute_statistics(
    examples: Path, schema: schema_pb2.Schema, beam: dict
) -> statistics_pb2.DatasetFeatureStatisticsList:
    """Compute the statistics of the examples, in this process or by a Beam pipeline.

    Args:
        examples: Folder of Parquet files; all columns are lists.
        schema: The schema, which tells strings that are categories from others.
        beam: The job's ``beam``.

    Returns:
        The statistics.
    """
    options = tfdv.StatsOptions(schema=schema)
    if beam["runner"] != "in_memory":
        return beam_statistics(examples, options, beam)
    table = pa.concat_tables([pq.read_table(path) for path in sorted(examples.glob("*.parquet"))]).combine_chunks()
    # The function behind generate_statistics_from_dataframe: no Beam pipeline, no detour over pandas.
    return generate_statistics_in_memory(table.to_batches()[0], options)


def beam_statistics(
    examples: Path, options: tfdv.StatsOptions, beam: dict
) -> statistics_pb2.DatasetFeatureStatisticsList:
    """Compute the statistics by a Beam pipeline.

    Args:
        examples: Folder of Parquet files.
        options: TFDV's options.
        beam: The job's ``beam``.

    Returns:
        The statistics.
    """
    from apache_beam import FlatMap, Pipeline
    from apache_beam.io import ReadFromParquetBatched
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import PipelineOptions

    # Options come first: file systems such as S3 learn from them.
    pipeline_options = PipelineOptions.from_dictionary(beam_options(beam))
    FileSystems.set_options(pipeline_options)
    shared = beam["folder"] and f"{beam['folder'].rstrip('/')}/vitalfuse-{uuid.uuid4().hex}"
    place = shared or str(examples)
    try:
        if shared:
            # Not an error where the store knows no folders.
            FileSystems.mkdirs(shared)
            for path in sorted(examples.glob("*.parquet")):
                with path.open("rb") as source, FileSystems.create(f"{shared}/{path.name}") as target:
                    shutil.copyfileobj(source, target)
        result = f"{place}/statistics.pb"
        with Pipeline(options=pipeline_options) as pipeline:
            (
                pipeline
                | "Read" >> ReadFromParquetBatched(f"{place}/*.parquet")
                | "Batch" >> FlatMap(record_batches)
                | "Statistics" >> tfdv.GenerateStatistics(options)
                | "Write" >> tfdv.WriteStatisticsToBinaryFile(result)
            )
        with FileSystems.open(result) as stream:
            return statistics_pb2.DatasetFeatureStatisticsList.FromString(stream.read())
    finally:
        if shared:
            left = [entry.path for match in FileSystems.match([f"{shared}/*"]) for entry in match.metadata_list]
            FileSystems.delete(left + [folder for folder in [shared] if FileSystems.exists(folder)])


def record_batches(table: pa.Table) -> list:
    """Return a table as the batches that TFDV takes.

    Args:
        table: A row group.

    Returns:
        Record batches.
    """
    return table.combine_chunks().to_batches()


def beam_options(beam: dict) -> dict:
    """Return Beam's pipeline options.

    Args:
        beam: The job's ``beam``.

    Returns:
        Values by name, such as ``runner``.
    """
    options = dict(beam["options"])
    if beam["runner"] == "DirectRunner":
        # Beam's own batch runner by name: its DirectRunner would look for another one on the network first.
        options["runner"] = "FnApiRunner"
        options["direct_num_workers"] = beam["workers"]
        options["direct_running_mode"] = "multi_processing" if beam["workers"] > 1 else "in_memory"
    else:
        options["runner"] = beam["runner"]
    return options


def summarise_feature(feature: statistics_pb2.FeatureNameStatistics) -> dict:
    """Bring the statistics of a feature down to what a report shows.

    Args:
        feature: TFDV's statistics.

    Returns:
        Counts, and mean, spread and quantiles for numbers, or the most frequent values for strings.
    """
    strings = feature.WhichOneof("stats") == "string_stats"
    common = (feature.string_stats if strings else feature.num_stats).common_stats
    summary = {
        "type": statistics_pb2.FeatureNameStatistics.Type.Name(feature.type),
        "examples_with_values": int(common.num_non_missing),
        "examples_without_values": int(common.num_missing),
        "values": int(common.tot_num_values),
    }
    if strings:
        summary["distinct"] = int(feature.string_stats.unique)
        summary["top_values"] = {
            value.value: int(value.frequency) for value in list(feature.string_stats.top_values)[:TOP_VALUES]
        }
        return summary
    numbers = feature.num_stats
    for name, value in (
        ("mean", numbers.mean),
        ("std_dev", numbers.std_dev),
        ("min", numbers.min),
        ("median", numbers.median),
        ("max", numbers.max),
    ):
        summary[name] = value if common.num_non_missing and math.isfinite(value) else None
    summary["zeros"] = int(numbers.num_zeros)
    return summary


def list_anomalies(anomalies: anomalies_pb2.Anomalies) -> list:
    """Flatten TFDV's anomalies.

    Args:
        anomalies: Anomalies of a dataset.

    Returns:
        One dict (feature, kind, reason) for each reason, by feature.
    """
    found = []
    for feature, info in sorted(anomalies.anomaly_info.items()):
        for reason in info.reason:
            found.append(
                {
                    "feature": feature,
                    "kind": anomalies_pb2.AnomalyInfo.Type.Name(reason.type),
                    "reason": f"{reason.short_description}: {reason.description}",
                }
            )
    return found


def run(job: dict) -> None:
    """Run a job.

    Args:
        job: As in the module's docstring.
    """
    output = Path(job["output"])
    schema = build_schema(job)
    statistics = compute_statistics(Path(job["examples"]), schema, job["beam"])
    baseline = None
    if job["baseline"]:
        baseline = statistics_pb2.DatasetFeatureStatisticsList.FromString(Path(job["baseline"]).read_bytes())
    anomalies = tfdv.validate_statistics(statistics, schema, previous_statistics=baseline)
    features = {".".join(item.path.step) or item.name: item for item in statistics.datasets[0].features}
    (output / "statistics.pb").write_bytes(statistics.SerializeToString(deterministic=True))
    (output / "schema.pbtxt").write_text(text_format.MessageToString(schema, as_utf8=True))
    (output / "anomalies.pbtxt").write_text(text_format.MessageToString(anomalies, as_utf8=True))
    result = {
        "tfdv_version": tfdv.__version__,
        "examples": int(statistics.datasets[0].num_examples),
        "statistics": {name: summarise_feature(feature) for name, feature in features.items()},
        "anomalies": list_anomalies(anomalies),
        "drift": {
            ".".join(info.path.step): measurement.value
            for info in anomalies.drift_skew_info
            for measurement in info.drift_measurements
        },
    }
    Path(job["result"]).write_text(json.dumps(result, indent=2, allow_nan=False))


if __name__ == "__main__":
    run(json.loads(Path(sys.argv[1]).read_text()))
