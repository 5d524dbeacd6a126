"""Where the secrets come from: the script that makes them, and the variant with a vault."""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
import subprocess

import pytest

from pipelines.cluster_settings import ClusterSettings
from pipelines.deploy_settings import DeploySettings
from tests.infra.manifests import KUBERNETES, OVERLAYS, of_kind, referenced, render

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")


def _of_the_pods():
    """Return the keys of each secret that the pods of runs and of the served model refer to."""
    keys = {}
    for secret in [*ClusterSettings().secrets, *DeploySettings().secrets]:
        keys[secret.name] = keys.get(secret.name, set()) | set(secret.keys)
    return keys


def _stand_in(folder, existing=()):
    """Write a kubectl that never asks a cluster: every secret but the existing ones is absent."""
    program = folder / "kubectl"
    there = "|".join(existing) or "none"
    program.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *" get secret "*) case "${{5:-$4}}" in {there}) exit 0 ;; *) exit 1 ;; esac ;; esac\n'
        f'exec {shutil.which("kubectl")} "$@" --dry-run=client -o json\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def _create_secrets(folder, overlay, existing=(), **variables):
    program = _stand_in(folder, existing)
    return subprocess.run(
        ["sh", KUBERNETES / "secrets.sh", overlay],
        env={"PATH": os.environ["PATH"], "KUBECTL": str(program), "HOME": str(folder), **variables},
        capture_output=True,
        text=True,
    )


def _values(printed):
    """Return the values of each secret that kubectl would create."""
    decoder, position, secrets = json.JSONDecoder(), 0, {}
    while position < len(printed.rstrip()):
        item, position = decoder.raw_decode(printed, position)
        position += len(printed[position:]) - len(printed[position:].lstrip())
        data = {key: base64.b64decode(value).decode() for key, value in item["data"].items()}
        secrets[item["metadata"]["name"]] = data
    return secrets


def _known(folder):
    """Return what secrets.sh needs to be told in production."""
    authority = folder / "ca.crt"
    authority.write_text("-----BEGIN CERTIFICATE-----\n")
    names = ("DATABASE_HOST", "DATABASE_NAME", "DATABASE_USER", "MLFLOW_S3_ACCESS_KEY_ID", "S3_ACCESS_KEY_ID")
    secret = ("DATABASE_PASSWORD", "MLFLOW_S3_SECRET_ACCESS_KEY", "S3_SECRET_ACCESS_KEY")
    odd = dict.fromkeys(secret, "a b$c'd=e")
    return {name: name.lower() for name in names} | odd | {"DATABASE_PORT": "5432", "DATABASE_CA": str(authority)}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_script_creates_every_secret_that_is_referred_to(overlay, tmp_path):
    variables = _known(tmp_path) if overlay == "production" else {}
    done = _create_secrets(tmp_path, overlay, **variables)
    assert done.returncode == 0, done.stderr
    created = _values(done.stdout)
    servers, pods = referenced(render(overlay)), _of_the_pods()
    assert {name: set(keys) for name, keys in created.items()} == {
        name: servers.get(name, set()) | pods.get(name, set()) for name in servers | pods
    }
    for keys in created.values():
        assert all(keys.values())
    if overlay == "production":
        assert created["vitalfuse-database"]["password"] == "a b$c'd=e"
        assert created["vitalfuse-mlflow-s3"] != created["vitalfuse-s3"], "the steps don't get the server's key"
    made = [created[name]["key"] for name in ("vitalfuse-pseudonyms", "vitalfuse-evidence", "vitalfuse-predictions")]
    made += [created["vitalfuse-mlflow"]["password"], created["vitalfuse-serve"]["token"]]
    made += [created["vitalfuse-mlflow-admin"][key] for key in ("password", "form_key")]
    assert len(set(made)) == 7
    assert min(map(len, made)) == 64
    assert not list(tmp_path.glob("**/password"))


def test_the_script_leaves_secrets_alone_and_takes_the_key_of_the_pseudonyms(tmp_path):
    done = _create_secrets(
        tmp_path,
        "small",
        existing=["vitalfuse-database"],
        VITALFUSE_PSEUDONYM_KEY="ours",
        VITALFUSE_EVIDENCE_KEY="mine",
        VITALFUSE_SERVE_TOKEN="what callers send",
        VITALFUSE_PREDICTION_KEY="of earlier references",
    )
    created = _values(done.stdout)
    assert "vitalfuse-database is there already" in done.stderr
    assert "vitalfuse-database" not in created
    assert created["vitalfuse-pseudonyms"]["key"] == "ours"
    assert created["vitalfuse-evidence"]["key"] == "mine"
    assert created["vitalfuse-serve"]["token"] == "what callers send"
    assert created["vitalfuse-predictions"]["key"] == "of earlier references"


@pytest.mark.parametrize(
    ("overlay", "variables", "words"),
    [
        ("large", {}, "say small or production"),
        ("production", {}, "DATABASE_HOST is not in the environment"),
        ("production", {"DATABASE_CA": "absent.crt"}, "DATABASE_CA names no file"),
        ("production", {"S3_SECRET_ACCESS_KEY": ""}, "S3_SECRET_ACCESS_KEY is not in the environment"),
        ("small", {"VITALFUSE_SERVE_TOKEN": "too short"}, "VITALFUSE_SERVE_TOKEN is shorter than 16 characters"),
        ("small", {"VITALFUSE_PREDICTION_KEY": "short"}, "VITALFUSE_PREDICTION_KEY is shorter than 16 characters"),
    ],
)
def test_the_script_says_what_is_missing(overlay, variables, words, tmp_path):
    known = _known(tmp_path) if variables else {}
    done = _create_secrets(tmp_path, overlay, **known | variables)
    assert done.returncode == 2
    assert words in done.stderr


def test_the_vault_variant_has_the_same_secrets():
    secrets = of_kind(render("production+external-secrets"), "ExternalSecret")
    names = {item["metadata"]["name"] for item in secrets}
    assert names == set(referenced(render("production"))) | set(_of_the_pods())
    for item in secrets:
        assert item["spec"]["target"]["name"] == item["metadata"]["name"]
        assert item["spec"]["dataFrom"] == [{"extract": {"key": item["metadata"]["name"]}}]
