"""`vitalfuse runs`, `logs`, `cancel`, `retry` and `schedule` against a server that speaks KFP's API."""

import pytest
from mlflow.exceptions import MlflowException

from pipelines.tracking import open_client
from tests.kfp_server import scripts
from tests.kfp_server.execution import ScriptedExecution
from tests.kfp_server.server import KfpServer
from tests.pipelines.interrupted import Interrupted

SCHEDULES = "/apis/v2beta1/recurringruns"
UNKNOWN = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def serve(tmp_path):
    """Start a server whose runs go by these scripts, one after the other; a script that fails a step fails its run."""
    servers = []

    def start(*scripted, logs=None):
        left = list(scripted)

        def execute(_):
            script = left.pop(0)
            failed = any(isinstance(step, dict) and step.get("succeeded") is False for step in script)
            return ScriptedExecution(script, result=not failed, logs=logs)

        server = KfpServer(tmp_path / "kfp", execute=execute)
        servers.append(server)
        return server.__enter__()

    yield start
    for server in servers:
        server.__exit__()


def _refused(result, *words):
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    for word in words:
        assert word in line


def _parent(tracking_uri):
    client = open_client(tracking_uri)
    experiment = client.get_experiment_by_name("vitalfuse")
    (parent,) = client.search_runs([experiment.experiment_id])
    return parent


# -- runs


def test_runs_are_listed_with_their_state_the_newest_first(serve, submitted):
    server = serve(scripts.happy(), scripts.failing("train"))
    assert submitted(server, "runs").stdout == "no runs\n"
    for _ in range(2):
        submitted(server, "submit")
        server.wait(list(server.state.runs)[-1])
    first, second = server.state.runs
    lines = submitted(server, "runs").stdout.splitlines()
    assert lines[0].split() == ["id", "name", "state", "created", "duration"]
    assert lines[1].startswith(second) and "failed" in lines[1]
    assert lines[2].startswith(first) and "succeeded" in lines[2] and lines[2].rstrip().endswith(" s")
    assert "tiny 20" in lines[1]
    assert len(submitted(server, "runs", "--limit", "1").stdout.splitlines()) == 2
    assert submitted(server, "runs", "--experiment", "Default").stdout == "no runs\n"


def test_runs_of_an_experiment_that_is_not_there(serve, submitted):
    result = submitted(serve(), "runs", "--experiment", "Defalt")
    _refused(result, "there is no KFP experiment 'Defalt'", "did you mean 'Default'?", "Correct it.")
    assert "--create-experiment" not in result.stderr


@pytest.mark.parametrize("width", [80, 60])
def test_runs_and_schedules_fit_a_small_terminal(serve, submitted, terminal, width):
    server = serve(scripts.happy())
    submitted(server, "submit")
    (run_id,) = server.state.runs
    server.wait(run_id)
    submitted(server, "schedule", "create", "--cron", "0 3 * * 1", "--name", "every Monday, before the ward round")
    (schedule_id,) = (item["recurring_run_id"] for item in server.state.schedules.values())
    screen = terminal(width, 24)
    for command, identifier, facts in (
        (["runs"], run_id, ["succeeded", "tiny 20", "created", "duration"]),
        (["schedule", "list"], schedule_id, ["on", "every Monday, before the ward round", "cron 0 0 3 * * 1"]),
    ):
        (lines,) = screen.frames(submitted(server, *command).stdout)
        assert max(map(len, lines)) <= width
        assert lines[0].startswith(identifier)
        assert all(fact in " ".join(" ".join(lines).split()) for fact in facts), lines
        assert "…" not in "".join(lines)


# -- logs


def test_logs_of_a_run_show_every_step_and_the_end_of_what_failed(serve, submitted):
    # What looks like markup, or like the name of a picture, is neither.
    log = "".join(f"line {i} [red]:x:[/] 12:100:07\n" for i in range(100)) + "ValueError: too few\n"
    server = serve(scripts.failing("train"), logs={"train": log})
    submitted(server, "submit")
    (run_id,) = server.state.runs
    server.wait(run_id)
    result = submitted(server, "logs", run_id)
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["✗", "train", "failed"] in [row[:3] for row in rows]
    assert ["-", "register", "skipped"] in [row[:3] for row in rows]
    assert "line 99" in result.stdout and "ValueError: too few" in result.stdout
    assert "line 50" not in result.stdout
    assert submitted(server, "logs", run_id, "train").stdout == log


def test_logs_of_a_step_that_has_none(serve, submitted):
    server = serve(scripts.happy(), scripts.happy(cached=("ingest",)))
    for _ in range(2):
        submitted(server, "submit")
        server.wait(list(server.state.runs)[-1])
    run_id, with_cache = server.state.runs
    _refused(submitted(server, "logs", with_cache, "ingest"), "ingest printed nothing: it is cached")
    _refused(submitted(server, "logs", run_id, "train"), "neither this server nor kubectl", f"pipeline/runid={run_id}")
    _refused(submitted(server, "logs", run_id, "trian"), "no step 'trian'", "did you mean 'train'?")
    _refused(submitted(server, "logs", UNKNOWN), f"there is no run '{UNKNOWN}'", "vitalfuse runs")


# -- cancel


def test_cancel_ends_the_run_and_closes_the_mlflow_run(serve, submitted, tracking_uri):
    server = serve([{"kind": "started", "task": "open-run"}, 30.0])
    submitted(server, "submit")
    (run_id,) = server.state.runs
    result = submitted(server, "cancel", run_id, "--tracking-uri", tracking_uri)
    assert result.exit_code == 0, result.output
    assert "cancelled after" in result.stdout
    assert server.state.runs[run_id].state == "CANCELED"
    assert _parent(tracking_uri).info.status == "KILLED"
    _refused(submitted(server, "cancel", run_id), "has ended already (CANCELED)")
    _refused(submitted(server, "cancel", UNKNOWN), "there is no run")


@pytest.mark.parametrize(("name", "value", "code"), [("time", Interrupted, 130), ("PATIENCE_SECONDS", 0, 124)])
def test_cancel_that_does_not_see_the_end_closes_the_mlflow_run_as_well(
    name, value, code, serve, submitted, tracking_uri, monkeypatch
):
    server = serve([{"kind": "started", "task": "open-run"}, 30.0])
    submitted(server, "submit")
    (run_id,) = server.state.runs
    # The first is asked for before it is ended.
    server.faults.order("GET", f"/apis/v2beta1/runs/{run_id}", times=1)
    server.faults.order("GET", f"/apis/v2beta1/runs/{run_id}", status=503)
    monkeypatch.setattr(f"pipelines.run_states.{name}", value)
    result = submitted(server, "cancel", run_id, "--tracking-uri", tracking_uri)
    assert result.exit_code == code, result.output
    assert len(result.stderr.splitlines()) == 1
    assert _parent(tracking_uri).info.status == "KILLED"


def test_cancel_without_waiting_closes_the_mlflow_run_as_well(serve, submitted, tracking_uri, monkeypatch):
    server = serve([{"kind": "started", "task": "open-run"}, 30.0])
    submitted(server, "submit")
    (run_id,) = server.state.runs
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    result = submitted(server, "cancel", run_id, "--no-wait")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == f"cancelling {run_id}"
    assert _parent(tracking_uri).info.status == "KILLED"


def test_cancel_without_an_mlflow_server_says_what_is_left(serve, submitted, tracking_uri):
    server = serve([30.0])
    submitted(server, "submit")
    (run_id,) = server.state.runs
    result = submitted(server, "cancel", run_id)
    assert result.exit_code == 0
    assert "warning: the MLflow run is left as it is: no --tracking-uri or MLFLOW_TRACKING_URI" in result.stderr
    assert _parent(tracking_uri).info.status == "RUNNING"


# -- retry


def test_retry_repeats_what_failed_and_the_mlflow_run_follows(serve, submitted, tracking_uri):
    server = serve(scripts.failing("train"), [lambda: _finish_steps(tracking_uri, parent), *scripts.happy()])
    assert submitted(server, "submit", "--wait").exit_code == 1
    parent = _parent(tracking_uri)
    assert parent.info.status == "FAILED"
    open_client(tracking_uri).set_tag(parent.info.run_id, "vitalfuse.error", "train was evicted")
    (run_id,) = server.state.runs
    result = submitted(server, "retry", run_id, "--wait", "--tracking-uri", tracking_uri)
    assert result.exit_code == 0, result.output
    assert f"KFP run   {server.url}/#/runs/details/{run_id}" in result.stdout
    assert "train: done" in result.stdout
    assert server.state.runs[run_id].state == "SUCCEEDED"
    # KFP does not run the exit task a second time, and no task of this script logs anything: the command closes it.
    run = open_client(tracking_uri).get_run(parent.info.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test/macro_auc"] == 0.8
    assert run.data.tags["vitalfuse.model"] == "diagnosis/3"
    assert "vitalfuse.error" not in run.data.tags
    assert "model     diagnosis version 3" in result.stdout


def test_a_retried_run_shows_no_old_error_while_it_is_on(serve, submitted, tracking_uri):
    from pipelines.cluster_tracking import find_parent_run

    server = serve(scripts.failing("train"))
    submitted(server, "submit", "--wait")
    client, parent = open_client(tracking_uri), _parent(tracking_uri)
    client.set_tag(parent.info.run_id, "vitalfuse.error", "train was evicted")
    (run_id,) = server.state.runs
    found = find_parent_run(tracking_uri, _kfp_run(server, run_id))
    for _ in range(2):  # Also where the run has none.
        found.reopen()
    assert found.get().info.status == "RUNNING" and "vitalfuse.error" not in found.get().data.tags


def _kfp_run(server, run_id):
    from pipelines.kfp_api import Connection, KfpApi

    return KfpApi(Connection(server.url)).runs.run_service_get_run(run_id)


def _finish_steps(tracking_uri, parent):
    """Log what the repeated steps would."""
    client = open_client(tracking_uri)
    for step, metrics, tags in (
        ("compare", {"test/macro_auc": 0.8}, {}),
        ("register", {}, {"vitalfuse.model": "diagnosis/3"}),
    ):
        tags = {"mlflow.parentRunId": parent.info.run_id, "vitalfuse.step": step, **tags}
        run = client.create_run(parent.info.experiment_id, tags=tags).info.run_id
        for name, value in metrics.items():
            client.log_metric(run, name, value)
        client.set_terminated(run)


def test_retry_that_fails_again(serve, submitted, tracking_uri):
    server = serve(scripts.failing("train"), scripts.failing("train"), scripts.happy())
    submitted(server, "submit", "--wait")
    (run_id,) = server.state.runs
    result = submitted(server, "retry", run_id, "--wait", "--tracking-uri", tracking_uri)
    assert result.exit_code == 1
    assert _parent(tracking_uri).info.status == "FAILED"
    assert submitted(server, "retry", run_id).exit_code == 0
    assert server.wait(run_id).state == "SUCCEEDED"


def test_retry_goes_on_where_mlflow_fails(serve, submitted, tracking_uri, monkeypatch):
    def fail(*_):
        raise MlflowException("API request failed")

    server = serve(scripts.failing("train"), scripts.happy(), scripts.failing("train"), scripts.happy())
    for method in ("pipelines.cluster_tracking.ParentRun.reopen", "pipelines.cluster_view.find_parent_run"):
        submitted(server, "submit", "--wait")
        run_id = list(server.state.runs)[-1]
        monkeypatch.setattr(method, fail)
        result = submitted(server, "retry", run_id, "--wait", "--tracking-uri", tracking_uri)
        assert result.exit_code == 0, result.output
        assert "(MlflowException)" in result.stderr
        assert server.state.runs[run_id].state == "SUCCEEDED"


def test_retry_of_what_has_not_failed_is_refused(serve, submitted):
    server = serve(scripts.happy())
    submitted(server, "submit")
    (run_id,) = server.state.runs
    server.wait(run_id)
    _refused(submitted(server, "retry", run_id), "nothing to repeat", "SUCCEEDED")
    _refused(submitted(server, "retry", UNKNOWN), "there is no run")


# -- schedule


def test_a_schedule_is_created_listed_paused_resumed_and_deleted(serve, submitted):
    server = serve()
    assert submitted(server, "schedule", "list").stdout == "no schedules\n"
    arguments = ["--cron", "0 3 * * 1", "--start", "2027-01-01", "--end", "2028-01-01T06:00", "--no-catchup"]
    made = submitted(server, "schedule", "create", *arguments, "--name", "weekly")
    assert made.exit_code == 0, made.output
    (schedule,) = server.state.schedules.values()
    identifier = schedule["recurring_run_id"]
    assert f"schedule  {identifier}: cron 0 0 3 * * 1" in made.stdout
    assert schedule["trigger"]["cron_schedule"] == {
        "cron": "0 0 3 * * 1",
        "start_time": "2027-01-01T00:00:00+00:00",
        "end_time": "2028-01-01T06:00:00+00:00",
    }
    assert (schedule["no_catchup"], schedule["max_concurrency"], schedule["mode"]) == (True, "1", "ENABLE")
    parameters = schedule["runtime_config"]["parameters"]
    # Each run opens an MLflow run of its own.
    assert parameters["mlflow_run_id"] == "" and parameters["settings"]["name"] == "tiny"

    def state():
        return submitted(server, "schedule", "list").stdout.splitlines()[1]

    assert identifier in state() and "weekly" in state() and " on " in state()
    assert submitted(server, "schedule", "pause", identifier).stdout == f"paused {identifier}\n"
    assert " paused " in state() and schedule["status"] == "DISABLED"
    assert submitted(server, "schedule", "resume", identifier).stdout == f"resumed {identifier}\n"
    assert schedule["status"] == "ENABLED"
    assert submitted(server, "schedule", "delete", identifier).stdout == f"deleted {identifier}\n"
    assert not server.state.schedules
    for change in ("pause", "resume", "delete"):
        _refused(submitted(server, "schedule", change, identifier), "there is no schedule", "vitalfuse schedule list")


def test_a_scheduled_run_can_be_watched_like_any_other(serve, submitted):
    server = serve(scripts.happy())
    assert submitted(server, "schedule", "create", "--every", "12h").exit_code == 0
    (schedule,) = server.state.schedules.values()
    assert schedule["trigger"] == {"periodic_schedule": {"interval_second": "43200"}}
    assert schedule.get("no_catchup") is False
    run = server.trigger(schedule["recurring_run_id"])
    server.wait(run.run_id)
    assert run.run_id in submitted(server, "runs").stdout
    assert "cross_validate[random_forest]" in submitted(server, "logs", run.run_id).stdout


def test_a_schedule_uploads_the_pipeline_once_too(serve, submitted):
    server = serve(scripts.happy())
    submitted(server, "submit")
    assert "(unchanged)" in submitted(server, "schedule", "create", "--every", "1d").stdout
    assert len(server.state.versions) == 1


def test_a_schedule_that_was_made_but_not_answered_is_not_made_twice(serve, submitted):
    server = serve()
    create = ("schedule", "create", "--every", "12h")
    first = submitted(server, *create)
    server.faults.order("POST", SCHEDULES, after=True, status=504, times=1)
    second = submitted(server, *create)
    assert second.exit_code == 0, second.output
    assert server.faults.count("POST", SCHEDULES) == 2
    identifiers = list(server.state.schedules)
    assert len(identifiers) == 2
    # Not the older one of the same name.
    assert identifiers[0] in first.stdout and f"schedule  {identifiers[1]}: every 12h" in second.stdout


def test_a_schedule_that_was_not_made_is_not_taken_for_one_of_the_same_name(serve, submitted):
    server = serve()
    submitted(server, "schedule", "create", "--every", "12h")
    server.faults.order("POST", SCHEDULES, status=500)
    result = submitted(server, "schedule", "create", "--every", "12h")
    assert result.exit_code == 1
    assert "failed (500" in result.stderr
    assert len(server.state.schedules) == 1


def test_a_schedule_that_can_t_be_made_uploads_nothing(serve, submitted):
    server = serve()
    _refused(submitted(server, "schedule", "create"), "either --cron or --every")
    _refused(submitted(server, "schedule", "create", "--every", "soon"), "--every", "is no span of time")
    assert not server.state.pipelines
