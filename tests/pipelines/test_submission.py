"""`vitalfuse submit` against a server that speaks KFP's API: what is uploaded, started, shown; and what goes wrong."""

import datetime
import json
import re
import shutil
import time
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from data_schemas.errors import InputError
from pipelines.local import pipeline_arguments
from pipelines.settings import load_settings
from pipelines.tracking import PROCESS_TAG, open_client
from tests.kfp_server import scripts
from tests.kfp_server.execution import ScriptedExecution
from tests.kfp_server.server import KfpServer
from tests.mlflow_server import MlflowServer
from tests.pipelines.interrupted import Interrupted
from training.names import MODEL_NAMES

RUNS = "/apis/v2beta1/runs"
ONE_RUN = "/apis/v2beta1/runs/[^/]+"
UPLOAD = "/apis/v2beta1/pipelines/upload_version"


@pytest.fixture
def server(tmp_path):
    with KfpServer(tmp_path / "kfp", execute=lambda _: ScriptedExecution(scripts.happy())) as running:
        yield running


def _serve(tmp_path, script=None, **arguments):
    result = arguments.pop("result", True)
    logs = arguments.pop("logs", None)
    return KfpServer(
        tmp_path / "kfp",
        execute=lambda _: ScriptedExecution(script or scripts.happy(), result=result, logs=logs),
        **arguments,
    )


def _wait_until(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)


def _only(server):
    (run,) = server.state.runs.values()
    return run


def _parents(tracking_uri, experiment="vitalfuse"):
    client = open_client(tracking_uri)
    found = client.get_experiment_by_name(experiment)
    return client.search_runs([found.experiment_id]) if found else []


def _refused(result, *words, code=2):
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    lines = [line for line in result.stderr.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("vitalfuse: ")
    for word in words:
        assert word in lines[0], lines[0]


# -- what is started


def test_the_run_gets_the_settings_as_arguments_and_both_addresses_are_printed(server, submitted, tracking_uri):
    result = submitted(server, "submit")
    assert result.exit_code == 0, result.output
    run, (parent,) = _only(server), _parents(tracking_uri)
    expected = pipeline_arguments(load_settings(Path("cluster.yaml"))) | {"mlflow_run_id": parent.info.run_id}
    assert run.data["runtime_config"]["parameters"] == json.loads(json.dumps(expected))
    lines = result.stdout.splitlines()
    assert f"KFP run   {server.url}/#/runs/details/{run.run_id}" in lines
    assert f"MLflow    run {parent.info.run_id} in {tracking_uri}" in lines
    experiment = server.state.experiments[run.data["experiment_id"]]
    assert experiment["display_name"] == "vitalfuse"


def test_the_mlflow_run_is_tied_to_the_kfp_run_and_to_no_process_of_this_machine(server, submitted, tracking_uri):
    submitted(server, "submit")
    (parent,) = _parents(tracking_uri)
    assert parent.info.status == "RUNNING"
    assert parent.data.tags["vitalfuse.kfp_run_id"] == _only(server).run_id
    assert parent.data.tags["vitalfuse.kfp_run_url"].endswith(_only(server).run_id)
    assert parent.data.params["preprocess.folds"] == "2"
    # Else the next run on this machine would close it, as the rest of a process that is gone.
    assert PROCESS_TAG not in parent.data.tags


def test_links_of_a_server_lead_to_the_run(server, submitted, monkeypatch):
    from pipelines.cluster_tracking import ParentRun
    from pipelines.tracking import Store

    parent = ParentRun(Store("http://me:secret@mlflow.example:5000/", "7", "", ""), "abc")
    assert parent.url == "http://mlflow.example:5000/#/experiments/7/runs/abc"
    monkeypatch.setenv("KF_PIPELINES_UI_ENDPOINT", "https://kubeflow.example/pipeline/")
    result = submitted(server, "submit")
    run_id = _only(server).run_id
    assert f"https://kubeflow.example/pipeline/#/runs/details/{run_id}" in result.stdout


def test_an_unchanged_pipeline_is_uploaded_once(server, submitted):
    first, second = submitted(server, "submit"), submitted(server, "submit", "--set", "train.optimiser.epochs=3")
    assert "(uploaded)" in first.stdout
    assert "(unchanged)" in second.stdout
    assert server.faults.count("POST", UPLOAD) == 1
    assert len(server.state.pipelines) == len(server.state.versions) == 1
    third = submitted(server, "submit", "--set", "cluster.parallelism=7")
    assert "(uploaded)" in third.stdout
    assert len(server.state.pipelines) == 1
    assert len({version["name"] for version in server.state.versions.values()}) == 2


def test_who_uploads_at_the_same_time_shares_one_version(server, submitted):
    submitted(server, "submit")
    # Each looks, finds nothing, and then is told that it is there.
    server.faults.order("GET", "/apis/v2beta1/pipelines", status=200, body="{}", times=1)
    server.faults.order("GET", "/apis/v2beta1/pipelines/[^/]+/versions", status=200, body="{}", times=1)
    server.faults.order("GET", "/apis/v2beta1/experiments", status=200, body="{}", times=1)
    result = submitted(server, "submit")
    assert result.exit_code == 0, result.output
    assert "(unchanged)" in result.stdout
    assert len(server.state.pipelines) == len(server.state.versions) == 1
    assert server.faults.count("POST", UPLOAD) == 2
    assert len(server.state.runs) == 2


def test_a_conflict_over_something_else_is_told(server, submitted):
    server.faults.order("POST", UPLOAD, status=409, body='{"error_message": "Failed to create a pipeline version"}')
    _refused(submitted(server, "submit"), "409", "Failed to create a pipeline version")


# -- experiments, namespaces, tokens


def test_a_mistyped_experiment_is_refused_and_none_is_made(server, submitted):
    server._add_experiment("sepsis", "")
    _refused(submitted(server, "submit", "--experiment", "sepsys"), "--experiment", "did you mean 'sepsis'?")
    assert {item["display_name"] for item in server.state.experiments.values()} == {"Default", "sepsis"}
    assert not server.state.runs
    assert submitted(server, "submit", "--experiment", "sepsis").exit_code == 0
    assert submitted(server, "submit", "--experiment", "new", "--create-experiment").exit_code == 0
    assert "new" in {item["display_name"] for item in server.state.experiments.values()}


def test_a_server_with_several_users_wants_a_namespace(tmp_path, submitted):
    with _serve(tmp_path, namespaces=["team"]) as server:
        _refused(submitted(server, "submit"), "--namespace", "several users")
        _refused(submitted(server, "submit", "--namespace", "others"), "403", "not authorized", "others")
        assert submitted(server, "submit", "--namespace", "team").exit_code == 0
        (pipeline,) = server.state.pipelines.values()
        assert pipeline["namespace"] == "team"


@pytest.mark.parametrize("given", ["option", "KF_PIPELINES_TOKEN", "KFP_TOKEN", "file"])
def test_a_token_is_taken_from_several_places(given, tmp_path, submitted, monkeypatch):
    arguments = []
    if given == "option":
        arguments = ["--token", "s3cret"]
    elif given == "file":
        (tmp_path / "token").write_text("s3cret\n")
        arguments = ["--token-file", "token"]
    else:
        monkeypatch.setenv(given, "s3cret")
    with _serve(tmp_path, token="s3cret") as server:
        result = submitted(server, "submit", *arguments)
        assert result.exit_code == 0, result.output
        assert "s3cret" not in result.output


def test_a_wrong_token_is_told_and_never_shown(tmp_path, submitted):
    with _serve(tmp_path, token="s3cret") as server:
        _refused(submitted(server, "runs"), "--token", "wants a token (401)", "KF_PIPELINES_TOKEN")
        wrong = submitted(server, "runs", "--token", "wr0ng")
        _refused(wrong, "--token", "does not accept the token (401)")
        assert "wr0ng" not in wrong.output
        _refused(submitted(server, "runs", "--token-file", "nowhere"), "nowhere", "--token-file", "can't be read")
        _refused(submitted(server, "runs", "--token", "two words"), "--token", "blanks")


# -- addresses


def test_a_host_that_is_none(submitted, vitalfuse):
    _refused(submitted("http://127.0.0.1:1", "runs"), "--host", "nothing answers at http://127.0.0.1:1")
    _refused(submitted("http://no-such-host.invalid", "runs"), "--host", "there is no host of the name")
    _refused(submitted("kubeflow.example.org", "runs"), "--host", "is no address", "https://")
    _refused(vitalfuse("runs"), "--host", "no KFP server is named", "KF_PIPELINES_ENDPOINT")
    for host in ("http://", "http://[::1", "http://127.0.0.1:99999", "http://127.0.0.1:abc"):
        _refused(submitted(host, "runs"), "--host", f"{host!r} is no address")


def test_a_password_in_the_host_is_refused_and_not_repeated(submitted):
    result = submitted("https://me:hunter2@kubeflow.example.org", "runs")
    _refused(result, "--host", "https://kubeflow.example.org was given with a user or a password", "KF_PIPELINES_TOKEN")
    assert "hunter2" not in result.output


def test_a_login_page_is_not_taken_for_an_answer(server, submitted):
    page = {"status": 200, "body": "<html>Log in</html>", "content_type": "text/html; charset=utf-8"}
    server.faults.order("GET", ".*", **page)
    _refused(submitted(server, "submit"), "--host", "web page", "token")


def test_a_page_that_is_not_found_means_a_wrong_address(server, submitted):
    page = {"status": 404, "body": "<!DOCTYPE HTML>\n<title>404</title>", "content_type": "text/html"}
    server.faults.order("GET", ".*", **page)
    _refused(submitted(server, "submit"), "--host", "answers with a web page, not with the KFP API", "/pipeline")


@pytest.mark.parametrize(("status", "code"), [(408, 1), (429, 1), (413, 2)])
def test_what_a_proxy_says_in_html_is_no_wrong_address(server, submitted, status, code):
    server.faults.order("POST", UPLOAD, status=status, body="<html>too much</html>", content_type="text/html")
    result = submitted(server, "submit")
    _refused(result, str(status), "too much", code=code)
    assert "--host" not in result.stderr


def test_a_session_that_is_over_ends_the_wait(tmp_path, submitted):
    page = {"status": 200, "body": "<html>Log in</html>", "content_type": "text/html; charset=utf-8"}
    with _serve(tmp_path, [{"kind": "started", "task": "open-run"}, 30.0]) as server:
        server.faults.order("GET", ONE_RUN, **page)
        result = submitted(server, "submit", "--wait")
    _refused(result, "--token", "the session is over; the run goes on without being watched")


def test_https_needs_a_trusted_certificate(tmp_path, submitted):
    certificate, key = _certificate(tmp_path)
    with _serve(tmp_path, tls=(str(certificate), str(key))) as server:
        _refused(submitted(server, "runs"), "--ca-cert", "not trusted")
        _refused(submitted(server, "runs", "--ca-cert", "nowhere.pem"), "nowhere.pem", "no such file")
        assert submitted(server, "runs", "--ca-cert", str(certificate)).exit_code == 0


def test_https_to_a_server_without_it(server, submitted):
    result = submitted(server.url.replace("http:", "https:"), "runs")
    _refused(result, "--host", "does not speak TLS", "Begin it with http://")


def _certificate(folder):
    """A certificate of its own for 127.0.0.1."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    encoding = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(*encoding))
    return folder / "cert.pem", folder / "key.pem"


# -- servers that fail


def test_what_can_be_asked_again_is_asked_again(server, submitted):
    server.faults.order("GET", "/apis/v2beta1/experiments", status=500, times=1)
    server.faults.order("GET", "/apis/v2beta1/pipelines", status=503, times=2)
    assert submitted(server, "submit").exit_code == 0


def test_a_server_that_goes_on_failing_is_given_up(server, submitted):
    server.faults.order("GET", "/apis/v2beta1/experiments", status=500, body='{"code": 13, "message": "disk full"}')
    _refused(submitted(server, "submit"), "failed (500: disk full)", "later", code=1)
    assert 2 <= server.faults.count("GET", "/apis/v2beta1/experiments") <= 5


def test_a_run_that_can_t_be_started_leaves_no_mlflow_run_open(server, submitted, tracking_uri):
    server.faults.order("POST", RUNS, status=500)
    _refused(submitted(server, "submit"), "failed (500", code=1)
    # Starting twice would run twice.
    assert server.faults.count("POST", RUNS) == 1
    (parent,) = _parents(tracking_uri)
    assert parent.info.status == "FAILED"
    assert "could not be started" in parent.data.tags["vitalfuse.error"]


def test_a_start_that_was_heard_but_not_answered_is_not_repeated(server, submitted, tracking_uri):
    server.faults.order("POST", RUNS, after=True, delay=6.0, status=504, times=1)
    result = submitted(server, "submit", "--wait", "--answer-timeout", "5")
    assert result.exit_code == 0, result.output
    assert server.faults.count("POST", RUNS) == 1
    (parent,) = _parents(tracking_uri)
    assert parent.data.tags["vitalfuse.kfp_run_id"] == _only(server).run_id


def test_a_start_that_failed_does_not_take_a_run_of_the_same_second_for_its_own(server, submitted, monkeypatch):
    class Still(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 11, 26, 12, 0, 0, tzinfo=tz)

    monkeypatch.setattr("pipelines.submission.datetime", Still)
    assert submitted(server, "submit").exit_code == 0
    server.faults.order("POST", RUNS, status=504)
    _refused(submitted(server, "submit"), "failed (504", code=1)
    assert _only(server).data["display_name"] == "tiny 2026-11-26 12:00:00"


def test_mlflow_that_can_t_be_closed_does_not_hide_why_the_run_was_not_started(server, submitted, monkeypatch):
    monkeypatch.setattr("pipelines.cluster_tracking.ParentRun.close", _mlflow_is_away)
    server.faults.order("POST", RUNS, status=500)
    result = submitted(server, "submit")
    _refused(result, "the KFP server at", "failed (500", code=1)
    assert "warning: the MLflow run could not be closed (MlflowException)" in result.stderr


def test_a_slow_server_is_told_of(server, submitted):
    server.faults.order("GET", RUNS, delay=1.5)
    _refused(submitted(server, "runs", "--answer-timeout", "0.5"), "did not answer within", code=1)


# -- MLflow


def _mlflow_is_away(*_):
    raise MlflowException("API request failed")


def test_mlflow_that_fails_after_the_start_does_not_lose_the_run(server, submitted, monkeypatch):
    monkeypatch.setattr("pipelines.cluster_tracking.ParentRun.tag", _mlflow_is_away)
    result = submitted(server, "submit")
    assert result.exit_code == 0, result.output
    run = _only(server)
    assert f"KFP run   {server.url}/#/runs/details/{run.run_id}" in result.stdout
    assert "warning: the MLflow run does not name the KFP run yet (MlflowException)" in result.stderr
    # Its first step takes the MLflow run all the same.
    assert run.data["runtime_config"]["parameters"]["mlflow_run_id"]


@pytest.mark.parametrize("step", [None, "train"])
def test_mlflow_that_fails_at_the_end_does_not_change_how_the_run_ended(tmp_path, submitted, monkeypatch, step):
    def refuse(settings):
        raise InputError("the MLflow server is away")

    monkeypatch.setattr("pipelines.cluster_view.open_parent_run", refuse)
    monkeypatch.setattr("pipelines.cluster_view.find_parent_run", _mlflow_is_away)
    script = scripts.failing(step) if step else scripts.happy()
    with _serve(tmp_path, script, result=step is None) as server:
        result = submitted(server, "submit", "--wait")
    assert result.exit_code == (1 if step else 0), result.output
    assert result.stdout.splitlines()[-1].startswith(f"run       {'failed' if step else 'succeeded'} after ")
    assert "warning: the MLflow run could not be looked up (MlflowException)" in result.stderr


@pytest.fixture
def accounts(tmp_path, empty_mlflow, submitted, monkeypatch):
    """An MLflow server with accounts, where nobody may write into the experiments of others."""
    shutil.copy(empty_mlflow, tmp_path / "accounts.db")
    with MlflowServer(tmp_path / "accounts.db") as running:
        yield running


def _sign_in(monkeypatch, name):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")


def test_who_may_only_read_in_mlflow_leaves_the_run_to_the_first_task(server, submitted, accounts, monkeypatch):
    _sign_in(monkeypatch, "pipeline")
    open_client(accounts.url).create_experiment("vitalfuse")
    _sign_in(monkeypatch, "alice")
    result = submitted(server, "submit", "--set", f"tracking.uri={accounts.url}")
    assert result.exit_code == 0, result.output
    assert f"warning: the MLflow server at {accounts.url} opens no run for this account" in result.stderr
    assert "the first step opens the MLflow run" in result.stderr
    assert _only(server).data["runtime_config"]["parameters"]["mlflow_run_id"] == ""


def test_who_signs_in_to_mlflow_makes_no_experiment_that_the_pods_could_not_write_into(
    server, submitted, accounts, monkeypatch
):
    _sign_in(monkeypatch, "alice")
    result = submitted(server, "submit", "--set", f"tracking.uri={accounts.url}")
    assert result.exit_code == 0, result.output
    assert "there is no MLflow experiment 'vitalfuse'; the first step opens the MLflow run" in result.stderr
    assert open_client(accounts.url).get_experiment_by_name("vitalfuse") is None


# MLflow's own import.
@pytest.mark.filterwarnings("ignore:starlette.middleware.wsgi is deprecated")
def test_who_may_write_in_mlflow_opens_the_run_and_leaves_no_password_there(server, submitted, accounts, monkeypatch):
    _sign_in(monkeypatch, "alice")
    open_client(accounts.url).create_experiment("vitalfuse")
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name)
    address = accounts.url.replace("://", "://alice:hunter2@")
    result = submitted(server, "submit", "--set", f"tracking.uri={address}")
    assert result.exit_code == 0, result.output
    (parent,) = _parents(address)
    shown = f"{accounts.url}/#/experiments/{parent.info.experiment_id}/runs/{parent.info.run_id}"
    assert f"MLflow    {shown}" in result.stdout.splitlines()
    run = _only(server)
    assert run.data["runtime_config"]["parameters"]["mlflow_run_id"] == parent.info.run_id
    assert parent.data.params["tracking.uri"] == accounts.url
    assert "hunter2" not in json.dumps(run.data) + run.package + str(parent.to_dictionary()) + result.output


def test_without_an_mlflow_server_the_first_task_opens_the_run(server, submitted):
    result = submitted(server, "submit", "--set", "tracking.uri=http://127.0.0.1:1")
    assert result.exit_code == 0, result.output
    assert "warning: the MLflow server at http://127.0.0.1:1 can't be used" in result.stderr
    assert "MLflow" not in result.stdout
    assert _only(server).data["runtime_config"]["parameters"]["mlflow_run_id"] == ""


def test_the_run_that_the_first_task_opened_is_told_and_closed(tmp_path, submitted, tracking_uri, monkeypatch):
    from pipelines.cluster_tracking import open_parent_run

    opened = []

    def open_as_the_first_task_does():
        settings = load_settings(Path("cluster.yaml"))
        opened.append(open_parent_run(settings))
        opened[0].tag("vitalfuse.kfp_run_id", next(iter(server.state.runs)))

    def refuse(settings):
        raise InputError("the MLflow server is away")

    monkeypatch.setattr("pipelines.cluster_view.open_parent_run", refuse)
    with _serve(tmp_path, [open_as_the_first_task_does, *scripts.happy()]) as server:
        result = submitted(server, "submit", "--wait")
    assert result.exit_code == 0, result.output
    assert "warning: the MLflow server is away; the first step opens the MLflow run" in result.stderr
    assert f"MLflow    {opened[0].url}" in result.stdout
    assert opened[0].get().info.status == "FINISHED"


def test_our_runs_switch_kfps_own_integration_off(server, submitted):
    submitted(server, "submit")
    assert _only(server).data["plugins_input"] == {"mlflow": {"disabled": True}}


def test_a_server_from_before_the_integration_takes_the_run(tmp_path, submitted):
    with _serve(tmp_path, knows_plugins=False) as server:
        assert submitted(server, "submit").exit_code == 0
        assert "plugins_input" not in _only(server).data


def test_kfps_own_integration_opens_the_only_mlflow_run(tmp_path, submitted, tracking_uri):
    from tests.kfp_server.mlflow_plugin import RunPlugin

    with _serve(tmp_path, plugin=RunPlugin(tracking_uri)) as server:
        result = submitted(server, "submit", "--wait", "--set", "cluster.mlflow=kfp")
        assert result.exit_code == 0, result.output
        run, (parent,) = _only(server), _parents(tracking_uri)
        assert parent.data.tags["kfp.pipeline_run_id"] == run.run_id
        assert parent.info.status == "FINISHED"
        assert f"MLflow    {tracking_uri}/#/experiments/" in result.stdout
        assert run.data["runtime_config"]["parameters"]["mlflow_run_id"] == ""
        assert "MLFLOW_TRACKING_URI" not in run.package


class _NoClient:
    """An MLflow client whose server is gone."""

    def __getattr__(self, name):
        raise ConnectionError("the MLflow server is gone")


def test_an_integration_that_is_off_or_fails_is_told(tmp_path, server, submitted, tracking_uri):
    from tests.kfp_server.mlflow_plugin import RunPlugin

    result = submitted(server, "submit", "--set", "cluster.mlflow=kfp")
    assert result.exit_code == 0
    assert "is its MLflow integration switched on?" in result.stderr
    plugin = RunPlugin(tracking_uri)
    plugin.client = _NoClient()
    with _serve(tmp_path, plugin=plugin) as broken:
        result = submitted(broken, "submit", "--set", "cluster.mlflow=kfp")
        assert result.exit_code == 0
        assert "KFP's MLflow integration opened no run: the MLflow server is gone" in result.stderr


# -- waiting


def test_wait_shows_each_change_and_ends_with_success(server, submitted, tracking_uri):
    result = submitted(server, "submit", "--wait")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    for step in (
        "open_run",
        "ingest",
        "cross_validate[cnn_lstm_attention]",
        "cross_validate[random_forest]",
        "close_run",
    ):
        assert any(line.startswith(f"{step}: done") for line in lines), step
    assert lines[-1].startswith("run       succeeded after ")
    # No task of this script closes it, so the command does.
    assert _parents(tracking_uri)[0].info.status == "FINISHED"


def test_shards_of_patients_are_shown_each(tmp_path, submitted):
    script = [{"kind": "started", "task": "open-run"}, _finished("open-run")]
    for task in ("ingest-shard", "preprocess-shard"):
        loop = "for-loop-3" if task == "ingest-shard" else "for-loop-5"
        script += [{"kind": "started", "task": task, "scope": [[loop, shard]]} for shard in (2, 0, 1)]
        script += [
            _finished(task, [[loop, shard]], succeeded=(task, shard) != ("preprocess-shard", 1)) for shard in range(3)
        ]
    with _serve(tmp_path, script, result=False) as server:
        result = submitted(server, "submit", "--wait", "--set", "shards=3")
        assert "comp-ingest-shard" in _only(server).package
    assert result.exit_code == 1
    ends = dict(line.split(" (")[0].split(": ") for line in result.stdout.splitlines() if "shard[" in line)
    assert ends == {
        "ingest_shard[1-of-3]": "done",
        "ingest_shard[2-of-3]": "done",
        "ingest_shard[3-of-3]": "done",
        "preprocess_shard[1-of-3]": "done",
        "preprocess_shard[2-of-3]": "failed",
        "preprocess_shard[3-of-3]": "done",
    }


def _finished(task, scope=(), *, succeeded=True):
    return {"kind": "finished", "task": task, "scope": list(scope), "succeeded": succeeded}


def _eight_models_and_three_shards():
    script = []
    for task, loop, count in (
        ("open-run", None, 1),
        ("ingest-shard", "for-loop-3", 3),
        ("merge-cohort", None, 1),
        ("validate", None, 1),
        ("preprocess-shard", "for-loop-5", 3),
        ("merge-features", None, 1),
        ("embed-text", None, 1),
        ("train", None, 1),
        ("cross-validate", "for-loop-6", len(MODEL_NAMES)),
        ("compare", None, 1),
        ("register", None, 1),
        ("record-run", None, 1),
        ("close-run", None, 1),
    ):
        scopes = [[[loop, i]] if loop else [] for i in range(count)]
        script += [{"kind": "started", "task": task, "scope": scope} for scope in scopes]
        # Long enough to be drawn.
        script += [0.1, *(_finished(task, scope) for scope in scopes)]
    return script


@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 20)])
def test_a_small_terminal_is_redrawn_and_in_the_end_shows_all_steps_and_both_links(
    tmp_path, submitted, tracking_uri, terminal, width, height
):
    screen = terminal(width, height)
    models = ["--set", f"models=[{','.join(MODEL_NAMES)}]", "--set", "shards=3"]
    # Not before somebody looks.
    script = [lambda: _wait_until(lambda: server.faults.count("GET", ONE_RUN) >= 2), *_eight_models_and_three_shards()]
    with _serve(tmp_path, script) as server:
        result = submitted(server, "submit", "--wait", *models)
        run = _only(server)
    assert result.exit_code == 0, result.output
    (parent,) = _parents(tracking_uri)
    frames = screen.frames(result.stdout)
    # One is drawn over another at least; how many more depends on how fast the machine is.
    assert len(frames) > 2
    # What is taller than the terminal can't be drawn over, and what is wider is broken into two lines. Above the first
    # frame stands what was printed before.
    assert max(len(frame) for frame in frames[1:-1]) < height
    links = (
        f"KFP run   {server.url}/#/runs/details/{run.run_id}",
        f"MLflow    run {parent.info.run_id} in {tracking_uri}",
    )
    assert max(len(line) for frame in frames[1:] for line in frame if line not in links) <= width
    assert any("▶" in line and "running" in line for frame in frames for line in frame)
    *steps, kfp, mlflow, end = frames[-1]
    assert [line.split()[0::2][:2] for line in steps] == [["✓", "done"]] * 24
    assert (kfp, mlflow) == links
    assert end.startswith("run       succeeded after ")


def test_wait_tells_why_a_step_failed(tmp_path, submitted, tracking_uri):
    log = (
        "reading\nTraceback (most recent call last):\n  File x\nValueError: inner\n\n"
        "The above exception was the direct cause\nTraceback (most recent call last):\n  File y\n"
        "data_schemas.errors.InputError: labels.csv, row 7: is no class. Mend it.\n"
        "F1124 main.go:50] failed to execute component: exit status 2\n"
    )
    with _serve(tmp_path, scripts.failing("ingest"), result=False, logs={"ingest": log}) as server:
        result = submitted(server, "submit", "--wait")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == ["vitalfuse: ingest: labels.csv, row 7: is no class. Mend it."]
    lines = result.stdout.splitlines()
    assert any(re.fullmatch(r"open_run: done \(\d+ s\)", line) for line in lines)
    assert any(line.startswith("ingest: failed") for line in lines)
    assert "train: skipped" in lines
    assert any(line.startswith("close_run: done") for line in lines)
    assert lines[-1].startswith("run       failed after ")
    assert _parents(tracking_uri)[0].info.status == "FAILED"


def test_a_failed_step_without_a_log_is_named_with_the_way_to_its_log(tmp_path, submitted):
    with _serve(tmp_path, scripts.failing("train"), result=False) as server:
        result = submitted(server, "submit", "--wait")
        assert result.exit_code == 1
        assert (
            f"vitalfuse: train: failed; its log may tell: vitalfuse logs {_only(server).run_id} 'train'"
            in result.stderr
        )


def test_wait_ends_with_130_when_somebody_cancels(tmp_path, submitted, tracking_uri):
    script = [{"kind": "started", "task": "open-run"}, 0.2, lambda: _cancel(server), 30.0]
    with _serve(tmp_path, script) as server:
        result = submitted(server, "submit", "--wait")
    assert result.exit_code == 130, result.output
    assert "open_run: cancelled" in result.stdout
    assert _parents(tracking_uri)[0].info.status == "KILLED"


def _cancel(server):
    run = _only(server)
    with server.state.lock:
        run.set_state("CANCELING")
    run.execution.terminate()


def test_wait_has_an_end(tmp_path, submitted, tracking_uri):
    with _serve(tmp_path, [{"kind": "started", "task": "open-run"}, 30.0]) as server:
        result = submitted(server, "submit", "--wait", "--timeout", "0.5")
        assert result.exit_code == 124
        assert "still on after 0 s" in result.stderr or "still on after 0.5 s" in result.stderr
        assert _only(server).state == "RUNNING"
        assert _parents(tracking_uri)[0].info.status == "RUNNING"


def test_ctrl_c_stops_watching_and_leaves_the_run(tmp_path, submitted, monkeypatch):
    with _serve(tmp_path, [{"kind": "started", "task": "open-run"}, 30.0]) as server:
        monkeypatch.setattr("pipelines.run_states.time", Interrupted)
        result = submitted(server, "submit", "--wait")
        assert result.exit_code == 130
        assert f"vitalfuse cancel {_only(server).run_id}" in result.stderr
        assert _only(server).state == "RUNNING"


@pytest.mark.parametrize("status", [503, 429, 408])
def test_a_server_that_is_away_or_busy_for_a_while_does_not_end_the_wait(server, submitted, status):
    server.faults.order("GET", ONE_RUN, status=status, times=9)
    result = submitted(server, "submit", "--wait")
    assert result.exit_code == 0, result.output


def test_a_server_that_stays_away_ends_the_wait(server, submitted, monkeypatch):
    monkeypatch.setattr("pipelines.run_states.PATIENCE_SECONDS", 0.2)
    server.faults.order("GET", ONE_RUN, status=503)
    result = submitted(server, "submit", "--wait")
    assert result.exit_code == 124
    assert "The run goes on without being watched" in result.stderr


def test_a_token_that_runs_out_ends_the_wait(tmp_path, submitted):
    script = [{"kind": "started", "task": "open-run"}, 30.0]
    with _serve(tmp_path, script, token="s3cret") as server:
        server.faults.order("GET", ONE_RUN, status=401, body='{"code": 16, "message": "expired"}')
        result = submitted(server, "submit", "--wait", "--token", "s3cret")
        _refused(result, "does not accept the token (401); the run goes on without being watched")


def test_a_token_that_kubernetes_writes_anew_while_we_wait_is_read_again(tmp_path, submitted):
    file = tmp_path / "token"
    file.write_text("first")

    def rotate():
        server.tokens.add("second")
        file.write_text("second")

    script = [
        {"kind": "started", "task": "open-run"},
        rotate,
        lambda: _wait_until(lambda: "second" in server.tokens_given),
        lambda: server.tokens.remove("first"),
        0.2,
        *scripts.happy()[1:],
    ]
    with _serve(tmp_path, script, token="first") as server:
        result = submitted(server, "submit", "--wait", "--token-file", str(file))
        assert result.exit_code == 0, result.output
        assert server.tokens == {"second"}


def test_a_token_file_that_can_t_be_read_for_a_moment_leaves_the_last_token(tmp_path, submitted):
    file = tmp_path / "token"
    file.write_text("s3cret")
    script = [{"kind": "started", "task": "open-run"}, file.unlink, 0.2, *scripts.happy()[1:]]
    with _serve(tmp_path, script, token="s3cret") as server:
        assert submitted(server, "submit", "--wait", "--token-file", str(file)).exit_code == 0


def test_options_that_mean_nothing_without_wait_are_refused(server, submitted, monkeypatch):
    _refused(submitted(server, "submit", "--timeout", "60"), "--timeout", "needs --wait")
    _refused(submitted(server, "retry", "x", "--timeout", "60"), "--timeout", "needs --wait")
    _refused(submitted(server, "retry", "x", "--tracking-uri", "http://mlflow"), "--tracking-uri", "needs --wait")
    assert not server.state.runs
    # The environment may name the server for other commands.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow")
    _refused(submitted(server, "retry", "x"), "there is no run 'x'")


def test_a_pipeline_of_the_settings_cluster_section_is_uploaded(server, submitted):
    submitted(server, "submit", "--set", "cluster.images.registry=registry.example.org/ml")
    (package,) = server.state.packages.values()
    assert "registry.example.org/ml/" in package
