"""Renders the KServe InferenceService of a registered version, and applies it with kubectl."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from data_schemas.errors import InputError
from pipelines.deploy_settings import DeploySettings
from pipelines.pods import (
    NO_SIDECAR,
    certificate_variables,
    certificate_volumes,
    check_server_is_found,
    container_security,
    secret_variables,
)
from pipelines.registry import find_version, parse_version
from pipelines.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

PORT = 8080
MODELS = "/mnt/models"
SCRATCH = "/tmp"
# KServe gives the container of a custom predictor this name, and its storage initialiser looks for it.
CONTAINER = "kserve-container"
PASSED = "passed"
_GATES_TAG = "vitalfuse.gates"
_DIGEST_TAG = "vitalfuse.model_digest"
_COHORT_TAG = "vitalfuse.cohort_digest"
# Ports of Knative's queue proxy, which stands before the container: requests, health, metrics.
_PROXY_PORTS = (8012, 8013, 8022, 8112, 9090, 9091)
# What the pod is told elsewhere, or what a file of this machine says.
_NOT_PASSED = {"alias", "version", "folder", "cache", "host", "port", "token_file", "tls_certificate", "tls_key"}


@dataclass(frozen=True)
class Release:
    """A version to deploy.

    Attributes:
        model: Name of the registered model.
        version: Its version.
        alias: The alias by which it was asked for; None for a number.
        tags: The version's tags.
    """

    model: str
    version: str
    alias: str | None
    tags: dict[str, str]


def find_release(client: MlflowClient, model: str, wanted: str, *, allow_failed_gates: bool = False) -> Release:
    """Find the version that is meant.

    Args:
        client: MLflow client.
        model: Name of the registered model where ``wanted`` names none.
        wanted: A version, as ``parse_version`` reads it.
        allow_failed_gates: Whether a version that failed its gates, or has none, may be deployed.

    Returns:
        The version, with a number: what is deployed does not change when an alias moves.

    Raises:
        InputError: There is none, or it has not passed its gates.
    """
    name = parse_version(wanted, model)
    if name is None:
        raise InputError(
            f"{wanted!r} is no version", field="VERSION", remedy="Give a number such as 3, NAME/3 or @champion"
        )
    found = find_version(client, name)
    gates = found.tags.get(_GATES_TAG)
    if gates != PASSED and not allow_failed_gates:
        raise InputError(
            f"version {found.version} of {found.name} {'failed its gates' if gates else 'has no gates'}",
            field="VERSION",
            remedy="Deploy another version, or give --allow-failed-gates",
        )
    return Release(model=found.name, version=str(found.version), alias=name.alias, tags=dict(found.tags))


def render(settings: Settings, release: Release) -> list[dict[str, Any]]:
    """Render everything that is applied.

    Args:
        settings: The settings; sections ``deploy``, ``serve`` and ``cluster`` count.
        release: The version.

    Returns:
        The InferenceService and, where it is asked for, its NetworkPolicy, as JSON values.

    Raises:
        InputError: The pods would look for MLflow in a namespace where it is not.
    """
    from kubernetes.client import ApiClient

    if not (settings.deploy.storage_uri or settings.deploy.mlflow_uri):
        check_server_is_found(
            settings.cluster.mlflow_uri,
            settings.deploy.namespace,
            setting="cluster.mlflow_uri",
            field="deploy.mlflow_uri",
        )
    objects = [inference_service(settings, release)]
    if settings.deploy.network_policy:
        objects.append(network_policy(settings.deploy))
    return [ApiClient().sanitize_for_serialization(item) for item in objects]


def to_yaml(objects: list[dict[str, Any]]) -> str:
    """Write objects as one YAML text.

    Args:
        objects: From ``render``.

    Returns:
        The text.
    """
    return yaml.safe_dump_all(objects, sort_keys=False, explicit_start=True)


def inference_service(settings: Settings, release: Release) -> Any:
    """Return the InferenceService, as KServe's own model of it.

    Args:
        settings: The settings.
        release: The version.

    Returns:
        A ``kserve.V1beta1InferenceService``.
    """
    from kserve import V1beta1InferenceService, V1beta1InferenceServiceSpec, V1beta1PredictorSpec
    from kubernetes import client as k8s

    deploy = settings.deploy
    predictor = V1beta1PredictorSpec(
        labels=dict(NO_SIDECAR),
        # All requests is what KServe does without the field.
        canary_traffic_percent=deploy.canary if deploy.canary < 100 else None,
        min_replicas=deploy.min_replicas,
        max_replicas=deploy.max_replicas,
        scale_metric="concurrency" if deploy.mode == "Serverless" else "cpu",
        scale_target=deploy.concurrency if deploy.mode == "Serverless" else 70,
        timeout=deploy.timeout_seconds,
        service_account_name=deploy.service_account,
        automount_service_account_token=False,
        enable_service_links=False,
        image_pull_secrets=[k8s.V1LocalObjectReference(name=name) for name in deploy.pull_secrets] or None,
        node_selector=deploy.node_selector or None,
        tolerations=[k8s.V1Toleration(**toleration.model_dump()) for toleration in deploy.tolerations] or None,
        containers=[_container(settings, release)],
        volumes=[
            k8s.V1Volume(name="scratch", empty_dir=k8s.V1EmptyDirVolumeSource(size_limit=deploy.cache)),
            *certificate_volumes(settings.cluster.ca_certificates)[0],
        ],
    )
    return V1beta1InferenceService(
        api_version="serving.kserve.io/v1beta1",
        kind="InferenceService",
        metadata=k8s.V1ObjectMeta(
            name=deploy.name,
            namespace=deploy.namespace,
            labels={
                "app.kubernetes.io/name": "vitalfuse",
                "app.kubernetes.io/component": "serve",
                "app.kubernetes.io/version": release.version,
            },
            annotations=_annotations(deploy, release),
        ),
        spec=V1beta1InferenceServiceSpec(predictor=predictor),
    )


def _annotations(deploy: DeploySettings, release: Release) -> dict[str, str]:
    tags = {"model-digest": _DIGEST_TAG, "cohort-digest": _COHORT_TAG, "gates": _GATES_TAG}
    told = {"model": release.model, "version": release.version, "alias": release.alias}
    told |= {name: release.tags.get(tag) for name, tag in tags.items()}
    return {
        "serving.kserve.io/deploymentMode": deploy.mode,
        "serving.kserve.io/enable-prometheus-scraping": "true",
        "prometheus.kserve.io/port": str(PORT),
        "prometheus.kserve.io/path": "/metrics",
        **{f"vitalfuse/{name}": value for name, value in told.items() if value},
        "vitalfuse/intended-use": "Research and evaluation; not for clinical use",
        **deploy.annotations,
    }


def _container(settings: Settings, release: Release) -> Any:
    from kubernetes import client as k8s

    deploy = settings.deploy

    def probe(path: str, **times: int) -> Any:
        return k8s.V1Probe(http_get=k8s.V1HTTPGetAction(path=path, port=PORT), timeout_seconds=5, **times)

    return k8s.V1Container(
        name=CONTAINER,
        image=image(settings),
        image_pull_policy=settings.cluster.images.pull_policy,
        command=["vitalfuse"],
        args=arguments(settings, release),
        env=_environment(settings),
        # Knative takes the protocol from the name.
        ports=[k8s.V1ContainerPort(container_port=PORT, name="http1", protocol="TCP")],
        resources=k8s.V1ResourceRequirements(
            requests={"cpu": deploy.cpu, "memory": deploy.memory},
            limits={"cpu": deploy.cpu_limit, "memory": deploy.memory_limit},
        ),
        # Ready once a version has passed its warm-up; alive all the while.
        readiness_probe=probe("/v2/health/ready", period_seconds=5, failure_threshold=3),
        liveness_probe=probe("/v2/health/live", initial_delay_seconds=15, period_seconds=10, failure_threshold=6),
        # Of the container, not of the pod: Knative refuses the pod's, unless its operators have allowed it.
        security_context=container_security(),
        volume_mounts=[
            k8s.V1VolumeMount(name="scratch", mount_path=SCRATCH),
            *certificate_volumes(settings.cluster.ca_certificates)[1],
        ],
    )


def image(settings: Settings) -> str:
    """Return the serving image.

    Args:
        settings: The settings.

    Returns:
        Its name.
    """
    images = settings.cluster.images
    return settings.deploy.image or f"{images.registry}/serve-python:{images.tag}"


def arguments(settings: Settings, release: Release) -> list[str]:
    """Return the arguments of ``vitalfuse`` in the pod: the version for good, and what the settings change.

    Args:
        settings: The settings.
        release: The version.

    Returns:
        The arguments.
    """
    found = ["serve", "--host", "0.0.0.0", "--port", str(PORT), "--workspace", f"{SCRATCH}/vitalfuse"]
    found += ["--model", release.model]
    found += ["--folder", MODELS] if settings.deploy.storage_uri else ["--version", release.version]
    changed = settings.serve.model_dump(mode="json", exclude_defaults=True)
    for name, value in changed.items():
        if name not in _NOT_PASSED:
            found += ["--set", f"serve.{name}={json.dumps(value)}"]
    return found


def _environment(settings: Settings) -> list[Any]:
    from kubernetes import client as k8s

    deploy = settings.deploy
    uri = deploy.mlflow_uri or settings.cluster.mlflow_uri
    plain = {
        "MLFLOW_TRACKING_URI": None if deploy.storage_uri else uri,
        "MLFLOW_S3_ENDPOINT_URL": None if deploy.storage_uri else settings.cluster.s3_endpoint,
        "STORAGE_URI": deploy.storage_uri,
        **certificate_variables(settings.cluster.ca_certificates),
    }
    found = [k8s.V1EnvVar(name=name, value=value) for name, value in plain.items() if value]
    return found + secret_variables(deploy.secrets)


def network_policy(deploy: DeploySettings) -> Any:
    """Return a policy that lets in requests of the own namespace and of the gateway, and of nobody else.

    Args:
        deploy: The settings.

    Returns:
        A ``kubernetes.client.V1NetworkPolicy``.
    """
    from kubernetes import client as k8s

    ports = (PORT, *_PROXY_PORTS) if deploy.mode == "Serverless" else (PORT,)
    peers = [k8s.V1NetworkPolicyPeer(pod_selector=k8s.V1LabelSelector())]
    if deploy.ingress_namespaces:
        named = k8s.V1LabelSelectorRequirement(
            key="kubernetes.io/metadata.name", operator="In", values=deploy.ingress_namespaces
        )
        peers.append(k8s.V1NetworkPolicyPeer(namespace_selector=k8s.V1LabelSelector(match_expressions=[named])))
    rule = k8s.V1NetworkPolicyIngressRule(
        _from=peers, ports=[k8s.V1NetworkPolicyPort(port=port, protocol="TCP") for port in ports]
    )
    return k8s.V1NetworkPolicy(
        api_version="networking.k8s.io/v1",
        kind="NetworkPolicy",
        metadata=k8s.V1ObjectMeta(name=f"{deploy.name}-ingress", namespace=deploy.namespace),
        spec=k8s.V1NetworkPolicySpec(
            pod_selector=k8s.V1LabelSelector(match_labels={"serving.kserve.io/inferenceservice": deploy.name}),
            policy_types=["Ingress"],
            ingress=[rule],
        ),
    )


def apply(manifest: str, *, context: str | None = None, dry_run: bool = False) -> str:
    """Apply a manifest with kubectl, server-side, so that nothing that others set is taken away.

    Args:
        manifest: From ``to_yaml``.
        context: Context of the kubeconfig; None for the current one.
        dry_run: Whether the cluster only checks it.

    Returns:
        What kubectl printed.

    Raises:
        InputError: There is no kubectl, or the cluster refuses.
    """
    if shutil.which("kubectl") is None:
        raise InputError("kubectl is not installed", field="--apply", remedy="Install it, or apply the YAML elsewhere")
    command = ["kubectl", *([f"--context={context}"] if context else []), "apply", "--server-side"]
    command += ["--field-manager=vitalfuse", *(["--dry-run=server"] if dry_run else []), "--filename=-"]
    finished = subprocess.run(command, input=manifest, capture_output=True, text=True, check=False)
    if finished.returncode:
        last = (finished.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise InputError(
            f"kubectl could not apply it: {last}",
            field="--apply",
            remedy="Look at the cluster and at your rights there",
        )
    return finished.stdout.strip()
