"""Finds the interpreter in which TensorFlow Data Validation can run: it may need an environment of its own."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path

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
