"""A small API server that takes server-side applies, as far as kubectl needs one: discovery, and objects in memory."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

RESOURCES = {
    "serving.kserve.io/v1beta1": [("inferenceservices", "InferenceService")],
    "networking.k8s.io/v1": [("networkpolicies", "NetworkPolicy")],
    "trainer.kubeflow.org/v1alpha1": [("trainingruntimes", "TrainingRuntime"), ("trainjobs", "TrainJob")],
}


class FakeCluster:
    """What was asked of the server.

    Attributes:
        address: Its address.
        objects: Applied objects by path.
        applies: Path and query of every apply.
        refuse: Message with which applies are refused; empty to take them.
    """

    def __init__(self) -> None:
        self.address = ""
        self.objects: dict[str, Any] = {}
        self.applies: list[tuple[str, dict[str, list[str]]]] = []
        self.refuse = ""


def _openapi(name: str) -> dict[str, Any]:
    """Say that applies are checked by the server, so that kubectl leaves it to it."""
    group, version = name.split("/")
    parameters = [{"name": field, "in": "query"} for field in ("dryRun", "fieldManager", "fieldValidation")]
    paths = {}
    for plural, kind in RESOURCES[name]:
        meant = {"group": group, "version": version, "kind": kind}
        operation = {"parameters": parameters, "x-kubernetes-group-version-kind": meant, "responses": {}}
        paths[f"/apis/{name}/namespaces/{{namespace}}/{plural}/{{name}}"] = {"patch": operation}
    return {"openapi": "3.0.0", "info": {"title": "fake", "version": "1"}, "paths": paths}


def _discovery(path: str) -> dict[str, Any] | None:
    if path == "/version":
        return {"major": "1", "minor": "32", "gitVersion": "v1.32.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/api/v1":
        return {"kind": "APIResourceList", "groupVersion": "v1", "resources": []}
    if path == "/apis":
        groups = []
        for name in RESOURCES:
            version = {"groupVersion": name, "version": name.split("/")[1]}
            groups.append({"name": name.split("/")[0], "versions": [version], "preferredVersion": version})
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    if path == "/openapi/v3":
        addresses = {f"apis/{name}": {"serverRelativeURL": f"/openapi/v3/apis/{name}"} for name in RESOURCES}
        return {"paths": addresses}
    if path.startswith("/openapi/v3/apis/"):
        return _openapi(path.removeprefix("/openapi/v3/apis/"))
    name = path.removeprefix("/apis/")
    if name in RESOURCES:
        resources = [
            {"name": plural, "kind": kind, "namespaced": True, "verbs": ["get", "patch", "create"], "singularName": ""}
            for plural, kind in RESOURCES[name]
        ]
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": resources}
    return None


def _handler(cluster: FakeCluster) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            found = _discovery(path) or cluster.objects.get(path)
            self._answer(200, found) if found else self._status(404, "NotFound", "not found")

        def do_PATCH(self) -> None:
            asked = urlsplit(self.path)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            query = parse_qs(asked.query)
            if self.headers["Content-Type"] != "application/apply-patch+yaml":
                self._status(415, "UnsupportedMediaType", "only server-side apply is taken")
                return
            if cluster.refuse:
                self._status(403, "Forbidden", cluster.refuse)
                return
            applied = yaml.safe_load(body)
            cluster.applies.append((asked.path, query))
            if query.get("dryRun") != ["All"]:
                cluster.objects[asked.path] = applied
            self._answer(200, applied)

        def _status(self, code: int, reason: str, message: str) -> None:
            content = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code}
            self._answer(code, content | {"message": message})

        def _answer(self, code: int, content: dict[str, Any]) -> None:
            data = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    return Handler


@contextmanager
def fake_kubernetes() -> Iterator[FakeCluster]:
    """Run the server on a free port of the loopback."""
    cluster = FakeCluster()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(cluster))
    cluster.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield cluster
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
