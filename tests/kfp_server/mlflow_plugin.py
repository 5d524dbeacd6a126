"""KFP's own MLflow integration (KEP 12862), as far as steps and users see it.

The API server opens a parent run in MLflow for each run; each task gets a nested run, whose id is in its environment;
each loop gets one, with those of its iterations below. Tasks from the cache get one as well. When the run ends, the
parent and whatever is open below it are closed; when it is retried, the parent is opened again.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

PARENT_TAG = "mlflow.parentRunId"
RUN_TAG = "kfp.pipeline_run_id"
_STATUS = {"SUCCEEDED": "FINISHED", "CANCELED": "KILLED"}


class RunPlugin:
    """The part in the API server."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.client = MlflowClient(tracking_uri=uri)

    def start(self, run: dict[str, Any]) -> dict[str, Any] | None:
        """Open the parent run; return what the API tells of it, or None where the run asked for none."""
        wanted = run.get("plugins_input", {}).get("mlflow", {})
        if wanted.get("disabled"):
            return None
        name = wanted.get("experiment_name", "KFP-Default")
        try:
            experiment = self.client.get_experiment_by_name(name)
            experiment_id = experiment.experiment_id if experiment else self.client.create_experiment(name)
            parent = self.client.create_run(experiment_id, run_name=run["display_name"], tags={RUN_TAG: run["run_id"]})
        except Exception as error:
            return {"mlflow": {"state": "PLUGIN_FAILED", "state_message": str(error).splitlines()[0], "entries": {}}}
        url = f"{self.uri}/#/experiments/{experiment_id}/runs/{parent.info.run_id}"
        return {
            "mlflow": {
                "state": "PLUGIN_SUCCEEDED",
                "entries": {
                    "experiment_name": {"value": name},
                    "experiment_id": {"value": experiment_id},
                    "root_run_id": {"value": parent.info.run_id},
                    "run_url": {"value": url, "render_type": "URL"},
                },
            }
        }

    def task_settings(self, output: dict[str, Any]) -> dict[str, str]:
        """Return what the part beside the tasks has to know."""
        entries = output["mlflow"]["entries"]
        return {
            "uri": self.uri,
            "experiment_id": entries["experiment_id"]["value"],
            "parent_id": entries["root_run_id"]["value"],
        }

    def end(self, output: dict[str, Any], state: str) -> None:
        """Close the parent run, and what is open below it."""
        entries = output["mlflow"]["entries"]
        if not entries:
            return
        status = _STATUS.get(state, "FAILED")
        self._close(entries["experiment_id"]["value"], entries["root_run_id"]["value"], status)

    def _close(self, experiment_id: str, run_id: str, status: str) -> None:
        for child in self.client.search_runs([experiment_id], f"tags.`{PARENT_TAG}` = '{run_id}'"):
            if child.info.status == "RUNNING":
                self._close(experiment_id, child.info.run_id, status)
        self.client.set_terminated(run_id, status)

    def retry(self, output: dict[str, Any]) -> None:
        """Open the parent run again."""
        if entries := output["mlflow"]["entries"]:
            self.client.update_run(entries["root_run_id"]["value"], status="RUNNING")


class TaskPlugin:
    """The part beside the tasks: KFP's driver and launcher."""

    def __init__(self, uri: str, experiment_id: str, parent_id: str) -> None:
        self.uri, self.experiment_id, self.parent_id = uri, experiment_id, parent_id
        self.client = MlflowClient(tracking_uri=uri)
        self._loops: dict[str, str] = {}
        self._lock = threading.Lock()

    def started(self, task: str, scope: list) -> dict[str, str]:
        """Open a task's run; return what goes into its environment."""
        return {
            "MLFLOW_RUN_ID": self._open(task, self._parent(scope)),
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_EXPERIMENT_ID": self.experiment_id,
        }

    def ended(self, variables: dict[str, str], arguments: dict[str, Any], *, succeeded: bool) -> None:
        """Log a task's parameters, and close its run."""
        run_id = variables["MLFLOW_RUN_ID"]
        for name, value in arguments.items():
            # Failures are logged by KFP, and do not end the task.
            with contextlib.suppress(MlflowException):
                self.client.log_param(run_id, name, value)
        self.client.set_terminated(run_id, "FINISHED" if succeeded else "FAILED")

    def cached(self, task: str, scope: list) -> None:
        """A task from the cache has a run, which is over at once."""
        self.client.set_terminated(self._open(task, self._parent(scope)))

    def _parent(self, scope: list) -> str:
        parent = self.parent_id
        with self._lock:
            for loop, _ in scope:
                if loop not in self._loops:
                    self._loops[loop] = self._open(loop, parent)
                parent = self._loops[loop]
        return parent

    def _open(self, name: str, parent: str) -> str:
        run = self.client.create_run(self.experiment_id, run_name=name, tags={PARENT_TAG: parent})
        return run.info.run_id
