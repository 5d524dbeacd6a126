"""The parent run in MLflow: opened by a runner, closed with what the steps found."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.common import parent_run
from components.common.mlflow_client import IMPATIENT, client_settings, create_experiment, store_identity
from components.common.tracking import STEP_TAG
from components.common.uris import without_passwords
from data_schemas.errors import InputError
from pipelines.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

PROCESS_TAG = "vitalfuse.process"


@dataclass(frozen=True)
class Store:
    """An MLflow store that was found ready.

    Attributes:
        uri: Tracking URI.
        experiment_id: The experiment.
        identity: Digits that change when the store or the experiment is another one, even under the same URI.
        artifacts: Where the experiment's artifacts go: a URI or a path.
    """

    uri: str
    experiment_id: str
    identity: str
    artifacts: str


def tracking_uri(settings: Settings) -> str:
    """Return the tracking URI: the setting, else ``MLFLOW_TRACKING_URI``, else SQLite in the workspace.

    Args:
        settings: The settings.

    Returns:
        The URI.
    """
    return (
        settings.tracking.uri
        or os.environ.get("MLFLOW_TRACKING_URI")
        or f"sqlite:///{settings.workspace.absolute() / 'mlflow.db'}"
    )


def prepare_store(settings: Settings) -> Store:
    """Make sure that the store answers and has the experiment, before the long work.

    A cold SQLite store races in its migrations when several steps open it at once; this opens it once.

    Args:
        settings: The settings.

    Returns:
        The store.

    Raises:
        InputError: The server can't be reached, or refuses; or the workspace can't be written.
    """
    uri = tracking_uri(settings)
    try:
        settings.workspace.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"can't be made ({error.strerror})",
            file=str(settings.workspace),
            field="workspace",
            remedy="Name a folder that you may write to",
        ) from error
    artifacts = (settings.workspace.absolute() / "mlartifacts").as_uri() if uri.startswith("sqlite") else None
    return open_store(uri, settings.tracking.experiment, artifacts)


def open_store(uri: str, name: str, artifacts: str | None = None, *, create: bool = True) -> Store:
    """Find an experiment in a store, or make it.

    Args:
        uri: Tracking URI.
        name: The experiment.
        artifacts: Where a new experiment keeps its artifacts; None: where the server puts them.
        create: Whether to make the experiment where it is not there.

    Returns:
        The store.

    Raises:
        InputError: The server can't be reached, or refuses; or the experiment is not there and not to be made.
    """
    _refuse_plain_files(uri)
    with client_settings(IMPATIENT):
        try:
            client = open_client(uri)
            experiment = client.get_experiment_by_name(name)
            if experiment is None and create:
                experiment = create_experiment(client, name, artifacts)
        except Exception as error:
            raise InputError(
                f"the MLflow server at {without_passwords(uri)} can't be used ({_cause(error)})",
                field="tracking.uri",
                remedy="Start the server, or correct the setting or MLFLOW_TRACKING_URI; without both, SQLite is used",
            ) from error
    if experiment is None:
        raise InputError(f"there is no MLflow experiment {name!r}", field="tracking.experiment", remedy="Correct it")
    if experiment.lifecycle_stage != "active":
        raise InputError(
            f"the MLflow experiment {name!r} is deleted",
            field="tracking.experiment",
            remedy="Restore it, or name another one",
        )
    return Store(
        uri=uri,
        experiment_id=experiment.experiment_id,
        identity=store_identity(uri, experiment),
        artifacts=experiment.artifact_location,
    )


def connect(uri: str) -> MlflowClient:
    """Connect to a store that is there already, and make nothing in it.

    Args:
        uri: Tracking URI.

    Returns:
        The client.

    Raises:
        InputError: It is no store of runs and models, or doesn't answer.
    """
    _refuse_plain_files(uri)
    database = uri.removeprefix("sqlite:///").partition("?")[0]
    if database != uri and not Path(database).is_file():
        # SQLite would make it.
        raise InputError(
            "there is no such database", file=database, field="--tracking-uri", remedy="Name the one of a workspace"
        )
    with client_settings(IMPATIENT):
        try:
            client = open_client(uri)
            client.search_experiments(max_results=1)
        except Exception as error:
            raise InputError(
                f"the MLflow server at {without_passwords(uri)} can't be used ({_cause(error)})",
                field="--tracking-uri",
                remedy="Start the server, or correct the option or MLFLOW_TRACKING_URI",
            ) from error
    return client


def _refuse_plain_files(uri: str) -> None:
    if uri.startswith("file:") or ("://" not in uri and uri != "databricks"):
        raise InputError(
            f"{uri!r} is neither a server nor a database; MLflow's store of plain files is retired",
            field="tracking.uri",
            remedy="Give http://host:port, or sqlite:///folder/mlflow.db",
        )


def open_client(uri: str) -> MlflowClient:
    """Return a client of a store, which leaves out what MLflow has to say of its tables.

    Args:
        uri: Tracking URI.
    """
    # Read by MLflow when it is first imported; what it has to say of its tables is nothing to a user.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    from mlflow import MlflowClient

    logging.getLogger("alembic").setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _cause(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = lines[-1] if "refused" in lines[-1].lower() else lines[0]
    for hint in ("Connection refused", "Name or service not known", "timed out", "UNAUTHENTICATED", "401", "403"):
        if hint.lower() in str(error).lower():
            return hint
    return without_passwords(text)[:200]


def open_parent_run(store: Store, settings: Settings, tags: dict[str, str]) -> str:
    """Open the parent run of a run on this machine, with the settings as parameters.

    Args:
        store: A ready store.
        settings: The settings.
        tags: Tags of the run.

    Returns:
        The run's id.
    """
    process = {PROCESS_TAG: f"{socket.gethostname()}:{os.getpid()}"}
    tree = settings.model_dump(mode="json", by_alias=True)
    return parent_run.open_parent_run(open_client(store.uri), store.experiment_id, settings.name, tree, tags | process)


def log_files(store: Store, run_id: str, files: Iterable[tuple[Path, str | None]]) -> None:
    """Log files into a run.

    Args:
        store: The store.
        run_id: The run.
        files: Local file or folder, and artifact folder (None for the root).
    """
    client = open_client(store.uri)
    for path, folder in files:
        if path.is_dir():
            client.log_artifacts(run_id, str(path), folder)
        else:
            client.log_artifact(run_id, str(path), folder)


def close_parent_run(store: Store, run_id: str, status: str, metrics: dict[str, float], tags: dict[str, str]) -> None:
    """Log the headline metrics and close the parent run.

    Args:
        store: The store.
        run_id: The parent run.
        status: ``FINISHED``, ``FAILED`` or ``KILLED``.
        metrics: Headline metrics.
        tags: Further tags.
    """
    parent_run.close_parent_run(open_client(store.uri), run_id, status, metrics, tags)


def close_abandoned_runs(store: Store) -> int:
    """Close the runs of this machine whose process is gone, such as after a power cut, as killed.

    Args:
        store: The store.

    Returns:
        How many pipeline runs were closed.
    """
    client = open_client(store.uri)
    closed = 0
    running = f"attributes.status = 'RUNNING' and tags.`{STEP_TAG}` = '{parent_run.PIPELINE}'"
    for run in client.search_runs([store.experiment_id], running):
        host, _, process = run.data.tags.get(PROCESS_TAG, "").rpartition(":")
        if host == socket.gethostname() and process.isdigit() and not is_alive(int(process)):
            close_parent_run(store, run.info.run_id, "KILLED", {}, {})
            closed += 1
    return closed


def is_alive(process: int) -> bool:
    """Return whether there is a process of that id on this machine.

    Args:
        process: Process id.
    """
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
