"""What `vitalfuse monitor` does: finds the reference, lets `serving.monitor` measure, and shows the outcome."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from data_schemas.errors import InputError
from data_schemas.reference import TrainingReference
from pipelines.settings import Settings
from pipelines.tracking import prepare_store
from serving.log_settings import reference_key
from serving.monitor.findings import EXCEEDED, NOT_JUDGED, Check, Findings
from serving.monitor.monitor import choose_rows, fetch_reference, find_findings, log_findings, write_findings
from serving.prediction_log import read_log

if TYPE_CHECKING:
    from rich.console import Console


def monitor_predictions(
    settings: Settings,
    log: Path,
    *,
    version: str | None = None,
    labels: Path | None = None,
    reference: Path | None = None,
    output: Path | None = None,
) -> tuple[Findings, Path]:
    """Compare a version's logged predictions with its reference, and keep the result.

    Args:
        settings: The settings; sections ``monitor``, ``register`` and ``tracking`` count.
        log: Folder of the prediction log.
        version: The version; None for the one that answered last.
        labels: File of labels, or None.
        reference: A reference; None for the one in MLflow.
        output: Folder to write; None for one in the workspace.

    Returns:
        The findings, and the folder of the report.

    Raises:
        InputError: The log, the labels or the reference can't be used, or MLflow can't be reached.
    """
    from mlflow import MlflowClient

    rows = choose_rows(read_log(log), version, settings.monitor)
    # An experiment of its own, made in the same way as that of the pipeline's runs.
    tracking = settings.tracking.model_copy(update={"experiment": settings.monitor.experiment})
    store = prepare_store(settings.model_copy(update={"tracking": tracking}))
    client = MlflowClient(tracking_uri=store.uri, registry_uri=store.uri)
    found = _read(reference) if reference else _fetch(client, rows["model"].iloc[-1], rows["version"].iloc[-1])
    findings = find_findings(rows, found, labels, reference_key(settings.serve.log), settings.monitor)
    name = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    folder = write_findings(findings, output or settings.workspace / "monitor" / name)
    log_findings(client, store.experiment_id, findings, folder)
    return findings, folder


def _read(path: Path) -> TrainingReference:
    try:
        return TrainingReference.read(path)
    except ValueError as error:
        raise InputError(
            "is no reference", file=str(path), field="--reference", remedy="Name a reference.json"
        ) from error


def _fetch(client: object, name: str, version: str | None) -> TrainingReference:
    if not isinstance(version, str):
        raise InputError(
            "the log is of a model folder, which MLflow knows nothing of",
            field="--reference",
            remedy="Name the reference.json of the register step",
        )
    with tempfile.TemporaryDirectory(prefix="vitalfuse-reference-") as folder:
        return fetch_reference(client, name, version, Path(folder))  # type: ignore[arg-type]


def print_findings(console: Console, findings: Findings) -> None:
    """Show the checks as a table, and the outcome.

    Args:
        console: Where to print.
        findings: What was found.
    """
    from rich.table import Table

    version = f"version {findings.version}" if findings.version else "a model folder"
    table = Table(title=f"{findings.model}, {version}: {findings.rows} predictions", title_justify="left")
    for header in ("check", "status", "value", "threshold", "reference", "now", "detail"):
        table.add_column(header, justify="right" if header in ("value", "threshold", "reference", "now") else "left")
    for check in findings.checks:
        table.add_row(*_cells(check))
    console.print(table)
    console.print(findings.headline(), style="bold yellow" if findings.retrain else "bold", highlight=False)


def _cells(check: Check) -> list[str]:
    style = {EXCEEDED: "bold red", NOT_JUDGED: "dim"}.get(check.status, "green")
    figures = [check.value, check.threshold, check.reference, check.current]
    return [
        check.name,
        f"[{style}]{check.status}[/]",
        *("–" if figure is None else f"{figure:.3g}" for figure in figures),
        check.detail,
    ]
