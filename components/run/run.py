"""The MLflow run of a pipeline run on a cluster: opened by its first task, closed by its last."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from components.common import environment
from components.common.mlflow_client import PATIENT, client_settings
from components.common.parent_run import HEADLINE_STEPS, children, close_parent_run, open_parent_run
from components.common.tracking import (
    KFP_RUN_TAG,
    MODEL_TAG,
    STEP_TAG,
    find_parent_run_id,
    tracked_by_kfp,
    tracking_enabled,
)
from components.ingest.locations import source_digest
from components.ingest.settings import IngestSettings
from data_schemas.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient

_STATUS = {"SUCCEEDED": "FINISHED", "CANCELLED": "KILLED", "CANCELED": "KILLED"}
_MESSAGE_LIMIT = 500


@client_settings(PATIENT)
def open_pipeline_run(settings: dict[str, Any], mlflow_run_id: str = "") -> str:
    """Open the parent run in MLflow and list the sources.

    Args:
        settings: All settings as plain values.
        mlflow_run_id: A parent run that was opened before, or "". Where KFP tracks the run itself, it is deleted.

    Returns:
        SHA-256 of the sources' listing, hexadecimal.

    Raises:
        InputError: A source is not there, the pods' MLflow server does not have the run that was opened before, or
            the pods' account may not write into the experiment.
    """
    if tracking_enabled():
        with _denials_told(settings["tracking"]["experiment"]):
            _open_parent(settings, mlflow_run_id)
    return source_digest(IngestSettings.model_validate(settings["ingest"]))


@contextmanager
def _denials_told(experiment: str) -> Iterator[None]:
    """Tell in one line that the pods' account lacks a right: every later step would lack it too."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != "PERMISSION_DENIED":
            raise
        raise InputError(
            f"the pods' MLflow account may not write into the experiment {experiment!r}, which another account made",
            field="tracking.experiment",
            remedy="Give that account the permission EDIT there, or name an experiment that is not there yet",
        ) from error


def _open_parent(settings: dict[str, Any], mlflow_run_id: str) -> None:
    import mlflow

    client = mlflow.MlflowClient()
    kfp_run_id = os.environ.get(environment.KFP_RUN_ID, "")
    if tracked_by_kfp():
        # Never both: KFP has opened a run of its own.
        if mlflow_run_id and _is_ours(client, mlflow_run_id, kfp_run_id, elsewhere=False):
            client.delete_run(mlflow_run_id)
        return
    tags = {KFP_RUN_TAG: kfp_run_id, "mlflow.source.git.commit": os.environ.get(environment.GIT_COMMIT, "unknown")}
    if mlflow_run_id and _is_ours(client, mlflow_run_id, kfp_run_id):
        for name, value in tags.items():
            client.set_tag(mlflow_run_id, name, value)
    elif find_parent_run_id() is None:  # A retry of this task finds the run of the first attempt.
        experiment = mlflow.set_experiment(settings["tracking"]["experiment"])
        open_parent_run(client, experiment.experiment_id, settings["name"], settings, tags)


def _is_ours(client: MlflowClient, mlflow_run_id: str, kfp_run_id: str, *, elsewhere: bool | None = None) -> bool:
    """Return whether the MLflow run was opened for this KFP run.

    A run that is cloned in KFP's UI has the arguments of the first, and with them the first one's MLflow run.

    Args:
        client: MLflow client.
        mlflow_run_id: The MLflow run.
        kfp_run_id: The KFP run.
        elsewhere: What to return where the server has no such run; None: an error.
    """
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(mlflow_run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        if elsewhere is not None:
            return elsewhere
        raise InputError(
            f"the pods' MLflow server has no run {mlflow_run_id}, which was opened when this run was submitted",
            field="cluster.mlflow_uri",
            remedy="Let it name the same server as tracking.uri or MLFLOW_TRACKING_URI where you submit",
        ) from error
    return run.info.lifecycle_stage == "active" and run.data.tags.get(KFP_RUN_TAG, kfp_run_id) == kfp_run_id


@client_settings(PATIENT)
def close_pipeline_run(state: str, error_message: str = "") -> None:
    """Close the parent run in MLflow, with the headline metrics of its steps.

    Args:
        state: State of the pipeline run in KFP, such as ``SUCCEEDED``, ``FAILED`` or ``CANCELLED``.
        error_message: What KFP has to say of a failure.
    """
    if not tracking_enabled() or tracked_by_kfp():
        return
    import mlflow

    run_id = find_parent_run_id()
    if run_id is None:
        print("No MLflow run bears this KFP run's id: none to close.")
        return
    client = mlflow.MlflowClient()
    metrics: dict[str, float] = {}
    tags = {"vitalfuse.error": error_message[:_MESSAGE_LIMIT]} if error_message else {}
    for child in children(client, run_id):
        step = child.data.tags.get(STEP_TAG)
        if step in HEADLINE_STEPS:
            # Seconds and memory are those of the step alone.
            metrics |= {name: value for name, value in child.data.metrics.items() if not name.startswith("system/")}
        elif step == "register" and MODEL_TAG in child.data.tags:
            tags[MODEL_TAG] = child.data.tags[MODEL_TAG]
    close_parent_run(client, run_id, _STATUS.get(state, "FAILED"), metrics, tags)
