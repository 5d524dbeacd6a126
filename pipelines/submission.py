"""Brings the pipeline to a cluster: uploads it once, and starts or schedules runs of it."""

from __future__ import annotations

import hashlib
import json
import tempfile
import uuid
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kfp_server_api as server
import yaml

from data_schemas.errors import InputError
from pipelines.cluster import compile_pipeline
from pipelines.cluster_tracking import ParentRun, plugin_input
from pipelines.code_version import package_version
from pipelines.errors import ServerError
from pipelines.kfp_api import KfpApi, RefusedError
from pipelines.local import pipeline_arguments
from pipelines.settings import Settings, nearest_name

if TYPE_CHECKING:
    from collections.abc import Callable

PIPELINE = "vitalfuse-diagnosis"
_DIGITS = 12
_CONFLICT = 409
_BAD_REQUEST = 400


@dataclass(frozen=True)
class UploadedPipeline:
    """The compiled pipeline on a server.

    Attributes:
        pipeline_id: The pipeline.
        version_id: Its version.
        version_name: Name of the version: the pipeline's, and digits of the digest of the compiled YAML.
        is_new: Whether this call uploaded it.
        spec: The compiled pipeline.
    """

    pipeline_id: str
    version_id: str
    version_name: str
    is_new: bool
    spec: dict[str, Any]

    @property
    def reference(self) -> server.V2beta1PipelineVersionReference:
        """What a run names it by."""
        return server.V2beta1PipelineVersionReference(pipeline_id=self.pipeline_id, pipeline_version_id=self.version_id)


def upload_once(api: KfpApi, settings: Settings) -> UploadedPipeline:
    """Compile the pipeline, and upload it unless this very pipeline is there already.

    Args:
        api: The server.
        settings: The settings; their section ``cluster`` and ``shards`` shape the pipeline.

    Returns:
        The pipeline's version on the server.

    Raises:
        InputError: The server refuses.
        ServerError: The server fails.
    """
    with tempfile.TemporaryDirectory(prefix="vitalfuse-submit-") as folder:
        package = Path(folder) / f"{PIPELINE}.yaml"
        compile_pipeline(package, settings.cluster, shards=settings.shards)
        text = package.read_bytes()
        # libyaml is ten times as quick; not every build of PyYAML has it.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        spec = next(yaml.load_all(text, Loader=loader))
        name = f"{PIPELINE}-{hashlib.sha256(text).hexdigest()[:_DIGITS]}"
        pipeline = _ensure_pipeline(api)
        version = _find_version(api, pipeline, name)
        if version is not None:
            return UploadedPipeline(pipeline, version, name, False, spec)

        def upload() -> str:
            uploaded = api.uploads.upload_pipeline_version(
                str(package), name=name, display_name=name, pipelineid=pipeline
            )
            return uploaded.pipeline_version_id

        version, is_new = _make_or_find(upload, lambda: _find_version(api, pipeline, name))
        return UploadedPipeline(pipeline, version, name, is_new, spec)


def _ensure_pipeline(api: KfpApi) -> str:
    if found := _find_pipeline(api):
        return found
    body = server.V2beta1Pipeline(
        name=PIPELINE,
        display_name=PIPELINE,
        description="A cohort in; a validated, trained, compared and registered diagnosis model out.",
        namespace=api.connection.namespace,
    )
    return _make_or_find(
        lambda: api.pipelines.pipeline_service_create_pipeline(body).pipeline_id, lambda: _find_pipeline(api)
    )[0]


def _make_or_find(make: Callable[[], str], find: Callable[[], str | None]) -> tuple[str, bool]:
    """Make something; where somebody else did so in the meantime, return theirs.

    Returns:
        Its id, and whether it was made here.
    """
    try:
        return make(), True
    except RefusedError as error:
        found = find() if error.status == _CONFLICT else None
        if found is None:
            raise
        return found, False


def _find_pipeline(api: KfpApi) -> str | None:
    listed = api.pipelines.pipeline_service_list_pipelines(filter=_named(PIPELINE), page_size=1, **_in_namespace(api))
    return listed.pipelines[0].pipeline_id if listed.pipelines else None


def _find_version(api: KfpApi, pipeline: str, name: str) -> str | None:
    listed = api.pipelines.pipeline_service_list_pipeline_versions(pipeline, filter=_named(name), page_size=1)
    return listed.pipeline_versions[0].pipeline_version_id if listed.pipeline_versions else None


def _named(name: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "string_value": name}]})


def _in_namespace(api: KfpApi) -> dict[str, str]:
    return {"namespace": api.connection.namespace} if api.connection.namespace else {}


def find_experiment(api: KfpApi, name: str, remedy: str = "Correct it, or add --create-experiment") -> str:
    """Return the id of a KFP experiment.

    Args:
        api: The server.
        name: Name of the experiment.
        remedy: What the user can do where there is none.

    Returns:
        Its id.

    Raises:
        InputError: There is none; names the nearest.
    """
    if found := _find_experiment(api, name):
        return found
    listed = api.experiments.experiment_service_list_experiments(page_size=100, **_in_namespace(api))
    names = [experiment.display_name for experiment in listed.experiments or []]
    raise InputError(
        f"there is no KFP experiment {name!r}; {nearest_name(name, names)}",
        field="--experiment",
        remedy=remedy,
    )


def ensure_experiment(api: KfpApi, name: str) -> str:
    """Return the id of a KFP experiment, which is made where it is not there.

    Args:
        api: The server.
        name: Name of the experiment.

    Returns:
        Its id.
    """
    body = server.V2beta1Experiment(display_name=name, namespace=api.connection.namespace)
    return (
        _find_experiment(api, name)
        or _make_or_find(
            lambda: api.experiments.experiment_service_create_experiment(body).experiment_id,
            lambda: _find_experiment(api, name),
        )[0]
    )


def _find_experiment(api: KfpApi, name: str) -> str | None:
    listed = api.experiments.experiment_service_list_experiments(filter=_named(name), page_size=1, **_in_namespace(api))
    return listed.experiments[0].experiment_id if listed.experiments else None


def start_run(
    api: KfpApi,
    settings: Settings,
    pipeline: UploadedPipeline,
    experiment_id: str,
    parent: ParentRun | None,
    service_account: str | None = None,
) -> server.V2beta1Run:
    """Start a run.

    Args:
        api: The server.
        settings: The settings.
        pipeline: The uploaded pipeline.
        experiment_id: KFP experiment.
        parent: The MLflow run that was opened for it; None: the first task opens one.
        service_account: Kubernetes service account of the pods; None: the server's default.

    Returns:
        The run as KFP returned it.

    Raises:
        InputError: The server refuses.
        ServerError: The server fails.
    """
    arguments = pipeline_arguments(settings) | {"mlflow_run_id": parent.run_id if parent else ""}
    body = server.V2beta1Run(
        display_name=f"{settings.name} {datetime.now():%Y-%m-%d %H:%M:%S}",
        # Tells this run from one of the same name and second.
        description=f"vitalfuse {package_version()}, request {uuid.uuid4().hex}",
        experiment_id=experiment_id,
        pipeline_version_reference=pipeline.reference,
        runtime_config=server.V2beta1RuntimeConfig(parameters=arguments),
        service_account=service_account,
        plugins_input=plugin_input(settings),
    )
    return _start(api, body)


def _start(api: KfpApi, body: server.V2beta1Run) -> server.V2beta1Run:
    try:
        return _create(api.runs.run_service_create_run, body)
    except ServerError:
        # A call that was not answered may have been heard all the same; a second run must not be started.
        listed = api.runs.run_service_list_runs(
            experiment_id=body.experiment_id, filter=_named(body.display_name), page_size=100, **_in_namespace(api)
        )
        ours = [run for run in listed.runs or [] if run.description == body.description]
        if not ours:
            raise
        return ours[0]


def schedule_runs(
    api: KfpApi,
    settings: Settings,
    pipeline: UploadedPipeline,
    experiment_id: str,
    trigger: server.V2beta1Trigger,
    *,
    name: str | None = None,
    catch_up: bool = True,
    service_account: str | None = None,
) -> server.V2beta1RecurringRun:
    """Schedule runs that KFP starts by itself, one at a time.

    Args:
        api: The server.
        settings: The settings.
        pipeline: The uploaded pipeline.
        experiment_id: KFP experiment.
        trigger: When.
        name: Name of the schedule; None: that of the settings.
        catch_up: Whether runs that were missed while the schedule was paused are made up for.
        service_account: Kubernetes service account of the pods; None: the server's default.

    Returns:
        The schedule as KFP returned it.

    Raises:
        InputError: The server refuses.
        ServerError: The server fails.
    """
    body = server.V2beta1RecurringRun(
        display_name=name or settings.name,
        experiment_id=experiment_id,
        namespace=api.connection.namespace,
        pipeline_version_reference=pipeline.reference,
        runtime_config=server.V2beta1RuntimeConfig(parameters=pipeline_arguments(settings)),
        trigger=trigger,
        mode=server.RecurringRunMode.ENABLE,
        max_concurrency="1",
        no_catchup=not catch_up,
        service_account=service_account,
        plugins_input=plugin_input(settings),
    )
    # Several may have the same name.
    known = {schedule.recurring_run_id for schedule in _namesakes(api, body)}
    try:
        return _create(api.recurring_runs.recurring_run_service_create_recurring_run, body)
    except ServerError:
        # As for a run: it may have been made all the same, and a second one would run everything twice.
        made = [schedule for schedule in _namesakes(api, body) if schedule.recurring_run_id not in known]
        if not made:
            raise
        return made[0]


def _namesakes(api: KfpApi, body: server.V2beta1RecurringRun) -> list[server.V2beta1RecurringRun]:
    listed = api.recurring_runs.recurring_run_service_list_recurring_runs(
        experiment_id=body.experiment_id,
        filter=_named(body.display_name),
        sort_by="created_at desc",
        page_size=100,
        **_in_namespace(api),
    )
    return listed.recurring_runs or []


def _create(call: Callable[[Any], Any], body: Any) -> Any:
    """Create a run or a schedule, also on servers from before KFP's own MLflow integration."""
    try:
        return call(body)
    except RefusedError as error:
        if error.status != _BAD_REQUEST or "plugins_input" not in error.message:
            raise
        body.plugins_input = None
        return call(body)
