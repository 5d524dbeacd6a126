"""The command itself, as a process under load: promotions, SIGTERM, SIGKILL; and schemathesis on its OpenAPI page."""

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from serving.patients import parse_patients
from serving.predictor import Predictor
from tests.serving.server.conftest import NAME, patient, wait_until
from tests.serving.server.registry import Registry
from tests.serving.server.test_follower import changed

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path)


@pytest.fixture
def model(model_folder):
    return model_folder("series", "image", "text")


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def serve(registry, port, tmp_path):
    with ExitStack() as stack:

        def run(*options):
            command = [sys.executable, "-m", "pipelines.cli", "serve", "--workspace", str(tmp_path), "--model", NAME]
            command += ["--port", str(port), "--set", f"tracking.uri={registry.uri}", "--set", "serve.poll_seconds=0.1"]
            command += ["--set", "serve.rate_limit=null", *options]
            log = stack.enter_context((tmp_path / "serve.log").open("ab"))
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=ROOT)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield run


def is_ready(port):
    try:
        return httpx.get(f"http://127.0.0.1:{port}/v2/health/ready").status_code == 200
    except httpx.TransportError:
        return False


class Load:
    """Clients that ask without a pause, and keep every answer by its status and version."""

    def __init__(self, port: int, expected: dict[str, list[list[float]]]) -> None:
        self.port, self.expected = port, expected
        self.rates = [60 + 2 * n for n in range(8)]
        self.answers: list[tuple[int, str]] = []
        self.cut = 0
        self.wrong: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(8)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def count(self, version):
        return sum(1 for _, found in list(self.answers) if found == version)

    def _ask(self, number):
        with httpx.Client(timeout=30) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post(f"http://127.0.0.1:{self.port}/v1/diagnose", json=request(self.rates[number]))
                except httpx.TransportError:
                    self.cut += 1
                    self._stop.wait(0.05)
                    continue
                if answer.status_code != 200:
                    self.answers.append((answer.status_code, ""))
                    continue
                (diagnosis,) = answer.json()["diagnoses"]
                version = diagnosis["model"]["version"]
                self.answers.append((200, version))
                expected = self.expected[version][number]
                if list(diagnosis["probabilities"].values()) != pytest.approx(expected, abs=1e-6):
                    self.wrong.append(version)


def request(rate):
    reading = {"channel": "heart_rate", "time": "2022-06-01T10:00:00+02:00", "value": rate}
    return {"patients": [patient(observations=[reading])]}


def expected(folder):
    predictor = Predictor.load(folder)
    patients = parse_patients([request(60 + 2 * n)["patients"][0] for n in range(8)])
    return [list(answer.probabilities.values()) for answer in predictor.diagnose(patients)]


def test_promotions_under_load_fail_no_request(registry, serve, port, model, tmp_path):
    # The other model's image counts for nothing, so that an answer says which model gave it.
    other = changed(model, tmp_path / "other", lambda contract: contract["classes"].reverse())
    first, second = registry.add(model), registry.add(other)
    registry.promote(first)
    process = serve()
    wait_until(lambda: is_ready(port), 60)
    answers = {first: expected(model), second: expected(other)}
    with Load(port, answers) as load:
        for turn in range(6):
            wanted = (second, first)[turn % 2]
            before = load.count(wanted)
            registry.promote(wanted)
            wait_until(lambda: load.count(wanted) > before + 20, 60)  # noqa: B023 - called at once
        broken = registry.add(model)
        (registry.files(broken) / "model.onnx").write_bytes(b"no network")
        registry.promote(broken)
        url = f"http://127.0.0.1:{port}/v1/status"
        wait_until(lambda: httpx.get(url).json()["detail"], 60)
    assert load.cut == 0
    assert load.wrong == []
    assert {status for status, _ in load.answers} == {200}
    assert load.count(broken) == 0
    process.terminate()
    assert process.wait(30) == 0


def test_sigterm_ends_what_was_accepted(registry, serve, port, model, tmp_path):
    registry.promote(registry.add(model))
    process = serve()
    wait_until(lambda: is_ready(port), 60)
    body = httpx.Request("POST", f"http://127.0.0.1:{port}/v1/diagnose", json=request(70))
    body.read()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        # A request of which the server has the head and half of the body when the signal comes.
        head = f"POST /v1/diagnose HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body.content)}\r\n\r\n".encode()
        connection.sendall(head + body.content[:50])
        wait_until(lambda: is_ready(port))
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: not is_ready(port))
        connection.sendall(body.content[50:])
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"diagnoses"' in answer
    assert process.wait(30) == 0
    assert "Traceback" not in (tmp_path / "serve.log").read_text()


def test_killed_under_load_and_started_again_it_gives_no_wrong_answer(registry, serve, port, model):
    version = registry.add(model)
    registry.promote(version)
    with Load(port, {version: expected(model)}) as load:
        for _ in range(3):
            before = load.count(version)
            process = serve()
            wait_until(lambda: load.count(version) > before + 30, 90)  # noqa: B023 - called at once
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert load.wrong == []
    assert {status for status, _ in load.answers} <= {200, 503}


def test_a_burst_beyond_the_queue_is_told_to_come_again(registry, serve, port, model):
    registry.promote(registry.add(model))
    serve("--set", "serve.max_queue=4", "--set", "serve.max_batch=1", "--set", "serve.threads=1")
    wait_until(lambda: is_ready(port), 60)
    reading = {"channel": "heart_rate", "time": "2022-06-01T10:00:00+02:00", "value": 60}
    body = {"patients": [patient(observations=[reading] * 5000)]}
    answers = []

    def ask():
        for _ in range(5):
            answers.append(httpx.post(f"http://127.0.0.1:{port}/v1/diagnose", json=body, timeout=60))

    threads = [threading.Thread(target=ask) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 503}
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers if answer.status_code == 503)
    assert httpx.post(f"http://127.0.0.1:{port}/v1/diagnose", json=request(70)).status_code == 200


def test_schemathesis_finds_no_server_error(registry, serve, port, model, tmp_path):
    registry.promote(registry.add(model))
    serve()
    wait_until(lambda: is_ready(port), 60)
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json", "--url", address]
    command += ["--checks", "not_a_server_error,status_code_conformance,content_type_conformance"]
    command += ["--max-examples", "25", "--seed", "7", "--workers", "1", "--no-color"]
    command += ["--suppress-health-check", "all", "--phases", "examples,coverage,fuzzing"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=tmp_path)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert "failed" not in (tmp_path / "serve.log").read_text()
