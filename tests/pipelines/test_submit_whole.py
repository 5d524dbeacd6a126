"""The whole pipeline, submitted to a server that speaks KFP's API and runs it: MLflow, cache, bad input."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from components.ingest.demo.generate import generate_source
from components.ingest.demo.settings import DemoSettings
from tests.kfp_server.server import KfpServer

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
VALIDATE_PYTHON = os.environ.get("VALIDATE_PYTHON", str(ROOT / ".venv-validate" / "bin" / "python"))
MODELS = ["cnn_lstm_attention", "random_forest"]
STEPS = ["ingest", "validate", "preprocess", "embed_text", "train", "compare", "register"]
STEPS += [f"cross_validate[{model}]" for model in MODELS]
# What a Kubernetes secret would bring to the pods.
SECRETS = {"VITALFUSE_PSEUDONYM_KEY": "key of the tests, long enough to be one"}
_QUICK = {"network": {"units": 8, "image_filters": [4]}, "optimiser": {"epochs": 1}}


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory):
    """An MLflow server on the loopback interface."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = [
        "--backend-store-uri",
        f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen([*command, *store], stdout=log, stderr=log, start_new_session=True, cwd=folder)
    try:
        deadline = time.monotonic() + 180
        while not _answers(f"{url}/health"):
            assert process.poll() is None and time.monotonic() < deadline, (folder / "server.log").read_text()
            time.sleep(0.5)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def _answers(url):
    with contextlib.suppress(OSError):
        return urllib.request.urlopen(url, timeout=5).status == 200
    return False


@pytest.fixture(scope="module")
def folder(tmp_path_factory, mlflow_server):
    """A folder with a source and settings.yaml."""
    folder = tmp_path_factory.mktemp("submitted")
    generate_source(folder / "source", DemoSettings(patients=60, seed=1, days=4, image_size=(16, 16)))
    settings = {
        "name": "tiny",
        "models": MODELS,
        "ingest": {"name": "tiny", "sources": [{"format": "export", "path": str(folder / "source")}]},
        "preprocess": {"step": "1d", "steps": 4, "folds": 2, "test_fraction": 0.25},
        "train": _QUICK,
        "cross_validate": _QUICK,
        "compare": {"resamples": 100},
        "tracking": {"uri": mlflow_server},
        "cluster": {"mlflow_uri": mlflow_server, "defaults": {"retries": 0}},
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture(scope="module")
def kfp_server(folder):
    environment = {**SECRETS, "VALIDATE_PYTHON": VALIDATE_PYTHON}
    with KfpServer(folder / "kfp", pod_environment=environment) as server:
        yield server


def _submit(folder, server, *arguments):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "VITALFUSE_"))}
    command = [sys.executable, "-m", "pipelines.cli", "submit", "--config", "settings.yaml", "--host", server.url]
    return subprocess.run(
        [*command, "--wait", *arguments],
        cwd=folder,
        env={**clean, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def first(folder, kfp_server):
    done = _submit(folder, kfp_server)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def _tracked(url, experiment="vitalfuse"):
    from pipelines.tracking import open_client

    client = open_client(url)
    found = client.get_experiment_by_name(experiment)
    return client, client.search_runs([found.experiment_id], max_results=1000, order_by=["attributes.start_time ASC"])


def _parents(runs):
    return [run for run in runs if "mlflow.parentRunId" not in run.data.tags]


def _headline(parent):
    return {name: value for name, value in parent.data.metrics.items() if name != "system/seconds"}


def _files(client, run, folder=None):
    return {file.path for file in client.list_artifacts(run.info.run_id, folder)}


def _children(runs, parent):
    return [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]


def test_the_submitted_run_succeeds_and_prints_where_to_look(first, kfp_server, mlflow_server):
    run_id = next(iter(kfp_server.state.runs))
    _, runs = _tracked(mlflow_server)
    parent = _parents(runs)[0]
    assert f"KFP run   {kfp_server.url}/#/runs/details/{run_id}\n" in first.stdout
    link = f"{mlflow_server}/#/experiments/{parent.info.experiment_id}/runs/{parent.info.run_id}"
    assert f"MLflow    {link}\n" in first.stdout
    for step in [*STEPS, "open_run", "record_run", "close_run"]:
        assert f"\n{step}: done (" in first.stdout, first.stdout
    assert "model     vitalfuse-diagnosis version 1" in first.stdout
    assert not first.stderr


def test_mlflow_has_the_parent_run_finished_with_a_nested_run_for_each_step(first, kfp_server, mlflow_server):
    client, runs = _tracked(mlflow_server)
    parent = _parents(runs)[0]
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["vitalfuse.kfp_run_id"] == next(iter(kfp_server.state.runs))
    assert parent.data.params["preprocess.folds"] == "2"
    assert 0 <= parent.data.metrics["test/macro_auc"] <= 1
    children = {run.data.tags["vitalfuse.step"]: run.info.status for run in _children(runs, parent)}
    assert children == dict.fromkeys(STEPS, "FINISHED")
    assert not [run for run in runs if "vitalfuse.cached" in run.data.tags]
    assert parent.data.tags["vitalfuse.cached_steps"] == "0"
    assert parent.data.tags["vitalfuse.model"] == "vitalfuse-diagnosis/1"
    assert len(parent.data.tags["vitalfuse.source_digest"]) == 64
    assert _files(client, parent) == {"report.html", "inputs"}
    assert _files(client, parent, "inputs") == {"inputs/settings_resolved.yaml"}
    (dataset,) = parent.inputs.dataset_inputs
    assert dataset.dataset.name == "tiny"
    assert dataset.dataset.digest == parent.data.tags["vitalfuse.cohort_digest"][:36]
    assert parent.data.metrics["system/seconds"] > 1
    version = client.get_model_version("vitalfuse-diagnosis", "1")
    assert version.tags["vitalfuse.run_id"] == parent.info.run_id


def test_the_key_of_the_pseudonyms_is_in_nothing_that_was_submitted(first, kfp_server):
    run = next(iter(kfp_server.state.runs.values()))
    assert SECRETS["VITALFUSE_PSEUDONYM_KEY"] not in run.package + str(run.data)


def test_submitted_again_nothing_is_uploaded_and_every_step_is_cached(first, folder, kfp_server, mlflow_server):
    again = _submit(folder, kfp_server)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "(unchanged)" in again.stdout
    assert len(kfp_server.state.versions) == 1
    for step in STEPS:
        assert f"\n{step}: cached\n" in again.stdout, again.stdout
    for step in ("open_run", "record_run", "close_run"):
        assert f"\n{step}: done (" in again.stdout
    assert "model     vitalfuse-diagnosis version 1" in again.stdout
    client, runs = _tracked(mlflow_server)
    before, parent = _parents(runs)[:2]
    assert (before.info.status, parent.info.status) == ("FINISHED", "FINISHED")
    # All that the first run has, although no step ran.
    assert _headline(parent) == _headline(before) and "test/macro_auc" in _headline(parent)
    same = ("vitalfuse.model", "vitalfuse.cohort_digest", "vitalfuse.source_digest")
    assert [parent.data.tags[name] for name in same] == [before.data.tags[name] for name in same]
    assert parent.data.tags["vitalfuse.cached_steps"] == str(len(STEPS))
    assert _files(client, parent) == {"report.html", "inputs"}
    assert [entry.dataset.digest for entry in parent.inputs.dataset_inputs] == [
        entry.dataset.digest for entry in before.inputs.dataset_inputs
    ]
    sources = {run.data.tags["vitalfuse.step"]: run for run in _children(runs, before)}
    cached = {run.data.tags["vitalfuse.step"]: run for run in _children(runs, parent)}
    assert set(cached) == set(STEPS)
    for step, run in cached.items():
        assert run.info.status == "FINISHED" and run.data.tags["vitalfuse.cached"] == "true"
        assert run.data.tags["vitalfuse.source_run_id"] == sources[step].info.run_id
        assert run.data.metrics == sources[step].data.metrics
        assert run.data.params == sources[step].data.params
    assert len(client.search_model_versions("name = 'vitalfuse-diagnosis'")) == 1


def test_in_another_experiment_a_version_is_registered_and_nothing_is_trained(first, folder, kfp_server, mlflow_server):
    done = _submit(folder, kfp_server, "--set", "tracking.experiment=other")
    assert done.returncode == 0, done.stdout + done.stderr
    for step in STEPS:
        state = "done (" if step in ("compare", "register") else "cached\n"
        assert f"\n{step}: {state}" in done.stdout, done.stdout
    assert "model     vitalfuse-diagnosis version 2" in done.stdout
    client, runs = _tracked(mlflow_server, "other")
    (parent,) = _parents(runs)
    _, elsewhere = _tracked(mlflow_server)
    assert _headline(parent).keys() == _headline(_parents(elsewhere)[0]).keys()
    assert parent.data.tags["vitalfuse.cached_steps"] == str(len(STEPS) - 2)
    assert client.get_model_version("vitalfuse-diagnosis", "2").tags["vitalfuse.run_id"] == parent.info.run_id


def test_shards_from_the_cache_have_their_runs_too(folder, kfp_server, mlflow_server):
    for _ in range(2):
        done = _submit(folder, kfp_server, "--set", "tracking.experiment=sharded", "--set", "shards=2")
        assert done.returncode == 0, done.stdout + done.stderr
    _, runs = _tracked(mlflow_server, "sharded")
    before, parent = _parents(runs)
    assert _headline(parent) == _headline(before)
    shards = {f"{step}_shard[{i}-of-2]" for step in ("ingest", "preprocess") for i in (1, 2)}
    whole = {"ingest", "preprocess"}
    expected = (set(STEPS) - whole) | shards | {"merge_cohort", "merge_features"}
    for run, cached in ((before, 0), (parent, len(expected))):
        steps = [child.data.tags["vitalfuse.step"] for child in _children(runs, run)]
        assert sorted(steps) == sorted(expected)
        assert run.data.tags["vitalfuse.cached_steps"] == str(cached)


def test_pods_of_other_code_do_no_work(folder, mlflow_server, tmp_path):
    for room in ("components", "data_schemas", "evaluation", "pipelines", "serving", "tests", "training"):
        shutil.copytree(ROOT / room, tmp_path / "image" / room, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "image" / "components" / "ingest" / "ingest.py").open("a") as stream:
        stream.write("# Another line.\n")
    environment = {**SECRETS, "VALIDATE_PYTHON": VALIDATE_PYTHON, "PYTHONPATH": str(tmp_path / "image")}
    with KfpServer(tmp_path / "kfp", pod_environment=environment) as server:
        failed = _submit(folder, server, "--set", "tracking.experiment=other-code")
    assert failed.returncode == 1, failed.stdout + failed.stderr
    (cause,) = failed.stderr.splitlines()
    assert cause.startswith("vitalfuse: ingest: field cluster.images: the image holds other code of ingest")
    assert "cluster.images.tag" in cause
    _, runs = _tracked(mlflow_server, "other-code")
    (parent,) = runs
    assert parent.info.status == "FAILED"


def test_bad_input_in_the_middle_fails_the_run_and_tells_the_cause(first, folder, kfp_server, mlflow_server):
    failed = _submit(folder, kfp_server, "--set", "preprocess.folds=20")
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "\ningest: cached\n" in failed.stdout
    assert "\npreprocess: failed" in failed.stdout
    assert "\ntrain: skipped\n" in failed.stdout
    assert "\nclose_run: done (" in failed.stdout
    (cause,) = failed.stderr.splitlines()
    assert cause.startswith("vitalfuse: preprocess: ") and "folds" in cause
    _, runs = _tracked(mlflow_server)
    parent = _parents(runs)[-1]
    assert parent.info.status == "FAILED"
    assert {run.data.tags["vitalfuse.step"]: run.info.status for run in _children(runs, parent)} == {
        "preprocess": "FAILED"
    }
    assert not [run for run in runs if run.info.status == "RUNNING"]


def test_where_kfp_tracks_the_run_no_other_run_is_opened(folder, mlflow_server):
    from tests.kfp_server.mlflow_plugin import RunPlugin

    environment = {**SECRETS, "VALIDATE_PYTHON": VALIDATE_PYTHON}
    with KfpServer(folder / "kfp2", plugin=RunPlugin(mlflow_server), pod_environment=environment) as server:
        overrides = ["--set", "cluster.mlflow=kfp", "--set", "tracking.experiment=by-kfp"]
        done = _submit(folder, server, *overrides)
        assert done.returncode == 0, done.stdout + done.stderr
        (run_id,) = server.state.runs
    _, runs = _tracked(mlflow_server, "by-kfp")
    (parent,) = _parents(runs)
    assert parent.data.tags["kfp.pipeline_run_id"] == run_id
    assert parent.info.status == "FINISHED"
    assert f"/runs/{parent.info.run_id}" in done.stdout
    children = {run.info.run_name: run for run in _children(runs, parent)}
    loop = children.pop("for-loop-2")
    tasks = [*children.values(), *_children(runs, loop)]
    # Each task's run is KFP's, and what the step logs is in it.
    logged = {run.data.tags["vitalfuse.step"] for run in tasks if "vitalfuse.step" in run.data.tags}
    assert logged == set(STEPS)
    assert {run.info.status for run in runs} == {"FINISHED"}
    compare = children["compare"]
    assert 0 <= compare.data.metrics["test/macro_auc"] <= 1
    # Below the tasks' runs are only the folds and models that steps log beside their own figures.
    known = {run.info.run_id for run in (parent, loop, *tasks)}
    others = [run for run in runs if run.info.run_id not in known]
    assert all(run.data.tags["mlflow.parentRunId"] in known for run in others)
    assert not [run for run in others if "vitalfuse.step" in run.data.tags]
