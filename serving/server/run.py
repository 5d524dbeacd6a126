"""Starts the server and ends it: signals, sockets, logs."""

from __future__ import annotations

import logging
import signal
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

import uvicorn

from data_schemas.errors import InputError
from serving.log_settings import reference_key
from serving.server.bearer_token import read_token
from serving.server.logs import set_up_logs
from serving.server.workers import Worker, run_workers
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
        InputError: The token, the certificate or the key of the prediction log is not as it must be, or the address is
            taken.
    """
    set_up_logs()
    token = read_token(settings)
    _check(settings)
    if token is None and settings.host not in ("127.0.0.1", "localhost", "::1"):
        _log.warning("no token is set: whoever reaches %s may ask; set %s", settings.host, settings.token_environment)
    sockets = [_bind(settings)]
    worker = Worker(settings, model_name, tracking_uri, settings.cache or cache, token)
    options: dict[str, Any] = {
        "loop": "uvloop",
        "http": "httptools",
        "ws": "none",
        # The gate logs requests, by route and not by path.
        "access_log": False,
        "log_config": None,
        "server_header": False,
        "timeout_keep_alive": 75,
        "timeout_graceful_shutdown": settings.shutdown_seconds,
        "forwarded_allow_ips": settings.trusted_proxies,
        "ssl_certfile": settings.tls_certificate,
        "ssl_keyfile": settings.tls_key,
    }
    if settings.workers > 1:
        run_workers(worker, sockets, options)
        return
    app = worker()
    # uvicorn raises the signal again once everything has ended; an orderly end is exit code 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    uvicorn.Server(uvicorn.Config(app, **options)).run(sockets)


def _check(settings: ServeSettings) -> None:
    """Refuse what would fail in every worker, before any is started."""
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        raise InputError("a certificate needs its key, and a key its certificate", field="serve.tls_key")
    if settings.tls_certificate:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
                settings.tls_certificate, settings.tls_key
            )
        except OSError as error:
            raise InputError(
                "the certificate and its key can't be used together",
                file=str(settings.tls_certificate),
                field="serve.tls_certificate",
                remedy="Give a chain and the key that belongs to it, both as PEM",
            ) from error
    if settings.log.folder is not None:
        reference_key(settings.log)


def _bind(settings: ServeSettings) -> socket.socket:
    """Return a socket that is bound and does not listen yet; an address is IPv6 where it has a colon."""
    host, port = settings.host, settings.port
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise InputError(
            f"can't listen on {host}, port {port}: {error.strerror}",
            field="serve.port",
            remedy="Choose another address or port, or end what listens there",
        ) from error
    scheme = "https" if settings.tls_certificate else "http"
    _log.info("address: %s://%s:%d", scheme, f"[{host}]" if ":" in host else host, bound.getsockname()[1])
    return bound
