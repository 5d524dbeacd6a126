"""What all pods that this package asks for have in common: an ordinary user, no rights, secrets by name."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from data_schemas.errors import InputError
from pipelines.cluster_settings import NAMESPACE, CaCertificates, SecretKeys

USER = 10001
CERTIFICATES = "/etc/vitalfuse/ca-certificates"
# Of boto3, of requests and so of MLflow, and of what uses OpenSSL or Go's library, such as KFP's launcher.
_CERTIFICATE_VARIABLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
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


def certificate_variables(certificates: CaCertificates | None) -> dict[str, str]:
    """Return the environment variables by which programs find the certificates that they trust.

    Args:
        certificates: The setting.

    Returns:
        Values by name; none without the setting.
    """
    return dict.fromkeys(_CERTIFICATE_VARIABLES, f"{CERTIFICATES}/{certificates.key}") if certificates else {}


def certificate_volumes(certificates: CaCertificates | None) -> tuple[list[Any], list[Any]]:
    """Return what shows the certificates to a container.

    Args:
        certificates: The setting.

    Returns:
        ``kubernetes.client.V1Volume`` and ``V1VolumeMount`` objects; none without the setting.
    """
    from kubernetes import client as k8s

    if certificates is None:
        return [], []
    source = k8s.V1ConfigMapVolumeSource(name=certificates.config_map)
    mount = k8s.V1VolumeMount(name="ca-certificates", mount_path=CERTIFICATES, read_only=True)
    return [k8s.V1Volume(name="ca-certificates", config_map=source)], [mount]


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
