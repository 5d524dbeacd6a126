"""Where the secrets come from: the script that makes them, and the variant with a vault."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import stat
import subprocess
import time
from contextlib import suppress

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
    """Write a kubectl that never asks a cluster: every secret but the existing ones is absent.

    A value of an existing secret is the secret's name and the value's key, such as ``vitalfuse-s3.access_key_id``.
    """
    program = folder / "kubectl"
    there = "|".join(existing) or "none"
    value = 'key=${7#*data.}; printf %s "$5.${key%\\}}" | base64'
    program.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *" get secret "*) case "${{5:-$4}}" in {there}) {value}; exit 0 ;; *) exit 1 ;; esac ;; esac\n'
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
    ("existing", "created"), [("vitalfuse-mlflow-s3", "vitalfuse-s3"), ("vitalfuse-s3", "vitalfuse-mlflow-s3")]
)
def test_the_one_user_of_s3_keeps_its_key_where_a_secret_was_lost(existing, created, tmp_path):
    done = _create_secrets(tmp_path, "small", existing=[existing])
    assert done.returncode == 0, done.stderr
    assert _values(done.stdout)[created] == {key: f"{existing}.{key}" for key in ("access_key_id", "secret_access_key")}


@pytest.mark.parametrize("ended_by", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("script", ["kubernetes/secrets.sh", "images/base.sh"])
def test_a_script_that_is_interrupted_leaves_nothing_behind(script, ended_by, tmp_path):
    """Some shells, such as Debian's, don't run a bare EXIT trap then; values would stay in files."""
    temporary, began = tmp_path / "temporary", tmp_path / "began"
    temporary.mkdir()
    for name, lines in {
        "kubectl": 'case "$*" in *" get secret "*) exit 1 ;; esac',
        "debootstrap": "",
        "id": '[ "$*" = -u ] && echo 0 && exit',
    }.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{lines}\ntouch {began}\nexec sleep 60\n")
        program.chmod(0o755)
    running = subprocess.Popen(
        # A shell can't trap what it was started to ignore, as under nohup.
        ["env", "--default-signal", "sh", KUBERNETES.parent / script, *(["small"] if "secrets" in script else [])],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(temporary), "HOME": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while not began.exists():
            assert running.poll() is None
            time.sleep(0.01)
        assert list(temporary.iterdir())
        os.killpg(running.pid, ended_by)
        assert running.wait(120) == 128 + ended_by
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
    assert not list(temporary.iterdir())


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
