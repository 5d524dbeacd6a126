"""Those who want to know of predictions are told in a thread of their own, off the request's path."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence
from typing import Protocol

from serving.log_settings import reference_key
from serving.patients import Diagnosis, Patient
from serving.prediction_log import PredictionLog
from serving.preparation import Preparer
from serving.server.follower import Follower
from serving.server.metrics import Metrics
from serving.settings import ServeSettings

_log = logging.getLogger("vitalfuse.serve")
_MOST_WAITING = 1000


class PredictionHook(Protocol):
    """Told of every request that was answered."""

    def on_predictions(self, patients: Sequence[Patient], diagnoses: Sequence[Diagnosis], latency: float) -> None:
        """Take the patients of one request, their diagnoses in the same order, and the seconds that it took."""
        ...

    def close(self) -> None:
        """Write down what is still held; called once, at the end."""
        ...


def prediction_hooks(settings: ServeSettings, follower: Follower, metrics: Metrics) -> list[PredictionHook]:
    """Return the hooks that the settings ask for.

    Args:
        settings: Section ``serve``.
        follower: Holds the version that is served.
        metrics: Told of predictions that could not be logged.

    Returns:
        The prediction log, where it has a folder.

    Raises:
        InputError: The key of the log is too short.
    """
    if settings.log.folder is None:
        return []

    def preparer() -> Preparer | None:
        return follower.current.predictor.preparer if follower.current else None

    key = reference_key(settings.log)
    if key is None:
        _log.warning("predictions are logged without references: %s is not set", settings.log.key_environment)
    return [PredictionLog(settings.log.folder, settings.log, preparer, key, metrics.hooks_dropped.inc)]


class Hooks:
    """Hands predictions to hooks in the background; drops them, and counts it, where a hook is too slow.

    Args:
        hooks: Those to be told.
        metrics: Told of what was dropped.
    """

    def __init__(self, hooks: Sequence[PredictionHook], metrics: Metrics) -> None:
        self._hooks, self._metrics = list(hooks), metrics
        self._queue: queue.Queue[tuple[Sequence[Patient], Sequence[Diagnosis], float] | None] = queue.Queue(
            _MOST_WAITING
        )
        self._thread = threading.Thread(target=self._run, name="prediction-hooks", daemon=True)

    def start(self) -> None:
        """Begin to tell."""
        if self._hooks:
            self._thread.start()

    def stop(self) -> None:
        """Tell what is waiting, and close the hooks."""
        if self._hooks and self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def tell(self, patients: Sequence[Patient], diagnoses: Sequence[Diagnosis], latency: float) -> None:
        """Hand on one answered request; returns at once.

        Args:
            patients: Its patients.
            diagnoses: Their diagnoses.
            latency: Seconds that it took.
        """
        if not self._hooks:
            return
        try:
            self._queue.put_nowait((patients, diagnoses, latency))
        except queue.Full:
            self._metrics.hooks_dropped.inc(len(patients))

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            for hook in self._hooks:
                try:
                    hook.on_predictions(*item)
                except Exception as error:
                    # Its message might tell of the patient.
                    _log.error("a hook failed: %s", type(error).__name__)
        for hook in self._hooks:
            hook.close()
