"""Worker processes of the train step: what they write, and what happens when one of them or the step is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from components.common.result import NestedResult, StepResult
from components.embed_text.embed_text import embed_notes
from components.embed_text.settings import EmbedTextSettings
from components.train.local_workers import read_result, run_workers, write_result
from components.train.settings import TrainSettings
from components.train.train import train_candidate
from data_schemas.errors import InputError
from data_schemas.features import Features
from data_schemas.predictions import class_probabilities, read_predictions
from tests.training.synthetic import make_features

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = {
    "members": 1,
    "network": {"units": 8, "image_filters": (4,), "text_length": 16, "dropout": 0.0},
    "optimiser": {"epochs": 3, "batch_size": 16, "learning_rate": 0.01},
}
# Runs for hours if nothing stops it.
ENDLESS = {**SETTINGS, "workers": 2, "optimiser": {"epochs": 10_000, "patience": 10_000, "batch_size": 16}}


def script(text):
    return [sys.executable, "-c", text]


def test_each_worker_knows_its_place_and_is_heard(capfd):
    text = """
import json, os
config = json.loads(os.environ["TF_CONFIG"])
assert len(set(config["cluster"]["worker"])) == 3
if config["task"]["index"] == 0:
    print("progress: fitting")
print("here", config["task"]["index"])
"""
    heard = []
    run_workers(script(text), 3, heard.append)
    assert heard == ["fitting"]
    assert sorted(capfd.readouterr().out.splitlines()) == [f"worker {place + 1}: here {place}" for place in range(3)]


@pytest.mark.parametrize(
    ("act", "kind", "words"),
    [
        ("print('no disk left'); sys.exit(3)", RuntimeError, "Worker 2 of 3 ended with exit code 3, .*: no disk left$"),
        ("os.kill(os.getpid(), 9)", RuntimeError, "Worker 2 of 3 ended with signal SIGKILL, .*: it said nothing$"),
        ("print('no modality.'); sys.exit(2)", InputError, "^no modality.$"),
    ],
)
def test_when_one_fails_the_others_are_ended(tmp_path, act, kind, words):
    text = f"""
import json, os, pathlib, sys, time
if json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 1:
    while len(list(pathlib.Path({str(tmp_path)!r}).iterdir())) < 2: time.sleep(0.02)
    {act}
pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch()
time.sleep(600)
"""
    started = time.monotonic()
    with pytest.raises(kind, match=words):
        run_workers(script(text), 3, print)
    assert time.monotonic() - started < 500
    assert not [path.name for path in tmp_path.iterdir() if is_running(int(path.name))]


def test_the_chiefs_result_is_read_as_it_was_written(tmp_path):
    result = StepResult(
        metrics={"test_auc": float("nan"), "epochs": 3.0},
        params={"seed": 1, "class_weight": "none", "summary": True, "dropout": 0.5},
        artifacts={"model": Path("m")},
        nested=[NestedResult("fit", history={"loss": [1.0, 0.5]})],
        warnings=["one"],
    )
    write_result(result, tmp_path / "r.json")
    assert repr(read_result(tmp_path / "r.json")) == repr(result)


def is_running(process):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(process):
    found = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(number) for number in path.read_text().split()]
    return [number for number in found if b"components.train.worker" in command_line(number)]


def command_line(process):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes()
    return b""


def until(condition, seconds=300):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.1)
    return found


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    make_features(tmp_path / "f", patients=40, classes=2)
    embed_notes(tmp_path / "f", tmp_path / "e", EmbedTextSettings(dimensions=6, epochs=2))
    return tmp_path


@pytest.mark.slow
def test_two_workers_write_what_one_process_writes(prepared):
    results, texts = {}, []
    for count in (1, 2):
        chosen = TrainSettings.model_validate({**SETTINGS, "workers": count})
        results[count] = train_candidate(prepared / "f", prepared / "e", prepared / f"m{count}", chosen, texts.append)
    assert texts == ["fitting", "exporting", "predicting the test rows"] * 2
    names = [sorted(path.name for path in (prepared / f"m{count}").iterdir()) for count in (1, 2)]
    assert names[0] == names[1]
    assert {path.name for path in prepared.iterdir()} == {"f", "e", "m1", "m2"}
    classes = Features.open(prepared / "f").manifest.classes
    one, two = (
        class_probabilities(read_predictions(prepared / f"m{n}" / "predictions.parquet"), classes) for n in (1, 2)
    )
    np.testing.assert_allclose(one, two, atol=1e-4)
    histories = [json.loads((prepared / f"m{count}" / "history.json").read_text()) for count in (1, 2)]
    np.testing.assert_allclose(histories[0]["loss"], histories[1]["loss"], rtol=1e-4)
    assert results[2].nested[0].history == histories[1]
    assert results[1].metrics.keys() == results[2].metrics.keys()
    assert results[2].params["workers"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 1])
def test_a_worker_that_is_killed_ends_the_step_and_leaves_nothing(prepared, place):
    progress: list[str] = []

    def kill():
        until(lambda: "fitting" in progress)
        time.sleep(8)  # The first epochs are done by then, or are being done.
        workers = sorted(children(os.getpid()))
        assert len(workers) == 2
        os.kill(workers[place], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(RuntimeError, match=rf"Worker {place + 1} of 2 ended with signal SIGKILL"):
        train_candidate(
            prepared / "f", prepared / "e", prepared / "m", TrainSettings.model_validate(ENDLESS), progress.append
        )
    killer.join()
    assert {path.name for path in prepared.iterdir()} == {"f", "e"}
    assert not children(os.getpid())


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_a_step_that_is_killed_takes_its_workers_along(prepared, sign):
    text = f"""
from pathlib import Path
from components.train.settings import TrainSettings
from components.train.train import train_candidate
folder = Path({str(prepared)!r})
train_candidate(folder / "f", folder / "e", folder / "m", TrainSettings.model_validate({ENDLESS!r}), print)
"""
    with subprocess.Popen(script(text), stdout=subprocess.PIPE, text=True) as step:
        for line in step.stdout:
            if line.startswith("fitting"):
                break
        workers = children(step.pid)
        assert len(workers) == 2
        step.send_signal(sign)
        step.wait()
        until(lambda: not any(map(is_running, workers)), seconds=30)
    assert not (prepared / "m").exists()


def test_more_workers_than_samples_of_a_batch_are_refused():
    with pytest.raises(ValueError, match=r"workers 5 is more than optimiser.batch_size 4"):
        TrainSettings(workers=5, optimiser={"batch_size": 4})
