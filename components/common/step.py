"""Runs a step's core function inside a KFP component: log file, events, MLflow run, record of what came out."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, TypeAdapter

from components.common import environment
from components.common.code_version import check_code_version
from components.common.events import EventWriter
from components.common.files import atomic_file
from components.common.result import StepResult
from data_schemas.errors import InputError

RECORD_FILE = "record.json"

Core = Callable[[Path, Callable[[str], None]], StepResult]


class StepRecord(BaseModel):
    """What a finished step leaves in its output folder, so that a later, cached run can tell of it.

    Attributes:
        step: Step name, with the model in brackets where there is one.
        mlflow_run_id: The run in which it was logged, or None.
        params: As in ``StepResult``.
        metrics: As in ``StepResult``.
        warnings: As in ``StepResult``.
        tags: Tags of the step's run.
    """

    step: str
    mlflow_run_id: str | None
    params: dict[str, str | int | float | bool]
    metrics: dict[str, float]
    warnings: list[str]
    tags: dict[str, str]


_RECORDS = TypeAdapter(list[StepRecord])


def read_records(path: Path) -> list[StepRecord]:
    """Read the records that a step left beside its output.

    Args:
        path: File of the artifact ``record``.

    Returns:
        The step's own record, then those of the shards that it joined.
    """
    return _RECORDS.validate_json(path.read_bytes())


def run_step(
    step: str,
    core: Core,
    *,
    output: Path,
    code_version: str | None = None,
    record: Path | None = None,
    parts: Sequence[Path] = (),
    tags: dict[str, str] | None = None,
) -> None:
    """Run one step and tell the runner and MLflow of it.

    Args:
        step: Step name, with the model in brackets where there is one.
        core: Imports and calls the step's core function with the output folder and the progress function; the
            imports belong inside, so that their time and their errors count as the step's.
        output: The folder that it writes.
        code_version: The code that the run was started with, which has to be that of this process; None: any.
        record: Where to write the step's record once more, as an output of its own: small, so that a task which wants
            the record alone need not fetch the step's output.
        parts: Outputs of the shards that the step joins; their records go with its own.
        tags: Further tags of the step's MLflow run.

    Raises:
        SystemExit: The step failed; the cause is in the step's events and log.
    """
    folder = os.environ.get(environment.RUN_FOLDER)
    run_folder = Path(folder) if folder else None
    events = EventWriter(run_folder, step)
    log = _redirect_output(run_folder, step)
    _end_with_runner()
    started = time.monotonic()
    events.write("running", log=log)

    def progress(text: str) -> None:
        events.write("running", text=text, log=log)
        print(f"[{step}] {text}", flush=True)

    try:
        _check_temporary_folder()
        if code_version is not None:
            check_code_version(step, code_version)
        compute_seconds = _run_tracked(step, core, output, tags or {}, progress)
        if record is not None:
            _write_records(record, [output, *parts])
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        cause = str(error) if isinstance(error, InputError) else _one_line(error)
        events.write(
            "failed",
            text=cause,
            input_error=isinstance(error, InputError),
            log=log,
            seconds=time.monotonic() - started,
            peak_memory_mb=_peak_memory_mb(),
        )
        raise SystemExit(2 if isinstance(error, InputError) else 1) from error
    events.write(
        "done",
        log=log,
        seconds=time.monotonic() - started,
        compute_seconds=compute_seconds,
        peak_memory_mb=_peak_memory_mb(),
        record=str(output / RECORD_FILE),
    )


def _run_tracked(step: str, core: Core, output: Path, tags: dict[str, str], progress: Callable[[str], None]) -> float:
    from components.common import tracking
    from components.common.mlflow_client import PATIENT, client_settings

    with client_settings(PATIENT), tracking.step_run(step, tags) as run_id:
        started = time.monotonic()
        result = core(output, progress)
        seconds = time.monotonic() - started
        if run_id is not None:
            result.metrics["system/compute_seconds"] = seconds
            result.metrics["system/peak_memory_mb"] = _peak_memory_mb()
            tracking.log_result(result)
        record = StepRecord(
            step=step,
            mlflow_run_id=run_id,
            params=result.params,
            metrics=tracking.finite(result.metrics),
            warnings=result.warnings,
            tags=tags | result.tags,
        )
        with atomic_file(output / RECORD_FILE) as path:
            path.write_text(record.model_dump_json(indent=2))
    return seconds


def _check_temporary_folder() -> None:
    """Refuse a folder for temporary files that can't be written to: Python takes another one, and tells nobody."""
    folder = os.environ.get("TMPDIR")
    if not folder:
        return
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"no temporary file can be written to {folder} ({error.strerror})",
            field="TMPDIR",
            remedy=f"Let user {os.getuid()} write there; for cluster.scratch set fsGroup, as docs/cluster.md tells",
        ) from error


def _write_records(path: Path, outputs: Sequence[Path]) -> None:
    records = [StepRecord.model_validate_json((output / RECORD_FILE).read_bytes()) for output in outputs]
    with atomic_file(path) as temporary:
        temporary.write_bytes(_RECORDS.dump_json(records, indent=2))


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _peak_memory_mb() -> float:
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return max(own, children) / 1024


def _redirect_output(run_folder: Path | None, step: str) -> str | None:
    """Send standard output and error of this process, also what C++ libraries write, to the step's log file."""
    if run_folder is None:
        return None
    log = run_folder / "logs" / f"{step}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    return str(log)


def _end_with_runner() -> None:
    """End this process when the runner is gone, so that a killed run leaves nothing that still writes."""
    runner = os.environ.get(environment.RUNNER_PROCESS)
    if not runner:
        return

    def watch() -> None:
        while True:
            time.sleep(1)
            with suppress(PermissionError):
                try:
                    os.kill(int(runner), 0)
                except ProcessLookupError:
                    os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
