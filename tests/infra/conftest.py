from __future__ import annotations

import os

import pytest

NAMES = ("data", "validate", "train", "serve")


class Built:
    """The built images, and the Docker that has them."""

    def __init__(self, client) -> None:
        self.client = client

    def name(self, image: str) -> str:
        """Name of an image, with registry and tag as `make images` takes them."""
        return f"{os.environ.get('REGISTRY', 'vitalfuse')}/{image}-python:{os.environ.get('TAG', 'latest')}"

    def run(self, image: str, command: list[str], **arguments) -> tuple[int, str]:
        """Run a command as a locked-down pod does; return exit code and output."""
        arguments = {
            "network_mode": "none",
            "read_only": True,
            "tmpfs": {"/tmp": "mode=1777"},
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            **arguments,
        }
        container = self.client.containers.run(self.name(image), command, detach=True, **arguments)
        try:
            code = container.wait()["StatusCode"]
            return code, container.logs().decode(errors="replace").strip()
        finally:
            container.remove(force=True)


@pytest.fixture(scope="session")
def built():
    """The images; skips where no Docker answers or they are not built."""
    import docker

    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException:
        pytest.skip("no Docker answers; see docs/images.md")
    images = Built(client)
    for image in NAMES:
        try:
            client.images.get(images.name(image))
        except docker.errors.ImageNotFound:
            pytest.skip(f"{images.name(image)} is not built: run `make images`")
    yield images
    client.close()
