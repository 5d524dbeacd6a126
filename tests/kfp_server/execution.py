"""How the server runs what is submitted: through kfp.local in a process of its own, or by a script."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parents[2]
Event = dict[str, Any]
_POLL_SECONDS = 0.05


class Execution(Protocol):
    """Runs one submitted pipeline."""

    def events(self) -> Iterator[Event]:
        """Run it; yield what happens to its tasks, and end when it has ended."""

    def succeeded(self) -> bool:
        """Return whether all tasks succeeded."""

    def terminate(self) -> None:
        """End it."""

    def log(self, task: str, scope: list, attempt: int) -> str | None:
        """Return what a task's pod printed; None where nothing is kept of it."""


class LocalExecution:
    """Runs a pipeline through kfp.local.

    Args:
        folder: Folder of the run.
        cache: Folder of the cache, shared by all runs.
        package: The compiled pipeline.
        arguments: Arguments of the run.
        environment: Environment of the pods; that of the tests does not reach them.
        mlflow: Settings of the MLflow integration beside the tasks, where it is on.
    """

    def __init__(
        self,
        folder: Path,
        cache: Path,
        package: str,
        arguments: dict[str, Any],
        environment: dict[str, str],
        mlflow: dict[str, str] | None,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "events.jsonl").unlink(missing_ok=True)
        (folder / "pipeline.yaml").write_text(package)
        plan = {
            "folder": str(folder),
            "pipeline": str(folder / "pipeline.yaml"),
            "arguments": arguments,
            "pipeline_root": str(folder / "root"),
            "cache_root": str(cache),
            "mlflow": mlflow,
        }
        (folder / "plan.json").write_text(json.dumps(plan))
        kept = ("PATH", "HOME", "LANG", "TMPDIR", "VALIDATE_PYTHON")
        self._environment = {
            **{name: os.environ[name] for name in kept if name in os.environ},
            "PYTHONPATH": str(ROOT),
            "TF_CPP_MIN_LOG_LEVEL": "2",
            **environment,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._terminated = False

    def events(self) -> Iterator[Event]:
        with (self.folder / "kfp.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.kfp_server.executor", str(self.folder / "plan.json")],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        seen = 0
        while True:
            ended = self._process.poll() is not None
            lines = self._lines()
            yield from map(json.loads, lines[seen:])
            seen = len(lines)
            if ended:
                return
            time.sleep(_POLL_SECONDS)

    def _lines(self) -> list[str]:
        path = self.folder / "events.jsonl"
        # The last piece is a line that is still being written, or nothing.
        return path.read_text().split("\n")[:-1] if path.is_file() else []

    def succeeded(self) -> bool:
        return self._process is not None and self._process.returncode == 0

    def terminate(self) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def log(self, task: str, scope: list, attempt: int) -> str | None:
        name = ".".join([task, *(f"{loop}-{index}" for loop, index in scope)])
        path = self.folder / "logs" / f"{name}.{attempt}.log"
        return path.read_text() if path.is_file() else None


class ScriptedExecution:
    """Lets tasks start and end by a script; nothing is run.

    Args:
        steps: Events; a number is a pause in seconds, a function is called and waited for.
        result: Whether the run succeeds.
        logs: What tasks printed, by task.
    """

    def __init__(
        self,
        steps: list[Event | float | Callable[[], object]],
        *,
        result: bool = True,
        logs: dict[str, str] | None = None,
    ) -> None:
        self._steps = steps
        self._result = result
        self._logs = logs or {}
        self._ended = threading.Event()

    def events(self) -> Iterator[Event]:
        for step in self._steps:
            if self._ended.is_set():
                return
            if callable(step):
                step()
            elif isinstance(step, int | float):
                self._ended.wait(step)
            else:
                yield {"scope": [], "attempt": 0, "time": time.time(), **step}

    def succeeded(self) -> bool:
        return self._result and not self._ended.is_set()

    def terminate(self) -> None:
        self._ended.set()

    def log(self, task: str, scope: list, attempt: int) -> str | None:
        return self._logs.get(task)
