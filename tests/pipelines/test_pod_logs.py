"""Logs of a run's pods: from the API server, from the UI's, from kubectl; and what in them tells of the cause."""

import base64
import gzip
import json
import stat
import sys

import pytest

from pipelines.kfp_api import Connection, KfpApi
from pipelines.pod_logs import cause, read_logs
from pipelines.run_plan import PlannedTask
from tests.kfp_server import scripts
from tests.kfp_server.execution import ScriptedExecution
from tests.kfp_server.server import KfpServer

INGEST = PlannedTask("ingest", "ingest", "root.exit-handler-1.ingest")
V1_RUN = "/apis/v1beta1/runs/.*"
V1_LOG = "/apis/v1alpha1/runs/.*"


@pytest.fixture
def run(tmp_path, submitted):
    """A server with one run that has ended, its API, and the run's id."""
    logs = {"ingest": "read 40 patients\n", "cross-validate": "fold 1\n"}
    execution = ScriptedExecution(scripts.happy(), logs=logs)
    with KfpServer(tmp_path / "kfp", execute=lambda _: execution) as server:
        assert submitted(server, "submit").exit_code == 0
        (run_id,) = server.state.runs
        server.wait(run_id)
        yield server, KfpApi(Connection(server.url)), run_id


def test_the_log_of_a_step_and_of_an_iteration(run):
    _, api, run_id = run
    assert read_logs(api, run_id, INGEST) == ["read 40 patients\n"]
    path = "root.exit-handler-1.for-loop-2.iteration-iterations(1:1).iteration-item.cross-validate"
    assert read_logs(api, run_id, PlannedTask("x", "cross-validate", path, iterated=True)) == ["fold 1\n"]


def test_each_attempt_has_a_log(run):
    server, api, run_id = run
    workflow = server.state.runs[run_id].workflow
    workflow._pod_of_retry("".join([workflow.name, ".root.exit-handler-1.ingest"]), 10, 0)
    workflow._pod_of_retry("".join([workflow.name, ".root.exit-handler-1.ingest"]), 2, 0)
    server.state.runs[run_id].execution.log = lambda task, scope, attempt: f"attempt {attempt}"
    assert read_logs(api, run_id, INGEST) == ["attempt 0", "attempt 2", "attempt 10"]


def test_a_workflow_that_is_too_large_is_kept_compressed(run):
    server, api, run_id = run
    manifest = json.loads(server.state.runs[run_id].workflow.manifest())
    nodes = json.dumps(manifest["status"].pop("nodes")).encode()
    manifest["status"]["compressedNodes"] = base64.b64encode(gzip.compress(nodes)).decode()
    body = json.dumps({"pipeline_runtime": {"workflow_manifest": json.dumps(manifest)}})
    server.faults.order("GET", V1_RUN, status=200, body=body)
    assert read_logs(api, run_id, INGEST) == ["read 40 patients\n"]


def test_the_server_of_the_ui_has_logs_under_another_address(run):
    server, api, run_id = run
    server.faults.order("GET", V1_LOG, status=404)
    server.faults.order("GET", "/k8s/pod/logs", status=200, body="from the UI", content_type="text/plain")
    assert read_logs(api, run_id, INGEST) == ["from the UI"]


def test_a_log_that_is_gone_is_asked_for_once(run):
    server, api, run_id = run
    server.faults.order("GET", V1_LOG, status=500)
    assert read_logs(api, run_id, INGEST) == []
    assert server.faults.count("GET", V1_LOG) == 1


def test_kubectl_is_asked_last(run, tmp_path, monkeypatch):
    server, _, run_id = run
    server.faults.order("GET", V1_RUN, status=404)
    # Stands for kubectl: knows two pods of the run.
    pods = {
        "items": [
            {"metadata": {"name": name, "annotations": {"workflows.argoproj.io/node-name": f"wf-1.{node}"}}}
            for name, node in [
                ("p-2", f"{INGEST.path}.executor(1)"),
                ("p-1", f"{INGEST.path}.executor(0)"),
                ("p-3", "x"),
            ]
        ]
    }
    (tmp_path / "pods.json").write_text(json.dumps(pods))
    program = tmp_path / "bin" / "kubectl"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport sys\n"
        "given = ' '.join(sys.argv[1:])\n"
        f"wanted = '--namespace team get pods --selector pipeline/runid={run_id} --output json'\n"
        f"if given == wanted: print(open({str(tmp_path / 'pods.json')!r}).read())\n"
        "elif given.startswith('--namespace team logs p-'): print('log of', sys.argv[4])\n"
        "else: sys.exit(1)\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent))
    api = KfpApi(Connection(server.url, namespace="team"))
    assert read_logs(api, run_id, INGEST) == ["log of p-1\n", "log of p-2\n"]
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.exit(1)\n")
    assert read_logs(api, run_id, INGEST) == []


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("data_schemas.errors.InputError: labels.csv, row 3: is no class.\n", "labels.csv, row 3: is no class."),
        ("ValueError: first\nx\nMemoryError: second\nF0101 launcher failed\n", "MemoryError: second"),
        ("numpy.linalg.LinAlgError: singular\n", "LinAlgError: singular"),
        ("all went well\n", None),
        ("[ingest] note: ValueError: is a kind of error\n", None),
        ("", None),
    ],
)
def test_the_cause_is_at_the_end_of_the_last_traceback(log, expected):
    assert cause(log) == expected
