"""A new password for the database, by the commands of docs/kubernetes.md, on a real PostgreSQL server."""

from __future__ import annotations

import base64
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.integration import servers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(servers.postgres_program, ("initdb", "postgres", "psql"))), reason="PostgreSQL is not installed"
    ),
]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "kubernetes.md"
NEW = "a new password, it's 7 words long"


def test_the_page_gives_the_role_the_secrets_new_password(tmp_path):
    (block,) = [block for block in re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.M | re.S) if "psql" in block]
    kubectl = tmp_path / "kubectl"
    secret = base64.b64encode(NEW.encode()).decode()
    kubectl.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *" get secret vitalfuse-database "*) printf %s {secret}; exit ;; esac\n'
        'while [ "$1" != -- ]; do shift; done; shift\n'
        # As in a pod: no terminal.
        'exec setsid --wait "$@"\n'
    )
    kubectl.chmod(0o755)
    programs = Path(servers.postgres_program("psql")).parent
    with servers.postgres() as database:
        known = database.environment
        old = known["PGPASSWORD"]
        path = f"{tmp_path}:{programs}:{os.environ['PATH']}"
        # What the pod has, and how libpq finds this server in place of the pod's socket.
        pod = {"POSTGRES_USER": known["PGUSER"], "POSTGRES_DB": known["PGDATABASE"], "POSTGRES_PASSWORD": old}
        where = {"PATH": path, "HOME": str(tmp_path), "PGHOST": known["PGHOST"], "PGPORT": known["PGPORT"]}
        done = subprocess.run(["sh", "-euc", block], env=pod | where, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert NEW not in done.stdout + done.stderr
        for password, opens in ((NEW, True), (old, False)):
            asked = subprocess.run(
                ["psql", "--no-password", "--command", "select 1"],
                env=known | where | {"PGPASSWORD": password},
                capture_output=True,
                text=True,
            )
            assert (asked.returncode == 0) == opens, asked.stderr
