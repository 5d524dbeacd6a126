"""The validate step: a cohort is held against the schema; errors stop the run, warnings go to the report."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

import data_schemas
from components.common.files import atomic_folder
from components.common.result import StepResult, ignore_progress
from components.validate.anomalies import Anomaly
from components.validate.baseline import baseline_digest
from components.validate.checks import check_tables
from components.validate.examples import CHANNEL_PREFIX, write_examples
from components.validate.interpreter import find_interpreter, run_job
from components.validate.settings import ValidateSettings
from components.validate.tables import CohortTables, read_tables
from data_schemas.cohort import Cohort
from data_schemas.errors import InputError

SCHEMAS = Path(data_schemas.__file__).parent
JOB = Path(__file__).with_name("tfdv_job.py")
TOP_REASONS = 20


def validate_cohort(
    cohort: Path,
    output: Path,
    settings: ValidateSettings,
    progress: Callable[[str], None] = ignore_progress,
) -> StepResult:
    """Compute statistics of a cohort with TFDV and hold it against the schema and the checks of its tables.

    Args:
        cohort: The cohort folder.
        output: Folder to write: ``statistics.pb``, ``schema.pbtxt``, ``anomalies.pbtxt`` (TFDV's) and ``summary.json``.
        settings: What is an error, and thresholds.
        progress: Receives short texts on what is being done.

    Returns:
        Metrics: patients, errors, warnings, rejected rows. Warnings: one line for each anomaly.

    Raises:
        InputError: The cohort has an anomaly of a kind that is an error, no patient, or TFDV cannot run.
        RuntimeError: The TFDV job failed.
    """
    source = Cohort.open(cohort)
    if source.patients.empty:
        raise InputError("The cohort is empty: it has 0 patients", remedy="Check the source and its rejected rows")
    baseline_digest(settings)
    interpreter = find_interpreter()
    progress("tables")
    tables = read_tables(source)
    anomalies = check_tables(tables, settings, pd.Timestamp.now(tz="UTC"))
    with atomic_folder(output) as folder:
        progress("TFDV statistics")
        started = time.monotonic()
        job_result = run_tfdv(tables, folder, settings, interpreter)
        seconds = time.monotonic() - started
        anomalies += [Anomaly(**found) for found in job_result["anomalies"]]
        errors, warnings = split_by_severity(anomalies, settings)
        if errors:
            raise InputError(
                f"The cohort has {len(errors)} errors: " + "; ".join(describe(error) for error in errors),
                file="the cohort",
                remedy="Correct the source or the channels and classes of the ingest settings; validate.errors lists "
                "the kinds that stop a run",
            )
        summary = summarise(tables, job_result, warnings)
        (folder / "summary.json").write_text(json.dumps(summary, indent=2))
    return StepResult(
        metrics={
            "patients": len(tables.patients),
            "observations": tables.observation_rows,
            "rejected_rows": len(tables.rejected),
            "errors": 0,
            "warnings": len(warnings),
            "tfdv_seconds": seconds,
        },
        params={
            "validate.drift_threshold": settings.drift_threshold,
            "validate.baseline": settings.baseline or "none",
            "validate.rare_channel_fraction": settings.rare_channel_fraction,
            "validate.beam.runner": settings.beam.runner,
        },
        artifacts={"validation": output},
        tags={"tfdv_version": job_result["tfdv_version"]},
        warnings=[describe(anomaly) for anomaly in warnings],
    )


def run_tfdv(tables: CohortTables, folder: Path, settings: ValidateSettings, interpreter: Path) -> dict:
    """Run the TFDV job in its interpreter.

    Args:
        tables: The cohort's tables.
        folder: Existing folder that receives the job's files.
        settings: Baseline and drift threshold.
        interpreter: Python that has TFDV.

    Returns:
        The job's ``result.json``: tfdv_version, examples, statistics, anomalies, drift.

    Raises:
        RuntimeError: The job failed; the message ends with what it printed last.
    """
    with tempfile.TemporaryDirectory(prefix="vitalfuse-examples-") as name:
        write_examples(tables, Path(name), settings.beam.examples_per_file)
        job = {
            "examples": name,
            "beam": settings.beam.model_dump(include={"runner", "workers", "options", "folder"}),
            "schema": str(SCHEMAS / "cohort.pbtxt"),
            "channel_schema": str(SCHEMAS / "channel.pbtxt"),
            "classes": tables.manifest.classes,
            "channels": [
                {
                    "feature": CHANNEL_PREFIX + channel.name,
                    "low": channel.low,
                    "high": channel.high,
                    "unit": channel.unit,
                }
                for channel in tables.manifest.channels
            ],
            "baseline": str(Path(settings.baseline).resolve()) if settings.baseline else None,
            "drift_threshold": settings.drift_threshold,
            "output": str(folder.resolve()),
        }
        return run_job(interpreter, JOB, job)


def split_by_severity(anomalies: Sequence[Anomaly], settings: ValidateSettings) -> tuple[list[Anomaly], list[Anomaly]]:
    """Tell anomalies that stop the run from those that are reported.

    Args:
        anomalies: All anomalies.
        settings: Names the kinds that are errors.

    Returns:
        Errors and warnings, in their order.
    """
    kinds = set(settings.errors)
    errors = [anomaly for anomaly in anomalies if anomaly.kind in kinds]
    return errors, [anomaly for anomaly in anomalies if anomaly.kind not in kinds]


def describe(anomaly: Anomaly) -> str:
    """Return an anomaly as one line.

    Args:
        anomaly: The anomaly.

    Returns:
        Feature, reason and kind.
    """
    return f"{anomaly.feature}: {anomaly.reason.rstrip('.')} ({anomaly.kind})"


def summarise(tables: CohortTables, job_result: dict, warnings: Sequence[Anomaly]) -> dict:
    """Bring a validation without errors down to what the report shows.

    Args:
        tables: The cohort's tables.
        job_result: Result of the TFDV job.
        warnings: Anomalies that do not stop the run.

    Returns:
        ``status`` ("passed" or "warnings"), ``cohort``, ``patients``, ``classes`` (patients of each), ``tfdv_version``,
        ``anomalies`` (feature, kind, severity, reason), ``rejected`` (total, by_reason), ``statistics`` by feature and
        ``drift`` by feature.
    """
    rejected = tables.rejected
    reasons = rejected.groupby(["field", "reason"], dropna=False, observed=True).size().rename("rows").reset_index()
    reasons = reasons.sort_values("rows", ascending=False, kind="stable").head(TOP_REASONS)
    classes = tables.patients["label"].value_counts().reindex(tables.manifest.classes, fill_value=0)
    return {
        "status": "warnings" if warnings else "passed",
        "cohort": tables.manifest.name,
        "patients": len(tables.patients),
        "classes": {str(name): int(count) for name, count in classes.items()},
        "tfdv_version": job_result["tfdv_version"],
        "anomalies": [
            {"feature": item.feature, "kind": item.kind, "severity": "warning", "reason": item.reason}
            for item in warnings
        ],
        "rejected": {
            "total": len(rejected),
            "by_reason": reasons.where(reasons.notna(), None).to_dict("records"),
        },
        "statistics": job_result["statistics"],
        "drift": job_result["drift"],
    }
