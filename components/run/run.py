"""The MLflow run of a pipeline run on a cluster: opened by its first task, closed by its last."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from components.common import environment
from components.common.code_version import package_version
from components.common.evidence_key import evidence_key, key_digest
from components.common.mlflow_client import PATIENT, client_settings, store_identity
from components.common.parent_run import (
    CACHED_STEPS_TAG,
    COHORT_STEPS,
    ERROR_TAG,
    close_parent_run,
    gather_results,
    log_cached_steps,
    log_dataset,
    open_parent_run,
)
from components.common.step import read_records
from components.common.tracking import KFP_RUN_TAG, find_parent_run_id, tracked_by_kfp, tracking_enabled
from components.ingest.locations import source_digest
from components.ingest.settings import IngestSettings
from components.validate.baseline import baseline_digest
from components.validate.settings import ValidateSettings
from data_schemas.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient

_STATUS = {"SUCCEEDED": "FINISHED", "CANCELLED": "KILLED", "CANCELED": "KILLED"}
_MESSAGE_LIMIT = 500


class Opened(NamedTuple):
    """What the first task of a run finds for those that follow.

    Attributes:
        sources: SHA-256 of the sources' listing, hexadecimal.
        baseline: SHA-256 of the baseline of ``validate``, hexadecimal; empty without one.
        store: Identity of the MLflow store, and of the key of sealed predictions where there is one.
    """

    sources: str
    baseline: str
    store: str


@client_settings(PATIENT)
def open_pipeline_run(settings: dict[str, Any], mlflow_run_id: str = "") -> Opened:
    """Open the parent run in MLflow and list the sources.

    Args:
        settings: All settings as plain values.
        mlflow_run_id: A parent run that was opened before, or "". Where KFP tracks the run itself, it is deleted.

    Returns:
        What the cache keys of later steps hold.

    Raises:
        InputError: A source or the baseline is not there, the pods have no MLflow server, theirs does not have the
            run that was opened before, or their account may not write into the experiment.
        StoreError: The store of a source failed.
    """
    if not tracking_enabled():
        # The last steps, hours later, could not register.
        raise InputError(
            "the pods know of no MLflow server",
            field="cluster.mlflow",
            remedy="Switch KFP's MLflow integration on, or set it to vitalfuse and cluster.mlflow_uri to the server",
        )
    import mlflow

    client = mlflow.MlflowClient()
    with _denials_told(settings["tracking"]["experiment"]):
        run_id = _open_parent(settings, mlflow_run_id)
        sources = source_digest(IngestSettings.model_validate(settings["ingest"]))
        if not tracked_by_kfp():
            client.set_tag(run_id, "vitalfuse.source_digest", sources)
        baseline = baseline_digest(ValidateSettings.model_validate(settings.get("validate", {})))
        experiment = client.get_experiment(client.get_run(run_id).info.experiment_id)
    store = store_identity(mlflow.get_tracking_uri(), experiment) + key_digest(evidence_key())
    return Opened(sources, baseline, store)


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


def _open_parent(settings: dict[str, Any], mlflow_run_id: str) -> str:
    """Return the MLflow run of this pipeline run, opened unless it is open; of KFP's own integration, this task's."""
    import mlflow

    client = mlflow.MlflowClient()
    kfp_run_id = os.environ.get(environment.KFP_RUN_ID, "")
    if tracked_by_kfp():
        # Never both: KFP has opened a run of its own.
        if mlflow_run_id and _is_ours(client, mlflow_run_id, kfp_run_id, elsewhere=False):
            client.delete_run(mlflow_run_id)
        return os.environ["MLFLOW_RUN_ID"]
    if opened_here := os.environ.get(environment.PARENT_RUN_ID):
        return opened_here
    tags = {KFP_RUN_TAG: kfp_run_id, "mlflow.source.git.commit": os.environ.get(environment.GIT_COMMIT, "unknown")}
    if mlflow_run_id and _is_ours(client, mlflow_run_id, kfp_run_id):
        run_id = mlflow_run_id
        for name, value in tags.items():
            client.set_tag(run_id, name, value)
    elif found := find_parent_run_id():  # A retry of this task finds the run of the first attempt.
        run_id = found
    else:
        experiment = mlflow.set_experiment(settings["tracking"]["experiment"])
        tags["vitalfuse.version"] = package_version()
        run_id = open_parent_run(client, experiment.experiment_id, settings["name"], settings, tags)
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    client.log_text(run_id, text, "inputs/settings_resolved.yaml")
    return run_id


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
def record_pipeline_run(records: list[Path], report: Path) -> None:
    """Log into the parent run what no step's own run tells of, and close it: all steps have succeeded.

    Steps from the cache get a nested run, as in a run on one machine. This task does not leave the closing to the exit
    task, since KFP does not run that one again when failed steps are repeated.

    Args:
        records: Files of the artifacts ``record`` of all steps.
        report: The report, an HTML file.
    """
    run_id = _parent_to_close()
    if run_id is None:
        return
    import mlflow

    client = mlflow.MlflowClient()
    found = [record for path in records for record in read_records(path)]
    cached = log_cached_steps(client, run_id, found)
    for record in found:
        if record.step in COHORT_STEPS:
            log_dataset(client, run_id, record)
    with tempfile.TemporaryDirectory(prefix="vitalfuse-report-") as folder:
        client.log_artifact(run_id, shutil.copyfile(report, Path(folder) / "report.html"))
    metrics, tags = gather_results(client, run_id)
    close_parent_run(client, run_id, "FINISHED", metrics, tags | {CACHED_STEPS_TAG: str(cached)})


@client_settings(PATIENT)
def close_pipeline_run(state: str, error_message: str = "") -> None:
    """Close the parent run in MLflow, with the headline metrics of its steps.

    Args:
        state: State of the pipeline run in KFP, such as ``SUCCEEDED``, ``FAILED`` or ``CANCELLED``.
        error_message: What KFP has to say of a failure.
    """
    run_id = _parent_to_close()
    if run_id is None:
        return
    import mlflow

    client = mlflow.MlflowClient()
    status = _STATUS.get(state, "FAILED")
    if client.get_run(run_id).info.status == status == "FINISHED":
        return  # By the last step.
    metrics, tags = gather_results(client, run_id)
    tags |= {ERROR_TAG: error_message[:_MESSAGE_LIMIT]} if error_message else {}
    close_parent_run(client, run_id, status, metrics, tags)


def _parent_to_close() -> str | None:
    """Return the run that this task has to close; None where KFP does that, or a runner that outlives the steps."""
    if not tracking_enabled() or tracked_by_kfp() or os.environ.get(environment.PARENT_RUN_ID):
        return None
    run_id = find_parent_run_id()
    if run_id is None:
        print("No MLflow run bears this KFP run's id: none to close.")
    return run_id
