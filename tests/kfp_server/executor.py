"""Runs one submitted pipeline through kfp.local, in a process of its own: what a cluster's pods would do.

Called with the file of a plan. What happens to the tasks goes to a file of events, what they print to a file a task and
attempt. Images and Kubernetes settings are ignored; environment variables that the pipeline sets are set.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from kfp import components, local
from kfp.local import status, subprocess_task_handler, task_dispatcher
from kfp.local.orchestrator import task_executor, task_spec_utils


class Executor:
    """The hooks into kfp.local."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.folder = Path(plan["folder"])
        self.plugin = _plugin(plan.get("mlflow"))
        self._lock = threading.Lock()
        self._here = threading.local()
        self._run_task = task_executor.execute_single_task
        self._run_attempt = task_dispatcher.run_single_task_implementation
        self._iteration = task_spec_utils.create_parameter_loop_iteration_task_spec

    def install(self) -> None:
        """Put the hooks in place."""
        task_executor.execute_single_task = self.run_task
        task_dispatcher.run_single_task_implementation = self.run_attempt
        subprocess_task_handler.run_local_subprocess = self.run_process
        task_spec_utils.create_parameter_loop_iteration_task_spec = self.iteration

    def iteration(self, original: Any, item: Any, loop: str) -> Any:
        """Return a loop's task for one item. On a cluster, outputs of other tasks are not replaced by the item."""
        made = self._iteration(original, item, loop)
        for name, given in original.inputs.parameters.items():
            if given.HasField("task_output_parameter"):
                made.inputs.parameters[name].CopyFrom(given)
        return made

    def run_task(self, task_name: str, pipeline_resource_name: str, **arguments: Any) -> tuple[dict, status.Status]:
        """Run one task, unless an earlier attempt at this run has done so."""
        scope = [(loop, int(index)) for loop, index in re.findall(r"/([\w-]+)-iteration-(\d+)", pipeline_resource_name)]
        kept = self.folder / "outputs" / f"{_file_name(task_name, scope)}.pickle"
        if kept.is_file():
            return pickle.loads(kept.read_bytes()), status.Status.SUCCESS
        self._here.task, self._here.scope, self._here.attempt = task_name, scope, -1
        outputs, result = self._run_task(
            task_name=task_name, pipeline_resource_name=pipeline_resource_name, **arguments
        )
        succeeded = result == status.Status.SUCCESS
        if self._here.attempt < 0:
            self.tell("cached")
            self.plugin.cached(task_name, scope)
        else:
            self.tell("finished", succeeded=succeeded)
        if succeeded:
            kept.parent.mkdir(exist_ok=True)
            kept.write_bytes(pickle.dumps(outputs))
        return outputs, result

    def run_attempt(self, executor_spec: Any, arguments: dict[str, Any], **others: Any) -> tuple[dict, status.Status]:
        """Run one attempt at a task, with what the MLflow integration adds to its environment."""
        here = self._here
        here.attempt += 1
        self.tell("attempt" if here.attempt else "started")
        own = type(executor_spec)()
        own.CopyFrom(executor_spec)
        variables = self.plugin.started(here.task, here.scope)
        for name, value in variables.items():
            own.container.env.add(name=name, value=value)
        outputs, result = self._run_attempt(executor_spec=own, arguments=arguments, **others)
        self.plugin.ended(variables, arguments, succeeded=result == status.Status.SUCCESS)
        return outputs, result

    def run_process(self, full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        """Run a task's process with its own log."""
        here = self._here
        log = self.folder / "logs" / f"{_file_name(here.task, here.scope)}.{here.attempt}.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("w") as stream:
            done = subprocess.run(
                full_command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env_vars or {})},
            )
        return done.returncode

    def tell(self, kind: str, **fields: Any) -> None:
        """Write an event of the current task."""
        here = self._here
        event = {
            "kind": kind,
            "task": here.task,
            "scope": here.scope,
            "attempt": here.attempt,
            "time": time.time(),
            **fields,
        }
        with self._lock, (self.folder / "events.jsonl").open("a") as stream:
            stream.write(json.dumps(event) + "\n")


class NoPlugin:
    """Where KFP's MLflow integration is switched off."""

    def started(self, task: str, scope: list) -> dict[str, str]:
        return {}

    def ended(self, variables: dict[str, str], arguments: dict[str, Any], *, succeeded: bool) -> None:
        """Nothing."""

    def cached(self, task: str, scope: list) -> None:
        """Nothing."""


def _plugin(settings: dict[str, str] | None) -> Any:
    if settings is None:
        return NoPlugin()
    from tests.kfp_server.mlflow_plugin import TaskPlugin

    return TaskPlugin(**settings)


def _file_name(task: str, scope: list) -> str:
    return ".".join([task, *(f"{loop}-{index}" for loop, index in scope)])


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    Executor(plan).install()
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=plan["pipeline_root"],
        enable_caching=True,
        cache_root=plan["cache_root"],
    )
    pipeline = components.load_component_from_text(Path(plan["pipeline"]).read_text())
    try:
        pipeline(**plan["arguments"])
    except RuntimeError as error:
        print(error, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
