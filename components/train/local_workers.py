"""Starts the worker processes of a fit on this machine, watches them, and takes over what the chief wrote."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from pydantic import TypeAdapter

from components.common.files import atomic_folder
from components.common.result import StepResult
from components.train.settings import TrainSettings
from data_schemas.errors import InputError
from training.addresses import TF_CONFIG, loopback_addresses, tf_config

WORKER = "components.train.worker"
PROGRESS = "progress: "
INPUT_ERROR = 2
# Set for the workers: the process that started them, and without which they end.
STEP_PROCESS = "VITALFUSE_STEP_PROCESS"
_POLL_SECONDS = 0.2
_RESULT = TypeAdapter(StepResult)


def train_by_workers(
    features: Path,
    embedding: Path,
    output: Path,
    settings: TrainSettings,
    progress: Callable[[str], None],
) -> StepResult:
    """Fit the candidate by ``settings.workers`` processes of this machine; the first one, the chief, writes.

    Args:
        features: The features folder.
        embedding: The output of ``embed_notes`` on the same features.
        output: The folder to write, as ``fit_candidate`` does.
        settings: The settings of the step.
        progress: Receives the chief's short texts on what is being done.

    Returns:
        The chief's result.

    Raises:
        InputError: A worker can't use the input.
        RuntimeError: A worker failed; the others have been ended, and nothing has been written.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
        written, result = Path(scratch) / "model", Path(scratch) / "result.json"
        command = [sys.executable, "-m", WORKER, str(features), str(embedding), str(written), str(result)]
        run_workers([*command, settings.model_dump_json()], settings.workers, progress)
        with atomic_folder(output) as folder:
            folder.rmdir()
            written.rename(folder)
        return read_result(result)


def write_result(result: StepResult, path: Path) -> None:
    """Write the chief's result for the process that started it.

    Args:
        result: The result.
        path: The file.
    """
    # Python's own JSON, which carries NaN: a score that can't be computed.
    path.write_text(json.dumps(asdict(result), default=str))


def read_result(path: Path) -> StepResult:
    """Read what ``write_result`` wrote.

    Args:
        path: The file.

    Returns:
        The result.
    """
    return _RESULT.validate_python(json.loads(path.read_text()))


class _Worker:
    """A worker process; its output goes to this process's, line by line, with its number before it."""

    def __init__(self, command: list[str], addresses: list[str], index: int, progress: Callable[[str], None]) -> None:
        self.number = index + 1
        self.last_line = ""
        self._progress = progress
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, TF_CONFIG: tf_config(addresses, index), STEP_PROCESS: str(os.getpid())},
        )
        assert self.process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True)
        self._reader.start()

    def _read(self, stream: TextIO) -> None:
        for line in stream:
            if line.startswith(PROGRESS):
                self._progress(line.removeprefix(PROGRESS).strip())
                continue
            if line.strip():
                self.last_line = line.strip()
            print(f"worker {self.number}: {line}", end="", flush=True)

    def end(self) -> None:
        """End it, and wait for the last of its output."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(timeout=5)


def run_workers(command: list[str], count: int, progress: Callable[[str], None]) -> None:
    """Run worker processes that know of each other, until all have ended well or one has failed.

    Args:
        command: Command and arguments, alike for all; TF_CONFIG tells a worker which one it is.
        count: Number of workers.
        progress: Receives the lines of their output that start with ``PROGRESS``, without it.

    Raises:
        InputError: A worker can't use the input.
        RuntimeError: A worker failed; the others have been ended.
    """
    addresses = loopback_addresses(count)
    workers: list[_Worker] = []
    try:
        for index in range(count):
            workers.append(_Worker(command, addresses, index, progress))
        while any(worker.process.poll() is None for worker in workers):
            if any(worker.process.poll() for worker in workers):
                break
            time.sleep(_POLL_SECONDS)
        failed = sorted((worker for worker in workers if worker.process.poll()), key=_blame)
    finally:
        for worker in workers:
            worker.end()
    if failed:
        raise _failure(failed[0], count)


def _blame(worker: _Worker) -> tuple[bool, bool]:
    """Put the cause first: when one worker ends, the others lose their connection and fail soon after."""
    return worker.process.returncode > 0, worker.process.returncode != INPUT_ERROR


def _failure(worker: _Worker, count: int) -> Exception:
    code = worker.process.returncode
    if code == INPUT_ERROR:
        return InputError(worker.last_line)
    ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    said = worker.last_line[:300] or "it said nothing"
    return RuntimeError(f"Worker {worker.number} of {count} ended with {ended}, so the others were ended too: {said}")
