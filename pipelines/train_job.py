"""Renders the TrainJob of Kubeflow Trainer v2 that fits the candidate by several pods.

A TrainingRuntime of the namespace holds what the pods are: image, rights, volumes, secrets by name. The TrainJob holds
what this fit is: number of pods, resources, inputs, settings. Trainer makes a JobSet of both.
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

from components import image as images
from components.train.pod import MODULE, check_apart
from data_schemas.errors import InputError
from pipelines.cluster_settings import is_named, seconds
from pipelines.pods import (
    NO_SIDECAR,
    certificate_variables,
    certificate_volumes,
    check_server_is_found,
    container_security,
    pod_security,
    secret_variables,
)
from pipelines.settings import Settings
from training.addresses import NODE, PORT, TRAIN_JOB, TRAIN_NODES

GROUP = "trainer.kubeflow.org"
API_VERSION = f"{GROUP}/v1alpha1"
# JobSet gives this label to its pods; a JobSet is named like its TrainJob.
JOBSET_LABEL = "jobset.sigs.k8s.io/jobset-name"
COMPONENT_LABEL = "app.kubernetes.io/component"
COMPONENT = "train-job"
SCRATCH = "/tmp"
_STEP = "train"
# By this label Trainer finds the job that it fits to the TrainJob.
_TRAINER = {f"{GROUP}/trainjob-ancestor-step": "trainer"}
_INPUT_ERROR = 2


def render(settings: Settings, *, features: str, embedding: str, model: str) -> list[dict[str, Any]]:
    """Render everything that is applied.

    Args:
        settings: The settings; sections ``train_job``, ``train``, ``cluster`` and ``tracking`` count.
        features: Where the features are: ``s3://bucket/prefix``, or a path in a claim of ``cluster.volumes``.
        embedding: Where the word vectors are.
        model: Where the chief writes.

    Returns:
        TrainingRuntime and TrainJob and, where it is asked for, their NetworkPolicy, as JSON values.

    Raises:
        InputError: A location is no S3 prefix and not in a claim that the pods see, the model would be written over an
            input, too many nodes are wanted, or the pods would look for MLflow or S3 in a namespace where it is not.
    """
    from kubernetes.client import ApiClient

    locations = [features, embedding, model]
    for location in locations:
        _check_location(settings, location)
    check_apart(model, [features, embedding])
    _check_servers(settings, locations)
    objects = [training_runtime(settings), train_job(settings, locations)]
    if settings.train_job.network_policy:
        objects.insert(0, network_policy(settings))
    return [ApiClient().sanitize_for_serialization(item) for item in objects]


def _check_location(settings: Settings, location: str) -> None:
    if location.startswith("s3://") and location.removeprefix("s3://").partition("/")[2]:
        return
    seen = [volume.path for volume in settings.cluster.volumes if is_named(_STEP, volume.steps)]
    path = PurePosixPath(location)
    if ".." in path.parts or not any(path.is_relative_to(folder) for folder in seen):
        raise InputError(
            "is no s3://bucket/prefix, and in no claim that the pods see",
            file=location,
            remedy="Name the claim in cluster.volumes, with train among its steps",
        )


def _check_servers(settings: Settings, locations: list[str]) -> None:
    cluster = settings.cluster
    servers = {"cluster.mlflow_uri": cluster.mlflow_uri}
    if cluster.s3_endpoint and any(location.startswith("s3://") for location in locations):
        servers["cluster.s3_endpoint"] = cluster.s3_endpoint
    for setting, uri in servers.items():
        check_server_is_found(uri, settings.train_job.namespace, setting=setting, field=setting)


def train_job(settings: Settings, locations: list[str]) -> dict[str, Any]:
    """Return the TrainJob.

    Args:
        settings: The settings.
        locations: Features, embedding and model.

    Returns:
        The object.
    """
    wanted, resources = settings.train_job, settings.cluster.resources(_STEP)
    if wanted.nodes > settings.train.optimiser.batch_size:
        raise InputError(
            f"{wanted.nodes} nodes can't share batches of {settings.train.optimiser.batch_size}",
            field="train_job.nodes",
            remedy="Raise train.optimiser.batch_size",
        )
    if (resources.gpus or 0) > 1:
        raise InputError(
            f"{resources.gpus} GPUs a node: a node fits on one GPU",
            field="cluster.steps.train.gpus",
            remedy="Raise train_job.nodes instead",
        )
    # The pods are the workers: none of them starts further ones.
    train = json.dumps(settings.section(_STEP) | {"workers": 1}, separators=(",", ":"))
    limits = {"cpu": resources.cpu_limit, "memory": resources.memory_limit}
    if resources.gpus:
        limits[str(resources.gpu_type)] = str(resources.gpus)
    return {
        "apiVersion": API_VERSION,
        "kind": "TrainJob",
        "metadata": _metadata(settings),
        "spec": {
            "runtimeRef": {"apiGroup": GROUP, "kind": "TrainingRuntime", "name": wanted.name},
            "trainer": {
                "numNodes": wanted.nodes,
                "command": ["python3", "-m", MODULE],
                "args": [*locations, train],
                "env": [
                    {"name": TRAIN_JOB, "value": wanted.name},
                    {"name": TRAIN_NODES, "value": str(wanted.nodes)},
                ],
                "resourcesPerNode": {
                    "requests": {"cpu": resources.cpu, "memory": resources.memory},
                    "limits": limits,
                },
            },
        },
    }


def training_runtime(settings: Settings) -> dict[str, Any]:
    """Return the TrainingRuntime: a JobSet with one indexed job, whose pods start and fail together.

    Args:
        settings: The settings.

    Returns:
        The object.
    """
    resources = settings.cluster.resources(_STEP)
    job: dict[str, Any] = {
        "completionMode": "Indexed",
        # A fit can't go on without one of its pods: JobSet starts all of them anew.
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": NODE, "operator": "In", "values": [_INPUT_ERROR]},
                }
            ]
        },
        "template": {"metadata": {"labels": _labels() | NO_SIDECAR}, "spec": _pod(settings)},
    }
    if resources.timeout:
        job["activeDeadlineSeconds"] = seconds(resources.timeout)
    return {
        "apiVersion": API_VERSION,
        "kind": "TrainingRuntime",
        "metadata": _metadata(settings),
        "spec": {
            "mlPolicy": {"numNodes": settings.train_job.nodes},
            "template": {
                "spec": {
                    "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
                    "failurePolicy": {
                        "maxRestarts": resources.retries,
                        # Bad input stays bad, and a fit that took too long takes too long again.
                        "rules": [
                            {
                                "name": "give-up",
                                "action": "FailJobSet",
                                "onJobFailureReasons": ["PodFailurePolicy", "DeadlineExceeded"],
                            }
                        ],
                    },
                    "replicatedJobs": [
                        {"name": NODE, "template": {"metadata": {"labels": dict(_TRAINER)}, "spec": job}}
                    ],
                }
            },
        },
    }


def _metadata(settings: Settings) -> dict[str, Any]:
    return {"name": settings.train_job.name, "namespace": settings.train_job.namespace, "labels": _labels()}


def _labels() -> dict[str, str]:
    return {"app.kubernetes.io/name": "vitalfuse", COMPONENT_LABEL: COMPONENT}


def _pod(settings: Settings) -> Any:
    from kubernetes import client as k8s

    cluster, wanted = settings.cluster, settings.train_job
    resources = cluster.resources(_STEP)
    claims = [volume for volume in cluster.volumes if is_named(_STEP, volume.steps)]
    volumes = [k8s.V1Volume(name="scratch", empty_dir=k8s.V1EmptyDirVolumeSource(size_limit=wanted.scratch))]
    mounts = [k8s.V1VolumeMount(name="scratch", mount_path=SCRATCH)]
    for number, volume in enumerate(claims, start=1):
        source = k8s.V1PersistentVolumeClaimVolumeSource(claim_name=volume.claim)
        volumes.append(k8s.V1Volume(name=f"claim-{number}", persistent_volume_claim=source))
        mounts.append(k8s.V1VolumeMount(name=f"claim-{number}", mount_path=volume.path))
    authorities = certificate_volumes(cluster.ca_certificates)
    volumes, mounts = volumes + authorities[0], mounts + authorities[1]
    return k8s.V1PodSpec(
        restart_policy="Never",
        service_account_name=wanted.service_account,
        automount_service_account_token=False,
        enable_service_links=False,
        image_pull_secrets=[k8s.V1LocalObjectReference(name=name) for name in cluster.images.pull_secrets] or None,
        node_selector=resources.node_selector or None,
        tolerations=[k8s.V1Toleration(**item.model_dump()) for item in resources.tolerations or []] or None,
        security_context=pod_security(),
        containers=[
            k8s.V1Container(
                name=NODE,
                image=wanted.image or cluster.images.name(images.TRAIN),
                image_pull_policy=cluster.images.pull_policy,
                env=_environment(settings),
                ports=[k8s.V1ContainerPort(container_port=PORT, name="grpc", protocol="TCP")],
                security_context=container_security(),
                volume_mounts=mounts,
            )
        ],
        volumes=volumes,
    )


def _environment(settings: Settings) -> list[Any]:
    from kubernetes import client as k8s

    cluster = settings.cluster
    plain = dict(cluster.environment)
    plain |= {"MLFLOW_TRACKING_URI": cluster.mlflow_uri, "MLFLOW_REGISTRY_URI": cluster.mlflow_uri}
    plain["MLFLOW_EXPERIMENT_NAME"] = settings.tracking.experiment
    plain |= certificate_variables(cluster.ca_certificates)
    if cluster.s3_endpoint:
        plain |= {"AWS_ENDPOINT_URL_S3": cluster.s3_endpoint, "MLFLOW_S3_ENDPOINT_URL": cluster.s3_endpoint}
    secrets = [secret for secret in cluster.secrets if secret.steps is None or is_named(_STEP, secret.steps)]
    return [k8s.V1EnvVar(name=name, value=value) for name, value in plain.items()] + secret_variables(secrets)


def network_policy(settings: Settings) -> Any:
    """Return a policy that opens the workers' port to the pods of the same TrainJob, and to nobody else.

    TensorFlow's workers know no password, so whoever reaches that port may do what they do.

    Args:
        settings: The settings.

    Returns:
        A ``kubernetes.client.V1NetworkPolicy``; what else the pods may reach is left to the namespace's own policies.
    """
    from kubernetes import client as k8s

    name = settings.train_job.name
    pods = k8s.V1LabelSelector(match_labels={JOBSET_LABEL: name})
    peers, ports = [k8s.V1NetworkPolicyPeer(pod_selector=pods)], [k8s.V1NetworkPolicyPort(port=PORT, protocol="TCP")]
    return k8s.V1NetworkPolicy(
        api_version="networking.k8s.io/v1",
        kind="NetworkPolicy",
        metadata=k8s.V1ObjectMeta(name=f"{name}-workers", namespace=settings.train_job.namespace, labels=_labels()),
        spec=k8s.V1NetworkPolicySpec(
            pod_selector=pods,
            policy_types=["Ingress"],
            ingress=[k8s.V1NetworkPolicyIngressRule(_from=peers, ports=ports)],
        ),
    )
