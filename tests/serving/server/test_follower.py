"""The server follows the alias, and takes no version that is not what was registered."""

import itertools
import json
import shutil
import threading
import time

import mlflow
import onnx
import pytest

from serving.server import versions
from serving.server.follower import Follower
from serving.server.metrics import Metrics
from serving.settings import ServeSettings
from tests.serving.server.conftest import NAME, patient
from tests.serving.server.registry import Registry


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One store for the module: MLflow takes seconds to make one."""
    return Registry(tmp_path_factory.mktemp("registry"))


@pytest.fixture
def registry(shared):
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(shared.uri)
    yield shared
    mlflow.set_tracking_uri(before)


@pytest.fixture
def model(model_folder):
    return model_folder("series", "image", "text")


@pytest.fixture
def follower(tmp_path):
    return Follower(NAME, ServeSettings(), tmp_path / "cache", Metrics())


def changed(model, folder, change):
    """A copy of a model with another contract, under a digest of its own."""
    shutil.copytree(model, folder)
    contract = json.loads((folder / "contract.json").read_text())
    change(contract)
    (folder / "contract.json").write_text(json.dumps(contract))
    return folder


def test_a_promotion_and_a_rollback_are_followed(registry, follower, model, tmp_path):
    first = registry.add(model)
    second = registry.add(changed(model, tmp_path / "second", lambda contract: contract.update(cohort_digest="2" * 64)))
    registry.promote(first)
    follower.look()
    assert (follower.current.version, follower.detail) == (first, None)
    served = follower.current
    follower.look()
    assert follower.current is served
    registry.promote(second)
    follower.look()
    assert follower.current.version == second
    assert follower.current.predictor.info.cohort_digest == "2" * 64
    registry.promote(first)
    follower.look()
    assert follower.current.version == first


def test_files_that_are_not_those_registered_are_not_served(registry, follower, model):
    good, tampered = registry.add(model), registry.add(model)
    registry.promote(good)
    follower.look()
    with (registry.files(tampered) / "vocabulary.json").open("a") as stream:
        stream.write(" ")
    registry.promote(tampered)
    follower.look()
    assert follower.current.version == good
    assert f"version {tampered} is not taken: its files are" in follower.detail
    assert follower._metrics.not_taken.labels("digest")._value.get() == 1
    follower.look()
    assert follower._metrics.not_taken.labels("digest")._value.get() == 1
    registry.promote(good)
    follower.look()
    assert follower.detail is None


def test_a_version_without_a_digest_is_not_served(registry, follower, model):
    registry.promote(registry.add(model, digest=None))
    follower.look()
    assert follower.current is None
    assert "no digest" in follower.detail


def _no_such_input(contract):
    contract["inputs"][0]["shape"] = [-1, 99, 2]


@pytest.mark.parametrize(
    "change",
    [
        _no_such_input,
        lambda contract: contract["classes"].append("gout"),
        lambda contract: contract.pop("preparation"),
        lambda contract: contract["outputs"][0].update(onnx_name="logits"),
    ],
    ids=["input", "classes", "preparation", "output"],
)
def test_a_version_that_fails_its_warm_up_is_not_taken(registry, follower, model, tmp_path, change):
    good = registry.add(model)
    bad = registry.add(changed(model, tmp_path / "bad", change))
    registry.promote(good)
    follower.look()
    registry.promote(bad)
    follower.look()
    assert follower.current.version == good
    assert f"version {bad} is not taken" in follower.detail
    assert follower._metrics.not_taken.labels("warm-up")._value.get() == 1


def test_a_network_whose_probabilities_are_no_numbers_is_not_taken(registry, follower, model, tmp_path):
    folder = tmp_path / "nan"
    shutil.copytree(model, folder)
    network = onnx.load(folder / "model.onnx")
    for node in network.graph.node:
        if node.output[0] == "hundredth":
            node.attribute[0].t.CopyFrom(onnx.helper.make_tensor("", onnx.TensorProto.FLOAT, [], [float("nan")]))
    onnx.save(network, folder / "model.onnx")
    registry.promote(registry.add(folder))
    follower.look()
    assert follower.current is None
    assert "not finite" in follower.detail


def test_a_damaged_copy_in_the_cache_is_fetched_anew(registry, tmp_path, model):
    version = registry.add(model)
    registry.promote(version)
    Follower(NAME, ServeSettings(), tmp_path / "cache", Metrics()).look()
    (copy,) = (tmp_path / "cache" / NAME).glob(f"{version}-*")
    (copy / "model.onnx").write_bytes(b"cut off")
    again = Follower(NAME, ServeSettings(), tmp_path / "cache", Metrics())
    again.look()
    assert again.current.version == version
    assert again.current.diagnose_each([]) == []


def test_servers_that_share_a_cache_fetch_a_version_once(registry, tmp_path, model, monkeypatch):
    registry.promote(registry.add(model))
    download = mlflow.artifacts.download_artifacts
    fetched = []
    begun = threading.Barrier(4)

    def slow_download(**options):
        fetched.append(options["artifact_uri"])
        time.sleep(0.3)
        return download(**options)

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", slow_download)
    followers = [Follower(NAME, ServeSettings(), tmp_path / "cache", Metrics()) for _ in range(4)]

    def look(follower):
        begun.wait()
        follower.look()

    threads = [threading.Thread(target=look, args=(follower,)) for follower in followers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetched) == 1
    assert len({follower.current.digest for follower in followers}) == 1


class Clock:
    """A clock that moves only by waiting, and stops its follower after some waits."""

    def __init__(self, now, waits):
        self.now, self.waits = now, waits

    def time(self):
        return self.now

    def is_set(self):
        return self.waits == 0

    def wait(self, seconds):
        self.now, self.waits = self.now + seconds, self.waits - 1


def test_the_workers_of_a_server_look_at_the_same_times(tmp_path, monkeypatch):
    looks = []
    for started in (100.0, 100.13, 100.26):
        clock = Clock(started, waits=3)

        def lookup(clock=clock):
            looks[-1].append(clock.now)
            clock.now += 0.02
            raise RuntimeError("away")

        looks.append([])
        follower = Follower(
            NAME, ServeSettings(poll_seconds=0.5), tmp_path / "cache", Metrics(), lookup=lookup, since=0.2
        )
        monkeypatch.setattr("serving.server.follower.time", clock)
        monkeypatch.setattr(follower, "_stop", clock)
        follower._run()
    # The first look of each is at once; then all follow one clock.
    assert looks == [
        pytest.approx([100.0, 100.2, 100.7]),
        pytest.approx([100.13, 100.2, 100.7]),
        pytest.approx([100.26, 100.7, 101.2]),
    ]


def test_the_registry_may_be_away(registry, follower, model, tmp_path):
    version = registry.add(model)
    registry.promote(version)
    follower.look()

    def away():
        raise ConnectionError("http://user:password@registry is away")

    follower._lookup = away
    follower.look()
    assert follower.current.version == version
    assert "can't be read (ConnectionError)" in follower.detail
    assert "password" not in follower.detail
    # A server that starts meanwhile takes what was served last on this machine.
    late = Follower(NAME, ServeSettings(), tmp_path / "cache", Metrics(), lookup=away)
    late.look()
    assert late.current.version == version
    # And one that has served nothing yet is not ready.
    new = Follower(NAME, ServeSettings(), tmp_path / "empty", Metrics(), lookup=away)
    new.look()
    assert new.current is None


def test_the_cache_keeps_the_last_two_versions(registry, follower, model, tmp_path):
    for _ in range(4):
        registry.promote(registry.add(model))
        follower.look()
    assert len(list((tmp_path / "cache" / NAME).glob("[0-9]*"))) == 2


def test_one_version_for_good(registry, tmp_path, model):
    first, second = registry.add(model), registry.add(model)
    registry.promote(second)
    pinned = Follower(NAME, ServeSettings(version=first), tmp_path / "cache", Metrics())
    pinned.look()
    assert pinned.current.version == first


def test_the_server_answers_while_versions_change_and_says_which_answered(start, registry, model, tmp_path):
    first, second = registry.add(model), registry.add(model)
    registry.promote(first)
    metrics = Metrics()
    settings = ServeSettings(poll_seconds=0.05, rate_limit=None)
    follower = Follower(NAME, settings, tmp_path / "cache", metrics)
    client = start(follower=follower, metrics=metrics)
    seen = []
    deadline = time.monotonic() + 120
    for turn in itertools.count():
        assert time.monotonic() < deadline
        if turn == 10:
            registry.promote(second)
        answer = client.post("/v1/diagnose", json={"patients": [patient()] * 3})
        assert answer.status_code == 200
        found = {item["model"]["version"] for item in answer.json()["diagnoses"]}
        assert len(found) == 1
        seen.append(found.pop())
        if turn > 10 and seen[-1] == second:
            break
        follower._stop.wait(0.05)
    assert seen[0] == first
    assert seen[-1] == second
    infer = f"/v2/models/{NAME}/versions/{{}}/ready"
    assert client.get(infer.format(second)).status_code == 200
    assert client.get(infer.format(first)).status_code == 404
    text = client.get("/metrics").text
    assert f'vitalfuse_model_version{{name="{NAME}",version="{second}"}} 1.0' in text
    assert f'version="{first}"' not in text


def test_without_a_version_the_server_is_alive_and_not_ready(start, tmp_path):
    client = start(folder=tmp_path / "nothing")
    assert client.get("/v2/health/live").status_code == 200
    ready = client.get("/v2/health/ready")
    assert ready.status_code == 503
    assert "no contract.json" in ready.json()["error"]
    answer = client.post("/v1/diagnose", json={"patients": [patient()]})
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]


def test_a_warm_up_compares_the_batch_with_the_single_patient(model, monkeypatch):
    predictor = versions.Predictor.load(model)
    answers = predictor.diagnose
    monkeypatch.setattr(
        versions.Predictor,
        "diagnose",
        lambda self, many: [
            item.model_copy(update={"probabilities": {**item.probabilities, "copd": 0.9}} if len(many) > 1 else {})
            for item in answers(many)
        ],
    )
    with pytest.raises(versions.VersionRefused, match="otherwise in a batch"):
        versions.open_version(model, NAME, "1", None)
