"""The MLflow run of a whole pipeline run, with the steps' runs nested below it."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from components.common.mlflow_client import IMPATIENT, REQUEST_TAG, client_settings, create_run
from components.common.tracking import CACHED_TAG, MODEL_TAG, SOURCE_RUN_TAG, STEP_TAG, finite

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from components.common.step import StepRecord

PIPELINE = "pipeline"
ERROR_TAG = "vitalfuse.error"
COHORT_TAG = "vitalfuse.cohort_digest"
CACHED_STEPS_TAG = "vitalfuse.cached_steps"
# Steps whose metrics the parent run shows as well, so that runs can be compared by them.
HEADLINE_STEPS = ("ingest", "merge_cohort", "preprocess", "merge_features", "compare")
# The task that stands for a step where the step is divided into shards.
MERGE_STEPS = {"ingest": "merge_cohort", "preprocess": "merge_features"}
COHORT_STEPS = ("ingest", MERGE_STEPS["ingest"])
# Parameters of the step that makes the cohort, by which the run's dataset is named.
COHORT_PARAM, DIGEST_PARAM, SOURCES_PARAM = "cohort", "cohort_digest", "sources"
_DIGEST_LENGTH = 36
_PARAM_BATCH = 100
_PARAM_LIMIT = 6000
_METRIC_BATCH = 1000
_NAME_LIMIT = 240
# What MLflow refuses in names; a slash is taken, but not at either end nor twice.
_REFUSED = re.compile(r"[^\w.\- :/]|/(?=/)|^/|/$|(?:^|(?<=/))\.\.?(?=/|$)")


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
    run_id = create_run(client, experiment_id, name, {**tags, STEP_TAG: PIPELINE}).info.run_id
    try:
        log_params(client, run_id, dict(flatten(settings)))
    except Exception:
        # Nobody else knows of this run, so nobody would close it.
        with client_settings(IMPATIENT), suppress(Exception):
            client.set_terminated(run_id, "FAILED")
        raise
    return run_id


def log_params(client: MlflowClient, run_id: str, params: dict[str, Any]) -> None:
    """Log parameters into any run, in the batches and lengths that MLflow takes.

    Args:
        client: MLflow client.
        run_id: The run.
        params: Values by name.
    """
    from mlflow.entities import Param

    listed = [Param(name, str(value)[:_PARAM_LIMIT]) for name, value in _param_names(params).items()]
    for start in range(0, len(listed), _PARAM_BATCH):
        client.log_batch(run_id, params=listed[start : start + _PARAM_BATCH])


def _param_names(params: dict[str, Any]) -> dict[str, Any]:
    """Return parameters under names that MLflow takes: settings hold labels of the user's as keys."""
    named: dict[str, Any] = {}
    for name, value in params.items():
        taken = _REFUSED.sub("_", name[:_NAME_LIMIT])
        while taken in named:
            taken += "_"
        named[taken] = value
    return named


def log_cached_step(client: MlflowClient, experiment_id: str, parent_id: str, record: StepRecord) -> None:
    """Log a step that was taken from the cache as a nested run that points to the run which did the work.

    Args:
        client: MLflow client.
        experiment_id: The parent's experiment.
        parent_id: The parent run.
        record: What the step left in its output.
    """
    tags = {**record.tags, "mlflow.parentRunId": parent_id, STEP_TAG: record.step, CACHED_TAG: "true"}
    if record.mlflow_run_id and _has_run(client, record.mlflow_run_id):
        tags[SOURCE_RUN_TAG] = record.mlflow_run_id
    run = create_run(client, experiment_id, record.step, tags)
    _log_metrics(client, run.info.run_id, record.metrics)
    log_params(client, run.info.run_id, record.params)
    client.set_terminated(run.info.run_id)


def _has_run(client: MlflowClient, run_id: str) -> bool:
    """Return whether a run is in this store, and may be read: a cluster's cache serves several stores."""
    from mlflow.exceptions import MlflowException

    try:
        client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED"):
            raise
        return False
    return True


def log_cached_steps(client: MlflowClient, run_id: str, records: list[StepRecord]) -> int:
    """Log those steps of a pipeline run that did not run in it, unless that was done before.

    Args:
        client: MLflow client.
        run_id: The parent run.
        records: What all its steps left.

    Returns:
        How many steps came from the cache.
    """
    below = children(client, run_id)
    ran = {run.info.run_id for run in below}
    # An attempt of this that was cut off left the last one open.
    logged = {run.data.tags.get(STEP_TAG) for run in below if CACHED_TAG in run.data.tags and _is_finished(run)}
    cached = [record for record in records if record.mlflow_run_id not in ran]
    experiment_id = client.get_run(run_id).info.experiment_id
    for record in cached:
        if record.step not in logged:
            log_cached_step(client, experiment_id, run_id, record)
    return len(cached)


def _is_finished(run: Run) -> bool:
    return bool(run.info.status == "FINISHED")


def log_dataset(client: MlflowClient, run_id: str, record: StepRecord) -> None:
    """Log the cohort as the run's dataset.

    Args:
        client: MLflow client.
        run_id: The run.
        record: What the step that made the cohort left: one of ``COHORT_STEPS``.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    name, digest, source = (str(record.params[key]) for key in (COHORT_PARAM, DIGEST_PARAM, SOURCES_PARAM))
    dataset = Dataset(name=name, digest=digest[:_DIGEST_LENGTH], source_type="local", source=source)
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])


def gather_results(client: MlflowClient, run_id: str) -> tuple[dict[str, float], dict[str, str]]:
    """Gather what the finished steps of a run have for its parent run, as on a cluster, where no process sees them all.

    Args:
        client: MLflow client.
        run_id: The parent run.

    Returns:
        Headline metrics, with the seconds since the run was opened; and tags. Of a step that ran more than once, the
        last time counts.
    """
    from mlflow.utils.time import get_current_time_millis

    metrics: dict[str, float] = {}
    tags: dict[str, str] = {}
    for child in filter(_is_finished, reversed(children(client, run_id))):
        step, found = child.data.tags.get(STEP_TAG, ""), child.data
        metrics |= headline_metrics(step, found.metrics)
        if step in COHORT_STEPS and DIGEST_PARAM in found.params:
            tags[COHORT_TAG] = found.params[DIGEST_PARAM]
        # In other steps' runs the tag names a kind of model.
        if step == "register" and MODEL_TAG in found.tags:
            tags[MODEL_TAG] = found.tags[MODEL_TAG]
    started = client.get_run(run_id).info.start_time
    return metrics | {"system/seconds": (get_current_time_millis() - started) / 1000}, tags


def headline_metrics(step: str, metrics: dict[str, float]) -> dict[str, float]:
    """Return those metrics of a step that its parent run shows as well.

    Args:
        step: Step name.
        metrics: Its metrics.

    Returns:
        All but seconds and memory, which are those of the step alone; none of a step that is not shown.
    """
    if step not in HEADLINE_STEPS:
        return {}
    return {name: value for name, value in metrics.items() if not name.startswith("system/")}


def close_parent_run(
    client: MlflowClient, run_id: str, status: str, metrics: dict[str, float], tags: dict[str, str]
) -> None:
    """Log the headline metrics and close the parent run, and what is left open below it.

    The error of an earlier end goes when the run ends well after all.

    Args:
        client: MLflow client.
        run_id: The parent run.
        status: ``FINISHED``, ``FAILED`` or ``KILLED``.
        metrics: Headline metrics; those that are not finite are left out.
        tags: Further tags.
    """
    from mlflow.entities import RunTag

    _log_metrics(client, run_id, metrics)
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
    if status == "FINISHED":
        delete_error(client, run_id)
    # A step that ended well closed its own run: an open one is of an attempt that was cut off, and repeated.
    _close_below(client, run_id, "KILLED" if status == "FINISHED" else status)
    client.set_terminated(run_id, status)


def delete_error(client: MlflowClient, run_id: str) -> None:
    """Delete the tag that tells why a run failed, where it has one.

    Args:
        client: MLflow client.
        run_id: The run.
    """
    if ERROR_TAG in client.get_run(run_id).data.tags:
        client.delete_tag(run_id, ERROR_TAG)


def _log_metrics(client: MlflowClient, run_id: str, metrics: dict[str, float]) -> None:
    from mlflow.entities import Metric
    from mlflow.utils.time import get_current_time_millis

    now = get_current_time_millis()
    values = [Metric(name, value, now, 0) for name, value in finite(metrics).items()]
    for start in range(0, len(values), _METRIC_BATCH):
        client.log_batch(run_id, metrics=values[start : start + _METRIC_BATCH])


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
