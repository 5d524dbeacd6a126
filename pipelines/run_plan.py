"""The tasks of a run on a cluster, as the compiled pipeline and the run's arguments have them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

ROOT = "root"
# KFP's names for what stands around the tasks of one loop iteration, and around those of an exit handler.
_ITERATION = "iteration-iterations({index}:{index}).iteration-item"
_EXIT = "onExit"


@dataclass(frozen=True)
class PlannedTask:
    """One task that runs a component.

    Attributes:
        name: Name for people, with the item of the loop where there is one, such as ``cross_validate[gru]``.
        key: Name in the pipeline's graph, under which KFP reports it.
        path: Name of its node in the workflow, below the workflow's own name; None for a task in a loop whose items
            are known only once the run is on, and which stands for all of its iterations.
        iterated: Whether it is in a loop, so that several tasks bear this key.
        cacheable: Whether its outputs may be taken from the cache.
    """

    name: str
    key: str
    path: str | None
    iterated: bool = False
    cacheable: bool = True


@dataclass(frozen=True)
class _Scope:
    """Where a graph stands: the path to it, and the values of its inputs as far as they are known beforehand."""

    path: str | None
    values: dict[str, Any]
    items: tuple[str, ...] = ()


def plan_tasks(spec: dict[str, Any], arguments: dict[str, Any]) -> list[PlannedTask]:
    """List the tasks of a run in an order in which they may run.

    Args:
        spec: The compiled pipeline; what KFP returns for a pipeline version will do as well.
        arguments: Arguments of the run, which tell the items of its loops.

    Returns:
        The tasks; exit tasks come last.
    """
    spec = spec.get("pipeline_spec", spec)
    root = spec["root"]
    definitions = root.get("inputDefinitions", {}).get("parameters", {})
    defaults = {name: value["defaultValue"] for name, value in definitions.items() if "defaultValue" in value}
    return _plan_graph(root["dag"], spec["components"], _Scope(ROOT, defaults | arguments))


def _plan_graph(graph: dict[str, Any], components: dict[str, Any], scope: _Scope) -> list[PlannedTask]:
    tasks = graph["tasks"]
    planned: list[PlannedTask] = []
    for key in _ordered(tasks):
        task = tasks[key]
        path = scope.path and f"{scope.path}.{_hook(task)}{key}"
        inner = _Scope(path, _inputs(task, scope), scope.items)
        if "parameterIterator" in task:
            for iteration in _iterations(task["parameterIterator"], inner):
                planned += _plan_task(key, task, components, iteration)
        else:
            planned += _plan_task(key, task, components, inner)
    return planned


def _plan_task(key: str, task: dict[str, Any], components: dict[str, Any], scope: _Scope) -> list[PlannedTask]:
    component = components[task["componentRef"]["name"]]
    if "dag" in component:
        return _plan_graph(component["dag"], components, scope)
    name = key.replace("-", "_") + (f"[{','.join(scope.items)}]" if scope.items else "")
    iterated = bool(scope.items) or scope.path is None
    cacheable = bool(task.get("cachingOptions", {}).get("enableCache"))
    return [PlannedTask(name, key, scope.path, iterated=iterated, cacheable=cacheable)]


def _ordered(tasks: dict[str, Any]) -> list[str]:
    """Return the names of a graph's tasks: what a task waits for comes first, exit tasks come last."""
    sorter = TopologicalSorter({key: task.get("dependentTasks", []) for key, task in sorted(tasks.items())})
    return sorted(sorter.static_order(), key=lambda key: bool(_hook(tasks[key])))


def _hook(task: dict[str, Any]) -> str:
    """Return the part of the path that an exit task has more than others: it runs as a hook of what it waits for."""
    if task.get("triggerPolicy", {}).get("strategy") != "ALL_UPSTREAM_TASKS_COMPLETED":
        return ""
    waits_for = task.get("dependentTasks", [])
    return f"{waits_for[0]}.{_EXIT}." if waits_for else ""


def _inputs(task: dict[str, Any], scope: _Scope) -> dict[str, Any]:
    values = {}
    for name, source in task.get("inputs", {}).get("parameters", {}).items():
        if source.get("componentInputParameter") in scope.values:
            values[name] = scope.values[source["componentInputParameter"]]
        elif "constant" in source.get("runtimeValue", {}):
            values[name] = source["runtimeValue"]["constant"]
    return values


def _iterations(iterator: dict[str, Any], scope: _Scope) -> list[_Scope]:
    source = iterator["items"]
    items = json.loads(source["raw"]) if "raw" in source else scope.values.get(source.get("inputParameter"))
    if isinstance(items, str):
        items = json.loads(items)
    if items is None:
        return [_Scope(None, scope.values, scope.items)]
    return [
        _Scope(
            f"{scope.path}.{_ITERATION.format(index=index)}",
            scope.values | {iterator["itemInput"]: item},
            (*scope.items, _label(item, index)),
        )
        for index, item in enumerate(items)
    ]


def _label(item: Any, index: int) -> str:
    return str(index) if isinstance(item, dict | list) else str(item)
