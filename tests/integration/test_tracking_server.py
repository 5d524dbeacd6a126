"""Two runs at once against a real MLflow server that is killed in the middle, and stays away for 30 seconds.

One run reads its source from S3 and speaks to the server through a proxy that loses answers. Nothing may be missing in
MLflow afterwards, and nothing may be there twice.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from components.common.events import read_events
from components.common.step import RECORD_FILE, StepRecord
from components.ingest.demo.generate import generate_source
from components.ingest.demo.settings import DemoSettings
from components.register.audit import EXPERIMENT_PREFIX, Ledger
from components.register.register import folder_digest
from tests.integration import servers
from tests.integration.lossy import LossyProxy

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
VALIDATE_PYTHON = os.environ.get("VALIDATE_PYTHON", str(ROOT / ".venv-validate" / "bin" / "python"))
MODELS = ["cnn_lstm_attention", "random_forest"]
STEPS = ["ingest", "validate", "preprocess", "embed_text", "train", "compare", "register"] + [
    f"cross_validate[{model}]" for model in MODELS
]
FOLDS = 2
AWAY_SECONDS = 30
# Requests that make or change something, whose answers the proxy loses.
LOST = (
    r"/(experiments/create|runs/create|runs/log-batch|runs/update|runs/set-tag|logged-models"
    r"|registered-models/create|registered-models/alias|model-versions/create)$"
)


@dataclass
class Run:
    """One of the two runs."""

    name: str
    folder: Path
    process: subprocess.Popen[str]

    @property
    def run_folder(self) -> Path | None:
        """Its folder in the workspace, once it is there."""
        return next((self.folder / "workspace" / "runs").glob("*"), None)

    def states(self) -> dict[str, str]:
        """The newest state of each step."""
        return {event.step: event.state for event in read_events(self.run_folder)} if self.run_folder else {}

    def records(self) -> dict[str, StepRecord]:
        """What each step left on disk."""
        files = (self.run_folder / "steps").rglob(RECORD_FILE)
        records = [StepRecord.model_validate_json(path.read_text()) for path in files]
        return {record.step: record for record in records}

    def output(self, step: str) -> Path:
        """The folder that a step wrote."""
        for path in (self.run_folder / "steps").rglob(RECORD_FILE):
            if StepRecord.model_validate_json(path.read_text()).step == step:
                return path.parent
        raise LookupError(step)

    def logs(self) -> str:
        """Everything that the steps printed."""
        return "".join(path.read_text() for path in (self.run_folder / "logs").glob("*.log"))


def _start(folder: Path, name: str, source: str, variables: dict[str, str]) -> Run:
    tiny = {"network": {"units": 8, "image_filters": [4]}, "optimiser": {"epochs": 2}}
    settings = {
        "name": name,
        "workspace": str(folder / "workspace"),
        "models": MODELS,
        "ingest": {"name": name, "sources": [{"format": "export", "path": source}]},
        "preprocess": {"step": "1d", "steps": 4, "folds": FOLDS, "test_fraction": 0.25},
        "train": tiny,
        "cross_validate": tiny,
        "compare": {"resamples": 100},
    }
    folder.mkdir()
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    clean = {
        variable: value
        for variable, value in os.environ.items()
        if not variable.startswith(("MLFLOW_", "VITALFUSE_", "AWS_"))
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "run", "--config", "settings.yaml"],
        cwd=folder,
        env={**clean, "VALIDATE_PYTHON": VALIDATE_PYTHON, "TF_CPP_MIN_LOG_LEVEL": "2", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return Run(name, folder, process)


def _wait_for(run: Run, step: str) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and run.process.poll() is None:
        if step in run.states():
            return
        time.sleep(0.2)
    raise AssertionError(f"{run.name}: {step} never ran: {run.process.communicate()[0]}")


def _upload(s3: servers.S3, folder: Path, prefix: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            servers.client(s3).upload_file(str(path), "sources", f"{prefix}/{path.relative_to(folder).as_posix()}")


@pytest.fixture(scope="module")
def away(stack, tmp_path_factory):
    """Both runs, ended; the server was away while they trained."""
    folder = tmp_path_factory.mktemp("away")
    source = folder / "source"
    generate_source(source, DemoSettings(patients=60, seed=1, days=4, image_size=(16, 16)))
    _upload(stack.s3, source, "cohort")
    stack.mlflow.create_user("pipeline", "not-an-administrator")
    user = stack.mlflow.client_environment("pipeline", "not-an-administrator")
    with LossyProxy(stack.mlflow.port, LOST).serve() as proxy:
        # At once, so that both find no experiment, and make it.
        runs = [
            _start(folder / "direct", "direct", str(source), user),
            _start(
                folder / "lossy",
                "lossy",
                "s3://sources/cohort",
                user | stack.s3.environment | {"MLFLOW_TRACKING_URI": proxy.uri},
            ),
        ]
        try:
            _wait_for(runs[0], "train")
            stack.mlflow.kill()
            time.sleep(AWAY_SECONDS)
            stack.mlflow.start()
            for run in runs:
                printed = run.process.communicate(timeout=900)[0]
                assert run.process.returncode == 0, printed + run.logs()[-3000:]
        finally:
            for run in runs:
                run.process.kill()
        yield runs, proxy


@pytest.fixture(scope="module")
def tracked(stack, away):
    """An MLflow client of the server, and all runs in it."""
    import mlflow

    with pytest.MonkeyPatch.context() as patch:
        for name, value in stack.mlflow.client_environment(*stack.mlflow.admin).items():
            patch.setenv(name, value)
        patch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
        client = mlflow.MlflowClient(tracking_uri=stack.mlflow.uri, registry_uri=stack.mlflow.uri)
        experiment = client.get_experiment_by_name("vitalfuse")
        yield client, list(client.search_runs([experiment.experiment_id], max_results=1000))


def _parent(runs, name):
    found = [run for run in runs if run.info.run_name == name and run.data.tags.get("vitalfuse.step") == "pipeline"]
    assert len(found) == 1
    return found[0]


def _below(runs, parent):
    return [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]


def test_the_outage_and_the_lost_answers_were_felt(away):
    runs, proxy = away
    assert any("refused" in run.logs() or "Connection aborted" in run.logs() for run in runs)
    for path in ("/runs/create", "/runs/log-batch", "/logged-models", "/model-versions/create"):
        assert proxy.lost[path] > 0, path


def test_the_source_was_read_from_s3(away):
    (direct, lossy), _ = away
    manifests = [json.loads((run.output("ingest") / "manifest.json").read_text()) for run in (direct, lossy)]
    assert manifests[0]["counts"] == manifests[1]["counts"]
    assert manifests[0]["sources"] == manifests[1]["sources"]


def test_both_parents_are_finished_and_nothing_is_left_open(away, tracked):
    _, runs = tracked
    assert [run.info.status for run in runs if run.info.status != "FINISHED"] == []
    for run in away[0]:
        parent = _parent(runs, run.name)
        assert parent.data.params["preprocess.folds"] == str(FOLDS)
        assert 0 <= parent.data.metrics["test/macro_auc"] <= 1


def test_each_step_is_there_once_with_what_it_left_on_disk(away, tracked):
    _, runs = tracked
    for run in away[0]:
        steps = _below(runs, _parent(runs, run.name))
        assert Counter(step.data.tags["vitalfuse.step"] for step in steps) == Counter(STEPS)
        records = run.records()
        assert set(records) == set(STEPS)
        for step in steps:
            record = records[step.data.tags["vitalfuse.step"]]
            assert record.mlflow_run_id == step.info.run_id
            assert step.data.metrics == pytest.approx(record.metrics)
            assert step.data.params == {name: str(value) for name, value in record.params.items()}
            assert record.tags.items() <= step.data.tags.items()


def test_each_fold_is_there_once_with_its_whole_history(away, tracked):
    client, runs = tracked
    for run in away[0]:
        for step in _below(runs, _parent(runs, run.name)):
            name = step.data.tags["vitalfuse.step"]
            folds = _below(runs, step)
            assert len({fold.info.run_name for fold in folds}) == len(folds)
            if name.startswith("cross_validate"):
                assert len([fold for fold in folds if "macro_auc" in fold.data.metrics]) >= FOLDS
            if name == "cross_validate[cnn_lstm_attention]":
                for fold in folds:
                    losses = [key for key in fold.data.metrics if key.endswith("loss")]
                    for key in losses:
                        steps = [point.step for point in client.get_metric_history(fold.info.run_id, key)]
                        assert steps == sorted(set(steps)), "an epoch is there twice"


def test_artifacts_are_whole(away, tracked, tmp_path):
    client, runs = tracked
    for run in away[0]:
        parent = _parent(runs, run.name)
        report = client.download_artifacts(parent.info.run_id, "report.html", str(tmp_path))
        assert Path(report).read_bytes() == (run.run_folder / "report.html").read_bytes()
        for name in ("pipeline.yaml", "settings.yaml", "settings_resolved.yaml"):
            copy = client.download_artifacts(parent.info.run_id, f"inputs/{name}", str(tmp_path))
            assert Path(copy).read_bytes() == (run.run_folder / name).read_bytes()
        for step in _below(runs, parent):
            output = run.output(step.data.tags["vitalfuse.step"])
            on_disk = {path.name: path.read_bytes() for path in output.rglob("*") if path.is_file()}
            folder = Path(client.download_artifacts(step.info.run_id, "", str(tmp_path / step.info.run_id)))
            copies = [path for path in folder.rglob("*") if path.is_file() and path.name in on_disk]
            for path in copies:
                assert path.read_bytes() == on_disk[path.name], path


def test_each_run_registered_one_version_of_its_own_model(away, tracked, tmp_path):
    import mlflow

    client, runs = tracked
    versions = client.search_model_versions("name = 'vitalfuse-diagnosis'")
    assert len(versions) == len(away[0])
    models = client.search_logged_models([_parent(runs, "direct").info.experiment_id])
    assert len(models) == len(away[0])
    for run in away[0]:
        registration = json.loads((run.output("register") / "registration.json").read_text())
        version = client.get_model_version(registration["name"], registration["version"])
        assert version.status == "READY"
        assert version.tags["vitalfuse.run_id"] == _parent(runs, run.name).info.run_id
        folder = Path(mlflow.artifacts.download_artifacts(version.source, dst_path=str(tmp_path / run.name)))
        shipped = [path.parent for path in folder.rglob("model.onnx")]
        assert [folder_digest(path) for path in shipped] == [version.tags["vitalfuse.model_digest"]]


def test_the_record_of_promotions_is_sound_and_has_each_version_once(tracked):
    client, _ = tracked
    versions = {str(version.version) for version in client.search_model_versions("name = 'vitalfuse-diagnosis'")}
    history = Ledger.find(client, "vitalfuse-diagnosis").read()
    assert history.problems == []
    assert sorted(entry.version for entry in history.entries) == sorted(versions)
    begun = [item.name for item in client.search_experiments() if item.name.startswith(EXPERIMENT_PREFIX)]
    assert begun == [f"{EXPERIMENT_PREFIX}vitalfuse-diagnosis"]


def test_files_are_in_s3_and_went_through_the_server(stack, away):
    listed = servers.client(stack.s3).list_objects_v2(Bucket="vitalfuse", Prefix="mlflow/", MaxKeys=1000)
    assert any(entry["Key"].endswith("/report.html") for entry in listed["Contents"])
    assert "/presigned/" not in stack.mlflow.log()
