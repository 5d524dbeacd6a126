"""The local stack: a valid compose file without passwords, closed to other machines, and like the cluster's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from tests.infra.manifests import by_name, containers, render

INFRA = Path(__file__).resolve().parents[2] / "infra"
COMPOSE = INFRA / "compose.yaml"
REQUIRED = {
    "VITALFUSE_DATABASE_PASSWORD",
    "VITALFUSE_S3_ACCESS_KEY_ID",
    "VITALFUSE_S3_SECRET_ACCESS_KEY",
    "VITALFUSE_MLFLOW_PASSWORD",
    "VITALFUSE_MLFLOW_FORM_KEY",
}


def _filled_in(variables):
    """Return the file with its variables filled in, by podman-compose."""
    from podman_compose import rec_subs

    return rec_subs(yaml.safe_load(COMPOSE.read_text()), variables)


@pytest.fixture
def stack():
    return _filled_in({name: name.lower() for name in REQUIRED})


def test_the_file_is_valid(stack):
    from compose_spec import PyCompose

    assert set(PyCompose.from_yaml(yaml.safe_dump(stack)).service_names()) == {"mlflow", "postgres", "s3"}
    stack["services"]["mlflow"]["depends_on"]["s3"]["condition"] = "healthy"
    with pytest.raises(ValueError, match="condition"):
        PyCompose.from_yaml(yaml.safe_dump(stack))


@pytest.mark.parametrize("name", sorted(REQUIRED))
def test_every_secret_is_asked_for(name):
    with pytest.raises(ValueError, match=f"required variable {name} is missing"):
        _filled_in(dict.fromkeys(REQUIRED - {name}, "given"))


def test_passwords_come_from_the_environment_alone(stack):
    given = {name.lower() for name in REQUIRED}
    for service in stack["services"].values():
        for name, value in service["environment"].items():
            if any(word in name for word in ("PASSWORD", "SECRET", "ACCESS_KEY")):
                assert value in given, name


def test_nothing_is_open_to_other_machines(stack):
    for name, service in stack["services"].items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
        assert "network_mode" not in service
        assert "privileged" not in service
        assert "no-new-privileges:true" in service["security_opt"]
    assert "ports" not in stack["services"]["postgres"]


def test_services_are_checked_kept_and_started_in_order(stack):
    for name, service in stack["services"].items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["restart"] == "unless-stopped"
    assert set(stack["services"]["mlflow"]["depends_on"]) == {"postgres", "s3"}
    kept = {volume.partition(":")[0] for name in ("postgres", "s3") for volume in stack["services"][name]["volumes"]}
    assert kept == set(stack["volumes"])


def test_files_that_it_names_are_there(stack):
    mlflow = stack["services"]["mlflow"]
    assert (INFRA / mlflow["env_file"]).is_file()
    assert (INFRA / mlflow["build"]["context"] / mlflow["build"]["dockerfile"]).is_file()
    for volume in mlflow["volumes"]:
        assert (INFRA / volume.partition(":")[0]).is_file()


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_it_is_the_small_cluster_without_kubernetes(stack):
    """The same images, the same arguments, and every variable that the pods get."""
    objects = render("small")
    for name, kind in (("postgres", "StatefulSet"), ("s3", "StatefulSet"), ("mlflow", "Deployment")):
        (container,) = containers(by_name(objects, kind, name)["spec"]["template"])
        service = stack["services"][name]
        assert service["image"] == container["image"]
        assert service.get("command", container.get("args")) == container.get("args")
        # libpq's own port, and data at the root of the volume.
        assert {variable["name"] for variable in container["env"]} - set(service["environment"]) <= {"PGPORT", "PGDATA"}
    settings = next(item for item in objects if item["metadata"]["name"].startswith("mlflow-settings"))["data"]
    mlflow = stack["services"]["mlflow"]
    lines = (INFRA / mlflow["env_file"]).read_text().splitlines()
    shared = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert {**shared, **mlflow["environment"]}.items() >= (settings.items() - {("PGSSLMODE", "disable")})
