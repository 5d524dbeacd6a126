"""The registered model behind MLflow's own server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import mlflow
import pytest

from serving import package
from serving.patients import Diagnosis, parse_patients
from serving.predictor import Predictor

START_SECONDS = 120
READINGS = [
    {"channel": "heart_rate", "time": "2022-06-01T10:00:00+02:00", "value": 80, "unit": "/min"},
    {"code": "8310-5", "time": "2022-06-01T08:10:00Z", "value": 98.6, "unit": "[degF]"},
]
PATIENTS = [
    {"observations": READINGS, "note": "Fever.", "image": [[0.1, 0.2], [0.3, 0.4]]},
    {"note": [{"text": "Cough", "time": "2022-06-01T10:00:00Z"}], "sex": "female", "age": 60},
]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def served(model_folder, tmp_path_factory):
    folder = model_folder("series", "image", "text")
    root = tmp_path_factory.mktemp("served")
    mlflow.pyfunc.save_model(
        path=str(root / "model"),
        python_model=str(package.MODEL_SCRIPT),
        artifacts={package.ARTIFACT: str(folder)},
        code_paths=package.stage_code(root / "code"),
        signature=package.signature(folder),
        input_example=package.input_example(folder),
        pip_requirements=package.requirements(),
        metadata=package.metadata(folder),
    )
    port = _free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(root / "model")]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    # MLflow finds uvicorn by the path; the checkout is left out of it, so that the code must come with the model.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    log = root / "log.txt"
    with log.open("wb") as stream:
        # A session of its own: MLflow starts its server as a child.
        process = subprocess.Popen(
            command, cwd=root, env=environment, stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}/ping", log)
        yield f"http://127.0.0.1:{port}/invocations", folder, log
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def _wait(process: subprocess.Popen, address: str, log) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5)
            return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(log.read_text())


def _post(address: str, body: dict) -> tuple[int, dict]:
    request = urllib.request.Request(
        address, json.dumps(body).encode(), headers={"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def _split(patients: list[dict]) -> dict:
    columns = list(dict.fromkeys(name for patient in patients for name in patient))
    return {"columns": columns, "data": [[patient.get(name) for name in columns] for patient in patients]}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["dataframe_records", "inputs", "dataframe_split"])
def test_every_form_of_a_request_gets_the_predictors_answer(served, form):
    address, folder, _ = served
    status, content = _post(address, {form: _split(PATIENTS) if form == "dataframe_split" else PATIENTS})
    assert status == 200, content
    received = [Diagnosis.model_validate(row) for row in content["predictions"]]
    assert received == Predictor.load(folder).diagnose(parse_patients(PATIENTS))


@pytest.mark.slow
def test_a_fault_is_the_callers_and_names_the_field_alone(served):
    address, _, log = served
    reading = READINGS[0] | {"unit": "Jane Doe"}
    status, content = _post(address, {"dataframe_records": [{"observations": [reading], "note": "Jane Doe"}]})
    assert status == 400
    assert "patients[0].observations[0].unit: does not fit heart_rate" in content["stack_trace"]
    assert "Jane" not in json.dumps(content)
    assert "Jane" not in log.read_text()
