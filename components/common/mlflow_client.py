"""How MLflow's client meets a server that is slow, away for a while, or does not say whether it has done as asked.

The client repeats every request that finds no server, loses its answer, or is answered with 408, 429, 500, 502, 503 or
504, with waits that double up to two minutes. Most requests may be repeated without harm. Those that make a run, a
model or a version may not: when only the answer was lost, the first one stays behind as a copy. So what is made here
bears a tag of its own, and copies with the same tag are taken away.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from components.common.uris import without_passwords

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

REQUEST_TAG = "vitalfuse.request"

# For every process.
USUAL = {
    # Files go through the server, since not everybody reaches its S3: MLflow's client would go there by itself.
    "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "false",
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
    # MLflow tells its makers which of its functions are used, unless told not to.
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
# For work that must not be lost: the most retries that MLflow takes, which are ten minutes.
PATIENT = USUAL | {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "10",
    "AWS_RETRY_MODE": "standard",
    "AWS_MAX_ATTEMPTS": "10",
}
# For a first look, when somebody waits: seconds.
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}


def set_usual() -> None:
    """Set ``USUAL`` for this process and those that it starts; what is set already stays as it is."""
    for name, value in USUAL.items():
        os.environ.setdefault(name, value)


@contextmanager
def client_settings(defaults: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables of MLflow's client for a block; those that are set already stay as they are.

    Args:
        defaults: Values by name, such as ``PATIENT``.
    """
    added = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def request_tag() -> dict[str, str]:
    """Return the tag of something that is about to be made in MLflow, different each time."""
    return {REQUEST_TAG: uuid.uuid4().hex}


def may_repeat(client: MlflowClient) -> bool:
    """Return whether a client speaks HTTP, and so may have repeated a request; a database is asked once.

    Args:
        client: The client.
    """
    return client.tracking_uri.startswith("http")


def create_experiment(client: MlflowClient, name: str, artifacts: str | None = None) -> Experiment:
    """Create an experiment, or take the one of that name, which another run or an unanswered request may have made.

    Args:
        client: MLflow client.
        name: Name of the experiment.
        artifacts: Where it keeps its artifacts; None: where the server puts them.

    Returns:
        The experiment.
    """
    from mlflow.exceptions import MlflowException

    try:
        return client.get_experiment(client.create_experiment(name, artifact_location=artifacts))
    except MlflowException as error:
        found = client.get_experiment_by_name(name)
        if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
            raise
        return found


def store_identity(uri: str, experiment: Experiment) -> str:
    """Return what stands for a store in a cache key: results that are kept in one store are not in another.

    Args:
        uri: Tracking URI; a user and a password in it do not count.
        experiment: The experiment.

    Returns:
        Twelve hexadecimal digits that change when the store or the experiment is another one, even under the same URI
        and name.
    """
    place = without_passwords(uri)
    return hashlib.sha256(f"{place} {experiment.experiment_id} {experiment.creation_time}".encode()).hexdigest()[:12]


def create_run(client: MlflowClient, experiment_id: str, name: str, tags: dict[str, str]) -> Run:
    """Create one run, also where MLflow's answer is lost and the client asks again.

    Args:
        client: MLflow client.
        experiment_id: The experiment.
        name: Name of the run.
        tags: Tags of the run.

    Returns:
        The run.
    """
    run = client.create_run(experiment_id, run_name=name, tags=tags | request_tag())
    delete_copies(client, run)
    return run


def delete_copies(client: MlflowClient, run: Run) -> None:
    """Delete the runs that were made by the same request as a run.

    Args:
        client: MLflow client.
        run: The run that stays; one without the tag of a request has no copies.
    """
    request = run.data.tags.get(REQUEST_TAG)
    if request is None or not may_repeat(client):
        return
    for other in client.search_runs([run.info.experiment_id], f"tags.`{REQUEST_TAG}` = '{request}'"):
        if other.info.run_id != run.info.run_id:
            client.delete_run(other.info.run_id)
