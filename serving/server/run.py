"""Starts the server and ends it: signals, sockets, logs."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path

import uvicorn

from data_schemas.errors import InputError
from serving.server.app import build_app
from serving.server.follower import Follower
from serving.server.gate import read_token
from serving.server.hooks import prediction_hooks
from serving.server.metrics import Metrics
from serving.settings import ServeSettings

_log = logging.getLogger("vitalfuse.serve")


def serve(settings: ServeSettings, *, model_name: str, tracking_uri: str, cache: Path) -> None:
    """Serve until SIGTERM or Ctrl-C; what was accepted by then is answered.

    Args:
        settings: Section ``serve``.
        model_name: Name of the registered model.
        tracking_uri: MLflow's tracking URI, whose registry is asked.
        cache: Folder for downloaded versions, unless the settings name one.

    Raises:
        InputError: The token or the certificate is not as it must be, or the address is taken.
    """
    _set_up_logs()
    token = read_token(settings)
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        raise InputError("a certificate needs its key, and a key its certificate", field="serve.tls_key")
    if not settings.folder:
        import mlflow

        mlflow.set_tracking_uri(tracking_uri)
    if token is None and settings.host not in ("127.0.0.1", "localhost", "::1"):
        _log.warning("no token is set: whoever reaches %s may ask; set %s", settings.host, settings.token_environment)
    metrics = Metrics()
    follower = Follower(model_name, settings, settings.cache or cache, metrics)
    app = build_app(settings, follower, metrics, hooks=prediction_hooks(settings, follower, metrics), token=token)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        # The gate logs requests, by route and not by path.
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=settings.shutdown_seconds,
        forwarded_allow_ips=settings.trusted_proxies,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )
    _log.info("vitalfuse serve: %s", follower.source)
    # uvicorn raises the signal again once everything has ended; an orderly end is exit code 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    uvicorn.Server(config).run()


def _set_up_logs() -> None:
    """Log to standard error, one line an event."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("vitalfuse").setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.INFO)
    logging.getLogger("mlflow").setLevel(logging.ERROR)
