"""The MLflow run of a whole pipeline run, with the steps' runs nested below it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from components.common.mlflow_client import REQUEST_TAG, create_run
from components.common.tracking import STEP_TAG, finite

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PIPELINE = "pipeline"
# Steps whose metrics the parent run shows as well, so that runs can be compared by them.
HEADLINE_STEPS = ("ingest", "merge_cohort", "preprocess", "merge_features", "compare")
# The task that stands for a step where the step is divided into shards.
MERGE_STEPS = {"ingest": "merge_cohort", "preprocess": "merge_features"}
_PARAM_BATCH = 100
_PARAM_LIMIT = 6000
_METRIC_BATCH = 1000


def flatten(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten a tree of settings to dotted names.

    Args:
        tree: Nested mappings; a list of mappings is numbered, any other list is one value.
        prefix: Name of the tree itself.

    Returns:
        Names and values as text.
    """
    pairs: list[tuple[str, str]] = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            pairs += flatten(value, f"{name}.")
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            for i, item in enumerate(value):
                pairs += flatten(item, f"{name}.{i}.")
        elif value is not None:
            pairs.append((name, ",".join(map(str, value)) if isinstance(value, list) else str(value)))
    return pairs


def open_parent_run(
    client: MlflowClient, experiment_id: str, name: str, settings: dict[str, Any], tags: dict[str, str]
) -> str:
    """Open the parent run and log the settings as parameters.

    Args:
        client: MLflow client.
        experiment_id: The experiment.
        name: Name of the run.
        settings: All settings as plain values.
        tags: Tags of the run.

    Returns:
        The run's id.
    """
    run = create_run(client, experiment_id, name, {**tags, STEP_TAG: PIPELINE})
    log_params(client, run.info.run_id, dict(flatten(settings)))
    return run.info.run_id


def log_params(client: MlflowClient, run_id: str, params: dict[str, Any]) -> None:
    """Log parameters into any run, in the batches and lengths that MLflow takes.

    Args:
        client: MLflow client.
        run_id: The run.
        params: Values by name.
    """
    from mlflow.entities import Param

    listed = [Param(name, str(value)[:_PARAM_LIMIT]) for name, value in params.items()]
    for start in range(0, len(listed), _PARAM_BATCH):
        client.log_batch(run_id, params=listed[start : start + _PARAM_BATCH])


def close_parent_run(
    client: MlflowClient, run_id: str, status: str, metrics: dict[str, float], tags: dict[str, str]
) -> None:
    """Log the headline metrics and close the parent run, and what is left open below it.

    Args:
        client: MLflow client.
        run_id: The parent run.
        status: ``FINISHED``, ``FAILED`` or ``KILLED``.
        metrics: Headline metrics; those that are not finite are left out.
        tags: Further tags.
    """
    from mlflow.entities import Metric, RunTag
    from mlflow.utils.time import get_current_time_millis

    now = get_current_time_millis()
    values = [Metric(name, value, now, 0) for name, value in finite(metrics).items()]
    for start in range(0, len(values), _METRIC_BATCH):
        client.log_batch(run_id, metrics=values[start : start + _METRIC_BATCH])
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
    # A step that ended well closed its own run: an open one is of an attempt that was cut off, and repeated.
    _close_below(client, run_id, "KILLED" if status == "FINISHED" else status)
    client.set_terminated(run_id, status)


def _close_below(client: MlflowClient, run_id: str, status: str) -> None:
    """Close the open runs below a run; delete those that a lost answer of MLflow left behind."""
    below = children(client, run_id)
    done = {run.data.tags.get(REQUEST_TAG) for run in below if run.info.status != "RUNNING"} - {None}
    for run in below:
        if run.info.status != "RUNNING":
            continue
        if run.data.tags.get(REQUEST_TAG) in done:
            client.delete_run(run.info.run_id)
        else:
            _close_below(client, run.info.run_id, status)
            client.set_terminated(run.info.run_id, status)


def children(client: MlflowClient, run_id: str) -> list[Run]:
    """Return the runs directly below a run.

    Args:
        client: MLflow client.
        run_id: The parent run.

    Returns:
        Its nested runs, the newest first.
    """
    experiment_id = client.get_run(run_id).info.experiment_id
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs([experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'", page_token=token)
        found += page
        token = page.token
        if not token:
            return found
