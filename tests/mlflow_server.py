"""An MLflow server with accounts, in a thread of this process: MLflow's own handlers, and its permissions as shipped.

Whoever signs in may read everything (``default_permission = READ``), and write into what the own account has made.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from flask import Flask, Response, request
from mlflow.server import handlers
from werkzeug.serving import make_server

_WRITES = ("runs/create", "runs/update", "runs/delete", "runs/log-batch", "runs/set-tag")
_SERVED = ("/mlflow/runs/", "/mlflow/experiments/")


class MlflowServer:
    """The server; any name and password will do.

    Args:
        database: SQLite database with MLflow's tables.
    """

    def __init__(self, database: Path) -> None:
        self.owners: dict[str, str] = {}
        self._store = handlers._tracking_store_registry.get_store(f"sqlite:///{database}", str(database.parent))
        app = Flask("mlflow")
        app.before_request(self._guard)
        app.after_request(self._note_owner)
        for path, handler, methods in handlers.get_endpoints():
            if any(part in path for part in _SERVED):
                app.add_url_rule(path, f"{methods} {path}", handler, methods=methods)
        self._http = make_server("127.0.0.1", 0, app, threaded=True)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)

    def __enter__(self) -> MlflowServer:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        # Not by MLflow's own start, which names the store to every client of this process.
        self._before, handlers._tracking_store = handlers._tracking_store, self._store
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join(timeout=10)
        self._http.server_close()
        handlers._tracking_store = self._before

    def _guard(self) -> Response | None:
        if request.authorization is None:
            return Response("You are not authenticated.", 401)
        if request.path.endswith(_WRITES):
            body = request.get_json()
            experiment = body.get("experiment_id") or self._store.get_run(body["run_id"]).info.experiment_id
            if self.owners.get(experiment) != request.authorization.username:
                return Response("Permission denied", 403)
        return None

    def _note_owner(self, response: Response) -> Response:
        if request.path.endswith("experiments/create") and response.status_code == 200:
            assert request.authorization is not None and request.authorization.username
            self.owners[response.get_json()["experiment_id"]] = request.authorization.username
        return response
