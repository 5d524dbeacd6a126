"""Finds the interpreter in which TensorFlow Data Validation can run: it may need an environment of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_schemas.errors import InputError

VARIABLE = "VALIDATE_PYTHON"
_REMEDY = f"Run `make setup`, which makes it, or name an interpreter that has TFDV in {VARIABLE}"


def find_interpreter(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the interpreter for the TFDV job.

    It is the current one where TFDV is installed, else the one named by ``VALIDATE_PYTHON``, else that of
    ``.venv-validate`` in the working folder or in the project.

    Args:
        environment: Environment variables.

    Returns:
        Path of a Python interpreter.

    Raises:
        InputError: There is none.
    """
    if importlib.util.find_spec("tensorflow_data_validation") is not None:
        return Path(sys.executable)
    named = environment.get(VARIABLE)
    if named:
        if not os.access(named, os.X_OK):
            raise InputError(f"names an interpreter that is not there: {named}", field=VARIABLE, remedy=_REMEDY)
        return Path(named)
    for folder in (Path.cwd(), Path(__file__).resolve().parents[2]):
        python = folder / ".venv-validate" / "bin" / "python"
        if os.access(python, os.X_OK):
            return python
    raise InputError("TensorFlow Data Validation has no environment to run in", remedy=_REMEDY)


def run_job(interpreter: Path, script: Path, job: Mapping[str, Any], *, quiet: bool = False) -> dict[str, Any]:
    """Run a script that imports TFDV, in the interpreter that has it.

    Args:
        interpreter: From ``find_interpreter``.
        script: Takes the path of a job file, and writes JSON to the path that it names as ``result``.
        job: JSON values for the job file; ``result`` is added.
        quiet: Whether what it prints is left out.

    Returns:
        What it wrote.

    Raises:
        RuntimeError: It failed; the message ends with what it printed last.
    """
    with tempfile.TemporaryDirectory(prefix="vitalfuse-job-") as name:
        result, file = Path(name) / "result.json", Path(name) / "job.json"
        file.write_text(json.dumps({**job, "result": str(result)}))
        finished = subprocess.run(
            [str(interpreter), str(script), str(file)],
            env=_job_environment(interpreter),
            capture_output=True,
            text=True,
            check=False,
        )
        if not quiet:
            print(finished.stdout, finished.stderr, sep="\n", flush=True)
        if finished.returncode:
            last = (finished.stderr.strip().splitlines() or ["it printed nothing"])[-1]
            raise RuntimeError(f"The TFDV job ended with code {finished.returncode}: {last}")
        return json.loads(result.read_text())


def _job_environment(interpreter: Path) -> dict[str, str]:
    """Return the environment of the job: quiet, and without the paths of this interpreter when it is another one."""
    environment = dict(os.environ)
    if interpreter != Path(sys.executable):
        for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
            environment.pop(name, None)
    # Safe path: modules beside the job must not hide those of its environment.
    return environment | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "PYTHONSAFEPATH": "1"}
