"""Reads log, reference and labels; measures, judges, writes, and keeps the result in MLflow."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from components.common.files import atomic_folder
from data_schemas.errors import InputError
from data_schemas.reference import REFERENCE_FILE, REFERENCE_FOLDER, TrainingReference
from evaluation.report import render_html
from serving.monitor.drift import measure_drift
from serving.monitor.findings import Findings, judge
from serving.monitor.labels import score_labelled
from serving.monitor.page import build_report
from serving.monitor.settings import MonitorSettings

if TYPE_CHECKING:
    from mlflow import MlflowClient

REPORT, DOCUMENT = "report.html", "monitor.json"


def choose_rows(log: pd.DataFrame, version: str | None, settings: MonitorSettings) -> pd.DataFrame:
    """Return the rows of one version within the time that the settings name.

    Args:
        log: The whole log.
        version: The version; None for the one that answered last.
        settings: How many days.

    Returns:
        The rows, one at least.

    Raises:
        InputError: There is none.
    """
    if version is None:
        last = log.iloc[-1]
        rows = log[(log["model"] == last["model"]) & (log["version"].fillna("") == (last["version"] or ""))]
        rows = rows[rows["cohort_digest"] == last["cohort_digest"]]
    else:
        rows = log[log["version"] == version]
    if settings.days is not None:
        rows = rows[rows["time"] >= pd.Timestamp.now(tz="UTC") - timedelta(days=settings.days)]
    if rows.empty:
        known = ", ".join(sorted(log["version"].dropna().unique()))
        within = f" within {settings.days} days" if settings.days is not None else ""
        raise InputError(
            f"the log has no prediction of {f'version {version}' if version else 'the last version'}{within}",
            field="--version" if version else "monitor.days",
            remedy=f"The log has the versions {known or 'without a number'}",
        )
    return rows


def find_findings(
    rows: pd.DataFrame, reference: TrainingReference, labels: pd.Series | None, settings: MonitorSettings
) -> Findings:
    """Measure and judge.

    Args:
        rows: From ``choose_rows``.
        reference: The version's reference.
        labels: Label by pseudonym, from ``read_labels``; None without labels.
        settings: The rules.

    Returns:
        The findings.

    Raises:
        InputError: The reference is of another model, or TFDV cannot run.
    """
    digests = set(rows["cohort_digest"])
    missing = [name for name in reference.classes if f"probability:{name}" not in rows]
    if digests != {reference.cohort_digest} or missing:
        raise InputError(
            "the reference is that of another model than the one that was logged",
            field="--reference",
            remedy="Give the reference of the version, or none",
        )
    labelled = None if labels is None else score_labelled(rows, labels, reference.classes, settings)
    drift = measure_drift(rows, reference, settings)
    return judge(rows, reference, drift, labelled, settings)


def fetch_reference(client: MlflowClient, name: str, version: str, folder: Path) -> TrainingReference:
    """Fetch the reference that ``register`` has left in MLflow with a version.

    Args:
        client: MLflow client.
        name: Registered model.
        version: Its version.
        folder: Existing folder to download to.

    Returns:
        The reference.

    Raises:
        InputError: There is no such version, or it has no reference.
    """
    from mlflow.exceptions import MlflowException

    try:
        run_id = client.get_model_version(name, version).run_id
        path = client.download_artifacts(run_id or "", f"{REFERENCE_FOLDER}/{REFERENCE_FILE}", str(folder))
        return TrainingReference.read(Path(path))
    except (MlflowException, OSError, ValueError) as error:
        raise InputError(
            f"version {version} of {name} has no reference in MLflow",
            field="--reference",
            remedy=f"Name its {REFERENCE_FILE}, an output of register, or register the model again",
        ) from error


def write_findings(findings: Findings, output: Path) -> Path:
    """Write monitor.json and report.html.

    Args:
        findings: What was found.
        output: Folder to write.

    Returns:
        The folder.
    """
    with atomic_folder(output) as folder:
        document = json.dumps(findings.to_document(), indent=2, allow_nan=False)
        (folder / DOCUMENT).write_text(document + "\n", encoding="utf-8")
        (folder / REPORT).write_text(render_html(build_report(findings)), encoding="utf-8")
    return output


def log_findings(client: MlflowClient, experiment_id: str, findings: Findings, folder: Path) -> str:
    """Keep the findings in MLflow, as a run of their own.

    Args:
        client: MLflow client.
        experiment_id: The experiment.
        findings: What was found.
        folder: From ``write_findings``.

    Returns:
        The run's id.
    """
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.utils.time import get_current_time_millis

    run = client.create_run(experiment_id, run_name=f"{findings.model} {findings.version or ''}".strip())
    now = get_current_time_millis()
    figures = {_metric_name(check.name): check.value for check in findings.checks}
    figures |= {f"drift/{_metric_name(feature.feature)}": feature.distance for feature in findings.drift}
    figures |= {"predictions": findings.rows, "retrain": float(findings.retrain)}
    if findings.labelled is not None:
        figures |= {f"labelled/{name}": figure.value for name, figure in findings.labelled.scores.items()}
    client.log_batch(
        run.info.run_id,
        metrics=[Metric(name, float(value), now, 0) for name, value in figures.items() if value is not None],
        params=[Param("model", findings.model), Param("version", findings.version or "")],
        tags=[RunTag("vitalfuse.retrain", str(findings.retrain).lower()), RunTag("vitalfuse.kind", "monitor")],
    )
    client.log_artifacts(run.info.run_id, str(folder))
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


def _metric_name(text: str) -> str:
    return text.replace(" ", "_").replace(":", "/")
