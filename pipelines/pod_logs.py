"""What the pods of a run on a cluster printed.

KFP's v2 API has no logs. An API server still hands out the workflow, which names the pods, and a pod's log; the UI's
own server has the log under another address; and kubectl can read it where it is set up.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

from data_schemas.errors import InputError
from pipelines.errors import ServerError
from pipelines.run_plan import PlannedTask

if TYPE_CHECKING:
    from pipelines.kfp_api import KfpApi

_KUBECTL_SECONDS = 30
# The last line of a traceback.
_CAUSE = re.compile(r"^(?:[A-Za-z_][\w.]*\.)?([A-Z]\w*(?:Error|Exception|Interrupt|Exit)): (.+)$", re.MULTILINE)


def read_logs(api: KfpApi, run_id: str, task: PlannedTask) -> list[str]:
    """Read the logs of a task: one for each attempt.

    Args:
        api: The server.
        run_id: The run.
        task: One of its tasks.

    Returns:
        The logs, the newest last. None where its pods are not known, or gone.
    """
    logs = [text for pod in _pods(api, run_id, task) if (text := _read(api, run_id, pod)) is not None]
    return logs or _read_by_kubectl(api.connection.namespace, run_id, task)


def cause(log: str) -> str | None:
    """Return why a task failed.

    Args:
        log: What its pod printed.

    Returns:
        The message at the end of the last traceback, with the kind of error unless the input was at fault; else None.
    """
    found = _CAUSE.findall(log)
    if not found:
        return None
    kind, message = found[-1]
    return message if kind == InputError.__name__ else f"{kind}: {message}"


def _pods(api: KfpApi, run_id: str, task: PlannedTask) -> list[str]:
    """Return the names of a task's pods, by attempt."""
    try:
        answer = json.loads(api.get(f"/apis/v1beta1/runs/{run_id}"))
        manifest = json.loads(answer["pipeline_runtime"]["workflow_manifest"])
    except (InputError, ServerError, ValueError, KeyError, TypeError):
        return []
    workflow = manifest["metadata"]["name"]
    nodes = [
        node
        for node in _nodes(manifest.get("status", {})).values()
        if node.get("type") == "Pod" and _is_executor(node["name"], workflow, task)
    ]
    old_names = manifest["metadata"].get("annotations", {}).get("workflows.argoproj.io/pod-name-format") == "v1"
    return [
        node["id"] if old_names else f"{workflow}-{node['templateName']}-{node['id'].rpartition('-')[2]}"
        for node in sorted(nodes, key=lambda node: _attempt(node["name"]))
    ]


def _nodes(status: dict[str, Any]) -> dict[str, Any]:
    if packed := status.get("compressedNodes"):
        return json.loads(gzip.decompress(base64.b64decode(packed)))
    return status.get("nodes") or {}


def _is_executor(node: str, workflow: str, task: PlannedTask) -> bool:
    path = re.escape(f"{workflow}.{task.path}.executor")
    return task.path is not None and re.fullmatch(rf"{path}(\(\d+\))?", node) is not None


def _attempt(node: str) -> int:
    """Return which attempt a pod is: a repeated task's nodes end in (0), (1) and so on."""
    found = re.search(r"\((\d+)\)$", node)
    return int(found[1]) if found else 0


def _read(api: KfpApi, run_id: str, pod: str) -> str | None:
    namespace = {"podnamespace": api.connection.namespace} if api.connection.namespace else {}
    places: list[tuple[str, dict[str, str]]] = [
        (f"/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log", {}),
        ("/k8s/pod/logs", {"podname": pod, "runid": run_id, **namespace}),
    ]
    for path, query in places:
        try:
            # Servers that don't find a log say that they failed.
            return api.get(path, query, repeat=False)
        except (InputError, ServerError):
            continue
    return None


def _read_by_kubectl(namespace: str | None, run_id: str, task: PlannedTask) -> list[str]:
    if shutil.which("kubectl") is None or task.path is None:
        return []
    where = ["--namespace", namespace] if namespace else []
    listed = _kubectl(*where, "get", "pods", "--selector", f"pipeline/runid={run_id}", "--output", "json")
    pods = []
    for pod in json.loads(listed or '{"items": []}')["items"]:
        node = pod["metadata"].get("annotations", {}).get("workflows.argoproj.io/node-name", "")
        if _is_executor(node, node.partition(".")[0], task):
            pods.append((node, pod["metadata"]["name"]))
    pods.sort(key=lambda pod: _attempt(pod[0]))
    logs = (_kubectl(*where, "logs", name, "--container", "main") for _, name in pods)
    return [text for text in logs if text]


def _kubectl(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["kubectl", *arguments], capture_output=True, text=True, timeout=_KUBECTL_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
