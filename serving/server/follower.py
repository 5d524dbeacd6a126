"""Follows an alias of the registered model in the background, and swaps the version that is served."""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_schemas.errors import InputError
from serving.predictor import find_model_folder
from serving.server.metrics import Metrics
from serving.server.versions import DIGEST_TAG, ServedVersion, VersionCache, VersionRefused, open_version
from serving.settings import ServeSettings

_log = logging.getLogger("vitalfuse.serve")
# MLflow's own defaults are minutes, in which nothing would be known of a registry that is away.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}


@dataclass(frozen=True)
class RegisteredVersion:
    """What the registry says of a version.

    Attributes:
        version: Its number.
        digest: Recorded digest of its files, None where none was recorded.
    """

    version: str
    digest: str | None


Lookup = Callable[[], RegisteredVersion]


class Follower:
    """Holds the version that is served, and looks for the next one.

    Args:
        name: Name of the registered model.
        settings: What to follow.
        cache: Folder for downloaded versions.
        metrics: Told of swaps and refusals.
        lookup: Asks the registry; MLflow's by default.
        since: Seconds since 1970 from which the times of looking are counted, so that the workers of one server look
            at the same time and change versions together.
    """

    def __init__(
        self,
        name: str,
        settings: ServeSettings,
        cache: Path,
        metrics: Metrics,
        lookup: Lookup | None = None,
        since: float = 0.0,
    ) -> None:
        self.name, self._settings, self._metrics = name, settings, metrics
        self._cache = None if settings.folder else VersionCache(cache, name)
        self._lookup = lookup or self._ask_mlflow
        self._refused: tuple[RegisteredVersion, str] | None = None
        self._registry_trouble: str | None = None
        self._since = since
        self._stop = threading.Event()
        self.looked = threading.Event()
        self._thread: threading.Thread | None = None
        self.current: ServedVersion | None = None

    @property
    def source(self) -> str:
        """What is served, in words."""
        if self._settings.folder:
            return f"folder {self._settings.folder}"
        wanted = f"version {self._settings.version}" if self._settings.version else f"alias {self._settings.alias}"
        return f"{self.name}, {wanted}"

    @property
    def detail(self) -> str | None:
        """What is amiss, in one line; None where nothing is."""
        parts = []
        if self._refused:
            parts.append(f"version {self._refused[0].version} is not taken: {self._refused[1]}")
        if self._registry_trouble:
            parts.append(self._registry_trouble)
        if self.current is None and not parts:
            parts.append("the model is being loaded")
        return "; ".join(parts) or None

    def start(self) -> None:
        """Load the version, and follow the alias, in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="follow-alias", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Follow no longer; what is served stays."""
        self._stop.set()
        if self._thread:
            # A download in progress is left behind: it is written beside its place and renamed at its end.
            self._thread.join(timeout=1)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.look()
            self.looked.set()
            if self._settings.folder and self.current:
                return
            period = self._settings.poll_seconds
            self._stop.wait(period - (time.time() - self._since) % period)

    def look(self) -> None:
        """Look once, and take what is new; whatever goes wrong, what is served stays."""
        try:
            if self._settings.folder:
                self._open_folder(self._settings.folder)
            else:
                self._follow()
        except Exception as error:
            # The registry's and the store's errors have no common class; their messages hold no patient, but
            # addresses, perhaps with passwords.
            self._registry_trouble = f"the registry or its store can't be read ({type(error).__name__})"
            self._metrics.registry_reachable.set(0)
            _log.warning("%s", self._registry_trouble)
            self._take_last()

    def _open_folder(self, folder: Path) -> None:
        try:
            self._take(open_version(find_model_folder(folder), self.name, None, None))
        except (VersionRefused, InputError) as error:
            reason = error.reason if isinstance(error, VersionRefused) else "warm-up"
            self._refuse(RegisteredVersion("of the folder", None), reason, str(error))

    def _follow(self) -> None:
        assert self._cache is not None
        found = self._lookup()
        if self._registry_trouble:
            _log.info("the registry answers again")
        self._registry_trouble = None
        self._metrics.registry_reachable.set(1)
        if self.current and (found.version, found.digest) == (self.current.version, self.current.digest):
            self._refused = None
            return
        if self._refused and self._refused[0] == found:
            return
        if found.digest is None:
            self._refuse(found, "digest", "no digest of its files was recorded when it was registered")
            return
        try:
            version = self._cache.open(found.version, found.digest)
        except VersionRefused as error:
            self._refuse(found, error.reason, str(error))
            return
        self._take(version)
        self._cache.remember(version)

    def _take(self, version: ServedVersion) -> None:
        before = self.current
        if before is None:
            # A full collection would walk all that libraries and model hold, half a second in which nobody is answered.
            gc.collect()
            gc.freeze()
        # One assignment: a batch reads it once, so it is wholly the old or wholly the new one.
        self.current = version
        self._refused = None
        if before:
            self._metrics.no_longer_served(before.name, str(before.version))
        self._metrics.model.labels(version.name, str(version.version)).set(1)
        self._metrics.swaps.inc()
        _log.info("serving %s version %s, digest %s", version.name, version.version, version.digest[:12])

    def _refuse(self, found: RegisteredVersion, reason: str, message: str) -> None:
        if self._refused != (found, message):
            self._metrics.not_taken.labels(reason).inc()
            _log.error("version %s is not taken: %s", found.version, message)
        self._refused = (found, message)

    def _take_last(self) -> None:
        """Where nothing is served yet and the registry is away, serve what was served last on this machine."""
        if self.current is None and self._cache is not None and (last := self._cache.last()):
            _log.warning("serving version %s from the cache, without knowing the alias", last.version)
            self._take(last)

    def _ask_mlflow(self) -> RegisteredVersion:
        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        client = MlflowClient()
        found: Any = (
            client.get_model_version(self.name, self._settings.version)
            if self._settings.version
            else client.get_model_version_by_alias(self.name, self._settings.alias)
        )
        return RegisteredVersion(str(found.version), found.tags.get(DIGEST_TAG))
