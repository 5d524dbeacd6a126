"""What `vitalfuse monitor` does: finds the reference, lets `serving.monitor` measure, and shows the outcome."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from data_schemas.errors import InputError
from data_schemas.reference import TrainingReference
from pipelines.registry import open_store
from pipelines.settings import Settings
from pipelines.tracking import prepare_store
from serving.log_settings import reference_key
from serving.monitor.findings import EXCEEDED, NOT_JUDGED, Check, Findings
from serving.monitor.labels import read_labels, require_logged
from serving.monitor.monitor import choose_rows, fetch_reference, find_findings, log_findings, write_findings
from serving.prediction_log import read_log

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


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

    logged = read_log(log)
    rows = choose_rows(logged, version, settings.monitor)
    if reference is None:
        # Its store is there already, or is told of; only then is anything made in it.
        open_store(settings.workspace, settings.tracking.uri)
    # An experiment of its own, made in the same way as that of the pipeline's runs.
    tracking = settings.tracking.model_copy(update={"experiment": settings.monitor.experiment})
    store = prepare_store(settings.model_copy(update={"tracking": tracking}))
    client = MlflowClient(tracking_uri=store.uri, registry_uri=store.uri)
    found = _read(reference) if reference else _fetch(client, rows["model"].iloc[-1], rows["version"].iloc[-1])
    known = None
    if labels is not None:
        known = read_labels(labels, found.classes, reference_key(settings.serve.log))
        require_logged(known, logged, labels)
    findings = find_findings(rows, found, known, settings.monitor)
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
    """Show the checks as a table that fits 80 columns, and the outcome.

    Args:
        console: Where to print.
        findings: What was found.
    """
    from rich.table import Table
    from rich.text import Text

    version = f"version {findings.version}" if findings.version else "a model folder"
    console.print(Text(f"{findings.model}, {version}: {findings.rows} predictions", style="bold"))
    console.print()
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("check", overflow="fold")
    table.add_column("status", no_wrap=True)
    for header in ("value", "at most", "held out", "now"):
        table.add_column(header, justify="right", no_wrap=True)
    for check in findings.checks:
        table.add_row(*_cells(check))
    console.print(table)
    console.print()
    console.print(findings.headline(), style="bold yellow" if findings.retrain else "bold", highlight=False)


def _cells(check: Check) -> list[RenderableType]:
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    style = {EXCEEDED: "bold red", NOT_JUDGED: "dim"}.get(check.status, "green")
    figures = [check.value, check.threshold, check.reference, check.current]
    name: RenderableType = Text(check.name)
    if check.detail:
        name = Group(name, Padding(Text(check.detail, style="dim"), (0, 0, 0, 2)))
    numbers = [Text("–" if figure is None else f"{figure:.3g}") for figure in figures]
    return [name, Text(check.status, style=style), *numbers]
