"""The settings of a fit by several pods: what Kubeflow Trainer is asked for."""

from __future__ import annotations

from pydantic import Field

from components.common.settings import Section
from pipelines.cluster_settings import NAMESPACE, Name, Size


class TrainJobSettings(Section):
    """What `vitalfuse train-job` asks Kubeflow Trainer for; pods get what `cluster` gives the step `train`."""

    name: str = Field(
        default="vitalfuse-train",
        pattern=r"^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$",
        description="Name of the TrainJob; a new one for each fit, since a TrainJob cannot be changed",
    )
    namespace: Name = Field(default=NAMESPACE, description="Its namespace")
    nodes: int = Field(default=2, ge=1, le=64, description="Pods that fit the candidate together")
    image: str | None = Field(
        default=None, description="Training image; null: train-python of cluster.images, with its registry and tag"
    )
    scratch: Size = Field(default="20Gi", description="Room in each pod for features, model and temporary files")
    service_account: Name | None = Field(default=None, description="Service account of the pods; null: the default one")
    network_policy: bool = Field(
        default=True, description="Whether a NetworkPolicy lets the pods reach each other's port, and nobody else"
    )
