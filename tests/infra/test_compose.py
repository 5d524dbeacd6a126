"""The local stack: a valid compose file without passwords, closed to other machines, and like the cluster's."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.infra.manifests import by_name, containers, render

INFRA = Path(__file__).resolve().parents[2] / "infra"
COMPOSE = INFRA / "compose.yaml"
PAGE = INFRA.parent / "docs" / "kubernetes.md"
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


def test_images_of_others_name_their_registry(stack):
    """Without one, podman asks which is meant, or refuses."""
    for service in stack["services"].values():
        if "build" not in service:
            assert "." in service["image"].partition("/")[0], service["image"]


def test_the_file_of_users_is_read_also_with_selinux(stack):
    (mounted,) = stack["services"]["mlflow"]["volumes"]
    assert set(mounted.split(":")[2].split(",")) == {"ro", "z"}


def _shell_block(words):
    """Return the page's block of shell commands that holds some words."""
    (block,) = [block for block in re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.M | re.S) if words in block]
    return block


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_the_page_makes_every_password_for_its_owner_alone_and_the_users_readable(tmp_path):
    users = tmp_path / "infra" / "kubernetes" / "base" / "auth.ini"
    users.parent.mkdir(parents=True)
    users.touch(mode=0o600)
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\ntouch made-afterwards\n")
    docker.chmod(0o755)
    subprocess.run(
        ["sh", "-euc", "umask 022\n" + _shell_block("> infra/.env")],
        cwd=tmp_path,
        check=True,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    made = tmp_path / "infra" / ".env"
    passwords = dict(line.split("=", 1) for line in made.read_text().splitlines())
    assert set(passwords) == REQUIRED
    assert len(set(passwords.values())) == len(REQUIRED)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (made, users, tmp_path / "made-afterwards")}
    assert modes == {".env": 0o600, "auth.ini": 0o644, "made-afterwards": 0o644}


def test_the_page_upgrades_the_tables_that_the_server_uses(stack):
    settings = (INFRA / stack["services"]["mlflow"]["env_file"]).read_text()
    (uri,) = re.findall(r"^MLFLOW_BACKEND_STORE_URI=(.*)$", settings, re.MULTILINE)
    assert f"run --rm mlflow mlflow db upgrade {uri}\n" in _shell_block("db upgrade")


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
