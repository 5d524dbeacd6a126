"""Runs and schedules that are on a KFP server: found, listed, ended, repeated."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from data_schemas.errors import InputError
from pipelines.kfp_api import KfpApi, RefusedError
from pipelines.run_plan import PlannedTask, plan_tasks
from pipelines.run_states import FINAL_STATES

if TYPE_CHECKING:
    from kfp_server_api import V2beta1RecurringRun as Schedule
    from kfp_server_api import V2beta1Run as Run

_NOT_FOUND = (400, 404)


def get_run(api: KfpApi, run_id: str) -> Run:
    """Return a run.

    Args:
        api: The server.
        run_id: Its id.

    Returns:
        The run.

    Raises:
        InputError: There is no such run.
    """
    return _known(lambda: api.runs.run_service_get_run(run_id), "run", run_id, "vitalfuse runs")


def list_runs(api: KfpApi, limit: int, experiment_id: str | None = None) -> list[Run]:
    """List runs, the newest first.

    Args:
        api: The server.
        limit: How many at most.
        experiment_id: Only those of this experiment; None: all of the namespace.

    Returns:
        The runs.
    """
    scope: dict[str, Any] = {"experiment_id": experiment_id} if experiment_id else _namespace(api)
    listed = api.runs.run_service_list_runs(page_size=limit, sort_by="created_at desc", **scope)
    return listed.runs or []


def tasks_of(api: KfpApi, run: Run) -> list[PlannedTask]:
    """Return the tasks of a run, from the pipeline that it runs.

    Args:
        api: The server.
        run: The run.

    Returns:
        The tasks; none where the pipeline has been deleted.
    """
    spec = run.pipeline_spec
    reference = run.pipeline_version_reference
    if spec is None and reference is not None:
        try:
            version = api.pipelines.pipeline_service_get_pipeline_version(
                reference.pipeline_id, reference.pipeline_version_id
            )
        except RefusedError:
            return []
        spec = version.pipeline_spec
    arguments = (run.runtime_config and run.runtime_config.parameters) or {}
    return plan_tasks(spec, arguments) if spec else []


def end_run(api: KfpApi, run: Run) -> None:
    """Ask the server to end a run.

    Args:
        api: The server.
        run: The run.

    Raises:
        InputError: It has ended already.
    """
    if run.state in FINAL_STATES:
        raise InputError(f"run {run.run_id} has ended already ({run.state})")
    api.runs.run_service_terminate_run(run.run_id)


def repeat_run(api: KfpApi, run: Run) -> None:
    """Ask the server to repeat what failed in a run.

    Args:
        api: The server.
        run: The run.

    Raises:
        InputError: It is still on, or has succeeded.
    """
    if run.state not in ("FAILED", "CANCELED"):
        raise InputError(
            f"run {run.run_id} has nothing to repeat (its state is {run.state})",
            remedy="Only a run that failed or was cancelled can be retried",
        )
    api.runs.run_service_retry_run(run.run_id)


def list_schedules(api: KfpApi) -> list[Schedule]:
    """List the schedules, the newest first.

    Args:
        api: The server.

    Returns:
        The schedules.
    """
    listed = api.recurring_runs.recurring_run_service_list_recurring_runs(
        page_size=200, sort_by="created_at desc", **_namespace(api)
    )
    return listed.recurring_runs or []


def change_schedule(api: KfpApi, schedule_id: str, change: Literal["enable", "disable", "delete"]) -> None:
    """Resume, pause or delete a schedule.

    Args:
        api: The server.
        schedule_id: Its id.
        change: What to do.

    Raises:
        InputError: There is no such schedule.
    """
    calls = {
        "enable": api.recurring_runs.recurring_run_service_enable_recurring_run,
        "disable": api.recurring_runs.recurring_run_service_disable_recurring_run,
        "delete": api.recurring_runs.recurring_run_service_delete_recurring_run,
    }
    _known(lambda: calls[change](schedule_id), "schedule", schedule_id, "vitalfuse schedule list")


def _known(call: Callable[[], Any], kind: str, identifier: str, listing: str) -> Any:
    try:
        return call()
    except RefusedError as error:
        if error.status not in _NOT_FOUND:
            raise
        raise InputError(f"there is no {kind} {identifier!r} on the server", remedy=f"See `{listing}`") from error


def _namespace(api: KfpApi) -> dict[str, str]:
    return {"namespace": api.connection.namespace} if api.connection.namespace else {}
