from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from starlette.testclient import TestClient

from serving.server.app import build_app
from serving.server.follower import Follower
from serving.server.metrics import Metrics
from serving.settings import ServeSettings

NAME = "tests-diagnosis"


def patient(**changes):
    reading = {"channel": "heart_rate", "time": "2022-06-01T10:00:00+02:00", "value": 80, "unit": "/min"}
    return {"observations": [reading], "image": [[0.1, 0.2], [0.3, 0.4]], "note": "Fever. Cough."} | changes


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
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
