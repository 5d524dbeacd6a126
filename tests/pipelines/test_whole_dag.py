"""The whole pipeline through kfp.local with tiny settings: killed in the middle, started again, run again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from components.common.events import read_events
from components.ingest.demo.generate import generate_source
from components.ingest.demo.settings import DemoSettings

ROOT = Path(__file__).resolve().parents[2]
VALIDATE_PYTHON = os.environ.get("VALIDATE_PYTHON", str(ROOT / ".venv-validate" / "bin" / "python"))
MODELS = ["cnn_lstm_attention", "cnn", "random_forest"]
STEPS = ["ingest", "validate", "preprocess", "embed_text", "train", "compare", "register"] + [
    f"cross_validate[{model}]" for model in MODELS
]


def _settings(folder):
    return {
        "name": "tiny",
        "workspace": str(folder / "workspace"),
        "models": MODELS,
        "ingest": {"name": "tiny", "sources": [{"format": "export", "path": str(folder / "source")}]},
        "preprocess": {"step": "1d", "steps": 4, "folds": 2, "test_fraction": 0.25},
        "train": {"members": 1, "network": {"units": 8, "image_filters": [4]}, "optimiser": {"epochs": 2}},
        "cross_validate": {"members": 1, "network": {"units": 8, "image_filters": [4]}, "optimiser": {"epochs": 2}},
        "compare": {"resamples": 100},
        # Two epochs on 45 patients make no model that is good for anything.
        "register": {
            "gates": {
                "skip": ["macro_auc", "kappa", "calibration_error", "worst_subgroup_auc"],
                "latency_ms": 60_000,  # How busy the machine is does not matter here.
            }
        },
    }


def _command(folder, *arguments):
    return [sys.executable, "-m", "pipelines.cli", "run", "--config", str(folder / "settings.yaml"), *arguments]


def _environment(folder):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "VITALFUSE_"))}
    temporary = folder / "temporary"
    temporary.mkdir(exist_ok=True)
    return {**clean, "VALIDATE_PYTHON": VALIDATE_PYTHON, "TF_CPP_MIN_LOG_LEVEL": "2", "TMPDIR": str(temporary)}


def _run(folder, *arguments):
    return subprocess.run(
        _command(folder, *arguments), cwd=folder, env=_environment(folder), capture_output=True, text=True
    )


def _kill_during(folder, step):
    """Start a run, and kill its process (not its group) once a step runs; return the step's process ids' session."""
    process = subprocess.Popen(
        _command(folder), cwd=folder, env=_environment(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        runs = list((folder / "workspace" / "runs").glob("*"))
        if runs and any(event.step == step for event in read_events(runs[0])):
            process.send_signal(signal.SIGKILL)
            process.wait()
            # What it has started ends by itself.
            while any(str(runs[0]) in " ".join(one.info["cmdline"] or []) for one in psutil.process_iter(["cmdline"])):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            return runs[0]
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.05)
    raise AssertionError(f"{step} never ran")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dag")
    generate_source(folder / "source", DemoSettings(patients=60, seed=1, days=4, image_size=(16, 16)))
    (folder / "settings.yaml").write_text(yaml.safe_dump(_settings(folder)))
    killed = _kill_during(folder, "preprocess")
    shutil.rmtree(folder / "temporary")
    completed = _run(folder)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return folder, killed, completed


def _newest_run(folder):
    return sorted((folder / "workspace" / "runs").glob("*"))[-1]


def _runs(folder):
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'workspace' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("vitalfuse")
    return client, client.search_runs([experiment.experiment_id], max_results=500)


def _parents(runs):
    parents = [run for run in runs if run.data.tags.get("vitalfuse.step") == "pipeline"]
    return sorted(parents, key=lambda run: run.info.start_time)


def test_a_killed_run_goes_on_from_its_finished_steps(tiny):
    folder, killed, completed = tiny
    assert "ingest: cached" in completed.stdout
    assert "validate: cached" in completed.stdout
    assert "preprocess: done" in completed.stdout
    states = {event.step: event.state for event in read_events(killed)}
    assert states["preprocess"] == "running"
    assert not list(folder.rglob("*.partial/features.json"))


def test_the_killed_run_is_closed_in_mlflow(tiny):
    folder, _, _ = tiny
    _, runs = _runs(folder)
    assert [run.info.status for run in _parents(runs)][:2] == ["KILLED", "FINISHED"]
    assert not [run for run in runs if run.info.status == "RUNNING"]


def test_the_result_names_models_version_report_and_ui(tiny):
    folder, _, completed = tiny
    for model in MODELS:
        assert model in completed.stdout
    assert "vitalfuse-diagnosis version 1 (challenger, champion)" in completed.stdout
    assert "vitalfuse ui --workspace" in completed.stdout
    assert (_newest_run(folder) / "report.html").stat().st_size > 10_000


def test_a_run_leaves_no_temporary_files_behind(tiny):
    folder, _, _ = tiny
    assert list((folder / "temporary").iterdir()) == []


def test_no_library_chatter_reaches_the_terminal(tiny):
    _, _, completed = tiny
    for noise in ("KFP Executor", "tensorflow/", "INFO mlflow", "alembic", "oneDNN"):
        assert noise not in completed.stdout + completed.stderr


def test_mlflow_has_a_nested_run_for_each_step_model_and_fold(tiny):
    folder, _, _ = tiny
    _, runs = _runs(folder)
    parent = _parents(runs)[1]
    children = {
        run.data.tags["vitalfuse.step"]: run
        for run in runs
        if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    }
    assert set(children) == set(STEPS)
    for model in MODELS:
        model_run = children[f"cross_validate[{model}]"].info.run_id
        folds = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == model_run]
        assert len(folds) >= 2
        assert all("macro_auc" in fold.data.metrics for fold in folds)
    assert children["ingest"].data.tags["vitalfuse.cached"] == "true"


def test_the_parent_run_can_be_compared_and_reproduced(tiny):
    folder, _, _ = tiny
    client, runs = _runs(folder)
    parent = _parents(runs)[1]
    assert parent.data.params["preprocess.folds"] == "2"
    assert 0 <= parent.data.metrics["test/macro_auc"] <= 1
    artifacts = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {"inputs", "report.html"} <= artifacts
    inputs = {item.path for item in client.list_artifacts(parent.info.run_id, "inputs")}
    assert {"inputs/pipeline.yaml", "inputs/settings.yaml"} <= inputs
    assert parent.inputs.dataset_inputs[0].dataset.digest
    assert "git" in " ".join(parent.data.tags)


def test_the_registered_version_predicts_and_is_tied_to_its_run(tiny):
    import mlflow
    import pytest

    folder, _, _ = tiny
    client, runs = _runs(folder)
    version = client.get_model_version_by_alias("vitalfuse-diagnosis", "challenger")
    assert version.version == client.get_model_version_by_alias("vitalfuse-diagnosis", "champion").version
    assert version.tags["vitalfuse.run_id"] == _parents(runs)[1].info.run_id
    assert len(version.tags["vitalfuse.cohort_digest"]) == 64
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'workspace' / 'mlflow.db'}")
    model = mlflow.pyfunc.load_model("models:/vitalfuse-diagnosis@challenger")
    (predicted,) = model.predict(model.input_example).to_dict("records")
    assert len(predicted["probabilities"]) == 6
    assert sum(predicted["probabilities"].values()) == pytest.approx(1)
    assert predicted["model"]["version"] == str(version.version)


def test_the_version_holds_the_verdict_of_its_gates(tiny):
    folder, _, _ = tiny
    client, _ = _runs(folder)
    version = client.get_model_version_by_alias("vitalfuse-diagnosis", "champion")
    assert version.tags["vitalfuse.gates"] == "passed"
    assert version.tags["vitalfuse.gates.kappa"] == "skipped"
    assert version.tags["vitalfuse.gates.validation"].startswith("passed: 0")
    assert version.tags["vitalfuse.gates.latency"].startswith("passed: ")
    registration = next((folder / "workspace" / "runs").rglob("registration.json")).parent
    assert json.loads((registration / "gates" / "gates.json").read_text())["verdict"] == "passed"


def test_the_version_can_be_verified_promoted_and_compared(tiny):
    """A run with other settings makes version 2, which is held against version 1 on the same held-out patients."""
    folder, _, _ = tiny
    settings = _settings(folder)
    settings["train"]["optimiser"]["epochs"] = 3
    settings["register"]["gates"] |= {"non_inferiority_margin": 1, "smallest_common": 10}
    (folder / "other.yaml").write_text(yaml.safe_dump(settings))
    completed = _vitalfuse(folder, "run", "--config", "other.yaml")
    assert completed.returncode == 0, completed.stderr
    assert "vitalfuse-diagnosis version 2 (challenger)" in completed.stdout
    client, _ = _runs(folder)
    gate = client.get_model_version("vitalfuse-diagnosis", "2").tags["vitalfuse.gates.non_inferiority"]
    assert gate.startswith("passed: ") and "version 1, 16 common patients" in gate

    compared = _vitalfuse(folder, "compare", "@champion", "@challenger", "--json")
    assert compared.returncode == 0, compared.stderr
    document = json.loads(compared.stdout)
    assert [entry["setting"] for entry in document["settings"]] == [
        "register.gates.non_inferiority_margin",
        "register.gates.smallest_common",
        "train.optimiser.epochs",
    ]
    assert document["differences"][0]["common"] == 16
    assert document["warnings"] == []

    promoted = _vitalfuse(folder, "promote", "2", "--to", "champion", "--by", "Ada", "--reason", "tests")
    assert promoted.returncode == 0, promoted.stderr
    assert "champion 1 → 2, previous – → 1" in promoted.stdout
    assert _vitalfuse(folder, "rollback", "--by", "Ada", "--reason", "tests").returncode == 0
    assert _vitalfuse(folder, "history").returncode == 0
    assert str(client.get_model_version_by_alias("vitalfuse-diagnosis", "champion").version) == "1"


def _vitalfuse(folder, *arguments):
    command = [sys.executable, "-m", "pipelines.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=_environment(folder), capture_output=True, text=True)


def test_patients_are_named_nowhere(tiny):
    """Source identifiers and names are in no file of the workspace, but for the source itself."""
    import pandas as pd

    folder, _, _ = tiny
    patients = pd.read_csv(folder / "source" / "patients.csv", dtype=str)
    secrets = [value.encode() for column in ("mrn", "name") for value in patients[column]]
    for path in (folder / "workspace").rglob("*"):
        if path.is_file() and path.suffix in (".json", ".jsonl", ".log", ".html", ".yaml", ".csv", ".db", ".txt"):
            content = path.read_bytes()
            assert not [secret for secret in secrets if secret in content], path


def test_no_pseudonym_is_in_mlflow(tiny):
    import pandas as pd

    folder, _, _ = tiny
    cohort = next((folder / "workspace" / "runs").rglob("patients.parquet"))
    pseudonyms = [name.encode() for name in pd.read_parquet(cohort)["patient_id"]]
    files = [path for path in (folder / "workspace" / "mlartifacts").rglob("*") if path.is_file()]
    assert [path for path in files if path.name == "predictions.sealed"]
    for path in [*files, folder / "workspace" / "mlflow.db"]:
        content = path.read_bytes()
        assert not [name for name in pseudonyms if name in content], path


def test_an_unchanged_run_is_wholly_cached(tiny):
    folder, _, _ = tiny
    completed = _run(folder)
    assert completed.returncode == 0, completed.stderr
    for step in STEPS:
        assert f"{step}: cached" in completed.stdout
    _, runs = _runs(folder)
    first, second = _parents(runs)[1], _parents(runs)[-1]
    assert first.data.metrics["test/macro_auc"] == second.data.metrics["test/macro_auc"]


def test_describe_shows_the_newest_cohort(tiny):
    folder, _, _ = tiny
    completed = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "cohort", "describe", "--workspace", "workspace"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert completed.returncode == 0, completed.stderr
    assert "heart_rate" in completed.stdout
    assert "chronic_kidney_disease" in completed.stdout


def test_the_plan_holds_no_secret(tiny):
    folder, _, _ = tiny
    key = (folder / "workspace" / "pseudonym.key").read_text()
    assert key not in (_newest_run(folder) / "plan.json").read_text()
    assert (folder / "workspace" / "pseudonym.key").stat().st_mode & 0o077 == 0
    json.loads((_newest_run(folder) / "plan.json").read_text())


@pytest.mark.slow
def test_shards_give_the_same_results_and_are_cached_too(tiny):
    folder, _, _ = tiny
    completed = _run(folder, "--set", "shards=3")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    sharded = [f"{step}_shard[{number}-of-3]" for step in ("ingest", "preprocess") for number in (1, 2, 3)]
    for step in [*sharded, "merge_cohort", "merge_features"]:
        assert f"{step}: done" in completed.stdout
    assert "ingest: " not in completed.stdout and "preprocess: " not in completed.stdout
    _, runs = _runs(folder)
    parents = _parents(runs)
    whole, divided = parents[1], parents[-1]
    assert divided.data.tags["vitalfuse.cohort_digest"] == whole.data.tags["vitalfuse.cohort_digest"]
    for name, value in whole.data.metrics.items():
        if not any(word in name for word in ("seconds", "memory")):
            assert divided.data.metrics[name] == pytest.approx(value, nan_ok=True), name
    children = {
        run.data.tags["vitalfuse.step"]
        for run in runs
        if run.data.tags.get("mlflow.parentRunId") == divided.info.run_id
    }
    assert {*sharded, "merge_cohort", "merge_features"} < children
    again = _run(folder, "--set", "shards=3")
    for step in [*sharded, "merge_cohort", "merge_features", "register"]:
        assert f"{step}: cached" in again.stdout
    # Another time of the source is another source, for each shard too.
    patients = folder / "source" / "patients.csv"
    times = patients.stat()
    os.utime(patients)
    touched = _run(folder, "--set", "shards=3")
    os.utime(patients, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert touched.returncode == 0, touched.stdout + touched.stderr
    for step in sharded[:3]:
        assert f"{step}: done" in touched.stdout
