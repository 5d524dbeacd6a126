"""What the commands on runs and registered models share: the store, names of both, the key of predictions."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.common.tracking import STEP_TAG
from components.register.audit import retried
from data_schemas.errors import InputError
from pipelines import tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

_PARENT_TAG = "mlflow.parentRunId"
_MISSING = "RESOURCE_DOES_NOT_EXIST"
SHORTEST_PREFIX = 4
_PAGE = 1000


def open_store(workspace: Path, uri: str | None) -> MlflowClient:
    """Connect to the MLflow store that a command works on.

    Args:
        workspace: Its own store is used where no other is named.
        uri: Tracking URI; without it MLFLOW_TRACKING_URI, else SQLite in the workspace.

    Returns:
        The client.

    Raises:
        InputError: There is no such store, or it can't be reached.
    """
    named = uri or os.environ.get("MLFLOW_TRACKING_URI")
    database = workspace.absolute() / "mlflow.db"
    if not named and not database.is_file():
        raise InputError(
            "holds no MLflow store",
            file=str(workspace),
            field="--workspace",
            remedy="Run `vitalfuse run`, or name a server with --tracking-uri",
        )
    return tracking.connect(named or f"sqlite:///{database}")


def predictions_key(workspace: Path) -> bytes | None:
    """Return the key of sealed predictions: from the environment, else the one of this workspace.

    Args:
        workspace: Its key of the pseudonyms is used where the environment has none.

    Returns:
        The key, or None where there is none.
    """
    from components.common.evidence_key import derive_key, evidence_key

    path = workspace / "pseudonym.key"
    key = evidence_key()
    return derive_key(path.read_text().strip()) if key is None and path.is_file() else key


@dataclass(frozen=True)
class VersionName:
    """A version as a user names it.

    Attributes:
        model: Registered model.
        version: Its number, or None where an alias is named.
        alias: Its alias, or None.
    """

    model: str
    version: str | None
    alias: str | None


def parse_version(text: str, model: str) -> VersionName | None:
    """Read a version as ``3``, ``NAME/3``, ``@champion``, ``NAME@champion``, with or without ``models:/``.

    Args:
        text: What the user wrote.
        model: The registered model where the text names none.

    Returns:
        The parts, or None where it has none of these forms.
    """
    text = text.removeprefix("models:/")
    found = re.fullmatch(r"(?:(?P<model>[^/:@]+)/)?(?P<version>\d{1,9})", text)
    if found:
        return VersionName(found["model"] or model, found["version"], None)
    found = re.fullmatch(r"(?P<model>[^/:@]*)@(?P<alias>[\w-]+)", text)
    return VersionName(found["model"] or model, None, found["alias"]) if found else None


def find_model(client: MlflowClient, model: str, field: str | None = None) -> RegisteredModel:
    """Return a registered model.

    Args:
        client: MLflow client.
        model: Its name.
        field: Option that gave the name, for the message.

    Returns:
        The model.

    Raises:
        InputError: There is no such model; names those that there are.
    """
    from mlflow.exceptions import MlflowException

    try:
        return retried(lambda: client.get_registered_model(model))
    except MlflowException as error:
        if error.error_code != _MISSING:
            raise
        models = ", ".join(sorted(found.name for found in client.search_registered_models())) or "none"
        raise InputError(
            f"there is no registered model {model!r}", field=field, remedy=f"There are: {models}"
        ) from error


def find_version(client: MlflowClient, name: VersionName) -> ModelVersion:
    """Return a registered version.

    Args:
        client: MLflow client.
        name: Which.

    Returns:
        The version.

    Raises:
        InputError: There is no such model, version or alias; names those that there are.
    """
    from mlflow.exceptions import MlflowException

    registered = find_model(client, name.model)
    aliases = {alias: str(number) for alias, number in registered.aliases.items()}
    if name.alias is not None and name.alias not in aliases:
        known = ", ".join(f"@{alias}" for alias in sorted(aliases)) or "none"
        raise InputError(f"{name.model} has no alias @{name.alias}", remedy=f"There are: {known}")
    number = name.version or aliases[str(name.alias)]
    try:
        return retried(lambda: client.get_model_version(name.model, number))
    except MlflowException as error:
        if error.error_code != _MISSING:
            raise
        numbers = sorted(int(item.version) for item in client.search_model_versions(f"name = '{name.model}'"))
        known = ", ".join(map(str, numbers[-10:])) or "none"
        raise InputError(f"{name.model} has no version {number}", remedy=f"There are: {known}") from error


def find_run(client: MlflowClient, text: str) -> Run:
    """Return a pipeline run by its id or the beginning of it.

    Args:
        client: MLflow client.
        text: Hexadecimal digits, four at least; the id of a step's run stands for the pipeline's.

    Returns:
        The pipeline's run.

    Raises:
        InputError: No run, or several, begin with these digits.
    """
    from mlflow.exceptions import MlflowException

    if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST_PREFIX},32}}", text):
        raise InputError(
            f"{text!r} is neither a run nor a version",
            remedy="Give four digits or more of a run's id, or a version such as 3, vitalfuse-diagnosis/3 or @champion",
        )
    try:
        if len(text) == 32:
            return _top(client, client.get_run(text))
    except MlflowException as error:
        raise InputError(f"MLflow has no run {text}", remedy="Look in the MLflow UI, or give a version") from error
    runs = [run for run in _pipeline_runs(client) if run.info.run_id.startswith(text)]
    if not runs:
        raise InputError(
            f"no pipeline run begins with {text}", remedy="Give the whole id of a run, as the MLflow UI shows it"
        )
    if len(runs) > 1:
        ids = ", ".join(run.info.run_id[:12] for run in runs[:5])
        raise InputError(f"{len(runs)} runs begin with {text}: {ids}", remedy="Give more digits")
    return runs[0]


def _top(client: MlflowClient, run: Run) -> Run:
    while run.data.tags.get(STEP_TAG) != "pipeline" and _PARENT_TAG in run.data.tags:
        run = client.get_run(run.data.tags[_PARENT_TAG])
    return run


def _pipeline_runs(client: MlflowClient) -> list[Run]:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs(experiments, f"tags.`{STEP_TAG}` = 'pipeline'", max_results=_PAGE, page_token=token)
        found += page
        token = page.token
        if not token:
            return found
