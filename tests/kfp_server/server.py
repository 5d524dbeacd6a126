"""A server that speaks the REST API of Kubeflow Pipelines 2.17 (v2beta1) for the calls that this project makes.

What is submitted is run, through kfp.local. Requests and answers are checked against the models of KFP's generated
client. It listens on the loopback interface alone, and serves tests alone.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException
from werkzeug.serving import make_server

from tests.kfp_server import shapes
from tests.kfp_server.execution import Execution, LocalExecution
from tests.kfp_server.faults import Faults, answer
from tests.kfp_server.state import FINAL, Run, State, new_id
from tests.kfp_server.workflow import Workflow, timestamp

_EQUALS = ("EQUALS", 1)
_API = "/apis/v2beta1"


class ApiError(Exception):
    """An error that the API answers with: HTTP status, gRPC code, message."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def not_found(what: str) -> ApiError:
    return ApiError(404, 5, f"{what} not found")


def invalid(message: str) -> ApiError:
    return ApiError(400, 3, f"Invalid input error: {message}")


class KfpServer:
    """The server, in a thread of this process.

    Args:
        folder: Folder for runs and the cache.
        token: Token that every call but the health check must bear; None: no one asks. Later, ``tokens`` may change.
        namespaces: Namespaces of a server with several users; None: a server with one.
        plugin: KFP's own MLflow integration, where it is on.
        execute: Makes the execution of a run in place of kfp.local, from the run's arguments.
        pod_environment: Environment of all pods, such as what Kubernetes secrets would add.
        knows_plugins: Whether runs may have the field plugins_input, as from 2.17 on.
        tls: Files of the certificate and its key, to be reached by https.
    """

    def __init__(
        self,
        folder: Path,
        *,
        token: str | None = None,
        namespaces: list[str] | None = None,
        plugin: Any = None,
        execute: Callable[[dict[str, Any]], Execution] | None = None,
        pod_environment: dict[str, str] | None = None,
        knows_plugins: bool = True,
        tls: tuple[str, str] | None = None,
    ) -> None:
        self.folder, self.namespaces = folder, namespaces
        self.tokens = {token} if token else set()
        self.tokens_given: set[str] = set()
        self.plugin, self.execute, self.knows_plugins = plugin, execute, knows_plugins
        self.pod_environment = pod_environment or {}
        self.state, self.faults = State(), Faults()
        self._broken: list[Exception] = []
        self._add_experiment("Default", "")
        app = self._app()
        self._http = make_server("127.0.0.1", 0, app, threaded=True, ssl_context=tls)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)

    def __enter__(self) -> KfpServer:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for run in self.state.runs.values():
            if run.execution is not None:
                run.execution.terminate()
            if run.thread is not None:
                run.thread.join(timeout=120)
        self._http.shutdown()
        self._thread.join(timeout=120)
        self._http.server_close()
        if self._broken:
            raise self._broken[0]

    def wait(self, run_id: str, seconds: float = 300) -> Run:
        """Wait until a run has ended; return it."""
        deadline = time.monotonic() + seconds
        while self.state.runs[run_id].state not in FINAL:
            assert time.monotonic() < deadline, f"run {run_id} is still {self.state.runs[run_id].state}"
            time.sleep(0.02)
        return self.state.runs[run_id]

    def trigger(self, schedule_id: str) -> Run:
        """Start a run of a schedule, as KFP's own controller does when its time has come."""
        schedule = self.state.schedules[schedule_id]
        return self._start(
            {
                "display_name": f"{schedule['display_name']}-{len(self.state.runs) + 1}",
                "experiment_id": schedule["experiment_id"],
                "pipeline_version_reference": schedule["pipeline_version_reference"],
                "runtime_config": schedule["runtime_config"],
                "recurring_run_id": schedule_id,
                **({"plugins_input": schedule["plugins_input"]} if "plugins_input" in schedule else {}),
            }
        )

    def _app(self) -> Flask:
        app = Flask("kfp")
        app.before_request(self._guard)
        app.register_error_handler(ApiError, _told)
        app.register_error_handler(HTTPException, lambda error: _told(ApiError(error.code or 500, 12, error.name)))
        add = app.add_url_rule
        add(f"{_API}/healthz", view_func=self._health, methods=["GET"])
        add(f"{_API}/experiments", view_func=self._list_experiments, methods=["GET"])
        add(f"{_API}/experiments", view_func=self._create_experiment, methods=["POST"])
        add(f"{_API}/pipelines", view_func=self._list_pipelines, methods=["GET"])
        add(f"{_API}/pipelines", view_func=self._create_pipeline, methods=["POST"])
        add(f"{_API}/pipelines/upload_version", view_func=self._upload_version, methods=["POST"])
        add(f"{_API}/pipelines/<pipeline_id>/versions", view_func=self._list_versions, methods=["GET"])
        add(f"{_API}/pipelines/<pipeline_id>/versions/<version_id>", view_func=self._get_version, methods=["GET"])
        add(f"{_API}/runs", view_func=self._list_runs, methods=["GET"])
        add(f"{_API}/runs", view_func=self._create_run, methods=["POST"])
        add(f"{_API}/runs/<run_id>", view_func=self._get_run, methods=["GET"])
        add(f"{_API}/runs/<run_id>:terminate", view_func=self._terminate, methods=["POST"])
        add(f"{_API}/runs/<run_id>:retry", view_func=self._retry, methods=["POST"])
        add(f"{_API}/recurringruns", view_func=self._list_schedules, methods=["GET"])
        add(f"{_API}/recurringruns", view_func=self._create_schedule, methods=["POST"])
        add(f"{_API}/recurringruns/<schedule_id>", view_func=self._delete_schedule, methods=["DELETE"])
        add(f"{_API}/recurringruns/<schedule_id>:<change>", view_func=self._change_schedule, methods=["POST"])
        add("/apis/v1beta1/runs/<run_id>", view_func=self._get_run_v1, methods=["GET"])
        add("/apis/v1alpha1/runs/<run_id>/nodes/<pod>/log", view_func=self._log, methods=["GET"])
        return app

    # -- every call

    def _guard(self) -> Response | None:
        fault = self.faults.take(request)
        if fault is not None:
            if fault.after:
                self._carry_out()
            if (told := answer(fault)) is not None:
                return told
        if self.tokens and request.path != f"{_API}/healthz":
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            self.tokens_given.add(given)
            if given not in self.tokens:
                raise ApiError(401, 16, "Request header error: the token is missing or not valid")
        return None

    def _carry_out(self) -> None:
        """Carry out a call whose answer will be lost."""
        if request.path == f"{_API}/runs" and request.method == "POST":
            self._create_run()
        elif request.path == f"{_API}/recurringruns" and request.method == "POST":
            self._create_schedule()

    def _body(self, kind: str) -> dict[str, Any]:
        body = request.get_json()
        if not self.knows_plugins and "plugins_input" in body:
            raise ApiError(400, 3, 'proto: (line 1:2): unknown field "plugins_input"')
        if wrong := shapes.faults(body, kind):
            raise ApiError(400, 3, "; ".join(wrong))
        return body

    def _check_namespace(self, namespace: str | None) -> str:
        if self.namespaces is None:
            return ""
        if not namespace:
            raise invalid("Namespace is required in multi-user mode")
        if namespace not in self.namespaces:
            raise ApiError(403, 7, f"User 'user@example.org' is not authorized in namespace {namespace}")
        return namespace

    # -- experiments

    def _health(self) -> Response:
        return jsonify(multi_user=self.namespaces is not None, pipeline_store="database")

    def _add_experiment(self, name: str, namespace: str) -> dict[str, Any]:
        experiment = {
            "experiment_id": new_id(),
            "display_name": name,
            "created_at": timestamp(time.time()),
            "namespace": namespace,
            "storage_state": "AVAILABLE",
        }
        self.state.experiments[experiment["experiment_id"]] = experiment
        return experiment

    def _list_experiments(self) -> Response:
        namespace = self._check_namespace(request.args.get("namespace"))
        mine = [item for item in self.state.experiments.values() if item["namespace"] in ("", namespace)]
        return _page("experiments", mine, "V2beta1ListExperimentsResponse")

    def _create_experiment(self) -> Response:
        body = self._body("V2beta1Experiment")
        namespace = self._check_namespace(body.get("namespace"))
        if not body.get("display_name"):
            raise invalid("experiment name is empty")
        with self.state.lock:
            if any(item["display_name"] == body["display_name"] for item in self.state.experiments.values()):
                raise ApiError(409, 6, f"Already exist error: experiment {body['display_name']} already exists")
            return _checked(self._add_experiment(body["display_name"], namespace), "V2beta1Experiment")

    # -- pipelines

    def _list_pipelines(self) -> Response:
        namespace = self._check_namespace(request.args.get("namespace"))
        mine = [item for item in self.state.pipelines.values() if item["namespace"] in ("", namespace)]
        return _page("pipelines", mine, "V2beta1ListPipelinesResponse")

    def _create_pipeline(self) -> Response:
        body = self._body("V2beta1Pipeline")
        namespace = self._check_namespace(body.get("namespace"))
        with self.state.lock:
            if any(item["name"] == body["name"] for item in self.state.pipelines.values()):
                raise ApiError(409, 6, f"Already exist error: pipeline {body['name']} already exists")
            pipeline = {
                "pipeline_id": new_id(),
                "name": body["name"],
                "display_name": body.get("display_name", body["name"]),
                "description": body.get("description", ""),
                "created_at": timestamp(time.time()),
                "namespace": namespace,
            }
            self.state.pipelines[pipeline["pipeline_id"]] = pipeline
        return _checked(pipeline, "V2beta1Pipeline")

    def _list_versions(self, pipeline_id: str) -> Response:
        if pipeline_id not in self.state.pipelines:
            raise not_found(f"Pipeline {pipeline_id}")
        mine = [item for item in self.state.versions.values() if item["pipeline_id"] == pipeline_id]
        return _page("pipeline_versions", mine, "V2beta1ListPipelineVersionsResponse")

    def _get_version(self, pipeline_id: str, version_id: str) -> Response:
        version = self.state.versions.get(version_id)
        if version is None or version["pipeline_id"] != pipeline_id:
            raise not_found(f"PipelineVersion {version_id}")
        return _checked(version, "V2beta1PipelineVersion")

    def _upload_version(self) -> Response:
        # This endpoint has errors of its own form.
        pipeline_id, name = request.args.get("pipelineid", ""), request.args.get("name", "")
        file = request.files.get("uploadfile")
        if file is None or not name or pipeline_id not in self.state.pipelines:
            return Response(
                '{"error_message": "Failed to create a pipeline version"}', 400, content_type="application/json"
            )
        package = file.read().decode()
        documents = list(yaml.load_all(package, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
        if not documents or "pipelineInfo" not in documents[0]:
            return Response('{"error_message": "invalid pipeline spec"}', 400, content_type="application/json")
        spec = documents[0] if len(documents) == 1 else {"pipeline_spec": documents[0], "platform_spec": documents[1]}
        with self.state.lock:
            versions = self.state.versions.values()
            if any(item["pipeline_id"] == pipeline_id and item["name"] == name for item in versions):
                text = '{"error_message": "Failed to create a pipeline version"}'
                return Response(text, 409, content_type="application/json")
            version = {
                "pipeline_id": pipeline_id,
                "pipeline_version_id": new_id(),
                "name": name,
                "display_name": request.args.get("display_name", name),
                "created_at": timestamp(time.time()),
                "pipeline_spec": spec,
            }
            self.state.versions[version["pipeline_version_id"]] = version
            self.state.packages[version["pipeline_version_id"]] = package
        return _checked(version, "V2beta1PipelineVersion")

    # -- runs

    def _list_runs(self) -> Response:
        experiment = request.args.get("experiment_id")
        if not experiment:
            self._check_namespace(request.args.get("namespace"))
        listed = [run.as_json() for run in self.state.runs.values()]
        mine = [run for run in listed if not experiment or run["experiment_id"] == experiment]
        return _page("runs", mine, "V2beta1ListRunsResponse")

    def _create_run(self) -> Response:
        body = self._body("V2beta1Run")
        return _checked(self._start(body).as_json(), "V2beta1Run")

    def _start(self, body: dict[str, Any]) -> Run:
        if not body.get("display_name"):
            raise invalid("The run name is empty")
        if body.get("experiment_id") not in self.state.experiments:
            raise not_found(f"Experiment {body.get('experiment_id')}")
        version_id = body.get("pipeline_version_reference", {}).get("pipeline_version_id")
        if version_id not in self.state.versions:
            raise not_found(f"PipelineVersion {version_id}")
        spec = self.state.versions[version_id]["pipeline_spec"]
        spec = spec.get("pipeline_spec", spec)
        arguments = body.get("runtime_config", {}).get("parameters", {})
        _check_arguments(spec, arguments)
        run_id, now = new_id(), time.time()
        data = {
            **body,
            "run_id": run_id,
            "storage_state": "AVAILABLE",
            "created_at": timestamp(now),
            "scheduled_at": timestamp(now) if "recurring_run_id" in body else "1970-01-01T00:00:00Z",
        }
        if self.plugin is not None and (output := self.plugin.start(data)):
            data["plugins_output"] = output
        name = f"{spec['pipelineInfo']['name']}-{run_id[:5]}"
        run = Run(data, Workflow(name, spec, int(now)), self.state.packages[version_id])
        run.set_state("PENDING")
        self.state.runs[run_id] = run
        self._execute(run)
        return run

    def _execute(self, run: Run) -> None:
        arguments = run.data.get("runtime_config", {}).get("parameters", {})
        mlflow = None
        if "plugins_output" in run.data and run.data["plugins_output"]["mlflow"]["state"] == "PLUGIN_SUCCEEDED":
            mlflow = self.plugin.task_settings(run.data["plugins_output"])
        if self.execute is not None:
            run.execution = self.execute(arguments)
        else:
            run.execution = LocalExecution(
                self.folder / "runs" / run.run_id,
                self.folder / "cache",
                run.package,
                arguments,
                {**self.pod_environment, "KFP_RUN_ID": run.run_id},
                mlflow,
            )
        run.thread = threading.Thread(target=self._follow_or_fail, args=(run,), daemon=True)
        run.thread.start()

    def _follow_or_fail(self, run: Run) -> None:
        """Let nobody wait for a run whose script is at fault, and tell of it when the server ends."""
        try:
            self._follow(run)
        except Exception as error:
            self._broken.append(error)
            with self.state.lock:
                run.set_state("FAILED")

    def _follow(self, run: Run) -> None:
        """Keep the workflow in step with what happens, until the run ends."""
        assert run.execution is not None
        run.set_state("RUNNING")
        for event in run.execution.events():
            with self.state.lock:
                _apply(run, event)
        with self.state.lock:
            terminated = run.state == "CANCELING"
            succeeded = run.execution.succeeded() and not terminated
            run.workflow.end(int(time.time()), succeeded=succeeded, terminated=terminated)
            state = "SUCCEEDED" if succeeded else "CANCELED" if terminated else "FAILED"
            if "plugins_output" in run.data:
                self.plugin.end(run.data["plugins_output"], state)
            run.set_state(state)

    def _find_run(self, run_id: str) -> Run:
        if run_id not in self.state.runs:
            raise not_found(f"Run {run_id}")
        return self.state.runs[run_id]

    def _get_run(self, run_id: str) -> Response:
        with self.state.lock:
            return _checked(self._find_run(run_id).as_json(), "V2beta1Run")

    def _terminate(self, run_id: str) -> Response:
        run = self._find_run(run_id)
        with self.state.lock:
            if run.state in FINAL:
                raise ApiError(400, 9, f"Failed to terminate run {run_id}: it has ended")
            run.set_state("CANCELING")
        assert run.execution is not None
        run.execution.terminate()
        return jsonify({})

    def _retry(self, run_id: str) -> Response:
        run = self._find_run(run_id)
        with self.state.lock:
            if run.state not in ("FAILED", "CANCELED"):
                raise ApiError(400, 9, "Workflow must be Failed/Error to retry")
            if run.thread is not None and run.thread is not threading.current_thread():
                run.thread.join(timeout=10)
            run.workflow.reopen()
            run.set_state("PENDING")
            if "plugins_output" in run.data:
                self.plugin.retry(run.data["plugins_output"])
        self._execute(run)
        return jsonify({})

    # -- logs: not part of the v2 API

    def _get_run_v1(self, run_id: str) -> Response:
        run = self._find_run(run_id)
        with self.state.lock:
            manifest = run.workflow.manifest()
        return jsonify(run={"id": run_id}, pipeline_runtime={"workflow_manifest": manifest})

    def _log(self, run_id: str, pod: str) -> Response:
        run = self._find_run(run_id)
        with self.state.lock:
            node = run.workflow.pods().get(pod)
        text = _log_of(run, node) if node else None
        if text is None:
            message = json.dumps({"error_message": f"Failed to read logs for run {run_id}"})
            return Response(message, 500, content_type="application/json")
        return Response(text, content_type="text/plain")

    # -- schedules

    def _list_schedules(self) -> Response:
        experiment = request.args.get("experiment_id")
        if not experiment:
            self._check_namespace(request.args.get("namespace"))
        listed = self.state.schedules.values()
        mine = [schedule for schedule in listed if not experiment or schedule["experiment_id"] == experiment]
        return _page("recurringRuns", mine, "V2beta1ListRecurringRunsResponse")

    def _create_schedule(self) -> Response:
        body = self._body("V2beta1RecurringRun")
        if body.get("experiment_id") not in self.state.experiments:
            raise not_found(f"Experiment {body.get('experiment_id')}")
        if not 1 <= int(body.get("max_concurrency", 0)) <= 10:
            raise invalid("Max concurrency of a recurring run must be at least 1 and at most 10")
        trigger = body.get("trigger", {})
        cron = trigger.get("cron_schedule", {}).get("cron")
        if cron is not None and not cron.startswith("@") and len(cron.split()) != 6:
            raise invalid("Schedule cron is not a supported format")
        now = timestamp(time.time())
        schedule = {
            **body,
            "recurring_run_id": new_id(),
            "created_at": now,
            "updated_at": now,
            "status": "ENABLED" if body.get("mode") == "ENABLE" else "DISABLED",
        }
        self.state.schedules[schedule["recurring_run_id"]] = schedule
        return _checked(schedule, "V2beta1RecurringRun")

    def _find_schedule(self, schedule_id: str) -> dict[str, Any]:
        if schedule_id not in self.state.schedules:
            raise not_found(f"RecurringRun {schedule_id}")
        return self.state.schedules[schedule_id]

    def _change_schedule(self, schedule_id: str, change: str) -> Response:
        schedule = self._find_schedule(schedule_id)
        modes = {"enable": ("ENABLE", "ENABLED"), "disable": ("DISABLE", "DISABLED")}
        schedule["mode"], schedule["status"] = modes[change]
        return jsonify({})

    def _delete_schedule(self, schedule_id: str) -> Response:
        self._find_schedule(schedule_id)
        del self.state.schedules[schedule_id]
        return jsonify({})


def _apply(run: Run, event: dict[str, Any]) -> None:
    task, second = event["task"], int(event["time"])
    scope = tuple((loop, index) for loop, index in event["scope"])
    if run.workflow.has_succeeded(task, scope):
        return
    if event["kind"] == "started":
        run.workflow.start(task, scope, second)
    elif event["kind"] == "attempt":
        run.workflow.attempt(task, scope, event["attempt"], second)
    elif event["kind"] == "cached":
        run.workflow.take_from_cache(task, scope, second)
    else:
        run.workflow.finish(task, scope, event["succeeded"], second)


def _log_of(run: Run, node: str) -> str | None:
    """Return what the pod of a node printed."""
    assert run.execution is not None
    parts = node.split(".")
    task = parts[-2]
    scope = [
        [parts[i - 1], int(found[1])]
        for i, part in enumerate(parts)
        if (found := re.fullmatch(r"iteration-iterations\((\d+):\d+\)", part))
    ]
    attempt = re.search(r"\((\d+)\)$", node)
    return run.execution.log(task, scope, int(attempt[1]) if attempt else 0)


def _check_arguments(spec: dict[str, Any], arguments: dict[str, Any]) -> None:
    inputs = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    if unknown := sorted(set(arguments) - set(inputs)):
        raise invalid(f"unknown parameters: {unknown}")
    required = {name for name, value in inputs.items() if "defaultValue" not in value and not value.get("isOptional")}
    if missing := sorted(required - set(arguments)):
        raise invalid(f"missing parameters: {missing}")


def _checked(data: dict[str, Any], kind: str) -> Response:
    """Answer, once the answer is found to have the shape that the API has."""
    if wrong := shapes.faults(data, kind):
        raise ApiError(500, 13, "the test server's answer has the wrong shape: " + "; ".join(wrong))
    return jsonify(data)


def _page(name: str, items: list[dict[str, Any]], kind: str) -> Response:
    """Answer with those items that pass the filter, sorted and cut to the page."""
    for predicate in json.loads(request.args.get("filter") or "{}").get("predicates", []):
        if predicate["operation"] not in _EQUALS or predicate["key"] not in ("display_name", "name"):
            raise invalid(f"filter {predicate}")
        wanted = predicate.get("string_value", predicate.get("stringValue"))
        items = [item for item in items if item[predicate["key"]] == wanted]
    total = len(items)
    field, _, order = request.args.get("sort_by", "").partition(" ")
    if field:
        # As entered for equal times: the newest was added last.
        items = sorted(items, key=lambda item: item[field])
        items = items[::-1] if order == "desc" else items
    size = int(request.args.get("page_size") or 20)
    start = int(request.args.get("page_token") or 0)
    data: dict[str, Any] = {name: items[start : start + size], "total_size": total}
    if start + size < total:
        data["next_page_token"] = str(start + size)
    # Empty lists are left out of protobuf's JSON.
    return _checked({key: value for key, value in data.items() if value}, kind)


def _told(error: ApiError) -> Response:
    return Response(
        json.dumps({"error": error.message, "code": error.code, "message": error.message, "details": []}),
        error.status,
        content_type="application/json",
    )
