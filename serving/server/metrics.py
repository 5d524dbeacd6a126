"""What the server counts, for Prometheus; no label tells of a patient."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """The metrics of one server; each has a registry of its own, so that tests can run several."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter("vitalfuse_requests", "Requests answered", ["endpoint", "status"], registry=registry)
        self.seconds = Histogram(
            "vitalfuse_request_seconds",
            "From the first byte of a request to the last of its answer",
            ["endpoint"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.refused = Counter("vitalfuse_refused", "Requests refused by a limit", ["reason"], registry=registry)
        self.patients = Counter("vitalfuse_patients", "Patients answered", ["outcome"], registry=registry)
        self.batch_patients = Histogram(
            "vitalfuse_batch_patients",
            "Patients that went through the model together",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self.batch_seconds = Histogram(
            "vitalfuse_batch_seconds", "Preparing and diagnosing one batch", buckets=_SECONDS, registry=registry
        )
        self.queue = Gauge("vitalfuse_queue_patients", "Patients that wait for the model", registry=registry)
        self.model = Gauge(
            "vitalfuse_model_version", "1 for the version served", ["name", "version"], registry=registry
        )
        self.swaps = Counter("vitalfuse_model_swaps", "Versions taken into service", registry=registry)
        self.not_taken = Counter(
            "vitalfuse_model_refused", "Versions not taken into service", ["reason"], registry=registry
        )
        self.registry_reachable = Gauge(
            "vitalfuse_registry_reachable", "1 where the registry answered when last asked", registry=registry
        )
        self.hooks_dropped = Counter(
            "vitalfuse_hooks_dropped", "Predictions that a hook was too slow to take", registry=registry
        )
