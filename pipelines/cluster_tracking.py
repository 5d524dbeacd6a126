"""The MLflow run of a run on a cluster, as seen from the machine that submits it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.common import parent_run
from components.common.mlflow_client import IMPATIENT, client_settings
from components.common.parent_run import ERROR_TAG
from components.common.tracking import KFP_RUN_TAG, MODEL_TAG
from components.common.uris import holds_credentials, without_passwords
from data_schemas.errors import InputError
from pipelines.code_version import git_commit, package_version
from pipelines.settings import Settings
from pipelines.tracking import Store, open_client, open_store

if TYPE_CHECKING:
    from kfp_server_api import V2beta1Run as KfpRun
    from mlflow.entities import Run

# Name of KFP's own integration in the API.
_PLUGIN = "mlflow"
_MESSAGE_LIMIT = 500
_FINAL_STATUS = ("FINISHED", "FAILED", "KILLED")


def plugin_input(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return what a run tells KFP's own MLflow integration: to use the experiment, or to leave the run to us.

    Args:
        settings: The settings.
    """
    if settings.cluster.mlflow == "kfp":
        return {_PLUGIN: {"experiment_name": settings.tracking.experiment}}
    return {_PLUGIN: {"disabled": True}}


def plugin_run_url(run: KfpRun) -> str | None:
    """Return the address of the MLflow run that KFP's own integration has opened.

    Args:
        run: The run as KFP returned it.

    Returns:
        The address; None where KFP tells of none.
    """
    output = (run.plugins_output or {}).get(_PLUGIN)
    entry = (output.entries or {}).get("run_url") if output else None
    return str(entry.value) if entry and entry.value else None


def plugin_failure(run: KfpRun) -> str | None:
    """Return why KFP's own integration could not open an MLflow run.

    Args:
        run: The run as KFP returned it.

    Returns:
        KFP's word; None where it does not tell of a failure.
    """
    output = (run.plugins_output or {}).get(_PLUGIN)
    if output is None or "FAILED" not in str(output.state):
        return None
    return output.state_message or "no reason given"


def tracking_uri(settings: Settings) -> str:
    """Return the MLflow server's address as this machine sees it: the setting, the environment, else the pods' own.

    Args:
        settings: The settings.
    """
    return settings.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or settings.cluster.mlflow_uri


@dataclass(frozen=True)
class ParentRun:
    """The MLflow run of a run on a cluster.

    Attributes:
        store: The store.
        run_id: The run.
    """

    store: Store
    run_id: str

    @property
    def url(self) -> str:
        """The run's address in the UI; for a database, which has none, the run's id and the database."""
        uri = without_passwords(self.store.uri).rstrip("/")
        if uri.startswith("http"):
            return f"{uri}/#/experiments/{self.store.experiment_id}/runs/{self.run_id}"
        return f"run {self.run_id} in {uri}"

    def get(self) -> Run:
        """Return the run as the store has it."""
        return open_client(self.store.uri).get_run(self.run_id)

    def tag(self, name: str, value: str) -> None:
        """Set a tag.

        Args:
            name: Name of the tag.
            value: Its value.
        """
        open_client(self.store.uri).set_tag(self.run_id, name, value)

    def model(self) -> str | None:
        """Return the model version that the run registered, as name/version; None where it registered none."""
        return self.get().data.tags.get(MODEL_TAG)

    def tie(self, kfp_run_id: str, url: str) -> None:
        """Name the KFP run that the run belongs to; the run's first task does so as well.

        Args:
            kfp_run_id: Its id.
            url: Its address in the UI.
        """
        with client_settings(IMPATIENT):
            self.tag(KFP_RUN_TAG, kfp_run_id)
            self.tag("vitalfuse.kfp_run_url", url)

    def reopen(self) -> None:
        """Show the run as running again, without the error of its first end, since KFP repeats its failed steps."""
        client = open_client(self.store.uri)
        client.update_run(self.run_id, status="RUNNING")
        parent_run.delete_error(client, self.run_id)

    def close(self, status: str, error: str = "") -> None:
        """Close the run and what is open below it, with its steps' results, unless the pipeline itself has done so.

        Its exit handler does not run where a run is cancelled or where its pod can't start, nor a second time when KFP
        repeats failed steps.

        Args:
            status: ``FINISHED``, ``FAILED`` or ``KILLED``.
            error: Why it failed.
        """
        if self.get().info.status in _FINAL_STATUS:
            return
        client = open_client(self.store.uri)
        metrics, tags = parent_run.gather_results(client, self.run_id)
        tags |= {ERROR_TAG: error[:_MESSAGE_LIMIT]} if error else {}
        parent_run.close_parent_run(client, self.run_id, status, metrics, tags)


def open_parent_run(settings: Settings) -> ParentRun:
    """Open the MLflow run of a run that is about to be submitted.

    Args:
        settings: The settings.

    Returns:
        The run.

    Raises:
        InputError: No MLflow server answers this machine, or it lets this account open no run; the run's first task
            opens the MLflow run then.
    """
    from mlflow.exceptions import MlflowException

    uri = tracking_uri(settings)
    # Where people sign in, who makes an experiment owns it: that of another the pods' account could not write into.
    store = open_store(uri, settings.tracking.experiment, create=not _signs_in(uri))
    tags = {
        "mlflow.source.name": "vitalfuse submit",
        "mlflow.source.git.commit": git_commit(),
        "vitalfuse.version": package_version(),
    }
    tree = settings.model_dump(mode="json", by_alias=True)
    client = open_client(store.uri)
    try:
        run_id = parent_run.open_parent_run(client, store.experiment_id, settings.name, tree, tags)
    except MlflowException as error:
        raise InputError(
            f"the MLflow server at {without_passwords(uri)} opens no run for this account ({error.error_code})",
            field="tracking.uri",
            remedy="Ask for the right to write into the experiment",
        ) from error
    return ParentRun(store, run_id)


def _signs_in(uri: str) -> bool:
    """Return whether calls to a server bear a name, a password or a token."""
    from mlflow.utils.credentials import read_mlflow_creds

    if not uri.startswith("http"):
        return False
    return bool(holds_credentials(uri) or os.environ.get("MLFLOW_TRACKING_TOKEN") or read_mlflow_creds().username)


def find_parent_run(uri: str, run: KfpRun) -> ParentRun | None:
    """Find the MLflow run of a run on a cluster.

    Args:
        uri: Tracking URI as this machine sees it.
        run: The run as KFP returned it.

    Returns:
        The MLflow run; None where the run's steps opened none, or KFP's own integration tracks the run.

    Raises:
        InputError: The MLflow server does not answer, or does not have the experiment.
    """
    arguments = (run.runtime_config and run.runtime_config.parameters) or {}
    settings = arguments.get("settings")
    experiment = settings.get("tracking", {}).get("experiment") if isinstance(settings, dict) else None
    if experiment is None:
        return None
    store = open_store(uri, experiment, create=False)
    client = open_client(uri)
    found = client.search_runs([store.experiment_id], f"tags.`{KFP_RUN_TAG}` = '{run.run_id}'", max_results=1)
    return ParentRun(store, found[0].info.run_id) if found else None


def closing_status(run: KfpRun) -> str:
    """Return the MLflow status for the state in which a run ended.

    Args:
        run: A run that has ended.
    """
    from pipelines.run_states import is_cancelled

    if run.state == "SUCCEEDED":
        return "FINISHED"
    return "KILLED" if is_cancelled(run) else "FAILED"


def reason(error: InputError) -> str:
    """Return an error's own words, without place and remedy, for a warning.

    Args:
        error: The error.
    """
    return error.problem
