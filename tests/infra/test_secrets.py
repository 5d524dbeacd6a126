"""Where the secrets come from: the script that makes them, and the variant with a vault."""

from __future__ import annotations

import base64
import json
import os
import re
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

PAGE = KUBERNETES.parents[1] / "docs" / "kubernetes.md"

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


def _shell_block(words):
    """Return the page's block of shell commands that holds some words."""
    (block,) = [block for block in re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.M | re.S) if words in block]
    return block


def test_the_page_names_everything_that_production_is_asked_for(tmp_path):
    exports = re.findall(r"(?<=[ ])([A-Z_0-9]+)=", _shell_block("secrets.sh production"))
    assert set(exports) == set(_known(tmp_path))


def test_the_page_copies_the_steps_secrets_as_they_are(tmp_path):
    """For KFP without profiles: other passwords would not open MLflow."""
    program = tmp_path / "kubectl"
    program.write_text(
        "#!/bin/sh\n"
        f'echo "$*" >>{tmp_path}/arguments\n'
        'case "$*" in\n'
        '"-n vitalfuse get secret vitalfuse-evidence -o jsonpath={.data}") exit 1 ;;\n'
        '"-n vitalfuse get secret "*" -o jsonpath={.data}") printf \'{"key":"%s"}\' "$(printf %s "$5" | base64)" ;;\n'
        '"-n kubeflow create -f -") exec cat ;;\n'
        "*) exit 9 ;;\n"
        "esac\n"
    )
    program.chmod(0o755)
    block = _shell_block("-n kubeflow create")
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", block], env={"PATH": path, "HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    names = {secret.name for secret in ClusterSettings().secrets} - {"vitalfuse-evidence"}
    assert _values(done.stdout) == {name: {"key": name} for name in names}
    assert base64.b64encode(b"vitalfuse-mlflow").decode() not in (tmp_path / "arguments").read_text()


@pytest.mark.parametrize("fetched", [True, False])
def test_no_base_is_made_without_the_security_updates(fetched, tmp_path):
    """apt only warns of what it could not fetch, unless it is told otherwise."""
    failure = "" if fetched else 'case "$*" in *" update "*--error-on=any*) exit 100 ;; esac'
    for name, lines in {
        "id": "echo 0",
        "debootstrap": 'mkdir -p "$3/etc/apt" "$3/etc/dpkg/dpkg.cfg.d" "$3/usr/sbin" "$3/usr/share/doc"',
        "chroot": f'cp "$1/etc/apt/sources.list" {tmp_path}/sources\n{failure}',
        "docker": f"cat >/dev/null; touch {tmp_path}/imported",
    }.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{lines}\n")
        program.chmod(0o755)
    done = subprocess.run(
        ["sh", KUBERNETES.parent / "images" / "base.sh", "a-base", "trixie", "http://mirror.example/debian"],
        env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SECURITY_MIRROR": "http://mirror.example/security",
            "TMPDIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
    )
    assert "deb http://mirror.example/security trixie-security main" in (tmp_path / "sources").read_text()
    assert (tmp_path / "imported").exists() == fetched
    assert done.returncode == (0 if fetched else 2), done.stderr
    assert ("apt-get update failed" in done.stderr) != fetched


def test_the_vault_variant_has_the_same_secrets():
    secrets = of_kind(render("production+external-secrets"), "ExternalSecret")
    names = {item["metadata"]["name"] for item in secrets}
    assert names == set(referenced(render("production"))) | set(_of_the_pods())
    for item in secrets:
        assert item["spec"]["target"]["name"] == item["metadata"]["name"]
        assert item["spec"]["dataFrom"] == [{"extract": {"key": item["metadata"]["name"]}}]
