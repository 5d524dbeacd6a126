"""The settings of a deployment: what the served model's pods get on a cluster with KServe."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from components.common.settings import Section
from pipelines.cluster_settings import NAMESPACE, Address, Cpu, Name, SecretKeys, Size, Toleration, cores, size_bytes

_SECRETS = [
    SecretKeys(name="vitalfuse-serve", keys={"token": "VITALFUSE_SERVE_TOKEN"}),
    SecretKeys(name="vitalfuse-predictions", keys={"key": "VITALFUSE_PREDICTION_KEY"}, optional=True),
    SecretKeys(
        name="vitalfuse-mlflow",
        keys={"username": "MLFLOW_TRACKING_USERNAME", "password": "MLFLOW_TRACKING_PASSWORD"},
        optional=True,
    ),
    SecretKeys(
        name="vitalfuse-s3",
        keys={"access_key_id": "AWS_ACCESS_KEY_ID", "secret_access_key": "AWS_SECRET_ACCESS_KEY"},
        optional=True,
    ),
]


class DeploySettings(Section):
    """What `vitalfuse deploy` asks KServe for."""

    name: str = Field(
        default="vitalfuse-diagnosis",
        pattern=r"^[a-z]([-a-z0-9]{0,48}[a-z0-9])?$",
        description="Name of the InferenceService",
    )
    namespace: Name = Field(default=NAMESPACE, description="Its namespace")
    mode: Literal["Serverless", "RawDeployment"] = Field(
        default="Serverless", description="KServe's deployment mode; only Serverless (Knative) can split traffic"
    )
    image: str | None = Field(
        default=None, description="Serving image; null: serve-python of cluster.images, with its registry and tag"
    )
    storage_uri: str | None = Field(
        default=None,
        pattern=r"^(s3|gs|https|pvc)://",
        description="Model folder that KServe copies into the pod; null: the pod takes the version from MLflow",
    )
    mlflow_uri: Address | None = Field(
        default=None, description="MLflow server as the pods see it; null: cluster.mlflow_uri"
    )
    canary: int = Field(
        default=100, ge=0, le=100, description="Share of the requests that the new version gets, in percent"
    )
    min_replicas: int = Field(default=1, ge=0, description="Fewest pods; 0 lets Serverless stop the last one")
    max_replicas: int = Field(default=4, ge=1, description="Most pods")
    concurrency: int = Field(
        default=8, ge=1, description="Requests a pod answers at once before another pod is started"
    )
    timeout_seconds: int = Field(default=60, ge=1, le=3600, description="Longest time of a request")
    cpu: Cpu = Field(default="500m", description="CPU request")
    cpu_limit: Cpu = Field(default="2", description="CPU limit")
    memory: Size = Field(default="512Mi", description="Memory request")
    memory_limit: Size = Field(default="2Gi", description="Memory limit")
    cache: Size = Field(default="2Gi", description="Room for downloaded versions and temporary files")
    secrets: list[SecretKeys] = Field(default=_SECRETS, description="Secrets that become environment variables")
    service_account: Name | None = Field(default=None, description="Service account of the pods; null: the default one")
    pull_secrets: list[Name] = Field(default_factory=list, description="Secrets for a private registry")
    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels that the node must have")
    tolerations: list[Toleration] = Field(default_factory=list, description="Taints that the pods may run beside")
    annotations: dict[str, str] = Field(default_factory=dict, description="Further annotations")
    network_policy: bool = Field(
        default=True, description="Whether a NetworkPolicy lets in requests of ingress_namespaces alone"
    )
    ingress_namespaces: list[Name] = Field(
        default=["istio-system", "knative-serving", "kserve"],
        description="Namespaces beside its own whose pods may ask: those of the gateway and of Knative",
    )

    @field_validator("secrets")
    @classmethod
    def _for_every_pod(cls, secrets: list[SecretKeys]) -> list[SecretKeys]:
        for secret in secrets:
            if secret.steps is not None:
                raise ValueError(f"{secret.name}: steps belong to cluster.secrets; a deployment has one kind of pod")
        return secrets

    @model_validator(mode="after")
    def _fits_together(self) -> DeploySettings:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is more than max_replicas {self.max_replicas}")
        if cores(self.cpu) > cores(self.cpu_limit):
            raise ValueError(f"cpu {self.cpu} is more than cpu_limit {self.cpu_limit}")
        if size_bytes(self.memory) > size_bytes(self.memory_limit):
            raise ValueError(f"memory {self.memory} is more than memory_limit {self.memory_limit}")
        if self.mode == "RawDeployment" and self.canary != 100:
            raise ValueError("canary needs the mode Serverless: in RawDeployment KServe cannot split traffic")
        if self.mode == "RawDeployment" and self.min_replicas == 0:
            raise ValueError("min_replicas 0 needs the mode Serverless")
        return self
