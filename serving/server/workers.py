"""Several processes that answer on one port: started again where one dies, ended together.

The supervisor is uvicorn's own. What the workers share lies in a folder: their metrics, which the answer of /metrics
sums up, and the counters of the rate limit.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING, Any

from uvicorn import Config
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from data_schemas.errors import InputError
from serving.server.logs import set_up_logs
from serving.server.rates import create_counters
from serving.settings import ServeSettings

if TYPE_CHECKING:
    from serving.server.gate import Gate

_log = logging.getLogger("vitalfuse.serve")
_METRICS = "PROMETHEUS_MULTIPROC_DIR"
_COUNTERS = "rates"
# How long a worker may be silent, as in a long collection of garbage, before it is taken for hung and killed.
_ALIVE_SECONDS = 30


@dataclass(frozen=True)
class Worker:
    """Makes the app of one process; it is sent to each new process, and heavy imports wait until it is called there.

    Attributes:
        settings: Section ``serve``.
        model_name: Name of the registered model.
        tracking_uri: MLflow's tracking URI.
        cache: Folder for downloaded versions.
        token: Bearer token; None lets anybody in.
        shared: Folder that all workers share; None where there is one process.
        started: When the server was started, in seconds since 1970.
    """

    settings: ServeSettings
    model_name: str
    tracking_uri: str
    cache: Path
    token: str | None = field(repr=False)
    shared: Path | None = None
    started: float = field(default_factory=time.time)

    def __call__(self) -> Gate:
        """Return the app.

        Raises:
            InputError: A setting does not fit; in a process of several, the whole server ends.
        """
        if self.shared is None:
            return self._app()
        set_up_logs()
        threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
        try:
            return self._app()
        except InputError as error:
            _log.error("%s", error)
            sys.exit(STARTUP_FAILURE)

    def _app(self) -> Gate:
        from serving.server.app import build_app
        from serving.server.follower import Follower
        from serving.server.hooks import prediction_hooks
        from serving.server.metrics import Metrics

        if not self.settings.folder:
            import mlflow

            mlflow.set_tracking_uri(self.tracking_uri)
        metrics = Metrics(self.shared)
        follower = Follower(self.model_name, self.settings, self.cache, metrics, since=self.started)
        hooks = prediction_hooks(self.settings, follower, metrics)
        counters = self.shared / _COUNTERS if self.shared else None
        _log.info("vitalfuse serve: %s", follower.source)
        return build_app(self.settings, follower, metrics, hooks=hooks, token=self.token, counters=counters)


def _end_with_parent() -> None:
    """End this worker as on SIGTERM when the parent is gone: nobody else would."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has a parent"
    parent.join()
    _log.error("the parent process is gone; ending")
    os.kill(os.getpid(), signal.SIGTERM)


class Supervisor(Multiprocess):
    """uvicorn's supervisor, which sees at once that a worker is gone, and forgets its gauges.

    Args:
        config: With the number of workers.
        sockets: Bound, not yet listening.
        shared: Folder that the workers share.
    """

    def __init__(self, config: Config, sockets: list[socket], shared: Path) -> None:
        super().__init__(config, sockets)
        self._shared, self._known = shared, set[int | None]()

    def keep_subprocess_alive(self) -> None:
        """Start workers again that have died, or answer no more."""
        from prometheus_client.multiprocess import mark_process_dead

        for process in self.processes:
            # With the worker's end open here too, waiting for a worker that has died would take all of its time.
            process.child_conn.close()
        super().keep_subprocess_alive()
        alive = {process.pid for process in self.processes}
        for gone in self._known - alive:
            mark_process_dead(gone, str(self._shared))
        self._known = alive


def run_workers(worker: Worker, sockets: list[socket], options: dict[str, Any]) -> None:
    """Run several workers until SIGTERM or Ctrl-C; each answers what it has accepted.

    Args:
        worker: Makes each worker's app.
        sockets: Bound, not yet listening.
        options: Of ``uvicorn.Config``.

    Raises:
        SystemExit: A worker can't start; its log says why.
    """
    with tempfile.TemporaryDirectory(prefix="vitalfuse-serve-") as folder:
        shared = Path(folder)
        create_counters(shared / _COUNTERS)
        # prometheus_client looks for it where it is imported, which is in the workers.
        os.environ[_METRICS] = folder
        config = Config(
            replace(worker, shared=shared),
            factory=True,
            workers=worker.settings.workers,
            timeout_worker_healthcheck=_ALIVE_SECONDS,
            **options,
        )
        supervisor = Supervisor(config, sockets, shared)
        supervisor.run()
        if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
            sys.exit(STARTUP_FAILURE)
