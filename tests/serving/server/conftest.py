from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from serving.server.app import build_app
from serving.server.follower import Follower
from serving.server.metrics import Metrics
from serving.settings import ServeSettings

NAME = "tests-diagnosis"
ROOT = Path(__file__).parents[3]


def patient(**changes):
    reading = {"channel": "heart_rate", "time": "2022-06-01T10:00:00+02:00", "value": 80, "unit": "/min"}
    return {"observations": [reading], "image": [[0.1, 0.2], [0.3, 0.4]], "note": "Fever. Cough."} | changes


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait for something that happens in another thread or process."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def start(model_folder, tmp_path) -> Iterator[Callable[..., TestClient]]:
    """Start a server inside the test; settings by name, a token, hooks, a page."""
    with ExitStack() as stack:

        def run(token=None, hooks=(), follower=None, metrics=None, **changes) -> TestClient:
            changes = {"rate_limit": None, **changes}
            if follower is None and "folder" not in changes:
                changes["folder"] = model_folder("series", "image", "text")
            settings = ServeSettings(**changes)
            metrics = metrics or Metrics()
            follower = follower or Follower(NAME, settings, tmp_path / "cache", metrics)
            app = build_app(settings, follower, metrics, hooks=hooks, token=token)
            client = stack.enter_context(TestClient(app, raise_server_exceptions=False))
            wait_until(lambda: follower.current or follower.detail != "the model is being loaded")
            return client

        yield run


@pytest.fixture
def registry(tmp_path):
    from tests.serving.server.registry import Registry

    return Registry(tmp_path)


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def serve(registry, port, tmp_path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Run the command in a process of its own; its log is serve.log."""
    with ExitStack() as stack:

        def run(*options, workers=1, **variables):
            command = [sys.executable, "-m", "pipelines.cli", "serve", "--workspace", str(tmp_path), "--model", NAME]
            command += ["--port", str(port), "--set", f"tracking.uri={registry.uri}", "--set", "serve.poll_seconds=0.1"]
            command += ["--set", "serve.rate_limit=null", "--set", f"serve.workers={workers}", *options]
            log = stack.enter_context((tmp_path / "serve.log").open("ab"))
            environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=ROOT)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield run
