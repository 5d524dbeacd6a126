"""The workflow behind a run, as Argo Workflows keeps it and KFP reports it.

KFP's compiler for Argo turns each task into a driver (a pod), and a graph with the pod "executor"; a loop into a
driver, and a graph for each iteration; an exit handler's exit task into a hook. Nodes appear when they start.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Scope = tuple[tuple[str, int], ...]
"""The loops around a task, from the outside: name of the loop and number of the iteration."""

_ZERO_TIME = -62135596800  # Go's zero time: a node that has not ended
_STATES = {
    "Pending": "PENDING",
    "Running": "RUNNING",
    "Succeeded": "SUCCEEDED",
    "Failed": "FAILED",
    "Skipped": "SKIPPED",
    "Omitted": "SKIPPED",
}


@dataclass
class Node:
    """One node of the workflow, as in its status."""

    name: str
    display_name: str
    kind: str
    template: str
    phase: str = "Running"
    started: int = 0
    finished: int = _ZERO_TIME
    children: list[str] = field(default_factory=list)
    task_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def end(self, phase: str, second: int) -> None:
        self.phase, self.finished = phase, second


@dataclass(frozen=True)
class _Task:
    """A task of the pipeline: the graphs around it, from the outside, and its specification."""

    key: str
    graphs: tuple[str, ...]
    spec: dict[str, Any]
    exit_of: str | None


class Workflow:
    """The nodes of one run."""

    def __init__(self, name: str, spec: dict[str, Any], created: int) -> None:
        self.name = name
        self.created = created
        self.nodes: dict[str, Node] = {}
        self._tasks = {task.key: task for task in _walk(spec, spec["root"]["dag"], ())}
        self._graphs = _graphs(spec, spec["root"]["dag"])
        self._node(name, name, "DAG", "entrypoint", created)
        self._succeeded(f"{name}.root-driver", "root-driver", "system-dag-driver", created)
        self._node(f"{name}.root", "root", "DAG", "root", created)
        self._link(name, f"{name}.root-driver")
        self._link(f"{name}.root-driver", f"{name}.root")

    def start(self, key: str, scope: Scope, second: int) -> None:
        """A task's driver has run, and its pod starts."""
        path = self._open(key, scope, second)
        self._executor(key, path, second)

    def take_from_cache(self, key: str, scope: Scope, second: int) -> None:
        """A task's driver has found its outputs in the cache: the pod is left out."""
        path = self._open(key, scope, second)
        self._node(f"{path}.executor", "executor", "Skipped", "system-container-impl", second).end("Skipped", second)
        self._link(path, f"{path}.executor")
        self.nodes[path].end("Succeeded", second)

    def attempt(self, key: str, scope: Scope, number: int, second: int) -> None:
        """A task with a retry policy starts its pod once more."""
        path = self._path(key, scope)
        if number and "retryPolicy" in self._tasks[key].spec:
            self.nodes[f"{path}.executor({number - 1})"].end("Failed", second)
            self._pod_of_retry(path, number, second)

    def finish(self, key: str, scope: Scope, succeeded: bool, second: int) -> None:
        """A task's pod has ended."""
        path = self._path(key, scope)
        for name, node in self.nodes.items():
            if (name == path or name.startswith(f"{path}.executor")) and node.phase == "Running":
                node.end("Succeeded" if succeeded else "Failed", second)

    def end(self, second: int, *, succeeded: bool, terminated: bool = False) -> None:
        """The workflow has ended: graphs end as what is in them, and what was not reached is left out."""
        for node in self.nodes.values():
            if node.phase == "Running" and node.kind != "DAG" and node.kind != "TaskGroup":
                node.end("Failed", second)
        for name in sorted(self.nodes, key=len, reverse=True):
            node = self.nodes[name]
            if node.phase == "Running":
                inside = [
                    other
                    for path, other in self.nodes.items()
                    if path.startswith(f"{name}.") and ".onExit" not in path[len(name) :]
                ]
                node.end("Failed" if any(other.phase == "Failed" for other in inside) else "Succeeded", second)
        if not terminated:
            self._omit(second)
        if not succeeded:
            self.nodes[self.name].phase = "Failed"

    def reopen(self) -> None:
        """Prepare for a retry: what failed is forgotten, but for the graphs, which run again; hooks that ran stay."""
        for name, node in list(self.nodes.items()):
            if node.phase in ("Failed", "Omitted"):
                if node.kind in ("DAG", "TaskGroup"):
                    node.phase, node.finished = "Running", _ZERO_TIME
                else:
                    del self.nodes[name]
        self.nodes = {name: node for name, node in self.nodes.items() if node.phase != "Omitted"}

    def has_succeeded(self, key: str, scope: Scope) -> bool:
        """Return whether a task has succeeded, so that a retry leaves it alone."""
        node = self.nodes.get(self._path(key, scope))
        return node is not None and node.phase == "Succeeded"

    def task_details(self, run_id: str) -> list[dict[str, Any]]:
        """Return what the API reports: no node's own id, but those of its children."""
        return [
            {
                "run_id": run_id,
                "task_id": node.task_id,
                "display_name": node.display_name,
                "create_time": timestamp(self.created),
                "start_time": timestamp(node.started),
                "end_time": timestamp(node.finished),
                "state": _STATES[node.phase],
                "execution_id": "0",
                "child_tasks": [{"pod_name": self.node_id(child)} for child in node.children if child in self.nodes],
            }
            for node in sorted(self.nodes.values(), key=lambda node: self.node_id(node.name))
        ]

    def manifest(self) -> str:
        """Return the workflow as its own API has it."""
        nodes = {
            self.node_id(node.name): {
                "id": self.node_id(node.name),
                "name": node.name,
                "displayName": node.display_name,
                "type": node.kind,
                "templateName": node.template,
                "phase": node.phase,
                "children": [self.node_id(child) for child in node.children],
            }
            for node in self.nodes.values()
        }
        return json.dumps({"metadata": {"name": self.name, "annotations": {}}, "status": {"nodes": nodes}})

    def pods(self) -> dict[str, str]:
        """Return the nodes of the executors' pods by the pods' names."""
        return {
            f"{self.name}-{node.template}-{self.node_id(node.name).rpartition('-')[2]}": node.name
            for node in self.nodes.values()
            if node.kind == "Pod" and ".executor" in node.name
        }

    def node_of(self, key: str, scope: Scope, attempt: int) -> str:
        """Return the name of the node of a task's pod."""
        path = f"{self._path(key, scope)}.executor"
        return f"{path}({attempt})" if "retryPolicy" in self._tasks[key].spec else path

    def node_id(self, name: str) -> str:
        """Return a node's id: the workflow's name and the FNV-1a digest of the node's name."""
        if name == self.name:
            return name
        digest = 2166136261
        for byte in name.encode():
            digest = (digest ^ byte) * 16777619 % 2**32
        return f"{self.name}-{digest}"

    def _open(self, key: str, scope: Scope, second: int) -> str:
        """Make the nodes of the graphs around a task, those of its driver and of its own graph."""
        task = self._tasks[key]
        path, loops = f"{self.name}.root", dict(scope)
        for graph in task.graphs:
            path = self._enter(path, graph, loops.get(graph), second)
        if task.exit_of is not None:
            parent = path
            path = f"{path}.{task.exit_of}.onExit"
            self._node(path, f"{task.exit_of}.onExit", "DAG", f"exit-hook-root-{key}", second)
            self._link(parent, path)
        driver = f"{path}.{key}-driver"
        self._succeeded(driver, f"{key}-driver", "system-container-driver", second)
        self._node(f"{path}.{key}", key, "DAG", "system-container-executor", second)
        waits_for = [name for name in task.spec.get("dependentTasks", []) if f"{path}.{name}" in self.nodes]
        for name in waits_for or [None]:
            self._link(path if name is None else f"{path}.{name}", driver)
        self._link(driver, f"{path}.{key}")
        node = self.nodes[f"{path}.{key}"]
        node.phase, node.finished = "Running", _ZERO_TIME
        return f"{path}.{key}"

    def _enter(self, path: str, graph: str, index: int | None, second: int) -> str:
        inner = f"{path}.{graph}"
        if index is None:
            self._succeeded(f"{inner}-driver", f"{graph}-driver", "system-dag-driver", second)
            self._node(inner, graph, "DAG", f"comp-{graph}", second)
            self._link(path, f"{inner}-driver")
            self._link(f"{inner}-driver", inner)
            return inner
        self._node(inner, graph, "DAG", f"comp-{graph}-{graph}-iterator", second)
        self._link(path, inner)
        self._succeeded(f"{inner}.iteration-driver", "iteration-driver", "system-dag-driver", second)
        self._link(inner, f"{inner}.iteration-driver")
        self._node(f"{inner}.iteration-iterations", "iteration-iterations", "TaskGroup", "", second)
        self._link(f"{inner}.iteration-driver", f"{inner}.iteration-iterations")
        one = f"{inner}.iteration-iterations({index}:{index})"
        self._node(one, f"iteration-iterations({index}:{index})", "DAG", f"comp-{graph}-iteration", second)
        self._link(f"{inner}.iteration-iterations", one)
        self._succeeded(f"{one}.iteration-item-driver", "iteration-item-driver", "system-dag-driver", second)
        self._link(one, f"{one}.iteration-item-driver")
        self._node(f"{one}.iteration-item", "iteration-item", "DAG", f"comp-{graph}", second)
        self._link(f"{one}.iteration-item-driver", f"{one}.iteration-item")
        return f"{one}.iteration-item"

    def _executor(self, key: str, path: str, second: int) -> None:
        if "retryPolicy" in self._tasks[key].spec:
            self._node(f"{path}.executor", "executor", "Retry", "retry-system-container-impl", second)
            self._pod_of_retry(path, 0, second)
        else:
            self._node(f"{path}.executor", "executor", "Pod", "system-container-impl", second)
        self._link(path, f"{path}.executor")

    def _pod_of_retry(self, path: str, number: int, second: int) -> None:
        name = f"{path}.executor({number})"
        self._node(name, f"executor({number})", "Pod", "retry-system-container-impl", second)
        self._link(f"{path}.executor", name)

    def _omit(self, second: int) -> None:
        """Add the tasks of each graph that were not reached."""
        for graph, keys in self._graphs.items():
            for path in [name for name in self.nodes if name.endswith(f".{graph}") and self.nodes[name].kind == "DAG"]:
                if graph.startswith("for-loop"):
                    continue
                for key in keys:
                    if f"{path}.{key}" not in self.nodes:
                        self._node(f"{path}.{key}", key, "Omitted", "", second).end("Omitted", second)

    def _path(self, key: str, scope: Scope) -> str:
        task = self._tasks[key]
        path, loops = f"{self.name}.root", dict(scope)
        for graph in task.graphs:
            path += f".{graph}"
            if graph in loops:
                path += f".iteration-iterations({loops[graph]}:{loops[graph]}).iteration-item"
        if task.exit_of is not None:
            path += f".{task.exit_of}.onExit"
        return f"{path}.{key}"

    def _node(self, name: str, display_name: str, kind: str, template: str, second: int) -> Node:
        return self.nodes.setdefault(name, Node(name, display_name, kind, template, started=second))

    def _succeeded(self, name: str, display_name: str, template: str, second: int) -> None:
        if name not in self.nodes:
            self._node(name, display_name, "Pod", template, second).end("Succeeded", second)

    def _link(self, parent: str, child: str) -> None:
        if child not in self.nodes[parent].children:
            self.nodes[parent].children.append(child)


def _walk(spec: dict[str, Any], graph: dict[str, Any], graphs: tuple[str, ...]) -> list[_Task]:
    tasks = []
    for key, task in graph["tasks"].items():
        component = spec["components"][task["componentRef"]["name"]]
        if "dag" in component:
            tasks += _walk(spec, component["dag"], (*graphs, key))
        else:
            is_exit = task.get("triggerPolicy", {}).get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED"
            tasks.append(_Task(key, graphs, task, task["dependentTasks"][0] if is_exit else None))
    return tasks


def _graphs(spec: dict[str, Any], graph: dict[str, Any]) -> dict[str, list[str]]:
    """Return the tasks of each graph inside the pipeline."""
    found: dict[str, list[str]] = {}
    for key, task in graph["tasks"].items():
        component = spec["components"][task["componentRef"]["name"]]
        if "dag" in component:
            found |= {key: list(component["dag"]["tasks"])} | _graphs(spec, component["dag"])
    return found


def timestamp(second: float) -> str:
    """Return a moment as JSON of protobuf has it."""
    if second == _ZERO_TIME:
        return "0001-01-01T00:00:00Z"
    return datetime.fromtimestamp(int(second), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
