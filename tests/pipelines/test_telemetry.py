"""Nothing is reported to the makers of libraries."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("room", ["components.common.tracking", "pipelines.cli", "components.register.register"])
def test_mlflow_reports_nothing_once_a_room_is_imported(room):
    code = (
        f"import importlib; importlib.import_module({room!r})\n"
        "import mlflow\nfrom mlflow.telemetry.utils import is_telemetry_disabled\n"
        "assert is_telemetry_disabled()"
    )
    # Without these MLflow reports: it takes a test or a build server for no user.
    hidden = ("MLFLOW_", "PYTEST", "CI", "DO_NOT_TRACK")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    subprocess.run([sys.executable, "-c", code], check=True, env=clean)
