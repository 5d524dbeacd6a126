"""How far a run on a cluster is: the state of each of its tasks, from what KFP reports."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from data_schemas.errors import InputError
from pipelines.errors import ServerError
from pipelines.local import StepState
from pipelines.run_plan import PlannedTask

if TYPE_CHECKING:
    from kfp_server_api import V2beta1PipelineTaskDetail as TaskDetail
    from kfp_server_api import V2beta1Run as Run

    from pipelines.kfp_api import KfpApi

FINAL_STATES = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
POLL_SECONDS = 2.0
# A server may be restarted while a run goes on; the run itself does not need it.
PATIENCE_SECONDS = 300.0
_REDRAW_SECONDS = 0.25
_STATES = {
    "PENDING": "waiting",
    "RUNNING": "running",
    "PAUSED": "running",
    "SUCCEEDED": "done",
    "CACHED": "cached",
    "SKIPPED": "skipped",
    "FAILED": "failed",
    "CANCELING": "cancelled",
    "CANCELED": "cancelled",
}
_EXECUTOR = "executor"


class StillRunningError(Exception):
    """Nobody waits any longer, and the run goes on; the message says why."""


def watch(
    api: KfpApi,
    run_id: str,
    tasks: list[PlannedTask],
    on_change: Callable[[list[StepState]], None],
    timeout: float | None = None,
) -> Run:
    """Follow a run until it ends.

    Args:
        api: The server.
        run_id: The run.
        tasks: Its tasks.
        on_change: Called some times a second with the state of each task, to show it.
        timeout: Seconds to wait at most; None: as long as it takes.

    Returns:
        The run as it ended.

    Raises:
        StillRunningError: The timeout is over, or the server did not answer for minutes.
        InputError: The token or the session is no longer valid, or the run is gone.
    """
    started = answered = time.monotonic()
    states: list[StepState] = []
    while True:
        try:
            run = api.runs.run_service_get_run(run_id)
        except (ServerError, InputError) as error:
            # What the server refuses it will go on refusing; what doesn't answer may come back.
            if isinstance(error, InputError) and error.field == "--token":
                problem = f"{error.problem}; the run goes on without being watched"
                raise InputError(problem, field=error.field, remedy=error.remedy) from error
            if isinstance(error, InputError) and error.field != "--host":
                raise
            if time.monotonic() - answered > PATIENCE_SECONDS:
                raise StillRunningError(f"{error} The run goes on without being watched") from error
        else:
            answered = time.monotonic()
            states = step_states(run, tasks)
            if run.state in FINAL_STATES:
                on_change(states)
                return run
        until = time.monotonic() + POLL_SECONDS
        while time.monotonic() < until:
            on_change(states)
            if timeout is not None and time.monotonic() - started > timeout:
                raise StillRunningError(f"the run is still on after {timeout:.0f} s, and goes on")
            time.sleep(min(_REDRAW_SECONDS, POLL_SECONDS))


def exit_code(run: Run) -> int:
    """Return the exit code that tells how a run ended.

    Args:
        run: A run that has ended.

    Returns:
        0 when it succeeded, 130 when somebody cancelled it, else 1.
    """
    if run.state == "SUCCEEDED":
        return 0
    return 130 if is_cancelled(run) else 1


def is_cancelled(run: Run) -> bool:
    """Return whether somebody cancelled the run: KFP may report such a run as failed in the end.

    Args:
        run: The run.
    """
    history = [status.state for status in run.state_history or []]
    return run.state in ("CANCELED", "CANCELING") or (run.state == "FAILED" and "CANCELING" in history[-3:])


def step_states(run: Run, tasks: list[PlannedTask]) -> list[StepState]:
    """Return the state of each task of a run.

    KFP reports the nodes of its workflow in one list: besides the tasks their drivers, their pods (all by the name
    "executor"), loops and their iterations.

    Args:
        run: The run.
        tasks: Its tasks.

    Returns:
        A state for each task, in the same order.
    """
    details = _by_name(run)
    found = _iterations(tasks, details)
    return [_state(task, found.get(task) or details.get(task.key, []), details, run) for task in tasks]


def _by_name(run: Run) -> dict[str, list[TaskDetail]]:
    by_name: dict[str, list[TaskDetail]] = defaultdict(list)
    for detail in (run.run_details and run.run_details.task_details) or []:
        by_name[detail.display_name].append(detail)
    return by_name


def _iterations(
    tasks: Iterable[PlannedTask], details: dict[str, list[TaskDetail]]
) -> dict[PlannedTask, list[TaskDetail]]:
    """Find each iteration of a loop among the nodes of the same name.

    A node's own identifier is not reported, those of its children are: they are digests of the nodes' names.
    """
    found: dict[PlannedTask, list[TaskDetail]] = {}
    iterated = [task for task in tasks if task.iterated and task.path is not None]
    for key in {task.key for task in iterated}:
        same_key = [task for task in iterated if task.key == key]
        by_child = {
            child.pod_name: detail
            for detail in details.get(key, [])
            for child in detail.child_tasks or []
            if child.pod_name
        }
        workflow = next((child.rpartition("-")[0] for child in by_child), "")
        exact = {task: by_child.get(node_id(workflow, f"{task.path}.{_EXECUTOR}")) for task in same_key}
        if any(exact.values()) or not by_child:
            found |= {task: [detail] if detail else [_UNSEEN] for task, detail in exact.items()}
        else:
            # Another workflow engine: all that is left is the order in which they were started.
            started = sorted(details[key], key=lambda detail: _seconds(detail.start_time) or float("inf"))
            found |= {task: [detail] for task, detail in zip(same_key, started, strict=False)}
            found |= {task: [_UNSEEN] for task in same_key[len(started) :]}
    return found


def node_id(workflow: str, path: str) -> str:
    """Return the identifier that Argo Workflows gives a node: the workflow's name and a digest of the node's.

    Args:
        workflow: Name of the workflow.
        path: Name of the node, below that of the workflow.

    Returns:
        Name and the 32-bit FNV-1a digest in decimal digits.
    """
    digest = 0x811C9DC5
    for byte in f"{workflow}.{path}".encode():
        digest = ((digest ^ byte) * 0x01000193) & 0xFFFFFFFF
    return f"{workflow}-{digest}"


class _Unseen:
    """A task that KFP does not report yet."""

    state = start_time = end_time = None


_UNSEEN = _Unseen()


def _state(task: PlannedTask, nodes: list, details: dict[str, list[TaskDetail]], run: Run) -> StepState:
    if len(nodes) > 1 and task.iterated:
        return _state_of_all(task, nodes, details, run)
    node = max(nodes, key=lambda detail: _seconds(detail.start_time) or 0.0, default=_UNSEEN)
    started, ended = _seconds(node.start_time), _seconds(node.end_time)
    state = _STATES.get(node.state or "", "waiting")
    if state in ("done", "skipped") and task.cacheable and _taken_from_cache(task, node, details):
        state = "cached"
    if run.state in FINAL_STATES and state in ("waiting", "running"):
        state = "skipped" if started is None else "failed"
    if state == "failed" and is_cancelled(run):
        # Its pod was ended from outside.
        state = "cancelled"
    took = int(ended - started) if started is not None and ended is not None and state in ("done", "failed") else None
    return StepState(task.name, state, started=started, seconds=took)


def _state_of_all(task: PlannedTask, nodes: list, details: dict[str, list[TaskDetail]], run: Run) -> StepState:
    """Sum up the iterations of a loop whose items are not known beforehand."""
    states = [_state(task, [node], details, run) for node in nodes]
    counts = Counter(state.state for state in states)
    first = next(name for name in ("failed", "cancelled", "running", "waiting", *counts) if name in counts)
    text = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    started = [state.started for state in states if state.started is not None]
    return StepState(task.name, first, started=min(started, default=None), text=text if len(counts) > 1 else "")


def _taken_from_cache(task: PlannedTask, node: TaskDetail, details: dict[str, list[TaskDetail]]) -> bool:
    """Return whether the task's pod was left out, since its outputs were in the cache.

    The pod's node does not tell whose it is; but it is skipped in the second in which its task starts and ends.
    """
    started, ended = _seconds(node.start_time), _seconds(node.end_time)
    if started is None or ended is None or ended - started > 1:
        return False
    if node.state == "SKIPPED":
        drivers = details.get(f"{task.key}-driver", [])
        return any(driver.state == "SUCCEEDED" for driver in drivers)
    skipped = (_seconds(pod.start_time) for pod in details.get(_EXECUTOR, []) if pod.state == "SKIPPED")
    return any(second is not None and abs(second - started) <= 1 for second in skipped)


def _seconds(moment: datetime | None) -> float | None:
    """Return seconds since the epoch; None for the moments that stand for "not yet"."""
    return None if moment is None or moment.year <= 1970 else moment.timestamp()


def duration(run: Run) -> float | None:
    """Return how long a run took, or has been running.

    Args:
        run: The run.

    Returns:
        Seconds; None before it was made.
    """
    created, finished = _seconds(run.created_at), _seconds(run.finished_at)
    return None if created is None else (finished or time.time()) - created
