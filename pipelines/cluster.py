"""Fits the pipeline to a Kubernetes cluster, and compiles it for one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from components.common import environment
from components.common.files import atomic_file
from pipelines.cluster_settings import ClusterSettings, is_named, seconds
from pipelines.pods import CERTIFICATES, certificate_variables

if TYPE_CHECKING:
    from kfp.dsl import PipelineTask

# Pods of KFP bear the run's id in this label.
_RUN_ID_FIELD = "metadata.labels['pipeline/runid']"
_ANY_USER = 10001


def compile_pipeline(output: Path, settings: ClusterSettings | None = None, *, shards: int = 1) -> None:
    """Compile the pipeline to KFP's intermediate representation.

    Args:
        output: YAML file to write.
        settings: What the cluster gives each step; None leaves that to the cluster's defaults, as a record of a run
            on this machine does.
        shards: Parts into which ingest and preprocess divide the patients.
    """
    from kfp import compiler

    from pipelines.diagnosis import build_pipeline

    if settings is None:
        pipeline = build_pipeline(shards=shards)
    else:
        pipeline = build_pipeline(
            ClusterTasks(settings),
            parallelism=settings.parallelism,
            shards=shards,
            shard_parallelism=settings.shard_parallelism,
            on_cluster=True,
        )
    # The compiler goes by the suffix.
    with atomic_file(output) as temporary:
        named = temporary.with_suffix(".yaml")
        compiler.Compiler().compile(pipeline, str(named))
        named.rename(temporary)


class ClusterTasks:
    """Configures each task of the pipeline for a cluster.

    Args:
        settings: Section ``cluster``.
    """

    def __init__(self, settings: ClusterSettings) -> None:
        self._settings = settings

    def __call__(self, step: str, task: PipelineTask) -> None:
        """Configure the task of one step.

        Args:
            step: Step name.
            task: Its task.
        """
        self._set_image(task)
        self._set_resources(step, task)
        self._set_environment(step, task)
        self._mount(step, task)

    def _set_image(self, task: PipelineTask) -> None:
        from kfp import kubernetes

        images = self._settings.images
        task.set_container_image(images.name(task.container_spec.image))
        kubernetes.set_image_pull_policy(task, images.pull_policy)
        if images.pull_secrets:
            kubernetes.set_image_pull_secrets(task, images.pull_secrets)
        kubernetes.set_security_context(task, run_as_user=_ANY_USER, run_as_group=_ANY_USER, run_as_non_root=True)

    def _set_resources(self, step: str, task: PipelineTask) -> None:
        from kfp import kubernetes

        wanted = self._settings.resources(step)
        task.set_cpu_request(wanted.cpu).set_cpu_limit(wanted.cpu_limit)
        task.set_memory_request(wanted.memory).set_memory_limit(wanted.memory_limit)
        if wanted.gpus:
            task.set_accelerator_type(wanted.gpu_type).set_accelerator_limit(wanted.gpus)
        if wanted.retries:
            wait = self._settings.backoff
            task.set_retry(
                wanted.retries,
                backoff_duration=wait.first,
                backoff_factor=wait.factor,
                # Else KFP gives up after an hour, however long an attempt may take.
                backoff_max_duration=f"{self._settings.retry_seconds(step)}s",
            )
        if wanted.timeout:
            kubernetes.set_timeout(task, seconds(wanted.timeout))
        for label, value in (wanted.node_selector or {}).items():
            kubernetes.add_node_selector(task, label, value)
        for toleration in wanted.tolerations or []:
            kubernetes.add_toleration(task, **toleration.model_dump(exclude_none=True))

    def _set_environment(self, step: str, task: PipelineTask) -> None:
        from kfp import kubernetes

        settings = self._settings
        variables = dict(settings.environment)
        if settings.mlflow == "vitalfuse":
            variables |= {"MLFLOW_TRACKING_URI": settings.mlflow_uri, "MLFLOW_REGISTRY_URI": settings.mlflow_uri}
        if settings.s3_endpoint:
            variables |= {"AWS_ENDPOINT_URL_S3": settings.s3_endpoint, "MLFLOW_S3_ENDPOINT_URL": settings.s3_endpoint}
        for name, value in variables.items():
            task.set_env_variable(name, value)
        for secret in settings.secrets:
            if secret.steps is None or is_named(step, secret.steps):
                kubernetes.use_secret_as_env(task, secret.name, secret.keys, optional=secret.optional)
        kubernetes.use_field_path_as_env(task, environment.KFP_RUN_ID, _RUN_ID_FIELD)

    def _mount(self, step: str, task: PipelineTask) -> None:
        from kfp import kubernetes

        for volume in self._settings.volumes:
            if is_named(step, volume.steps):
                kubernetes.mount_pvc(task, volume.claim, volume.path)
        certificates = self._settings.ca_certificates
        if certificates:
            kubernetes.use_config_map_as_volume(task, certificates.config_map, CERTIFICATES)
            for name, value in certificate_variables(certificates).items():
                task.set_env_variable(name, value)
        scratch = self._settings.scratch
        if scratch and is_named(step, scratch.steps):
            kubernetes.add_ephemeral_volume(
                task,
                volume_name="scratch",
                mount_path=scratch.path,
                access_modes=["ReadWriteOnce"],
                size=scratch.size,
                storage_class_name=scratch.storage_class,
            )
            task.set_env_variable("TMPDIR", scratch.path)
