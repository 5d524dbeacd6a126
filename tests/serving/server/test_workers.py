"""Several workers behave as one server: counts, limits, deaths, ends."""

import re
import signal
from collections import Counter
from contextlib import suppress

import httpx
import psutil
import pytest

from serving.prediction_log import read_log
from tests.serving.server.conftest import wait_until
from tests.serving.server.load import Load, expected, is_ready, request

pytestmark = pytest.mark.slow


@pytest.fixture
def model(model_folder):
    return model_folder("series", "image", "text")


@pytest.fixture
def version(registry, model):
    added = registry.add(model)
    registry.promote(added)
    return added


def ask(port, path="/v1/diagnose", **options):
    """Ask over a connection of its own, so that any worker may answer."""
    url = f"http://127.0.0.1:{port}{path}"
    return httpx.get(url) if path == "/metrics" else httpx.post(url, json=request(70), timeout=30, **options)


def sample(port, name):
    found = re.search(rf"^{re.escape(name)} (\S+)$", ask(port, "/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def workers_of(process):
    """The processes that serve; Python's own helpers are children too."""
    found = []
    for child in psutil.Process(process.pid).children():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            found += [child] if "spawn_main" in " ".join(child.cmdline()) else []
    return found


def answered_by(answer):
    return answer.headers["X-Request-ID"].partition("-")[0]


def test_metrics_are_those_of_all_workers(serve, port, version):
    serve(workers=2)
    wait_until(lambda: is_ready(port), 90)
    by_worker = Counter()
    while len(by_worker) < 2:
        by_worker[answered_by(ask(port))] += 1
        assert by_worker.total() < 2000
    name = 'vitalfuse_requests_total{endpoint="/v1/diagnose",status="200"}'
    assert {sample(port, name) for _ in range(10)} == {by_worker.total()}
    served = f'vitalfuse_model_version{{name="tests-diagnosis",version="{version}"}}'
    wait_until(lambda: sample(port, served) == 2)
    assert sample(port, "vitalfuse_registry_reachable") == 1


def test_a_worker_that_dies_is_started_again_and_the_others_answer(serve, port, version, model):
    process = serve(workers=2)
    wait_until(lambda: is_ready(port), 90)
    wait_until(lambda: len(workers_of(process)) == 2)
    served = f'vitalfuse_model_version{{name="tests-diagnosis",version="{version}"}}'
    wait_until(lambda: sample(port, served) == 2, 60)
    with Load(port, {version: expected(model)}) as load:
        wait_until(lambda: load.count(version) > 50, 60)
        first, second = workers_of(process)
        first.kill()
        wait_until(lambda: first not in workers_of(process) and len(workers_of(process)) == 2)
        wait_until(lambda: sample(port, served) == 2, 60)
        count = load.count(version)
        wait_until(lambda: load.count(version) > count + 50, 60)
    assert second in workers_of(process)
    # What the dead worker had accepted is lost, and nothing else.
    assert load.cut <= 8
    assert load.wrong == []
    assert {status for status, _ in load.answers} == {200}
    asked = sample(port, 'vitalfuse_requests_total{endpoint="/v1/diagnose",status="200"}')
    assert asked >= len(load.answers), "what the dead worker had counted still counts"
    process.terminate()
    assert process.wait(30) == 0


def test_a_killed_parent_leaves_no_orphans(serve, port, version):
    process = serve(workers=2)
    wait_until(lambda: is_ready(port), 90)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not psutil.wait_procs(family, 10)[1]


def test_a_rate_holds_for_all_workers_together(serve, port, version):
    serve("--set", 'serve.rate_limit="40/hour"', workers=2)
    wait_until(lambda: is_ready(port), 90)
    statuses = Counter(ask(port).status_code for _ in range(60))
    assert statuses == {200: 40, 429: 20}


def test_the_token_holds_in_every_worker(serve, port, version):
    token = "a token of these tests"
    serve(workers=2, VITALFUSE_SERVE_TOKEN=token)
    wait_until(lambda: is_ready(port), 90)
    assert {ask(port).status_code for _ in range(20)} == {401}
    assert {ask(port, headers={"Authorization": f"Bearer {token}"}).status_code for _ in range(20)} == {200}


def test_all_workers_log_their_predictions(serve, port, version, tmp_path):
    process = serve("--set", f"serve.log.folder={tmp_path / 'log'}", workers=2)
    wait_until(lambda: is_ready(port), 90)
    by_worker = Counter()
    while len(by_worker) < 2:
        by_worker[answered_by(ask(port))] += 1
        assert by_worker.total() < 2000
    process.terminate()
    assert process.wait(30) == 0
    assert len(read_log(tmp_path / "log")) == by_worker.total()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("options", "variables", "words"),
    [
        ((), {"VITALFUSE_SERVE_TOKEN": "short"}, "shorter than 16 characters"),
        (("--set", "serve.log.folder=log"), {"VITALFUSE_PREDICTION_KEY": "short"}, "prediction log is too short"),
        (("--set", "serve.tls_certificate=absent", "--set", "serve.tls_key=absent"), {}, "can't be used together"),
        (("--host", "192.0.2.1"), {}, "can't listen on 192.0.2.1"),
    ],
)
def test_what_is_wrong_is_told_before_anything_starts(serve, tmp_path, workers, options, variables, words):
    process = serve(*options, workers=workers, **variables)
    assert process.wait(60) == 2
    assert words in (tmp_path / "serve.log").read_text()
