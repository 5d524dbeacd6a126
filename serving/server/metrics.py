"""What the server counts, for Prometheus; no label tells of a patient."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """The metrics of one process; each has a registry of its own, so that tests can run several.

    Args:
        shared: Folder in which several workers keep their metrics, to be summed up; None where there is one process.
    """

    def __init__(self, shared: Path | None = None) -> None:
        self._shared = shared
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
        self.queue = Gauge(
            "vitalfuse_queue_patients",
            "Patients that wait for the model",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.model = Gauge(
            "vitalfuse_model_version",
            "Workers that serve this version",
            ["name", "version"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.swaps = Counter("vitalfuse_model_swaps", "Versions taken into service", registry=registry)
        self.not_taken = Counter(
            "vitalfuse_model_refused", "Versions not taken into service", ["reason"], registry=registry
        )
        self.registry_reachable = Gauge(
            "vitalfuse_registry_reachable",
            "1 where the registry answered when last asked",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.hooks_dropped = Counter(
            "vitalfuse_hooks_dropped", "Predictions that a hook was too slow to take", registry=registry
        )

    def no_longer_served(self, name: str, version: str) -> None:
        """Take a version off the gauge.

        Args:
            name: Name of the registered model.
            version: Its version.
        """
        if self._shared is None:
            self.model.remove(name, version)
        else:
            # From the files that workers share, nothing can be removed.
            self.model.labels(name, version).set(0)

    def text(self) -> bytes:
        """Return all metrics as Prometheus reads them: this process's, or those of all workers together."""
        if self._shared is None:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together, str(self._shared))
        return generate_latest(together)
