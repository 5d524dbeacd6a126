"""What the server knows: experiments, pipelines, runs, schedules."""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from tests.kfp_server.execution import Execution
from tests.kfp_server.workflow import Workflow, timestamp

FINAL = ("SUCCEEDED", "FAILED", "CANCELED")


def new_id() -> str:
    return str(uuid.uuid4())


@dataclass
class Run:
    """One run: what the API returns of it, and what runs behind it."""

    data: dict[str, Any]
    workflow: Workflow
    package: str
    execution: Execution | None = None
    thread: threading.Thread | None = None

    @property
    def run_id(self) -> str:
        return self.data["run_id"]

    @property
    def state(self) -> str:
        return self.data["state"]

    def set_state(self, state: str) -> None:
        """Change the state, and keep the change in its history."""
        now = timestamp(time.time())
        self.data["state"] = state
        self.data.setdefault("state_history", []).append({"update_time": now, "state": state})
        self.data["finished_at"] = now if state in FINAL else "1970-01-01T00:00:00Z"

    def as_json(self) -> dict[str, Any]:
        """Return the run as the API returns it."""
        details = {"task_details": self.workflow.task_details(self.run_id)}
        return {**self.data, "run_details": details}


@dataclass
class State:
    """All that the server keeps."""

    experiments: dict[str, dict[str, Any]] = field(default_factory=dict)
    pipelines: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    schedules: dict[str, dict[str, Any]] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
