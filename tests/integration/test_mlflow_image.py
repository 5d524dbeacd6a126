"""The image of the MLflow server, run as the pods of infra/kubernetes run it: two of them on one empty database."""

from __future__ import annotations

import os
import time

import pytest

from tests.integration import servers

pytestmark = pytest.mark.slow

IMAGE = os.environ.get("MLFLOW_IMAGE", "vitalfuse/mlflow:latest")


@pytest.fixture(scope="module")
def docker_client():
    import docker

    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException:
        pytest.skip("no Docker answers")
    try:
        client.images.get(IMAGE)
    except docker.errors.ImageNotFound:
        pytest.skip(f"{IMAGE} is not built; docs/kubernetes.md has the command")
    yield client
    client.close()


@pytest.fixture(scope="module")
def replicas(docker_client, s3):
    """Two containers that start at the same moment, and are started again when they end, as in a cluster."""
    with servers.postgres() as database:
        environments = [servers.mlflow_environment(database, s3, servers.free_port()) for _ in range(2)]
        # One administrator and one key for both.
        environments[1] = environments[0] | {"MLFLOW_PORT": environments[1]["MLFLOW_PORT"]}
        started = []
        try:
            for environment in environments:
                environment["MLFLOW_AUTH_CONFIG_PATH"] = "/etc/mlflow/auth.ini"
                started.append(
                    docker_client.containers.run(
                        IMAGE,
                        detach=True,
                        environment=environment,
                        network_mode="host",
                        read_only=True,
                        tmpfs={"/tmp": "mode=1777"},
                        cap_drop=["ALL"],
                        security_opt=["no-new-privileges"],
                        volumes={str(servers.MLFLOW_USERS): {"bind": "/etc/mlflow/auth.ini", "mode": "ro"}},
                        restart_policy={"Name": "always"},
                    )
                )
            for container, environment in zip(started, environments, strict=True):
                uri = f"http://127.0.0.1:{environment['MLFLOW_PORT']}"
                try:
                    servers.wait_until(lambda uri=uri: servers.answers(f"{uri}/health"), "the container", 300)
                except RuntimeError as error:
                    raise RuntimeError(f"{error}: {container.logs().decode()[-2000:]}") from None
            yield started, environments
        finally:
            for container in started:
                container.remove(force=True)


def test_it_runs_as_nobody_in_particular_and_can_write_nothing(replicas):
    (container, _), _ = replicas
    code, output = container.exec_run(["sh", "-c", "id -u; touch /opt/mlflow/x /usr/local/bin/x /etc/mlflow/x 2>&1"])
    assert code != 0
    lines = output.decode().splitlines()
    assert lines[0] == "10001"
    assert len([line for line in lines if "Read-only file system" in line]) == 3
    assert container.exec_run(["sh", "-c", "command -v pip gcc curl"])[0] != 0


def test_a_user_logs_through_one_replica_and_reads_through_the_other(replicas, monkeypatch):
    import mlflow

    containers, environments = replicas
    created = containers[0].exec_run(["sh", "-c", "printf another-long-password | create-mlflow-user pipeline"])
    assert created == (0, b"")
    uris = [f"http://127.0.0.1:{environment['MLFLOW_PORT']}" for environment in environments]
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "pipeline")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "another-long-password")
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
    writer, reader = (mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri) for uri in uris)
    run = writer.create_run(writer.create_experiment("image"))
    writer.log_metric(run.info.run_id, "accuracy", 0.5)
    writer.log_text(run.info.run_id, "whole", "note.txt")
    assert reader.get_run(run.info.run_id).data.metrics == {"accuracy": 0.5}
    with open(reader.download_artifacts(run.info.run_id, "note.txt")) as file:
        assert file.read() == "whole"
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    with pytest.raises(mlflow.exceptions.MlflowException, match="401"):
        reader.get_run(run.info.run_id)


def test_it_ends_when_it_is_told_to(replicas):
    (_, container), _ = replicas
    started = time.monotonic()
    container.stop(timeout=60)
    assert time.monotonic() - started < 45, "it was killed after a minute"
