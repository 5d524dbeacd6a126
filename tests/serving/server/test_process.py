"""The command itself, as a process under load: promotions, SIGTERM, SIGKILL; and schemathesis on its OpenAPI page."""

import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack

import httpx
import pytest

from tests.serving.server.conftest import patient, wait_until
from tests.serving.server.load import Load, expected, is_ready, request
from tests.serving.server.test_follower import changed

pytestmark = pytest.mark.slow
WORKERS = pytest.mark.parametrize("workers", [1, 2])


@pytest.fixture
def model(model_folder):
    return model_folder("series", "image", "text")


@WORKERS
def test_promotions_under_load_fail_no_request(workers, registry, serve, port, model, tmp_path):
    # The other model's image counts for nothing, so that an answer says which model gave it.
    other = changed(model, tmp_path / "other", lambda contract: contract["classes"].reverse())
    first, second = registry.add(model), registry.add(other)
    registry.promote(first)
    process = serve(workers=workers)
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


@WORKERS
def test_sigterm_ends_what_was_accepted(workers, registry, serve, port, model, tmp_path):
    registry.promote(registry.add(model))
    process = serve(workers=workers)
    wait_until(lambda: is_ready(port), 60)
    body = httpx.Request("POST", f"http://127.0.0.1:{port}/v1/diagnose", json=request(70))
    body.read()
    head = f"POST /v1/diagnose HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body.content)}\r\n\r\n".encode()
    with ExitStack() as stack:
        connections = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(8)]
        # Requests of which the server has the head and half of the body when the signal comes.
        for connection in connections:
            connection.sendall(head + body.content[:50])
        wait_until(lambda: is_ready(port))
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: not is_ready(port))
        for connection in connections:
            connection.sendall(body.content[50:])
        for connection in connections:
            answer = b""
            while part := connection.recv(65536):
                answer += part
            assert answer.startswith(b"HTTP/1.1 200")
            assert b'"diagnoses"' in answer
    assert process.wait(30) == 0
    assert "Traceback" not in (tmp_path / "serve.log").read_text()


@WORKERS
def test_killed_under_load_and_started_again_it_gives_no_wrong_answer(workers, registry, serve, port, model):
    version = registry.add(model)
    registry.promote(version)
    with Load(port, {version: expected(model)}) as load:
        for _ in range(3):
            before = load.count(version)
            process = serve(workers=workers)
            wait_until(lambda: load.count(version) > before + 30, 90)  # noqa: B023 - called at once
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert load.wrong == []
    assert {status for status, _ in load.answers} <= {200, 503}


@WORKERS
def test_a_burst_beyond_the_queue_is_told_to_come_again(workers, registry, serve, port, model):
    registry.promote(registry.add(model))
    serve("--set", "serve.max_queue=4", "--set", "serve.max_batch=1", "--set", "serve.threads=1", workers=workers)
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
