"""The whole pipeline with each step in a container, against the same in processes of this machine."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from docker.types import Mount

from components.common.events import read_events
from components.ingest.demo.generate import generate_source
from components.ingest.demo.settings import DemoSettings
from pipelines.containers import RUN_LABEL

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
VALIDATE_PYTHON = os.environ.get("VALIDATE_PYTHON", str(ROOT / ".venv-validate" / "bin" / "python"))
MODELS = ["cnn_lstm_attention", "cnn", "random_forest"]
NETWORK = {"network": {"units": 8, "image_filters": [4]}, "optimiser": {"epochs": 2}}
STEPS = ["ingest", "validate", "preprocess", "embed_text", "train", "compare", "register"] + [
    f"cross_validate[{model}]" for model in MODELS
]
# Bit-equal where this was measured; another processor or another build of a library may differ in the last digits.
TOLERANCE = 1e-5


def _settings(workspace):
    return {
        "name": "tiny",
        "workspace": workspace,
        "models": MODELS,
        "ingest": {"name": "tiny", "sources": [{"format": "export", "path": "source"}]},
        "preprocess": {"step": "1d", "steps": 4, "folds": 2, "test_fraction": 0.25},
        "train": NETWORK,
        "cross_validate": NETWORK,
        "compare": {"resamples": 100},
        # Two epochs on few patients make no model that is good for anything.
        "register": {"gates": {"skip": ["macro_auc", "kappa", "calibration_error", "worst_subgroup_auc"]}},
    }


def _command(runner, settings=None):
    arguments = ["run", "--config", f"{settings or runner}.yaml", "--runner", runner]
    return [sys.executable, "-m", "pipelines.cli", *arguments]


def _environment(**more):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "VITALFUSE_"))}
    key = {"VITALFUSE_PSEUDONYM_KEY": "0123456789abcdef", "TF_CPP_MIN_LOG_LEVEL": "2"}
    return {**clean, **key, **more}


def _run(folder, runner, settings=None, **environment):
    # In a container TFDV needs no interpreter of its own: this one is not there.
    validate_python = VALIDATE_PYTHON if runner == "subprocess" else "/nonexistent/python"
    return subprocess.run(
        _command(runner, settings),
        cwd=folder,
        env=_environment(VALIDATE_PYTHON=validate_python, **environment),
        capture_output=True,
        text=True,
    )


def _containers(built, run):
    return built.client.containers.list(all=True, filters={"label": f"{RUN_LABEL}={run}"}, ignore_removed=True)


def _kill_during(folder, step):
    """Start a run in containers, and kill its process once a step runs; return the run's folder."""
    process = subprocess.Popen(
        _command("docker"), cwd=folder, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        runs = list((folder / "docker" / "runs").glob("*"))
        if runs and any(event.step == step for event in read_events(runs[0])):
            process.send_signal(signal.SIGKILL)
            process.wait()
            return runs[0]
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"{step} never ran")


@pytest.fixture(scope="module")
def folder(built, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runners")
    generate_source(folder / "source", DemoSettings(patients=60, seed=1, days=4, image_size=(16, 16)))
    for runner in ("docker", "subprocess"):
        (folder / f"{runner}.yaml").write_text(yaml.safe_dump(_settings(runner)))
    return folder


@pytest.fixture(scope="module")
def killed(built, folder):
    """The folder of a run that was killed during `preprocess`, and how long its containers outlived it."""
    run = _kill_during(folder, "preprocess")
    started = time.monotonic()
    while _containers(built, run.name) and time.monotonic() - started < 30:
        time.sleep(0.1)
    return run, time.monotonic() - started


@pytest.fixture(scope="module")
def in_docker(killed, folder):
    completed = _run(folder, "docker")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed


@pytest.fixture(scope="module")
def outputs(in_docker, folder):
    """Output folders by step, of both runners."""
    completed = _run(folder, "subprocess")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return {runner: _outputs(folder / runner) for runner in ("docker", "subprocess")}


@pytest.fixture(scope="module")
def sharded(in_docker, folder):
    """Output folders by step of a run in containers, with three shards of the patients."""
    (folder / "sharded.yaml").write_text(yaml.safe_dump({**_settings("sharded"), "shards": 3}))
    completed = _run(folder, "docker", "sharded")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return _outputs(folder / "sharded")


def _outputs(workspace):
    newest = sorted((workspace / "runs").glob("*"))[-1]
    return {event.step: Path(event.record).parent for event in read_events(newest) if event.record}


def test_the_containers_of_a_killed_run_are_gone_within_seconds(built, killed):
    run, seconds = killed
    assert seconds < 30
    assert _containers(built, run.name) == []


def test_a_killed_run_goes_on_from_its_finished_steps(in_docker):
    assert "ingest: cached" in in_docker.stdout
    assert "validate: cached" in in_docker.stdout
    assert "preprocess: done" in in_docker.stdout


def test_no_container_is_left(built, in_docker):
    assert built.client.containers.list(all=True, filters={"label": RUN_LABEL}, ignore_removed=True) == []


def test_all_files_belong_to_the_user(in_docker, folder):
    owners = {path.stat().st_uid for path in (folder / "docker").rglob("*")}
    assert owners == {os.getuid()}


def test_both_runners_finish_the_same_steps(outputs):
    assert set(outputs["docker"]) == set(outputs["subprocess"]) == set(STEPS)


def _numbers(table):
    return table.select_dtypes("number")


def _largest_difference(theirs, ours):
    return np.abs(_numbers(theirs).to_numpy() - _numbers(ours).to_numpy()).max()


@pytest.mark.parametrize("step", ["train", *STEPS[-len(MODELS) :]])
def test_predictions_are_the_same(outputs, step):
    theirs, ours = (pd.read_parquet(outputs[runner][step] / "predictions.parquet") for runner in outputs)
    pd.testing.assert_frame_equal(theirs, ours, rtol=0, atol=TOLERANCE)
    assert len(_numbers(ours).columns) > 0
    print(f"{step}: largest difference {_largest_difference(theirs, ours)}")


@pytest.mark.parametrize("name", ["series.npy", "images.npy"])
def test_features_are_the_same(outputs, name):
    theirs, ours = (np.load(outputs[runner]["preprocess"] / name) for runner in outputs)
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=TOLERANCE)


def _figures(record):
    """Metrics of a step but for what differs from run to run: how long it took, and what memory."""
    measured = ("seconds", "memory", "latency")
    return {name: value for name, value in record.metrics.items() if not any(word in name for word in measured)}


def test_metrics_are_the_same(outputs):
    from components.common.step import RECORD_FILE, StepRecord

    for step in STEPS:
        records = [
            StepRecord.model_validate_json((outputs[runner][step] / RECORD_FILE).read_text()) for runner in outputs
        ]
        theirs, ours = map(_figures, records)
        assert theirs == pytest.approx(ours, abs=TOLERANCE), step
        assert records[0].params == records[1].params


def test_shards_in_containers_give_the_cohort_and_the_features_of_one_process(sharded, outputs):
    ours = outputs["subprocess"]
    shards = [f"{step}_shard[{shard}-of-3]" for step in ("ingest", "preprocess") for shard in (1, 2, 3)]
    merged = {"ingest": "merge_cohort", "preprocess": "merge_features"}
    assert set(sharded) == {*STEPS, *shards, *merged.values()} - set(merged)
    for name in ("patients", "observations", "notes"):
        theirs = pd.read_parquet(sharded["merge_cohort"] / f"{name}.parquet")
        pd.testing.assert_frame_equal(theirs, pd.read_parquet(ours["ingest"] / f"{name}.parquet"))
    for name in ("series.npy", "series_observed.npy", "images.npy", "present.npy"):
        theirs = np.load(sharded["merge_features"] / name)
        np.testing.assert_allclose(theirs, np.load(ours["preprocess"] / name), rtol=0, atol=TOLERANCE)
    samples = pd.read_parquet(sharded["merge_features"] / "samples.parquet")
    pd.testing.assert_frame_equal(samples, pd.read_parquet(ours["preprocess"] / "samples.parquet"))


@pytest.mark.parametrize("step", ["train", *STEPS[-len(MODELS) :], "compare"])
def test_shards_in_containers_give_the_figures_of_one_process(sharded, outputs, step):
    from components.common.step import RECORD_FILE, StepRecord

    ours = outputs["subprocess"]
    if step != "compare":
        theirs, mine = (pd.read_parquet(folder / "predictions.parquet") for folder in (sharded[step], ours[step]))
        pd.testing.assert_frame_equal(theirs, mine, rtol=0, atol=TOLERANCE)
        print(f"shards, {step}: largest difference {_largest_difference(theirs, mine)}")
    theirs, mine = (
        _figures(StepRecord.model_validate_json((folder / RECORD_FILE).read_text()))
        for folder in (sharded[step], ours[step])
    )
    assert len(mine) > 0
    assert theirs == pytest.approx(mine, abs=TOLERANCE)


def test_the_model_that_a_container_registered_predicts_here(in_docker, folder):
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{folder / 'docker' / 'mlflow.db'}")
    model = mlflow.pyfunc.load_model("models:/vitalfuse-diagnosis@challenger")
    predicted = pd.DataFrame(model.predict(model.input_example))
    assert len(predicted) == len(model.input_example)
    assert [sum(row.values()) for row in predicted["probabilities"]] == pytest.approx([1.0] * len(predicted))


PATIENT = {
    "age": 61,
    "note": "Fever and cough.",
    "observations": [{"channel": "heart_rate", "time": "2022-06-01T10:00:00+02:00", "value": 82, "unit": "/min"}],
}
# Asks from inside: the container has no network.
ASK = """
import json, sys, urllib.request
request = urllib.request.Request("http://127.0.0.1:8080" + sys.argv[1], sys.argv[2].encode() or None)
print(urllib.request.urlopen(request, timeout=30).read().decode())
"""


@pytest.fixture(scope="module")
def serving(built, in_docker, folder):
    """A container of the serving image, locked down, that serves the version which a container registered."""
    database = folder / "registry" / "mlflow.db"
    database.parent.mkdir()
    shutil.copy(folder / "docker" / "mlflow.db", database)
    for path in (database.parent, database):
        path.chmod(0o777)
    command = ["vitalfuse", "serve", "--workspace", "/tmp/vitalfuse", "--version", "1"]
    container = built.client.containers.run(
        built.name("serve"),
        [*command, "--set", f"tracking.uri=sqlite:///{database}"],
        detach=True,
        network_mode="none",
        read_only=True,
        tmpfs={"/tmp": "mode=1777"},
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        mounts=[
            Mount(str(folder / "docker"), str(folder / "docker"), "bind", read_only=True),
            Mount(str(database.parent), str(database.parent), "bind"),
        ],
    )
    yield container
    container.remove(force=True)


def _ask(container, path, body=""):
    code, output = container.exec_run(["python3", "-c", ASK, path, body])
    return json.loads(output or "null") if code == 0 else None


def test_the_serving_image_serves_what_a_container_registered(serving, built):
    deadline = time.monotonic() + 120
    while not (ready := _ask(serving, "/v2/health/ready")):
        serving.reload()
        assert serving.status == "running" and time.monotonic() < deadline, serving.logs().decode()
        time.sleep(0.5)
    assert ready["ready"] is True
    (diagnosis,) = _ask(serving, "/v1/diagnose", json.dumps({"patients": [PATIENT]}))["diagnoses"]
    assert diagnosis["model"]["name"] == "vitalfuse-diagnosis" and diagnosis["model"]["version"] == "1"
    assert sum(diagnosis["probabilities"].values()) == pytest.approx(1)
    assert diagnosis["modalities"] == ["series", "text"]
    code, user = serving.exec_run(["id", "-u"])
    assert (code, user.decode().strip()) == (0, "10001")
    assert serving.exec_run(["touch", "/opt/vitalfuse/here"])[0] != 0
    serving.stop(timeout=30)
    assert serving.wait()["StatusCode"] == 0, serving.logs().decode()


def test_mlflow_has_every_step_under_one_run(in_docker, folder):
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'docker' / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("vitalfuse").experiment_id], max_results=500)
    parents = [run for run in runs if run.data.tags.get("vitalfuse.step") == "pipeline"]
    assert sorted(run.info.status for run in parents) == ["FINISHED", "KILLED"]
    (finished,) = [run for run in parents if run.info.status == "FINISHED"]
    nested = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == finished.info.run_id]
    assert {run.data.tags["vitalfuse.step"] for run in nested} == set(STEPS)
    ran = [run for run in nested if run.data.tags.get("vitalfuse.cached") != "true"]
    assert len(ran) == len(STEPS) - 2
    assert all(run.data.tags["mlflow.source.name"].startswith("/opt/vitalfuse/") for run in ran)


def test_input_at_fault_is_told_as_ever(built, in_docker, folder):
    completed = _run(folder, "docker", VITALFUSE_PSEUDONYM_KEY="short")
    assert completed.returncode == 0, "ingest is cached, so no key is needed"
    settings = {**_settings("docker"), "preprocess": {"step": "1d", "steps": 4, "folds": 40, "test_fraction": 0.25}}
    (folder / "docker.yaml").write_text(yaml.safe_dump(settings))
    completed = _run(folder, "docker")
    assert completed.returncode == 2, completed.stdout + completed.stderr
    assert "vitalfuse: preprocess:" in completed.stderr
    assert built.client.containers.list(all=True, filters={"label": RUN_LABEL}, ignore_removed=True) == []


def test_a_failing_container_is_never_taken_for_a_success(built):
    """kfp.local's own function did, once in some dozens of times."""
    from pipelines.containers import run_container

    codes = [
        run_container(built.client, built.name("data"), ["sh", "-c", "exit 7"], {}, network_mode="none")
        for _ in range(25)
    ]
    assert codes == [7] * 25
