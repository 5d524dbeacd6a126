"""Real servers for the integration tests: PostgreSQL, Ceph's RADOS gateway (S3) and MLflow, on loopback.

Each is a context manager that makes its own folder, and leaves no process and no file behind.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MLFLOW_SETTINGS = ROOT / "infra" / "kubernetes" / "base" / "mlflow.env"
MLFLOW_USERS = ROOT / "infra" / "kubernetes" / "base" / "auth.ini"
CREATE_USER = ROOT / "infra" / "images" / "mlflow" / "create_user.py"
CEPH_PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph", "ceph-authtool", "monmaptool")


def postgres_program(name: str) -> str | None:
    """Return the path of one of PostgreSQL's programs: Debian keeps those of the server out of PATH."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(installed[-1]) if installed else shutil.which(name)


def missing_programs() -> list[str]:
    """Return the programs that are not installed, by name."""
    missing = [name for name in CEPH_PROGRAMS if not shutil.which(name)]
    return missing + [name for name in ("initdb", "postgres") if not postgres_program(name)]


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until(ready: Callable[[], bool], what: str, seconds: float, process: subprocess.Popen | None = None) -> None:
    """Wait until a server answers.

    Args:
        ready: Returns whether it does.
        what: Named in the error.
        seconds: How long to wait.
        process: The server; when it ends, waiting ends.

    Raises:
        RuntimeError: It does not answer.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if ready():
            return
        if process is not None and process.poll() is not None:
            break
        time.sleep(0.2)
    raise RuntimeError(f"{what} does not answer")


def answers(url: str) -> bool:
    """Return whether an HTTP server answers at all, be it with a refusal."""
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def end(process: subprocess.Popen, signal_number: int = signal.SIGTERM) -> None:
    """End a server and the processes that it started.

    Args:
        process: The server, the first of its process group.
        signal_number: SIGTERM, or SIGKILL for a sudden end.
    """
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal_number)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def _folder(owner: str | None = None) -> Iterator[Path]:
    # A short path: that of a Unix socket has 107 characters at most.
    folder = Path(tempfile.mkdtemp(prefix="vitalfuse-"))
    try:
        if owner:
            shutil.chown(folder, owner)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _system_environment() -> dict[str, str]:
    """Return the environment without what would lead the system's own Python programs astray."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV", "PG"))}


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL server with one empty database.

    Attributes:
        environment: What libpq needs to reach it.
    """

    environment: dict[str, str]


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Run PostgreSQL with password authentication; as the user postgres where this process is root, which it refuses.

    Yields:
        The server.
    """
    owner = "postgres" if os.geteuid() == 0 else None
    identity = {"user": owner, "group": owner, "extra_groups": []} if owner else {}
    password, port = secrets.token_hex(16), free_port()
    with _folder(owner) as folder, ExitStack() as stack:
        password_file = folder / "password"
        password_file.write_text(password)
        if owner:
            shutil.chown(password_file, owner)
        initialise = [postgres_program("initdb"), "-D", folder / "data", "-U", "mlflow", "--no-sync"]
        subprocess.run(
            [*initialise, "--auth=scram-sha-256", f"--pwfile={password_file}", "-E", "UTF8", "--locale=C.UTF-8"],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=folder,
            env=_system_environment(),
            **identity,
        )
        log = stack.enter_context((folder / "log").open("w"))
        server = subprocess.Popen(
            [postgres_program("postgres"), "-D", folder / "data", "-h", "127.0.0.1", "-p", str(port), "-k", folder],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=_system_environment(),
            start_new_session=True,
            **identity,
        )
        # An interrupt makes it end without waiting for its clients.
        stack.callback(end, server, signal.SIGINT)
        environment = {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(port),
            "PGUSER": "mlflow",
            "PGPASSWORD": password,
            "PGDATABASE": "postgres",
        }
        wait_until(lambda: _accepts(port), "PostgreSQL", 60, server)
        yield Postgres(environment)


def _accepts(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


@dataclass(frozen=True)
class S3:
    """An S3 server.

    Attributes:
        endpoint: Its URL.
        access_key: Access key of its only user.
        secret_key: Secret key of its only user.
    """

    endpoint: str
    access_key: str
    secret_key: str

    @property
    def environment(self) -> dict[str, str]:
        """What boto3 and MLflow need to reach it."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "MLFLOW_S3_ENDPOINT_URL": self.endpoint,
        }


class _Ceph:
    """A Ceph cluster of one monitor and one OSD in memory.

    Args:
        folder: Its folder.
        stack: Ends its processes.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._configuration = folder / "ceph.conf"

    def run(self, program: str, *arguments: str | Path, given: str | None = None) -> str:
        """Run one of Ceph's programs to its end and return what it prints."""
        command = [program, "-c", str(self._configuration), *map(str, arguments)]
        done = subprocess.run(command, input=given, capture_output=True, text=True, env=_system_environment())
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
        return done.stdout

    def start(self, program: str, *arguments: str | Path) -> subprocess.Popen:
        """Start one of Ceph's servers, which ends with the stack."""
        log = self._stack.enter_context((self._folder / f"{program}.log").open("w"))
        server = subprocess.Popen(
            [program, "-f", "-c", str(self._configuration), *map(str, arguments)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_system_environment(),
            start_new_session=True,
        )
        self._stack.callback(end, server, signal.SIGKILL)
        return server

    def configure(self, cluster_id: str) -> None:
        """Write the configuration: one copy of everything, in memory, with authentication."""
        self._configuration.write_text(
            f"""[global]
fsid = {cluster_id}
mon host = v2:127.0.0.1:{free_port()}
public addr = 127.0.0.1
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = {self._folder}/admin.keyring
admin socket =
log file =
run dir = {self._folder}
crash dir = {self._folder}
mon data = {self._folder}/mon
osd data = {self._folder}/osd
osd objectstore = memstore
memstore device bytes = 4294967296
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon max pg per osd = 1000
mon warn on pool no redundancy = false
mon osd full ratio = .99
"""
        )

    def start_monitor(self, cluster_id: str) -> None:
        """Make the keys and the monitor, and start it."""
        admin, monitor, maps = (self._folder / name for name in ("admin.keyring", "mon.keyring", "monmap"))
        address = self._configuration.read_text().partition("mon host = ")[2].partition("\n")[0]
        allowed = ["--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *"]
        self.run("ceph-authtool", "--create-keyring", admin, "--gen-key", "-n", "client.admin", *allowed)
        self.run("ceph-authtool", "--create-keyring", monitor, "--gen-key", "-n", "mon.", *allowed[:3])
        self.run("ceph-authtool", monitor, "--import-keyring", admin)
        self.run("monmaptool", "--create", "--addv", "a", f"[{address}]", "--fsid", cluster_id, maps)
        self.run("ceph-mon", "--mkfs", "-i", "a", "--monmap", maps, "--keyring", monitor)
        self.start("ceph-mon", "-i", "a", "--keyring", monitor)

    def start_osd(self) -> None:
        """Make and start the only OSD."""
        osd_id, key = str(uuid.uuid4()), self.run("ceph-authtool", "--gen-print-key").strip()
        number = self.run("ceph", "osd", "new", osd_id, "-i", "-", given=json.dumps({"cephx_secret": key})).strip()
        folder = self._folder / "osd"
        folder.mkdir()
        keyring = folder / "keyring"
        self.run("ceph-authtool", "--create-keyring", keyring, "-n", f"osd.{number}", "--add-key", key)
        self.run("ceph-osd", "--mkfs", "-i", number, "--osd-uuid", osd_id, "--keyring", keyring)
        self.start("ceph-osd", "-i", number, "--keyring", keyring)

    def start_gateway(self, port: int) -> subprocess.Popen:
        """Start the S3 gateway."""
        keyring = self._folder / "rgw.keyring"
        allowed = ["mon", "allow rw", "osd", "allow rwx"]
        self.run("ceph", "auth", "get-or-create", "client.rgw", *allowed, "-o", keyring)
        return self.start(
            "radosgw", "-n", "client.rgw", "--keyring", keyring, f"--rgw-frontends=beast endpoint=127.0.0.1:{port}"
        )


@contextmanager
def ceph_s3(*buckets: str) -> Iterator[S3]:
    """Run Ceph's RADOS gateway, a real S3 server that checks signatures, on a cluster in memory.

    Args:
        buckets: Buckets to make.

    Yields:
        The server.
    """
    cluster_id, port = str(uuid.uuid4()), free_port()
    server = S3(f"http://127.0.0.1:{port}", secrets.token_hex(10).upper(), secrets.token_hex(20))
    with _folder() as folder, ExitStack() as stack:
        ceph = _Ceph(folder, stack)
        ceph.configure(cluster_id)
        ceph.start_monitor(cluster_id)
        ceph.start_osd()
        gateway = ceph.start_gateway(port)
        wait_until(lambda: answers(server.endpoint), "the RADOS gateway", 120, gateway)
        keys = ["--access-key", server.access_key, "--secret-key", server.secret_key]
        ceph.run("radosgw-admin", "user", "create", "--uid", "vitalfuse", "--display-name", "vitalfuse", *keys)
        for bucket in buckets:
            client(server).create_bucket(Bucket=bucket)
        yield server


def client(server: S3):
    """Return a boto3 client of an S3 server."""
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
    )


@dataclass
class MLflow:
    """An MLflow server that can be killed and started again.

    Attributes:
        port: Its port.
        folder: Folder for its log.
        environment: Its whole environment.
        admin: Name and password of its administrator.
    """

    port: int
    folder: Path
    environment: dict[str, str]
    admin: tuple[str, str]
    _process: subprocess.Popen | None = field(default=None, repr=False)

    @property
    def uri(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.folder / "mlflow.log").open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth"],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_until(lambda: answers(f"{self.uri}/health"), "the MLflow server", 180, self._process)
        except RuntimeError as error:
            raise RuntimeError(f"{error}; its log ends: {self.log()[-2000:]}") from None

    def kill(self) -> None:
        """End it at once, in the middle of whatever it does."""
        if self._process is not None:
            end(self._process, signal.SIGKILL)

    def log(self) -> str:
        """Return what it printed."""
        return (self.folder / "mlflow.log").read_text()

    def create_user(self, user: str, password: str) -> None:
        """Make a user without the rights of an administrator, with the program that the server's image has for it."""
        subprocess.run([sys.executable, CREATE_USER, user], input=password, env=self.environment, text=True, check=True)

    def client_environment(self, user: str, password: str) -> dict[str, str]:
        """Return what a client needs to reach it."""
        return {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_TRACKING_USERNAME": user,
            "MLFLOW_TRACKING_PASSWORD": password,
        }


def deployed_settings() -> dict[str, str]:
    """Return the settings of the MLflow server as infra/kubernetes deploys it."""
    lines = [line for line in MLFLOW_SETTINGS.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def mlflow_environment(database: Postgres, files: S3, port: int) -> dict[str, str]:
    """Return the settings of a server on loopback: those of infra/kubernetes, and what the secrets would add."""
    return (
        deployed_settings()
        | database.environment
        | files.environment
        | {
            "MLFLOW_HOST": "127.0.0.1",
            "MLFLOW_PORT": str(port),
            "MLFLOW_AUTH_CONFIG_PATH": str(MLFLOW_USERS),
            "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
            "MLFLOW_AUTH_ADMIN_PASSWORD": secrets.token_hex(16),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
        }
    )


@contextmanager
def mlflow_server(database: Postgres, files: S3) -> Iterator[MLflow]:
    """Run MLflow with the settings that infra/kubernetes gives it, on loopback.

    Args:
        database: Where its tables go.
        files: Where artifacts go.

    Yields:
        The server, which answers.
    """
    port = free_port()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "AWS_", "PG"))}
    environment = clean | mlflow_environment(database, files, port)
    admin = (environment["MLFLOW_AUTH_ADMIN_USERNAME"], environment["MLFLOW_AUTH_ADMIN_PASSWORD"])
    with _folder() as folder:
        server = MLflow(port, folder, environment, admin)
        try:
            server.start()
            yield server
        finally:
            server.kill()
