"""The settings of a cluster: what each step's pod gets. A local run ignores them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from components.common.settings import Section
from components.common.uris import holds_credentials

STEPS = (
    "open_run",
    "ingest",
    "validate",
    "preprocess",
    "embed_text",
    "train",
    "cross_validate",
    "compare",
    "register",
    "record_run",
    "close_run",
)
# That of infra/kubernetes, with the MLflow server in it.
NAMESPACE = "vitalfuse"
# YAML reads a plain 2 as a number.
Cpu = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if isinstance(value, int | float) else value),
    Field(pattern=r"^([0-9]+(\.[0-9]+)?|[0-9]+m)$"),
]
Size = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(K|M|G|T|Ki|Mi|Gi|Ti)$")]
Duration = Annotated[str, Field(pattern=r"^[0-9]+(s|m|h)$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
_SECONDS = {"s": 1, "m": 60, "h": 3600}
# What a pod may wait for a node, or for its image, in each attempt.
_QUEUE_SECONDS = 24 * 3600
_LONGEST_WAIT_SECONDS = 24 * 3600
# Variables that other settings become.
_SET_ELSEWHERE = {
    "MLFLOW_TRACKING_URI": "mlflow_uri",
    "MLFLOW_REGISTRY_URI": "mlflow_uri",
    "AWS_ENDPOINT_URL_S3": "s3_endpoint",
    "MLFLOW_S3_ENDPOINT_URL": "s3_endpoint",
    "TMPDIR": "scratch",
    "AWS_CA_BUNDLE": "ca_certificates",
    "REQUESTS_CA_BUNDLE": "ca_certificates",
    "SSL_CERT_FILE": "ca_certificates",
}


def _without_user(address: str) -> str:
    if holds_credentials(address):
        raise ValueError("names a user or a password, which the YAML would show; put them into a secret, under secrets")
    return address


Address = Annotated[str, AfterValidator(_without_user)]


# With shards, other tasks stand for ingest and preprocess.
TASKS = (*STEPS, "ingest_shard", "merge_cohort", "preprocess_shard", "merge_features")
# What is said of a step holds for its shards too, unless they are named themselves.
WHOLE_STEPS = {"ingest_shard": "ingest", "preprocess_shard": "preprocess"}


def is_named(step: str, steps: list[str]) -> bool:
    """Tell whether a step is among some that settings name, itself or as a shard of one of them.

    Args:
        step: One of ``TASKS``.
        steps: Names of steps.

    Returns:
        Whether it is.
    """
    return step in steps or WHOLE_STEPS.get(step) in steps


def seconds(duration: str) -> int:
    """Return a duration such as "30m" in seconds.

    Args:
        duration: Digits and one of s, m, h.

    Returns:
        Seconds.
    """
    return int(duration[:-1]) * _SECONDS[duration[-1]]


class Toleration(Section):
    """A taint that the pod may run beside."""

    key: str | None = Field(default=None, description="Key of the taint; null: every taint")
    operator: Literal["Equal", "Exists"] | None = Field(
        default=None, description="How the key is matched; null: Equal where there is a value, else Exists"
    )
    value: str | None = Field(default=None, description="Value of the taint, for Equal")
    effect: Literal["NoExecute", "NoSchedule", "PreferNoSchedule"] | None = Field(
        default=None, description="Effect of the taint; null: every effect"
    )

    @model_validator(mode="before")
    @classmethod
    def _choose_operator(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("operator") is None:
            return given | {"operator": "Exists" if given.get("value") is None else "Equal"}
        return given

    @model_validator(mode="after")
    def _is_one_that_kubernetes_takes(self) -> Toleration:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("the operator Exists takes no value; leave out one of them")
        if self.operator == "Equal" and not self.key:
            raise ValueError("the operator Equal needs a key; Exists without a key stands for every taint")
        return self


class StepResources(Section):
    """What one step's pod asks for; empty values are taken from ``defaults``."""

    cpu: Cpu | None = Field(default=None, description="CPU request, in cores, such as 2 or 500m")
    cpu_limit: Cpu | None = Field(default=None, description="CPU limit")
    memory: Size | None = Field(default=None, description="Memory request, such as 4Gi")
    memory_limit: Size | None = Field(default=None, description="Memory limit; more than it ends the pod")
    gpus: int | None = Field(default=None, ge=0, le=64, description="GPUs; 0 = none")
    gpu_type: str | None = Field(default=None, description="Resource name of the GPU")
    timeout: Duration | None = Field(default=None, description="A pod that runs longer is ended, such as 2h")
    retries: int | None = Field(default=None, ge=0, le=20, description="Attempts after the first one failed")
    node_selector: dict[str, str] | None = Field(default=None, description="Labels that the node must have")
    tolerations: list[Toleration] | None = Field(default=None, description="Taints that the pod may run beside")


class Backoff(Section):
    """How long to wait before an attempt is repeated."""

    first: Duration = Field(default="30s", description="Before the first repetition")
    # Argo, which KFP runs on, reads a whole number.
    factor: int = Field(default=2, ge=1, le=10, description="Each further wait is longer by this factor")

    def waits(self, retries: int) -> list[int]:
        """Return the waits between the attempts.

        Args:
            retries: Attempts after the first one.

        Returns:
            Seconds, before each of them.
        """
        return [seconds(self.first) * self.factor**retry for retry in range(retries)]


class SecretKeys(Section):
    """Keys of a Kubernetes secret that become environment variables of steps."""

    name: Name = Field(description="Name of the secret, in the namespace of the run")
    keys: dict[str, str] = Field(min_length=1, description="Environment variable by key of the secret")
    optional: bool = Field(default=False, description="Whether pods start where the secret is not there")
    steps: list[Literal[TASKS]] | None = Field(  # type: ignore[valid-type]
        default=None, min_length=1, description="Steps that get them; null: all"
    )


class Volume(Section):
    """A persistent volume claim that steps see as a folder, such as one with the sources."""

    claim: Name = Field(description="Name of the claim, in the namespace of the run")
    path: str = Field(pattern=r"^/", description="Where the steps see it")
    steps: list[Literal[TASKS]] = Field(  # type: ignore[valid-type]
        default=["open_run", "ingest"], min_length=1, description="Steps that see it"
    )


class Scratch(Section):
    """A volume of its own for each pod's large files, deleted with the pod, which Argo keeps unless podGC is set."""

    size: Size = Field(description="Size, such as 100Gi")
    path: str = Field(
        default="/scratch",
        pattern=r"^/[A-Za-z0-9._/-]+$",
        description="Where it is mounted, for temporary files; below KFP's folder of artifacts, such as "
        "/minio/mlpipeline or /s3/BUCKET, it also holds inputs and outputs",
    )
    storage_class: Name | None = Field(default=None, description="Storage class; null: the cluster's default")
    steps: list[Literal[TASKS]] = Field(  # type: ignore[valid-type]
        default=[
            "ingest",
            "merge_cohort",
            "validate",
            "preprocess",
            "merge_features",
            "embed_text",
            "train",
            "cross_validate",
            "compare",
            "register",
        ],
        min_length=1,
        description="Steps that get one",
    )


class CaCertificates(Section):
    """Certificates of authorities that steps trust, in place of the public ones of their images."""

    config_map: Name = Field(description="Name of the ConfigMap, in the namespace of the run")
    key: str = Field(
        default="ca.crt", pattern=r"^[-._a-zA-Z0-9]{1,253}$", description="Its key with the certificates, in PEM form"
    )


class Images(Section):
    """The container images of the steps."""

    registry: str = Field(default="vitalfuse", min_length=1, description="Registry and folder of the images")
    tag: str = Field(default="latest", pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$", description="Tag of all images")
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="When a node pulls an image"
    )
    pull_secrets: list[Name] = Field(default_factory=list, description="Secrets for a private registry")

    def name(self, image: str) -> str:
        """Return the full name of an image in this registry.

        Args:
            image: Name that a component gives, such as ``vitalfuse/data-python:latest``.

        Returns:
            Registry, the image's own name, and tag.
        """
        return f"{self.registry}/{image.rpartition('/')[2].partition(':')[0]}:{self.tag}"


_DEFAULTS = StepResources(
    cpu="500m",
    cpu_limit="2",
    memory="1Gi",
    memory_limit="4Gi",
    gpus=0,
    gpu_type="nvidia.com/gpu",
    timeout="2h",
    retries=2,
    node_selector={},
    tolerations=[],
)
# Over the defaults; what the settings say of a step goes over these.
STEP_DEFAULTS: dict[str, StepResources] = {
    "open_run": StepResources(cpu="100m", cpu_limit="500m", memory="256Mi", memory_limit="1Gi", timeout="10m"),
    "train": StepResources(cpu="2", cpu_limit="4", memory="4Gi", memory_limit="8Gi", timeout="24h"),
    "cross_validate": StepResources(cpu="2", cpu_limit="4", memory="4Gi", memory_limit="8Gi", timeout="24h"),
    "record_run": StepResources(cpu="100m", cpu_limit="500m", memory="256Mi", memory_limit="1Gi", timeout="1h"),
    "close_run": StepResources(cpu="100m", cpu_limit="500m", memory="256Mi", memory_limit="1Gi", timeout="10m"),
}
_SECRETS = [
    SecretKeys(name="vitalfuse-pseudonyms", keys={"key": "VITALFUSE_PSEUDONYM_KEY"}, steps=["ingest"]),
    # Not the key of the pseudonyms: who compares versions needs this one, and must not be able to link patients.
    SecretKeys(
        name="vitalfuse-evidence",
        keys={"key": "VITALFUSE_EVIDENCE_KEY"},
        optional=True,
        steps=["open_run", "compare", "register"],
    ),
    SecretKeys(
        name="vitalfuse-s3",
        keys={"access_key_id": "AWS_ACCESS_KEY_ID", "secret_access_key": "AWS_SECRET_ACCESS_KEY"},
        optional=True,
    ),
    SecretKeys(
        name="vitalfuse-mlflow",
        keys={"username": "MLFLOW_TRACKING_USERNAME", "password": "MLFLOW_TRACKING_PASSWORD"},
        optional=True,
    ),
]


class ClusterSettings(Section):
    """What a cluster gives the steps; credentials are named here, never written."""

    images: Images = Images()
    defaults: StepResources = Field(default=_DEFAULTS, description="For every step")
    steps: dict[Literal[TASKS], StepResources] = Field(  # type: ignore[valid-type]
        default_factory=dict, description="By step, over the defaults"
    )
    backoff: Backoff = Backoff()
    parallelism: int = Field(default=4, ge=1, le=64, description="Cross-validations that run at a time")
    shard_parallelism: int = Field(default=16, ge=1, le=1000, description="Shards that run at a time")
    secrets: list[SecretKeys] = Field(default=_SECRETS, description="Secrets that become environment variables")
    volumes: list[Volume] = Field(default_factory=list, description="Volume claims that steps see as folders")
    scratch: Scratch | None = Field(default=None, description="A volume a pod for large files; null: the node's disk")
    mlflow: Literal["vitalfuse", "kfp"] = Field(
        default="vitalfuse",
        description="Who opens the MLflow runs: the steps themselves, or KFP's own integration (2.17, switched on)",
    )
    mlflow_uri: Address = Field(
        default="http://mlflow:5000", description="MLflow server as the pods see it; KFP's own integration has its own"
    )
    s3_endpoint: Address | None = Field(default=None, description="S3 server as the pods see it; null: AWS")
    ca_certificates: CaCertificates | None = Field(
        default=None,
        description="Authorities that steps trust, such as a hospital's own for its S3; null: those of the images",
    )
    environment: dict[str, str] = Field(
        default_factory=dict, description="Further environment variables; nothing secret, the YAML shows them"
    )

    @field_validator("environment")
    @classmethod
    def _holds_no_secret(cls, variables: dict[str, str]) -> dict[str, str]:
        for name, value in variables.items():
            if any(word in name.upper() for word in ("SECRET", "PASSWORD", "TOKEN", "_KEY")):
                raise ValueError(f"{name} looks like a credential; put it into a Kubernetes secret, under secrets")
            if holds_credentials(value):
                raise ValueError(f"{name} names a user or a password; put it into a Kubernetes secret, under secrets")
        return variables

    @model_validator(mode="after")
    def _variables_are_set_once(self) -> ClusterSettings:
        for name, setting in _SET_ELSEWHERE.items():
            if name in self.environment and getattr(self, setting) is not None:
                raise ValueError(f"environment.{name} would be overwritten: it is set from cluster.{setting}")
        return self

    @model_validator(mode="after")
    def _waits_are_short(self) -> ClusterSettings:
        for step in TASKS:
            waits = self.backoff.waits(self.resources(step).retries or 0)
            if waits and waits[-1] > _LONGEST_WAIT_SECONDS:
                raise ValueError(
                    f"{step}: the last of {len(waits)} retries would wait for {waits[-1] / 3600:.0f} h; "
                    "lower retries, backoff.factor or backoff.first"
                )
        return self

    @model_validator(mode="after")
    def _limits_hold_requests(self) -> ClusterSettings:
        for step in TASKS:
            resources = self.resources(step)
            for name, number in (("cpu", cores), ("memory", size_bytes)):
                request, limit = getattr(resources, name), getattr(resources, f"{name}_limit")
                if request and limit and number(request) > number(limit):
                    raise ValueError(f"{step}: {name} {request} is more than {name}_limit {limit}")
        return self

    def resources(self, step: str) -> StepResources:
        """Return what a step's pod asks for.

        What the settings say of the step comes first (of a shard: then of its whole step), then what is ready for it
        here, then the defaults.

        Args:
            step: One of ``TASKS``.

        Returns:
            Resources.
        """
        whole = WHOLE_STEPS.get(step, step)
        layers = (_DEFAULTS, self.defaults, STEP_DEFAULTS.get(step), self.steps.get(whole), self.steps.get(step))
        values: dict[str, object] = {}
        for layer in layers:
            values |= layer.model_dump(exclude_none=True) if layer else {}
        return StepResources.model_validate(values)

    def retry_seconds(self, step: str) -> int:
        """Return for how long a step may be repeated: until all its attempts may have used up their timeouts.

        KFP takes it as ``backoff_max_duration``, which is no longest wait: once it is over, counted from the moment
        when the first attempt was asked for, Argo repeats nothing.

        Args:
            step: One of ``TASKS``.

        Returns:
            Seconds.
        """
        wanted = self.resources(step)
        retries = wanted.retries or 0
        assert wanted.timeout is not None, "the defaults have one"
        return (retries + 1) * (seconds(wanted.timeout) + _QUEUE_SECONDS) + sum(self.backoff.waits(retries))


def cores(text: str) -> float:
    """Return a Kubernetes CPU quantity in cores.

    Args:
        text: Such as "2" or "500m".

    Returns:
        Cores.
    """
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


def size_bytes(text: str) -> float:
    """Return a Kubernetes size in bytes.

    Args:
        text: Such as "4Gi" or "500M".

    Returns:
        Bytes.
    """
    digits = text.rstrip("KMGTi")
    unit = text[len(digits) :]
    power = "KMGT".index(unit[0]) + 1
    return float(digits) * (1024 if unit.endswith("i") else 1000) ** power
