"""Where a step logs to in MLflow, with the ordinary client.

A step logs into the run that KFP's own integration named in ``MLFLOW_RUN_ID``; else into a nested run under the
parent that the runner named in the environment; else under the run that bears the KFP run's id as a tag.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from components.common import environment
from components.common.mlflow_client import delete_copies, request_tag
from components.common.result import NestedResult, StepResult

if TYPE_CHECKING:
    from mlflow.entities import Run

STEP_TAG = "vitalfuse.step"
MODEL_TAG = "vitalfuse.model"
CACHED_TAG = "vitalfuse.cached"
SOURCE_RUN_TAG = "vitalfuse.source_run_id"
KFP_RUN_TAG = "vitalfuse.kfp_run_id"
_PARAM_LIMIT = 6000


def tracking_enabled() -> bool:
    """Return whether a tracking server or store is named in the environment."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI"))


def tracked_by_kfp() -> bool:
    """Return whether KFP's own MLflow integration has opened a run for this task."""
    return bool(os.environ.get("MLFLOW_RUN_ID"))


def find_parent_run_id() -> str | None:
    """Return the MLflow run under which this step's run is nested.

    Returns:
        The run named in the environment, else the run tagged with the KFP run's id, else None.
    """
    import mlflow

    if parent := os.environ.get(environment.PARENT_RUN_ID):
        return parent
    kfp_run_id = os.environ.get(environment.KFP_RUN_ID)
    if not kfp_run_id:
        return None
    runs: list[Run] = mlflow.search_runs(
        search_all_experiments=True,
        filter_string=f"tags.`{KFP_RUN_TAG}` = '{kfp_run_id}'",
        max_results=1,
        output_format="list",
    )
    return runs[0].info.run_id if runs else None


@contextmanager
def step_run(step: str, tags: dict[str, str] | None = None) -> Iterator[str | None]:
    """Open the MLflow run of a step, and close it as failed when the block raises.

    Args:
        step: Step name; the name of the nested run.
        tags: Further tags of the run.

    Yields:
        The run's id, or None where no tracking store is named in the environment.
    """
    if not tracking_enabled():
        yield None
        return
    import mlflow

    tags = {STEP_TAG: step, **(tags or {})}
    if tracked_by_kfp():
        with mlflow.start_run() as run:
            mlflow.set_tags(tags)
            yield run.info.run_id
        return
    parent = find_parent_run_id()
    if parent:
        # The experiment of the parent, which need not be the default one.
        mlflow.set_experiment(experiment_id=mlflow.get_run(parent).info.experiment_id)
    tags |= request_tag()
    with mlflow.start_run(run_name=step, nested=parent is not None, parent_run_id=parent, tags=tags) as run:
        delete_copies(mlflow.MlflowClient(), run)
        yield run.info.run_id


def log_result(result: StepResult) -> None:
    """Log a step's result into the active run, and each of its parts into a nested run.

    Args:
        result: What the step returned.
    """
    import mlflow

    log_params(result.params)
    mlflow.log_metrics(finite(result.metrics))
    if result.tags:
        mlflow.set_tags(result.tags)
    for folder, path in result.artifacts.items():
        if Path(path).is_dir():
            mlflow.log_artifacts(str(path), folder)
        else:
            mlflow.log_artifact(str(path), folder)
    if result.warnings:
        mlflow.log_text("\n".join(result.warnings), "warnings.txt")
    for part in result.nested:
        _log_nested(part)


def _log_nested(part: NestedResult) -> None:
    import mlflow
    from mlflow.entities import Metric

    with mlflow.start_run(run_name=part.name, nested=True, tags=request_tag()) as run:
        delete_copies(mlflow.MlflowClient(), run)
        log_params(part.params)
        mlflow.log_metrics(finite(part.metrics))
        now = int(time.time() * 1000)
        metrics = [
            Metric(name, float(value), now, epoch)
            for name, values in part.history.items()
            for epoch, value in enumerate(values)
            if value == value
        ]
        client = mlflow.MlflowClient()
        for start in range(0, len(metrics), 1000):
            client.log_batch(run.info.run_id, metrics=metrics[start : start + 1000])


def log_params(params: dict) -> None:
    """Log parameters into the active run, cut to the length that MLflow takes.

    Args:
        params: Parameters; nested values are logged as text.
    """
    import mlflow

    if params:
        mlflow.log_params({name: str(value)[:_PARAM_LIMIT] for name, value in params.items()})


def finite(metrics: dict[str, float]) -> dict[str, float]:
    """Return the metrics that are numbers: MLflow's SQL stores take no NaN.

    Args:
        metrics: Scalars by name.

    Returns:
        Those that are neither NaN nor infinite, as float.
    """
    return {name: float(value) for name, value in metrics.items() if abs(float(value)) < float("inf")}
