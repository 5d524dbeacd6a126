from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from components.ingest.demo.generate import generate_source
from components.ingest.demo.settings import DemoSettings

TINY = {
    "name": "tiny",
    "models": ["cnn_lstm_attention", "random_forest"],
    "ingest": {"name": "tiny", "sources": [{"format": "export", "path": "source"}]},
    "preprocess": {"step": "1d", "steps": 3, "folds": 2, "test_fraction": 0.25},
}


@pytest.fixture(scope="session")
def demo_source(tmp_path_factory) -> Path:
    """A small export of the demo generator, to copy and leave alone."""
    folder = tmp_path_factory.mktemp("demo") / "source"
    generate_source(folder, DemoSettings(patients=40, days=3, seed=3, image_size=(16, 16)))
    return folder


@pytest.fixture
def project(tmp_path, demo_source, monkeypatch) -> Path:
    """A working directory with a source of its own and settings.yaml; the environment names no other store."""
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "VITALFUSE_", "AWS_")):
            monkeypatch.delenv(name)
    shutil.copytree(demo_source, tmp_path / "source")
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(TINY))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def vitalfuse() -> Callable[..., Result]:
    """Call a command in this process, for those that end at once."""

    def call(*arguments: str) -> Result:
        from pipelines.cli import main

        return CliRunner().invoke(main, list(arguments))

    return call


@pytest.fixture(scope="session")
def vitalfuse_process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Call a command in a process of its own, as a user does."""

    def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "VITALFUSE_"))}
        return subprocess.run(
            [sys.executable, "-m", "pipelines.cli", *arguments],
            cwd=folder,
            env={**clean, "TF_CPP_MIN_LOG_LEVEL": "2", "COLUMNS": "100"},
            capture_output=True,
            text=True,
        )

    return call


class Screen:
    """What a command draws on a terminal."""

    _UP, _CODE = re.compile(r"(?:\x1b\[1A\x1b\[2K)+"), re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")

    def frames(self, output: str) -> list[list[str]]:
        """Split output where the cursor went up to draw over lines; return the lines of each part."""
        parts = [self._CODE.sub("", part) for part in self._UP.split(output)]
        return [[line.rstrip() for line in part.strip("\n").split("\n")] for part in parts]


@pytest.fixture
def terminal(monkeypatch) -> Callable[[int, int], Screen]:
    """Let commands in this process think that they write to a terminal of that size; return what reads it."""

    def open_terminal(width: int, height: int) -> Screen:
        for name, value in {"TTY_COMPATIBLE": "1", "COLUMNS": width, "LINES": height, "TERM": "xterm"}.items():
            monkeypatch.setenv(name, str(value))
        return Screen()

    return open_terminal


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory) -> Path:
    """An MLflow database that has its tables, to copy: making them takes seconds."""
    from pipelines.tracking import open_store

    folder = tmp_path_factory.mktemp("mlflow")
    open_store(f"sqlite:///{folder / 'mlflow.db'}", "Default")
    return folder / "mlflow.db"


@pytest.fixture
def tracking_uri(tmp_path, empty_mlflow) -> str:
    """The URI of an MLflow store of the test's own."""
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture(scope="session")
def compiled_once() -> Callable[..., None]:
    """compile_pipeline, which compiles each section `cluster` and number of shards once for all tests."""
    from pipelines.cluster import compile_pipeline

    texts: dict[str, str] = {}

    def compile_once(output, settings=None, *, shards=1):
        key = f"{shards} {settings.model_dump_json()}"
        if key not in texts:
            compile_pipeline(output, settings, shards=shards)
            texts[key] = output.read_text()
        output.write_text(texts[key])

    return compile_once


@pytest.fixture
def submitted(tmp_path, monkeypatch, vitalfuse, tracking_uri, compiled_once) -> Callable[..., Result]:
    """Call a command for a cluster against a test server; its polls and repetitions are quick.

    The settings name two models, and the MLflow store of the test.
    """
    monkeypatch.setattr("pipelines.submission.compile_pipeline", compiled_once)
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "VITALFUSE_", "KF_PIPELINES_", "KFP_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", "/nowhere")  # no kubectl
    monkeypatch.setattr("pipelines.run_states.POLL_SECONDS", 0.02)
    monkeypatch.setattr("pipelines.kfp_api.REPEAT_SECONDS", 0.01)
    monkeypatch.chdir(tmp_path)
    settings = {**TINY, "tracking": {"uri": tracking_uri}, "cluster": {"mlflow_uri": "http://mlflow.invalid:5000"}}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(settings))

    def call(server, *arguments: str) -> Result:
        needs_settings = arguments[0] == "submit" or arguments[:2] == ("schedule", "create")
        config = ["--config", "cluster.yaml"] if needs_settings else []
        return vitalfuse(*arguments, *config, "--host", server if isinstance(server, str) else server.url)

    return call
