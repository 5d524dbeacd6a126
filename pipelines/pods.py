"""What all pods that this package asks for have in common: an ordinary user, no rights, secrets by name."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from data_schemas.errors import InputError
from pipelines.cluster_settings import NAMESPACE, SecretKeys

USER = 10001
# Namespaces of KFP's profiles ask for Istio's sidecar. A restricted namespace refuses its rights, the network policies
# its connections, and beside it a job never ends.
NO_SIDECAR = {"sidecar.istio.io/inject": "false"}


def check_server_is_found(uri: str, namespace: str, *, setting: str, field: str) -> None:
    """Make sure that pods of a namespace find a server by the name that the settings give it.

    A name without dots is that of a Service in the pods' own namespace; the ready settings mean those of
    infra/kubernetes.

    Args:
        uri: Address of the server.
        namespace: Namespace of the pods.
        setting: Where the address comes from.
        field: The setting to change.

    Raises:
        InputError: The pods would look for it in their own namespace, which is another one.
    """
    address = urlsplit(uri)
    host = address.hostname or ""
    if namespace == NAMESPACE or "." in host or ":" in host:
        return
    port = f":{address.port}" if address.port else ""
    named = [f"{address.scheme}://{host}.{place}{port}" for place in (NAMESPACE, namespace)]
    raise InputError(
        f"pods of the namespace {namespace} would look there for the server {host!r} of {setting}",
        field=field,
        remedy=f"Name it with its namespace, such as {named[0]}; or {named[1]}, if it is in theirs",
    )


def pod_security() -> Any:
    """Return the security context of a pod: what its containers have, for all that others add; its volumes are theirs.

    Returns:
        A ``kubernetes.client.V1PodSecurityContext``.
    """
    from kubernetes import client as k8s

    return k8s.V1PodSecurityContext(
        run_as_non_root=True,
        run_as_user=USER,
        run_as_group=USER,
        fs_group=USER,
        seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
    )


def container_security() -> Any:
    """Return the security context of a container.

    An ordinary user, a read-only root file system, no capabilities, the runtime's own system call filter.

    Returns:
        A ``kubernetes.client.V1SecurityContext``.
    """
    from kubernetes import client as k8s

    return k8s.V1SecurityContext(
        run_as_non_root=True,
        run_as_user=USER,
        run_as_group=USER,
        seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
        allow_privilege_escalation=False,
        read_only_root_filesystem=True,
        capabilities=k8s.V1Capabilities(drop=["ALL"]),
    )


def secret_variables(secrets: list[SecretKeys]) -> list[Any]:
    """Return the environment variables that secrets become.

    Args:
        secrets: The secrets, by name.

    Returns:
        ``kubernetes.client.V1EnvVar`` objects, which name the secret and its key.
    """
    from kubernetes import client as k8s

    return [
        k8s.V1EnvVar(
            name=variable,
            value_from=k8s.V1EnvVarSource(
                secret_key_ref=k8s.V1SecretKeySelector(name=secret.name, key=key, optional=secret.optional)
            ),
        )
        for secret in secrets
        for key, variable in secret.keys.items()
    ]
