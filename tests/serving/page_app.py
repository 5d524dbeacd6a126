"""The server with its page, on a free port of the loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import uvicorn

from serving.server.app import build_app
from serving.server.follower import Follower
from serving.server.gate import Gate
from serving.server.metrics import Metrics
from serving.settings import ServeSettings
from tests.serving.server.conftest import wait_until


def page_app(folder: Path, token: str | None = None) -> Gate:
    """The server, with a model folder."""
    settings, metrics = ServeSettings(folder=folder), Metrics()
    return build_app(
        settings, Follower("vitalfuse-diagnosis", settings, folder / "cache", metrics), metrics, token=token
    )


@contextmanager
def running(app: Gate) -> Iterator[str]:
    """Serve it; gives its address."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the test server did not start")
        thread.join(0.01)
    address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        wait_until(lambda: httpx.get(f"{address}/v2/health/ready").status_code == 200)
        yield address
    finally:
        server.should_exit = True
        thread.join(20)
