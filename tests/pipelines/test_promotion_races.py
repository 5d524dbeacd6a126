"""Promotions by processes that race, on SQLite and on a server: one wins, and the record and the aliases agree."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from components.register.audit import Ledger
from tests.registry_store import MODEL, Store

ROOT = Path(__file__).resolve().parents[2]
RACERS = 4


def _start(store, number, *, seen="1"):
    command = [sys.executable, "-m", "pipelines.cli", "promote", str(number), "--to", "champion"]
    words = [
        "--by",
        f"racer {number}",
        "--reason",
        "it is mine",
        "--expect-champion",
        seen,
        "--tracking-uri",
        store.uri,
    ]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "VITALFUSE_"))}
    return subprocess.Popen(
        [*command, *words, "--tracking-uri", store.uri],
        cwd=store.folder,
        env={**clean, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _race(store):
    """Let processes promote versions 2, 3, ... at once; return exit code and standard error by version."""
    racers = {number: _start(store, number) for number in range(2, 2 + RACERS)}
    return {number: (process.wait(timeout=300), process.communicate()[1]) for number, process in racers.items()}


def _check(store, ended):
    winners = [number for number, (code, _) in ended.items() if code == 0]
    assert len(winners) == 1, ended
    for number, (code, error) in ended.items():
        if number not in winners:
            assert code == 2, error
            assert f"racer {winners[0]}" in error or f"the champion is version {winners[0]}" in error, error
            assert error.count("\n") == 1, error
    history = Ledger.find(store.client, MODEL).read()
    assert history.problems == [] and history.finished
    promoted = [entry for entry in history.entries if entry.action == "promote"]
    assert [entry.version for entry in promoted] == [str(winners[0])]
    assert store.aliases() == history.aliases
    assert store.aliases()["champion"] == str(winners[0])
    assert store.aliases()["previous"] == "1"


@pytest.fixture(scope="module")
def server(tmp_path_factory, empty_database):
    """An MLflow server with two workers, as a team would have it."""
    import shutil

    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_database, folder / "mlflow.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [
        "--backend-store-uri",
        f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--workers",
            "2",
            *arguments,
        ],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
        start_new_session=True,
    )
    uri = f"http://127.0.0.1:{port}"
    for _ in range(240):
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=2).read()
            break
        except OSError:
            assert process.poll() is None, "the server ended"
            time.sleep(0.5)
    yield uri
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(timeout=60)


@pytest.mark.slow
def test_racing_promotions_on_sqlite_have_one_winner(store):
    for _ in range(1 + RACERS):
        store.version()
    _check(store, _race(store))


@pytest.mark.slow
def test_racing_promotions_before_the_record_was_begun_have_one_winner_and_one_record(store):
    for _ in range(1 + RACERS):
        store.version(record=False)
    store.client.set_registered_model_alias(MODEL, "champion", "1")
    _check(store, _race(store))
    names = [found.name for found in store.client.search_experiments()]
    assert [name for name in names if "promotions" in name] == [f"vitalfuse-promotions/{MODEL}"]


@pytest.mark.slow
def test_racing_promotions_on_a_server_have_one_winner(server, tmp_path):
    store = Store(tmp_path, server)
    for _ in range(1 + RACERS):
        store.version()
    _check(store, _race(store))


_CLAIM = """
import json, sys, time
from mlflow import MlflowClient
from components.register.audit import Ledger, OvertakenError
uri, start, racer = sys.argv[1], float(sys.argv[2]), sys.argv[3]
ledger = Ledger.open(MlflowClient(tracking_uri=uri, registry_uri=uri), "vitalfuse-diagnosis")
time.sleep(max(0, start - time.time()))
won = []
for turn in range(10):
    history = ledger.read()
    try:
        entry = ledger.append(history, "promote", version="1", alias=None, by=racer, reason="r", before={}, after={},
                              evidence={})
        won.append([entry.number, entry.hash])
    except OvertakenError:
        pass
print(json.dumps(won))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "server"])
def test_no_number_is_given_twice(kind, request, store):
    """Processes that append as fast as they can: each number has one owner, and no entry that was won is lost."""
    uri = request.getfixturevalue("server") if kind == "server" else store.uri
    from mlflow import MlflowClient

    ledger = Ledger.open(MlflowClient(tracking_uri=uri, registry_uri=uri), MODEL)
    before = len(ledger.read().entries)
    start = str(time.time() + 15)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", _CLAIM, uri, start, f"racer {i}"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"},
        )
        for i in range(RACERS)
    ]
    won = [entry for racer in racers for entry in json.loads(racer.communicate(timeout=300)[0])]
    history = ledger.read()
    assert history.problems == []
    assert sorted(number for number, _ in won) == list(range(before + 1, len(history.entries) + 1))
    assert {tuple(entry) for entry in won} == {(entry.number, entry.hash) for entry in history.entries[before:]}
    assert len(won) >= 10


@pytest.mark.slow
def test_a_promotion_that_is_killed_leaves_what_the_next_command_repairs(store):
    """Killed at many moments: afterwards the next command works, and the record and the aliases agree."""
    for _ in range(3):
        store.version()
    moments = set()
    for attempt in range(8):
        champion = store.aliases()["champion"]
        process = _start(store, "2" if champion != "2" else "3", seen=champion)
        ledger = Ledger.find(store.client, MODEL)
        entries = len(ledger.read().entries)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None and len(ledger.read().entries) == entries:
            time.sleep(0.002)
        time.sleep(0.004 * attempt)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        left = ledger.read()
        moments.add((left.finished, store.aliases() == left.aliases))
        repair = ["promote", "1", "--to", "champion", "--by", "Ada", "--reason", "repair"]
        told = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", *repair, "--tracking-uri", store.uri],
            cwd=store.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert told.returncode == 0, told.stderr
        history = ledger.read()
        assert history.problems == [] and history.finished
        assert store.aliases() == history.aliases
        assert store.aliases()["champion"] == "1"
        assert [entry.action for entry in history.entries if entry.action == "outside"] == []
    assert (False, False) in moments or (False, True) in moments, "no process was killed in the middle"
