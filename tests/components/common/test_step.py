"""Each step ends its process when it fails, so it runs in one of its own here."""

import subprocess
import sys

import pytest

from components.common import environment
from components.common.events import read_events
from components.common.step import RECORD_FILE, StepRecord, read_records

SCRIPT = """
import sys
from pathlib import Path
from components.common.result import NestedResult, StepResult
from components.common.step import run_step
from data_schemas.errors import InputError

kind = sys.argv[2]

def core(output, progress):
    progress("half way")
    print("a line on standard output")
    if kind == "input":
        raise InputError("is malformed", file="a.csv", row=2)
    if kind == "bug":
        raise KeyError("oops")
    output.mkdir()
    return StepResult(metrics={"rows": 3, "undefined": float("nan")}, params={"sigma": 0.5}, warnings=["one"],
                      nested=[NestedResult("fold 1", metrics={"accuracy": 0.5}, history={"loss": [2.0, 1.0]})])

parts = [Path(part) for part in sys.argv[3:]]
run_step("preprocess", core, output=Path(sys.argv[1]), record=Path(sys.argv[1] + "-record"), parts=parts)
"""


def _run(tmp_path, kind, *parts, **variables):
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "out"), kind, *map(str, parts)],
        env={**_clean_environment(), environment.RUN_FOLDER: str(tmp_path / "run"), **variables},
        capture_output=True,
        text=True,
    )


def _clean_environment():
    import os

    return {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "VITALFUSE_"))}


def test_a_finished_step_leaves_events_record_and_log(tmp_path):
    assert _run(tmp_path, "well").returncode == 0
    events = read_events(tmp_path / "run")
    assert [event.state for event in events] == ["running", "running", "done"]
    assert events[1].text == "half way"
    assert events[2].peak_memory_mb > 1
    record = StepRecord.model_validate_json((tmp_path / "out" / RECORD_FILE).read_text())
    assert record.metrics == {"rows": 3}
    assert record.warnings == ["one"]
    assert read_records(tmp_path / "out-record") == [record]
    assert "a line on standard output" in (tmp_path / "run" / "logs" / "preprocess.log").read_text()


def test_a_step_that_joins_shards_passes_their_records_on(tmp_path):
    parts = [tmp_path / "part-1", tmp_path / "part-2"]
    records = [
        StepRecord(step=f"shard[{i}]", mlflow_run_id=None, params={}, metrics={"rows": i}, warnings=[], tags={})
        for i in range(2)
    ]
    for part, record in zip(parts, records, strict=True):
        part.mkdir()
        (part / RECORD_FILE).write_text(record.model_dump_json())
    assert _run(tmp_path, "well", *parts).returncode == 0
    own, *others = read_records(tmp_path / "out-record")
    assert own.step == "preprocess" and others == records


@pytest.mark.parametrize(("kind", "code", "cause"), [("input", 2, "a.csv, row 2"), ("bug", 1, "KeyError: 'oops'")])
def test_a_failed_step_tells_the_cause_and_its_kind(tmp_path, kind, code, cause):
    assert _run(tmp_path, kind).returncode == code
    last = read_events(tmp_path / "run")[-1]
    assert last.state == "failed"
    assert cause in last.text
    assert last.input_error is (kind == "input")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out-record").exists()


def test_results_and_parts_are_logged_under_the_parent_run(tmp_path):
    import mlflow

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("test", artifact_location=(tmp_path / "artifacts").as_uri())
    parent = client.create_run(experiment).info.run_id
    completed = _run(tmp_path, "well", MLFLOW_TRACKING_URI=uri, VITALFUSE_PARENT_RUN_ID=parent)
    assert completed.returncode == 0, (tmp_path / "run" / "logs" / "preprocess.log").read_text()
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    step, fold = runs["preprocess"], runs["fold 1"]
    assert step.data.tags["mlflow.parentRunId"] == parent
    assert fold.data.tags["mlflow.parentRunId"] == step.info.run_id
    assert step.data.metrics["rows"] == 3
    assert step.data.params == {"sigma": "0.5"}
    assert [point.value for point in client.get_metric_history(fold.info.run_id, "loss")] == [2.0, 1.0]
    assert step.info.status == "FINISHED"


def test_a_step_ends_when_its_runner_is_gone(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    script = SCRIPT.replace('progress("half way")', "import time; time.sleep(600)")
    completed = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "out"), "well"],
        env={
            **_clean_environment(),
            environment.RUN_FOLDER: str(tmp_path / "run"),
            environment.RUNNER_PROCESS: str(gone.pid),
        },
        timeout=300,
    )
    assert completed.returncode == 1


@pytest.mark.parametrize("folder", ["absent", "/proc"])
def test_a_folder_for_temporary_files_that_cannot_be_written_to_is_refused(folder, tmp_path):
    """As a volume of `cluster.scratch` without fsGroup: Python itself would go on, on the node's disk."""
    done = _run(tmp_path, "well", TMPDIR=str(tmp_path / folder))
    assert done.returncode == 2
    last = read_events(tmp_path / "run")[-1]
    assert (last.state, last.input_error) == ("failed", True)
    assert f"TMPDIR: no temporary file can be written to {tmp_path / folder}" in last.text
    assert "fsGroup" in last.text
    assert not (tmp_path / "out").exists()


def test_a_folder_for_temporary_files_is_left_empty(tmp_path):
    folder = tmp_path / "temporary"
    folder.mkdir()
    assert _run(tmp_path, "well", TMPDIR=str(folder)).returncode == 0
    assert not list(folder.iterdir())
