"""What the steps' containers get, without a Docker to run them."""

import json
import os
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from docker import errors

from components.common import environment
from data_schemas.errors import InputError
from pipelines import containers
from pipelines.cluster_settings import Images
from pipelines.code_version import code_versions
from pipelines.local import StepState, _exit_code
from pipelines.settings import Settings

IMAGES = Images(registry="registry.example/team", tag="1.2")


def _settings(folder, path="source", **more):
    return Settings.model_validate(
        {
            "name": "tiny",
            "workspace": str(folder / "workspace"),
            "ingest": {"name": "tiny", "sources": [{"format": "export", "path": path}], **more},
        }
    )


class FakeDocker:
    """The calls of Docker's client that are made before a run."""

    def __init__(self, *, versions=None, missing=(), security=()):
        self.images = SimpleNamespace(get=self._get)
        self.containers = SimpleNamespace(run=self._run)
        self._versions, self._missing, self._security = versions, missing, security

    def _get(self, name):
        if name in self._missing:
            raise errors.ImageNotFound(name)

    def _run(self, name, command, **arguments):
        if self._versions is None:
            raise errors.ContainerError(None, 1, command, name, b"")
        assert arguments["network_mode"] == "none"
        return json.dumps(self._versions).encode()

    def info(self):
        return {"SecurityOptions": list(self._security)}


@pytest.fixture
def docker(monkeypatch):
    def use(**arguments):
        @contextmanager
        def opened():
            yield FakeDocker(**arguments)

        monkeypatch.setattr(containers, "_docker", opened)

    use()
    return use


def _plan(tmp_path, settings, uri=None, artifacts=None):
    workspace = tmp_path / "workspace"
    uri = uri or f"sqlite:///{workspace}/mlflow.db"
    return containers.plan_containers(settings, "run-1", uri, artifacts or (workspace / "mlartifacts").as_uri())


def _folders(plan):
    return {str(item.path): "ro" if item.read_only else "rw" for item in plan.folders}


def _without_files(monkeypatch):
    for name in containers._FILES:
        monkeypatch.delenv(name, raising=False)


def test_containers_see_workspace_and_sources_alone(tmp_path, docker, monkeypatch):
    _without_files(monkeypatch)
    monkeypatch.chdir(tmp_path)
    labels = {"file": "/data/labels.csv", "patient_column": "p", "label_column": "l"}
    plan = _plan(tmp_path, _settings(tmp_path, labels=labels))
    assert _folders(plan) == {
        str(tmp_path / "workspace"): "rw",
        str(tmp_path / "source"): "ro",
        "/data/labels.csv": "ro",
    }
    assert plan.working_folder == tmp_path
    assert plan.network == "none"
    assert plan.user == f"{os.getuid()}:{os.getgid()}"


def test_a_store_elsewhere_is_seen_too(tmp_path, docker, monkeypatch):
    _without_files(monkeypatch)
    plan = _plan(
        tmp_path, _settings(tmp_path, path="/data"), f"sqlite:///{tmp_path}/store/m.db", (tmp_path / "files").as_uri()
    )
    assert _folders(plan) == {
        str(tmp_path / "workspace"): "rw",
        str(tmp_path / "store"): "rw",
        str(tmp_path / "files"): "rw",
        "/data": "ro",
    }
    assert (tmp_path / "store").is_dir(), "Docker would make it as root"
    assert plan.network == "none"


@pytest.mark.parametrize(
    ("uri", "artifacts", "words"),
    [
        ("sqlite:///{home}/mlflow.db", None, "is or holds your home folder"),
        ("sqlite:///{home}/../mlflow.db", None, "is or holds your home folder"),
        ("sqlite:///mlflow.db", None, "is or holds your working folder"),
        ("sqlite:////mlflow.db", None, "is or holds your working folder"),
        ("sqlite:///{home}/store/mlflow.db", "file://{home}", "is or holds your home folder"),
    ],
)
def test_a_store_is_in_a_folder_of_its_own(uri, artifacts, words, tmp_path, docker, monkeypatch):
    """Steps may write to its folder, and that is all of the machine beside the workspace that they may write to."""
    home, working = tmp_path / "people" / "me", tmp_path / "project"
    home.mkdir(parents=True)
    working.mkdir()
    monkeypatch.chdir(working)
    monkeypatch.setenv("HOME", str(home))
    with pytest.raises(InputError, match=words) as told:
        _plan(tmp_path, _settings(tmp_path), uri.format(home=home), artifacts and artifacts.format(home=home))
    assert "Put the MLflow store into the workspace" in str(told.value)


@pytest.mark.parametrize(
    ("source", "uri", "artifacts"),
    [
        ("s3://bucket/cohort", None, None),
        ("/data", "http://127.0.0.1:5000", "mlflow-artifacts:/1"),
        ("/data", None, "s3://bucket/artifacts"),
    ],
)
def test_a_server_or_a_bucket_needs_the_network(tmp_path, docker, source, uri, artifacts):
    assert _plan(tmp_path, _settings(tmp_path, path=source), uri, artifacts).network == "host"


def test_under_docker_without_root_the_user_is_root_inside(tmp_path, docker):
    docker(security=["name=seccomp,profile=default", "name=rootless"])
    assert _plan(tmp_path, _settings(tmp_path)).user == "0:0"


def test_the_plan_holds_no_credential(tmp_path, docker, monkeypatch):
    monkeypatch.setenv(environment.PSEUDONYM_KEY, "0123456789abcdef")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "fedcba9876543210")
    written = _plan(tmp_path, _settings(tmp_path)).model_dump_json()
    assert "0123456789abcdef" not in written
    assert "fedcba9876543210" not in written


def test_steps_get_what_they_need_of_the_environment(tmp_path):
    bundle = tmp_path / "ca.pem"
    bundle.touch()
    outside = {
        environment.RUN_FOLDER: "/w/runs/1",
        environment.PSEUDONYM_KEY: "key",
        environment.RUNNER_PROCESS: "17",
        "MLFLOW_TRACKING_URI": "http://mlflow",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_CA_BUNDLE": str(bundle),
        "SSL_CERT_FILE": "/is/not/there",
        "https_proxy": "http://proxy:3128",
        "VALIDATE_PYTHON": "/outside/python",
        "PATH": "/usr/bin",
        "HOME": "/home/me",
        "PYTHONPATH": "/checkout",
    }
    kept = containers.step_environment(outside)
    assert set(kept) == {
        environment.RUN_FOLDER,
        environment.PSEUDONYM_KEY,
        "MLFLOW_TRACKING_URI",
        "AWS_ACCESS_KEY_ID",
        "AWS_CA_BUNDLE",
        "https_proxy",
        "USER",
    }


def test_the_runner_takes_away_what_steps_do_not_need(tmp_path, docker):
    arguments = _plan(tmp_path, _settings(tmp_path)).runner().container_run_args
    assert arguments["read_only"] is True
    assert arguments["cap_drop"] == ["ALL"]
    assert arguments["security_opt"] == ["no-new-privileges"]
    assert arguments["network_mode"] == "none"
    sources = [mount for mount in arguments["mounts"] if mount["Source"].endswith("source")]
    assert [mount["ReadOnly"] for mount in sources] == [True]


def test_images_with_this_code_are_taken(docker):
    docker(versions=code_versions())
    containers.check_images(IMAGES)


def test_images_with_other_code_are_refused(docker):
    docker(versions={**code_versions(), "train": "0.0.1+000000000000"})
    with pytest.raises(InputError, match=r"registry\.example/team/data-python:1\.2 holds other code.*for: train\."):
        containers.check_images(IMAGES)


def test_a_missing_image_is_named(docker):
    docker(versions=code_versions(), missing=["registry.example/team/validate-python:1.2"])
    with pytest.raises(InputError, match=r"no image registry\.example/team/validate-python:1\.2.*make images"):
        containers.check_images(IMAGES)


def test_an_image_without_the_package_is_refused(docker):
    docker(versions=None)
    with pytest.raises(InputError, match="does not hold vitalfuse"):
        containers.check_images(IMAGES)


def test_without_docker_the_user_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(InputError, match=r"Docker does not answer.*DOCKER_HOST"):
        containers.check_images(IMAGES)


def test_a_container_that_is_gone_at_once_still_tells_its_exit_code():
    """kfp.local's own function takes such a failure for a success."""
    removed = []

    class Container:
        def logs(self, stream):
            return iter([b"line\n", b"\xff\n"])

        def wait(self):
            assert not removed
            return {"StatusCode": 3}

        def remove(self, force):
            removed.append(force)
            raise errors.NotFound("gone")

    def run(**arguments):
        assert "auto_remove" not in arguments
        return Container()

    client = SimpleNamespace(containers=SimpleNamespace(run=run))
    assert containers.run_container(client, "image", ["false"], {}) == 3
    assert removed == [True]


def test_kfp_runs_containers_through_ours(monkeypatch):
    from kfp.local import docker_task_handler

    monkeypatch.setattr(docker_task_handler, "run_docker_container", docker_task_handler.run_docker_container)
    containers.use_own_containers()
    assert docker_task_handler.run_docker_container is containers.run_container
    names = docker_task_handler.DockerTaskHandler.run.__code__.co_names
    assert "run_docker_container" in names


def test_a_runner_that_speaks_of_success_does_not_outweigh_a_failed_step():
    done, failed = StepState("ingest", "done"), StepState("validate", "failed")
    assert _exit_code(0, [done, StepState("preprocess", "cached")]) == 0
    assert _exit_code(0, [done, failed]) == 1
    assert _exit_code(0, [done, StepState("validate", "skipped")]) == 1


class Listed:
    """A running container, as Docker's client lists it."""

    def __init__(self, run, process):
        self.labels = {containers.RUN_LABEL: run, containers.PROCESS_LABEL: process}
        self.removed = False

    def remove(self, force):
        self.removed = True


@pytest.fixture
def listed(monkeypatch):
    import socket

    host = socket.gethostname()
    all_containers = [Listed("run-1", f"{host}:11"), Listed("run-2", f"{host}:22"), Listed("run-3", "elsewhere:11")]

    @contextmanager
    def opened():
        left = [item for item in all_containers if not item.removed]
        yield SimpleNamespace(containers=SimpleNamespace(list=lambda **arguments: left))

    monkeypatch.setattr(containers, "_docker", opened)
    return all_containers


def test_only_the_containers_of_the_run_are_ended(listed):
    assert containers.end_containers("run-1") == 1
    assert [item.removed for item in listed] == [True, False, False]


def test_containers_of_this_machine_whose_runner_is_gone_are_ended(listed):
    assert containers.end_abandoned_containers(lambda process: process == 22) == 1
    assert [item.removed for item in listed] == [True, False, False]


class Clock:
    """A clock that moves only by waiting."""

    now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def test_containers_are_ended_until_none_is_started_any_more(monkeypatch):
    left = [1, 1, 0, 1]
    monkeypatch.setattr(containers, "_QUIET_SECONDS", 0.5)
    monkeypatch.setattr(containers.sys, "argv", ["containers", "run-1"])
    monkeypatch.setattr(containers, "end_containers", lambda run: left.pop(0) if left else 0)
    clock = Clock()
    monkeypatch.setattr(containers, "time", clock)
    containers.main()
    assert left == []
    # The last was ended after three waits.
    assert clock.now == pytest.approx(0.6 + 0.6)
