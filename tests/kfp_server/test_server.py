"""The server for tests itself: it runs what is submitted, and reports it as KFP does."""

import json
import time

import kfp_server_api as api
import pytest
from kfp import compiler, dsl
from kfp_server_api import ApiClient, Configuration

from pipelines.kfp_api import Connection, KfpApi
from pipelines.run_plan import plan_tasks
from pipelines.run_states import step_states
from tests.kfp_server import shapes
from tests.kfp_server.server import KfpServer


@dsl.component(base_image="python", install_kfp_package=False)
def load(name: str) -> str:
    return name.upper()


@dsl.component(base_image="python", install_kfp_package=False)
def check(text: str, model: str, flag: str) -> str:
    import os
    import time
    from pathlib import Path

    print("checking", model, os.environ.get("KFP_RUN_ID"), os.environ.get("TOLD"), os.environ.get("SECRET_OF_TESTS"))
    if model == "bad" and not Path(flag).exists():
        raise ValueError(f"{model} is bad")
    if model == "slow":
        time.sleep(60)
    return f"{text}:{model}"


@dsl.component(base_image="python", install_kfp_package=False)
def tidy(status: dsl.PipelineTaskFinalStatus):
    print("ended as", status.state)


@dsl.pipeline(name="tiny")
def tiny(name: str, models: list, flag: str):
    exit_task = tidy().set_caching_options(False)
    with dsl.ExitHandler(exit_task):
        loaded = load(name=name)
        with dsl.ParallelFor(models) as model:
            check(text=loaded.output, model=model, flag=flag).set_env_variable("TOLD", "by the pipeline")


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_OF_TESTS", "not for pods")
    with KfpServer(tmp_path / "kfp") as running:
        yield running


@pytest.fixture
def start(server, tmp_path):
    """Upload the tiny pipeline and start a run of it with these models."""
    client = KfpApi(Connection(server.url))
    package = tmp_path / "tiny.yaml"
    compiler.Compiler().compile(tiny, str(package))
    pipeline = client.pipelines.pipeline_service_create_pipeline(api.V2beta1Pipeline(name="tiny"))
    version = client.uploads.upload_pipeline_version(str(package), name="v1", pipelineid=pipeline.pipeline_id)
    (experiment,) = server.state.experiments

    def call(*models, name="data"):
        arguments = {"name": name, "models": list(models), "flag": str(tmp_path / "flag")}
        body = api.V2beta1Run(
            display_name="run",
            experiment_id=experiment,
            pipeline_version_reference=api.V2beta1PipelineVersionReference(
                pipeline_id=pipeline.pipeline_id, pipeline_version_id=version.pipeline_version_id
            ),
            runtime_config=api.V2beta1RuntimeConfig(parameters=arguments),
        )
        run = client.runs.run_service_create_run(body)

        def states():
            now = client.runs.run_service_get_run(run.run_id)
            return {state.name: state.state for state in step_states(now, plan_tasks(version.pipeline_spec, arguments))}

        return client, run.run_id, states

    return call


def _log(client, server, run_id, task):
    (pod,) = [pod for pod, node in server.state.runs[run_id].workflow.pods().items() if f".{task}." in node]
    return client.get(f"/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log")


def test_a_run_is_run_and_the_next_one_comes_from_the_cache(server, start):
    client, run_id, states = start("a", "b")
    assert server.wait(run_id).state == "SUCCEEDED"
    assert set(states()) == {"load", "check[a]", "check[b]", "tidy"}
    assert states()["tidy"] == "done"
    assert "ended as SUCCEEDED" in _log(client, server, run_id, "tidy")
    client, again, states = start("a", "b")
    assert server.wait(again).state == "SUCCEEDED"
    assert states() == {"load": "cached", "check[a]": "cached", "check[b]": "cached", "tidy": "done"}


def test_a_run_that_fails_in_the_middle_runs_its_exit_task_and_can_be_retried(server, start, tmp_path):
    client, run_id, states = start("bad")
    assert server.wait(run_id).state == "FAILED"
    assert states() == {"load": "done", "check[bad]": "failed", "tidy": "done"}
    log = _log(client, server, run_id, "check")
    # What the pipeline and the server set reaches the pod; what the tests' environment has does not.
    assert f"checking bad {run_id} by the pipeline None" in log
    assert "ValueError: bad is bad" in log
    assert "ended as FAILED" in _log(client, server, run_id, "tidy")
    (tmp_path / "flag").touch()
    client.runs.run_service_retry_run(run_id)
    assert server.wait(run_id).state == "SUCCEEDED"
    assert states()["check[bad]"] == "done"
    # Neither what succeeded nor the exit task was run again.
    assert "ended as FAILED" in _log(client, server, run_id, "tidy")
    history = [status["state"] for status in server.state.runs[run_id].data["state_history"]]
    assert history == ["PENDING", "RUNNING", "FAILED", "PENDING", "RUNNING", "SUCCEEDED"]


def test_a_terminated_run_ends_its_processes_and_runs_no_exit_task(server, start):
    client, run_id, states = start("slow")
    deadline = time.monotonic() + 300
    while states()["check[slow]"] != "running":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    client.runs.run_service_terminate_run(run_id)
    assert server.wait(run_id).state == "CANCELED"
    assert states() == {"load": "done", "check[slow]": "cancelled", "tidy": "skipped"}


def test_arguments_and_fields_that_the_api_does_not_know_are_refused(server, start):
    _, run_id, _ = start("a")
    data = server.state.runs[run_id].data
    for change, says in (
        ({"runtime_config": {"parameters": {"name": "x"}}}, "missing parameters: ['flag', 'models']"),
        ({"runtime_config": {"parameters": {**data["runtime_config"]["parameters"], "more": 1}}}, "unknown parameters"),
        ({"experiment_id": "nowhere"}, "Experiment nowhere not found"),
        ({"colour": "red"}, "unknown field of V2beta1Run"),
        ({"display_name": 7}, ".display_name: 7 is no <class 'str'>"),
    ):
        fields = ("display_name", "experiment_id", "pipeline_version_reference", "runtime_config")
        body = {**{name: data[name] for name in fields}, **change}
        plain = ApiClient(Configuration(host=server.url))
        with pytest.raises(api.ApiException) as caught:
            plain.request("POST", f"{server.url}/apis/v2beta1/runs", headers={}, body=body)
        assert says in json.loads(caught.value.body)["message"]
    server.wait(run_id)


def test_shapes_are_checked_all_the_way_down():
    run = {"run_id": "r", "state": "RUNNING", "run_details": {"task_details": [{"state": "DONE", "child_tasks": [{}]}]}}
    assert shapes.faults(run, "V2beta1Run") == [
        ".run_details.task_details[0].state: 'DONE' is none of " + str(api.V2beta1RuntimeState.allowable_values)
    ]
    assert shapes.faults({"plugins_output": {"mlflow": {"entries": {"a": {"worth": 1}}}}}, "V2beta1Run")
    assert shapes.faults({"state_history": {}}, "V2beta1Run") == [".state_history: {} is no <class 'list'>"]
