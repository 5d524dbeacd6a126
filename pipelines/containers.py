"""Runs the steps of a run on this machine in containers, through kfp.local's DockerRunner.

A container sees what the settings name and no more: the workspace, the sources (read-only), and the folder of the
MLflow store where it is a file; all at the paths that they have outside. It has a read-only root file system, no
capabilities, and no network unless a server or a bucket is named.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel

from components import image
from components.common import environment
from components.ingest.locations import all_locations
from data_schemas.errors import InputError
from pipelines.cluster_settings import Images
from pipelines.code_version import code_versions
from pipelines.settings import Settings

if TYPE_CHECKING:
    from docker import DockerClient
    from kfp.dsl import PipelineTask
    from kfp.local import DockerRunner

IMAGES = (image.DATA, image.VALIDATE, image.TRAIN)
RUN_LABEL = "vitalfuse.run"
PROCESS_LABEL = "vitalfuse.process"
_PREFIXES = ("VITALFUSE_", "MLFLOW_", "AWS_", "TF_")
_NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
# Their values name files, which are mounted where they are.
_FILES = (
    "AWS_CA_BUNDLE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH",
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
)
_CLIENT_SECONDS = 30
_QUIET_SECONDS = 3
_S3 = "s3://"


class Folder(BaseModel):
    """A file or folder of this machine that containers see at the same path.

    Attributes:
        path: Absolute path.
        read_only: Whether they can't write to it.
    """

    path: Path
    read_only: bool


class Containers(BaseModel):
    """What the containers of one run get; credentials are not among it, they stay in the environment.

    Attributes:
        run: Name of the run; each container bears it as a label.
        images: Registry and tag of the images.
        folders: What they see of this machine.
        working_folder: Where relative paths start, as outside.
        user: User and group id.
        network: ``none``, or ``host`` where a server or a bucket is named.
        labels: Labels of each container.
    """

    run: str
    images: Images
    folders: list[Folder]
    working_folder: Path
    user: str
    network: str
    labels: dict[str, str]

    def configure(self, step: str, task: PipelineTask) -> None:
        """Name the image of a task.

        Args:
            step: Step name.
            task: Its task.
        """
        task.set_container_image(self.images.name(task.container_spec.image))

    def runner(self) -> DockerRunner:
        """Return kfp.local's runner for them, with this process's environment as far as steps need it."""
        from docker.types import Mount
        from kfp import local

        return local.DockerRunner(
            environment=step_environment(os.environ),
            mounts=[Mount(str(item.path), str(item.path), "bind", item.read_only) for item in self.folders],
            tmpfs={"/tmp": "mode=1777"},
            working_dir=str(self.working_folder),
            user=self.user,
            network_mode=self.network,
            labels=self.labels,
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            init=True,
        )


def plan_containers(settings: Settings, run: str, store_uri: str, artifacts: str) -> Containers:
    """Return what the containers of a run get.

    Args:
        settings: The settings.
        run: Name of the run.
        store_uri: MLflow tracking URI.
        artifacts: Where the experiment's artifacts go: a URI or a path.

    Returns:
        Folders, user and network.

    Raises:
        InputError: Docker does not answer, or the MLflow store is no folder of its own.
    """
    locations = all_locations(settings.ingest)
    sources = [Path(location).absolute() for location in locations if not location.startswith(_S3)]
    named = [Path(value).absolute() for name in _FILES if (value := os.environ.get(name)) and Path(value).is_file()]
    workspace = settings.workspace.absolute()
    folders = _store_folders(store_uri, artifacts)
    stores = [path for path in folders if not path.is_relative_to(workspace)]
    for folder in stores:
        _check_store(folder)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    writable = dict.fromkeys([workspace, *stores])
    only_read = [path for path in dict.fromkeys([*sources, *named]) if path not in writable]
    local = len(sources) == len(locations) and _is_file_store(store_uri) and _is_local(artifacts)
    with _docker() as client:
        user = _user(client.info())
    return Containers(
        run=run,
        images=settings.cluster.images,
        folders=[Folder(path=path, read_only=False) for path in writable]
        + [Folder(path=path, read_only=True) for path in only_read],
        working_folder=Path.cwd(),
        user=user,
        network="none" if local else "host",
        labels={RUN_LABEL: run, PROCESS_LABEL: f"{socket.gethostname()}:{os.getpid()}"},
    )


def _is_file_store(uri: str) -> bool:
    return uri.startswith("sqlite:")


def _is_local(artifacts: str) -> bool:
    return urlsplit(artifacts).scheme in ("", "file")


def _store_folders(uri: str, artifacts: str) -> list[Path]:
    """Return the folders of an MLflow store in a file; none for a server."""
    folders = []
    if _is_file_store(uri):
        folders.append(Path(uri.partition(":///")[2].partition("?")[0]).absolute().parent)
        if _is_local(artifacts):
            folders.append(Path(unquote(urlsplit(artifacts).path)).absolute())
    return folders


def _check_store(folder: Path) -> None:
    """Refuse a folder in which much else lies: every step could write all of it."""
    for place, name in ((Path.cwd(), "working"), (Path.home(), "home")):
        if place.resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"steps would be given {folder}, which is or holds your {name} folder, to write in",
                field="tracking.uri",
                remedy="Put the MLflow store into the workspace, or into a folder of its own",
            )


def _user(info: Mapping[str, Any]) -> str:
    # Docker without root maps this user to root inside.
    rootless = any("name=rootless" in option for option in info.get("SecurityOptions") or [])
    return "0:0" if rootless else f"{os.getuid()}:{os.getgid()}"


def step_environment(outside: Mapping[str, str]) -> dict[str, str]:
    """Return the part of an environment that steps need.

    Args:
        outside: Environment variables of the runner.

    Returns:
        What speaks to MLflow, S3, TensorFlow and the step itself. Not the runner's process id, which means nothing in
        a container: whoever ends the run ends its containers too.
    """
    kept = {}
    for name, value in outside.items():
        wanted = Path(value).is_file() if name in _FILES else name.startswith(_PREFIXES) or name in _NAMES
        if wanted and name != environment.RUNNER_PROCESS:
            kept[name] = value
    # The user's name, which MLflow records; a container does not know it by the id.
    return {**kept, "USER": getpass.getuser()}


def check_images(images: Images) -> None:
    """Make sure that the images are here and hold the same code as this process: it names the cache entries.

    Args:
        images: Registry and tag.

    Raises:
        InputError: Docker does not answer; an image is missing, or holds other code.
    """
    from docker import errors

    ours = code_versions()
    with _docker() as client:
        for component in IMAGES:
            name = images.name(component)
            try:
                client.images.get(name)
                output = client.containers.run(
                    name,
                    ["python3", "-m", "pipelines.code_version"],
                    remove=True,
                    network_mode="none",
                    read_only=True,
                    cap_drop=["ALL"],
                )
            except errors.ImageNotFound as error:
                raise InputError(
                    f"there is no image {name}",
                    field="cluster.images",
                    remedy="Run `make images`, or docker pull it; registry and tag are settings",
                ) from error
            except errors.ContainerError as error:
                raise InputError(
                    f"the image {name} does not hold vitalfuse", field="cluster.images", remedy="Run `make images`"
                ) from error
            theirs = json.loads(output)
            differing = [step for step, version in ours.items() if theirs.get(step) != version]
            if differing:
                raise InputError(
                    f"the image {name} holds other code than this installation, for: {', '.join(differing)}",
                    field="cluster.images",
                    remedy="Run `make images`, or name the image of this version in cluster.images.tag",
                )


@contextmanager
def _docker() -> Iterator[DockerClient]:
    """Open a client of the Docker that answers, and turn its errors into words for the user."""
    try:
        import docker
    except ImportError as error:
        raise InputError(
            "needs the docker package", field="--runner docker", remedy="pip install 'vitalfuse[docker]'"
        ) from error
    client = None
    try:
        client = docker.from_env(timeout=_CLIENT_SECONDS)
        client.ping()
        yield client
    except (docker.errors.DockerException, OSError) as error:
        raise InputError(
            f"Docker does not answer as it should ({str(error).splitlines()[0][:200]})",
            field="--runner docker",
            remedy="Start it, or name its socket in DOCKER_HOST, and see that you may use it",
        ) from error
    finally:
        if client is not None:
            client.close()


def run_container(
    client: DockerClient, image: str, command: list[str], volumes: dict[str, Any], **arguments: Any
) -> int:
    """Run one container to its end.

    It takes the place of kfp.local's function of that purpose. That one (KFP 2.17) lets Docker remove the container at
    its exit, and where it is gone before it was asked for its exit code, takes a failure for a success.

    Args:
        client: Docker client.
        image: Image name; the image is here.
        command: Command and arguments.
        volumes: Volumes as Docker's client takes them.
        **arguments: Further arguments of Docker's client.

    Returns:
        Exit code.
    """
    from docker import errors

    container = client.containers.run(image=image, command=command, detach=True, volumes=volumes, **arguments)
    try:
        for line in container.logs(stream=True):
            print(line.decode(errors="replace"), end="")
        return int(container.wait()["StatusCode"])
    finally:
        with suppress(errors.APIError):
            container.remove(force=True)


def use_own_containers() -> None:
    """Let kfp.local run containers by ``run_container``, in this process.

    Raises:
        RuntimeError: This version of KFP runs its containers otherwise.
    """
    from kfp.local import docker_task_handler

    if not callable(getattr(docker_task_handler, "run_docker_container", None)):
        raise RuntimeError(
            "This version of KFP runs its containers otherwise than 2.17; --runner docker can't be used."
        )
    docker_task_handler.run_docker_container = run_container


def end_containers(run: str) -> int:
    """End and remove the containers of a run.

    Args:
        run: Name of the run.

    Returns:
        How many there were.
    """
    return _end(lambda labels: labels.get(RUN_LABEL) == run)


def end_abandoned_containers(is_alive: Callable[[int], bool]) -> int:
    """End and remove this machine's containers whose runner is gone, such as after both were killed at once.

    Args:
        is_alive: Tells whether there is a process of that id.

    Returns:
        How many there were.
    """

    def abandoned(labels: Mapping[str, str]) -> bool:
        host, _, process = labels.get(PROCESS_LABEL, "").rpartition(":")
        return host == socket.gethostname() and process.isdigit() and not is_alive(int(process))

    return _end(abandoned)


def _end(wanted: Callable[[Mapping[str, str]], bool]) -> int:
    from docker import errors

    ended = 0
    with _docker() as client:
        for container in client.containers.list(all=True, filters={"label": RUN_LABEL}, ignore_removed=True):
            if wanted(container.labels):
                # Another one removes it already, or did.
                with suppress(errors.APIError):
                    container.remove(force=True)
                    ended += 1
    return ended


def end_containers_later(run: str) -> None:
    """Let a process of its own end the containers of a run, while this one is killed.

    Args:
        run: Name of the run.
    """
    subprocess.Popen(
        [sys.executable, "-m", "pipelines.containers", run],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def main() -> None:
    """End the containers of the run named by the only argument, until none has been started for some seconds."""
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < _QUIET_SECONDS:
        if end_containers(sys.argv[1]):
            quiet_since = time.monotonic()
        time.sleep(0.2)


if __name__ == "__main__":
    main()
