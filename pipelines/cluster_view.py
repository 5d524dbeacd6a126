"""What a person sees of runs on a cluster, and how the commands go."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

import rich.console
from rich.console import RenderableType
from rich.text import Text

from data_schemas.errors import InputError
from pipelines import cluster_runs
from pipelines.cluster_tracking import (
    ParentRun,
    closing_status,
    find_parent_run,
    open_parent_run,
    plugin_failure,
    plugin_run_url,
)
from pipelines.display import show_steps, steps_table
from pipelines.listing import listing
from pipelines.pod_logs import cause, read_logs
from pipelines.run_plan import PlannedTask
from pipelines.run_states import FINAL_STATES, StillRunningError, duration, exit_code, step_states, watch
from pipelines.schedules import describe_trigger
from pipelines.settings import Settings, nearest_name
from pipelines.submission import UploadedPipeline, start_run

if TYPE_CHECKING:
    from kfp_server_api import V2beta1RecurringRun as Schedule
    from kfp_server_api import V2beta1Run as Run

    from pipelines.kfp_api import KfpApi

INTERRUPTED = 130
# As the command `timeout` has it.
TIME_IS_OVER = 124
_STATES = {
    "SUCCEEDED": ("succeeded", "green"),
    "FAILED": ("failed", "red"),
    "RUNNING": ("running", "cyan"),
    "PENDING": ("waiting", "dim"),
    "PAUSED": ("paused", "yellow"),
    "SKIPPED": ("skipped", "dim"),
    "CANCELING": ("being cancelled", "yellow"),
    "CANCELED": ("cancelled", "yellow"),
}
_TAIL_LINES = 20
# Where no terminal sets a width: a run takes one line, for programs that read it.
_WIDE = 300


class Console:
    """Prints plain lines, without a library's idea of what in them to mark or to break."""

    def __init__(self) -> None:
        # What pods print may hold :x: and the like.
        self.rich = rich.console.Console(soft_wrap=not sys.stdout.isatty(), emoji=False)
        if not self.rich.is_terminal:
            self.rich.width = _WIDE
        # A terminal breaks lines between words; elsewhere a message stays one line.
        self._errors = rich.console.Console(stderr=True, soft_wrap=not sys.stderr.isatty(), emoji=False)

    def line(self, text: str) -> None:
        """Print a line.

        Args:
            text: The line; addresses in it stay in one piece.
        """
        self.rich.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, shown: RenderableType) -> None:
        """Print a table or a list.

        Args:
            shown: What to print, as wide as the terminal at most.
        """
        self.rich.print(shown, soft_wrap=False)

    def warn(self, text: str) -> None:
        """Print a warning.

        Args:
            text: The warning.
        """
        self._errors.print(f"warning: {text}", highlight=False, markup=False, style="yellow")

    def fail(self, text: str) -> None:
        """Print what went wrong.

        Args:
            text: One line.
        """
        self._errors.print(f"vitalfuse: {text}", highlight=False, markup=False)


def open_mlflow_run(console: Console, settings: Settings) -> ParentRun | None:
    """Open the MLflow run before the run starts, so that its address can be told.

    Args:
        console: Where to warn.
        settings: The settings.

    Returns:
        The MLflow run; None where KFP opens it, or where the run's first task has to.
    """
    if settings.cluster.mlflow == "kfp":
        return None
    try:
        return open_parent_run(settings)
    except InputError as error:
        console.warn(f"{error.problem}; the first step opens the MLflow run")
        return None


def start(
    console: Console,
    api: KfpApi,
    settings: Settings,
    pipeline: UploadedPipeline,
    experiment_id: str,
    parent: ParentRun | None,
    service_account: str | None,
) -> Run:
    """Start a run, and print where it can be seen. MLflow can neither undo a start nor hide why there was none.

    Args:
        console: Where to print.
        api: The server.
        settings: The settings.
        pipeline: The uploaded pipeline.
        experiment_id: KFP experiment.
        parent: The MLflow run that was opened for it, closed as failed where the run can't be started; or None.
        service_account: Kubernetes service account of the pods; None: the server's default.

    Returns:
        The run as KFP returned it.

    Raises:
        InputError: The server refuses.
        ServerError: The server fails.
    """
    try:
        run = start_run(api, settings, pipeline, experiment_id, parent, service_account)
    except BaseException as error:
        # Also when interrupted: nobody else would close it.
        _close(console, parent, "FAILED", f"the run could not be started: {error}")
        raise
    print_submitted(console, api, settings, run, parent)
    if parent is not None:
        try:
            parent.tie(run.run_id, api.run_url(run.run_id))
        except Exception as error:
            console.warn(
                f"the MLflow run does not name the KFP run yet ({type(error).__name__}); its first step does so"
            )
    return run


def print_submitted(console: Console, api: KfpApi, settings: Settings, run: Run, parent: ParentRun | None) -> None:
    """Print where the run can be seen.

    Args:
        console: Where to print.
        api: The server.
        settings: The settings.
        run: The run as KFP returned it.
        parent: Its MLflow run, where this machine opened it.
    """
    _print_links(console, api, run, parent)
    if settings.cluster.mlflow == "kfp" and (failure := plugin_failure(run)):
        console.warn(f"KFP's MLflow integration opened no run: {failure}")
    elif settings.cluster.mlflow == "kfp" and not run.plugins_output:
        console.warn("KFP tells of no MLflow run; is its MLflow integration switched on?")


def _print_links(console: Console, api: KfpApi, run: Run, parent: ParentRun | None) -> None:
    console.line(f"KFP run   {api.run_url(run.run_id)}")
    if url := parent.url if parent is not None else plugin_run_url(run):
        console.line(f"MLflow    {url}")


def follow(
    console: Console,
    api: KfpApi,
    run_id: str,
    tasks: list[PlannedTask],
    parent: ParentRun | None,
    timeout: float | None,
    tracking_uri: str | None = None,
) -> int:
    """Show the steps of a run until it ends, and how it ended.

    Args:
        console: Where to show them.
        api: The server.
        run_id: The run.
        tasks: Its tasks.
        parent: Its MLflow run, to be closed as the run ended, where nobody else has; or None.
        timeout: Seconds to wait at most.
        tracking_uri: Where to look for the MLflow run that the first task opened, where ``parent`` is None.

    Returns:
        The exit code.
    """
    try:
        with show_steps(console.rich) as display:
            run = watch(api, run_id, tasks, display, timeout)
    except KeyboardInterrupt:
        console.fail(f"stopped watching; the run goes on. To end it: vitalfuse cancel {run_id}")
        return INTERRUPTED
    except StillRunningError as error:
        console.fail(str(error))
        return TIME_IS_OVER
    code = exit_code(run)
    if code:
        _print_failures(console, api, run, tasks)
    if parent is None and tracking_uri is not None:
        parent = _opened_by_the_run(console, tracking_uri, run)
        if parent is not None and not console.rich.is_terminal:
            console.line(f"MLflow    {parent.url}")
    _close_as_ended(console, run, parent)
    if console.rich.is_terminal:
        # Those printed at the start may have scrolled away.
        _print_links(console, api, run, parent)
    state, _ = _STATES.get(run.state, (str(run.state), ""))
    if parent is not None and code == 0 and (model := _model(parent)):
        console.line(f"model     {model}")
    console.line(f"run       {state} after {_span(duration(run))}")
    return code


def _opened_by_the_run(console: Console, tracking_uri: str, run: Run) -> ParentRun | None:
    try:
        return find_parent_run(tracking_uri, run)
    except InputError:
        # Told when the run was submitted.
        return None
    except Exception as error:
        console.warn(f"the MLflow run could not be looked up ({type(error).__name__})")
        return None


def _close_as_ended(console: Console, run: Run, parent: ParentRun | None) -> None:
    _close(console, parent, closing_status(run), (run.error and run.error.message) or "")


def _close(console: Console, parent: ParentRun | None, status: str, message: str) -> None:
    if parent is None:
        return
    try:
        parent.close(status, message)
    except Exception as error:
        console.warn(f"the MLflow run could not be closed ({type(error).__name__}): {parent.url}")


def _model(parent: ParentRun) -> str | None:
    try:
        name = parent.model()
    except Exception:
        return None
    return name and name.replace("/", " version ")


def _print_failures(console: Console, api: KfpApi, run: Run, tasks: list[PlannedTask]) -> None:
    by_name = {task.name: task for task in tasks}
    failed = [state.name for state in step_states(run, tasks) if state.state == "failed"]
    for name in failed:
        logs = read_logs(api, run.run_id, by_name[name])
        why = (logs and cause(logs[-1])) or f"failed; its log may tell: vitalfuse logs {run.run_id} '{name}'"
        console.fail(f"{name}: {why}")
    if not failed and exit_code(run) != INTERRUPTED:
        console.fail((run.error and run.error.message) or "the run failed, and KFP names no step that did")


def print_runs(console: Console, runs: Iterable[Run]) -> None:
    """Print a list of runs.

    Args:
        console: Where to print.
        runs: The runs.
    """
    rows = []
    for run in runs:
        state, style = _STATES.get(run.state, (str(run.state or "-").lower(), ""))
        rows.append(
            [
                Text(run.run_id),
                Text(run.display_name or "-"),
                Text(state, style=style),
                Text(_moment(run.created_at)),
                Text(_span(duration(run))),
            ]
        )
    console.show(listing(console.rich, ("id", "name", "state", "created", "duration"), rows))


def print_schedules(console: Console, schedules: Iterable[Schedule]) -> None:
    """Print a list of schedules.

    Args:
        console: Where to print.
        schedules: The schedules.
    """
    rows = []
    for schedule in schedules:
        on = schedule.status == "ENABLED"
        rows.append(
            [
                Text(schedule.recurring_run_id),
                Text(schedule.display_name or "-"),
                Text("on" if on else "paused", style="green" if on else "yellow"),
                Text(describe_trigger(schedule.trigger)),
                Text(_moment(schedule.created_at)),
            ]
        )
    console.show(listing(console.rich, ("id", "name", "state", "when (UTC)", "created"), rows))


def print_steps(console: Console, api: KfpApi, run: Run, tasks: list[PlannedTask]) -> None:
    """Print the state of every step, and the end of the log of each that failed.

    Args:
        console: Where to print.
        api: The server.
        run: The run.
        tasks: Its tasks.
    """
    state, style = _STATES.get(run.state, (str(run.state), ""))
    console.rich.print(Text(f"{run.display_name}: "), Text(state, style=style), sep="", end="\n")
    states = step_states(run, tasks)
    console.show(steps_table(states, console.rich.width))
    by_name = {task.name: task for task in tasks}
    for step in states:
        if step.state != "failed":
            continue
        logs = read_logs(api, run.run_id, by_name[step.name])
        console.line("")
        console.line(f"{step.name}, last lines:" if logs else f"{step.name}: {_no_log(api, run)}")
        for line in logs[-1].splitlines()[-_TAIL_LINES:] if logs else []:
            console.line(f"  {line}")


def print_log(console: Console, api: KfpApi, run: Run, tasks: list[PlannedTask], step: str) -> None:
    """Print the whole log of a step.

    Args:
        console: Where to print.
        api: The server.
        run: The run.
        tasks: Its tasks.
        step: Name of the step.

    Raises:
        InputError: There is no such step, or its log can't be read.
    """
    by_name = {task.name: task for task in tasks}
    wanted = by_name.get(step) or by_name.get(step.replace("-", "_"))
    if wanted is None:
        raise InputError(f"the run has no step {step!r}; {nearest_name(step, list(by_name))}")
    logs = read_logs(api, run.run_id, wanted)
    if not logs:
        state = next(state.state for state in step_states(run, tasks) if state.name == wanted.name)
        if state in ("waiting", "skipped", "cached"):
            raise InputError(f"{wanted.name} printed nothing: it is {state}")
        raise InputError(_no_log(api, run))
    for attempt, text in enumerate(logs, start=1):
        if len(logs) > 1:
            console.line(f"--- attempt {attempt} of {len(logs)}")
        console.line(text.rstrip("\n"))


def _no_log(api: KfpApi, run: Run) -> str:
    namespace = f"-n {api.connection.namespace} " if api.connection.namespace else ""
    return (
        "neither this server nor kubectl has its log. "
        f"Its pod is one of: kubectl {namespace}get pods -l pipeline/runid={run.run_id}"
    )


def end_run(console: Console, api: KfpApi, run_id: str, wait: bool, tracking_uri: str | None) -> int:
    """End a run, and close its MLflow run.

    Args:
        console: Where to print.
        api: The server.
        run_id: The run.
        wait: Whether to wait until it has ended.
        tracking_uri: MLflow server as this machine sees it, or None.

    Returns:
        The exit code.

    Raises:
        InputError: There is no such run, or it has ended already.
    """
    run = cluster_runs.get_run(api, run_id)
    cluster_runs.end_run(api, run)
    console.line(f"cancelling {run_id}")
    code = 0
    if wait:
        try:
            run = watch(api, run_id, cluster_runs.tasks_of(api, run), lambda states: None)
            console.line(f"{_STATES[run.state][0]} after {_span(duration(run))}")
        except KeyboardInterrupt:
            console.fail("stopped watching; the server goes on ending the run")
            code = INTERRUPTED
        except StillRunningError as error:
            console.fail(str(error))
            code = TIME_IS_OVER
    parent = _find_parent(console, run, tracking_uri)
    if parent is not None:
        _close_as_ended(console, _as_cancelled(run), parent)
        console.line(f"MLflow    {parent.url}")
    return code


def _as_cancelled(run: Run) -> Run:
    # Where nobody waits for the end, it is known all the same.
    if run.state not in FINAL_STATES:
        run.state = "CANCELED"
    return run


def repeat_run(
    console: Console, api: KfpApi, run_id: str, wait: bool, timeout: float | None, tracking_uri: str | None
) -> int:
    """Repeat what failed in a run.

    Args:
        console: Where to print.
        api: The server.
        run_id: The run.
        wait: Whether to follow the run until it ends.
        timeout: Seconds to follow it at most.
        tracking_uri: MLflow server as this machine sees it, or None.

    Returns:
        The exit code.

    Raises:
        InputError: There is no such run, or nothing to repeat in it.
    """
    run = cluster_runs.get_run(api, run_id)
    cluster_runs.repeat_run(api, run)
    console.line(f"KFP run   {api.run_url(run_id)}")
    if not wait:
        return 0
    parent = _find_parent(console, run, tracking_uri)
    if parent is not None:
        _reopen(console, parent)
        console.line(f"MLflow    {parent.url}")
    return follow(console, api, run_id, cluster_runs.tasks_of(api, run), parent, timeout)


def _reopen(console: Console, parent: ParentRun) -> None:
    try:
        parent.reopen()
    except Exception as error:
        console.warn(f"the MLflow run still shows its earlier end ({type(error).__name__}): {parent.url}")


def _find_parent(console: Console, run: Run, tracking_uri: str | None) -> ParentRun | None:
    if tracking_uri is None:
        if run.runtime_config and (run.runtime_config.parameters or {}).get("settings"):
            console.warn("the MLflow run is left as it is: no --tracking-uri or MLFLOW_TRACKING_URI names its server")
        return None
    try:
        return find_parent_run(tracking_uri, run)
    except InputError as error:
        console.warn(f"the MLflow run is left as it is: {error.problem}")
        return None
    except Exception as error:
        console.warn(f"the MLflow run is left as it is: it could not be looked up ({type(error).__name__})")
        return None


def _moment(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment.astimezone():%b %d %H:%M}"


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
