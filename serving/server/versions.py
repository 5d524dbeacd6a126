"""A version of the registered model: fetched, held against its digest, warmed up; only then may it be served."""

from __future__ import annotations

import fcntl
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.common.files import atomic_file, atomic_folder
from components.register.integrity import folder_digest
from data_schemas.errors import InputError
from serving.package import input_example
from serving.patients import Diagnosis, InvalidRequest, Patient
from serving.predictor import Predictor, find_model_folder
from serving.table import patients_of

DIGEST_TAG = "vitalfuse.model_digest"
_ABANDONED_SECONDS = 3600
_log = logging.getLogger("vitalfuse.serve")


class VersionRefused(Exception):  # noqa: N818 - named as people say it
    """A version that must not be served.

    Args:
        reason: One word for metrics: "digest" or "warm-up".
        message: One line for people.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class ServedVersion:
    """A version in service.

    Attributes:
        name: Name of the registered model.
        version: Its version; None for a model folder.
        digest: SHA-256 of its files.
        folder: Where its files are.
        predictor: Diagnoses.
    """

    name: str
    version: str | None
    digest: str
    folder: Path
    predictor: Predictor

    def diagnose_each(self, patients: Sequence[Patient]) -> list[Diagnosis | InvalidRequest]:
        """Diagnose patients of several callers in one batch; see ``Predictor.diagnose_each``."""
        return self.predictor.diagnose_each(patients)


def open_version(folder: Path, name: str, version: str | None, recorded: str | None) -> ServedVersion:
    """Hold a version's files against the recorded digest, open them, and send a request through the model.

    Nothing of the registry is run as code: the network is ONNX, and the rest is JSON and Parquet.

    Args:
        folder: The model folder.
        name: Name of the registered model.
        version: Its version.
        recorded: Digest from when it was registered; None for a folder that the user has named.

    Returns:
        The version, ready to serve.

    Raises:
        VersionRefused: The files differ from those registered, or the model fails its warm-up.
    """
    digest = folder_digest(folder)
    if recorded is not None and digest != recorded:
        raise VersionRefused("digest", f"its files are {digest[:12]}, registered were {recorded[:12]}")
    try:
        predictor = Predictor.load(folder, name=name, version=version)
        _check_contract(predictor)
        _warm_up(predictor, folder)
    except VersionRefused:
        raise
    except Exception as error:
        # Whatever a version does when it is tried, the one in service goes on.
        raise VersionRefused("warm-up", f"{type(error).__name__}: {error}") from error
    return ServedVersion(name, version, digest, folder, predictor)


def _check_contract(predictor: Predictor) -> None:
    """Refuse a network whose inputs and outputs are not those that its contract promises."""
    network = {node.name: node.shape for node in predictor.session.get_inputs()}
    promised = {item["name"]: item["shape"] for item in predictor.contract["inputs"]}
    for name, shape in promised.items():
        # A dimension that the network leaves open has a name there, and no number.
        sizes = zip(network.get(name, []), shape, strict=False)
        differs = any(isinstance(size, int) and wanted != -1 and size != wanted for size, wanted in sizes)
        if differs or len(network.get(name, [])) != len(shape):
            raise VersionRefused("warm-up", f"its network does not have the input {name} of its contract")
    outputs = {node.name for node in predictor.session.get_outputs()}
    for item in predictor.contract["outputs"]:
        if item["onnx_name"] not in outputs:
            raise VersionRefused("warm-up", f"its network does not have the output {item['name']} of its contract")


def _warm_up(predictor: Predictor, folder: Path) -> None:
    """Diagnose the input example, alone and in a batch: the answers have to be whole, finite, and the same."""
    (patient,) = patients_of(input_example(folder))
    alone, *together = [predictor.diagnose([patient])[0], *predictor.diagnose([patient] * 4)]
    values = np.array(list(alone.probabilities.values()))
    if list(alone.probabilities) != predictor.classes:
        raise VersionRefused("warm-up", "its answer does not have the classes of its contract")
    if not np.isfinite(values).all() or abs(values.sum() - 1) > 1e-6 or (values < 0).any():
        raise VersionRefused("warm-up", "its probabilities are not finite, or do not sum to 1")
    for answer in together:
        if np.abs(np.array(list(answer.probabilities.values())) - values).max() > 1e-5:
            raise VersionRefused("warm-up", "it answers otherwise in a batch than alone")


class VersionCache:
    """Downloaded versions on this machine's disk, and which one was served last.

    Several workers or servers may share it: while one writes, the others neither read nor write.

    Args:
        folder: Made where it is not there.
        name: Name of the registered model.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder / name, name
        self._folder.mkdir(parents=True, exist_ok=True)
        # What a killed server has left; a download of another one that shares the cache is younger.
        for rest in [*self._folder.glob(".download-*"), *self._folder.glob(".*.partial")]:
            if time.time() - rest.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(rest, ignore_errors=True)

    def open(self, version: str, recorded: str) -> ServedVersion:
        """Open a version from the cache, or download it; a damaged copy is fetched anew once.

        Args:
            version: Version of the registered model.
            recorded: Its digest.

        Returns:
            The version.

        Raises:
            VersionRefused: See ``open_version``.
        """
        target = self._folder / f"{version}-{recorded[:16]}"
        with self._locked(fcntl.LOCK_SH):
            if self._is_whole(target, recorded):
                return open_version(target, self._name, version, recorded)
        with self._locked(fcntl.LOCK_EX):
            # Another worker may have fetched it meanwhile.
            if not self._is_whole(target, recorded):
                if target.is_dir():
                    _log.warning("version %s: the copy in the cache is damaged; fetching it anew", version)
                    shutil.rmtree(target)
                self._download(version, target)
            return open_version(target, self._name, version, recorded)

    @staticmethod
    def _is_whole(folder: Path, recorded: str) -> bool:
        return folder.is_dir() and folder_digest(folder) == recorded

    def _download(self, version: str, target: Path) -> None:
        from mlflow.artifacts import download_artifacts

        with tempfile.TemporaryDirectory(prefix=".download-", dir=self._folder) as temporary:
            fetched = Path(download_artifacts(artifact_uri=f"models:/{self._name}/{version}", dst_path=temporary))
            try:
                inside = find_model_folder(fetched)
            except InputError as error:
                raise VersionRefused("digest", "it has no model folder") from error
            with atomic_folder(target) as folder:
                shutil.copytree(inside, folder, dirs_exist_ok=True)

    def remember(self, served: ServedVersion) -> None:
        """Write down what is served, for a start while the registry is away; remove all but the last two versions.

        Args:
            served: From ``open``.
        """
        with atomic_file(self._record) as path:
            path.write_text(json.dumps({"version": served.version, "digest": served.digest}))
        with self._locked(fcntl.LOCK_EX):
            copies = sorted(self._folder.glob("[0-9]*-*"), key=lambda path: path.stat().st_mtime)
            for copy in [copy for copy in copies if copy != served.folder][:-1]:
                shutil.rmtree(copy, ignore_errors=True)

    def last(self) -> ServedVersion | None:
        """Return the version that was served last, where its files are still whole."""
        try:
            record: dict[str, Any] = json.loads(self._record.read_text())
            folder = self._folder / f"{record['version']}-{record['digest'][:16]}"
            with self._locked(fcntl.LOCK_SH):
                return open_version(folder, self._name, record["version"], record["digest"])
        except (OSError, ValueError, KeyError, VersionRefused):
            return None

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Hold the cache, to write (LOCK_EX) or to read (LOCK_SH); the system lets go of it where a process dies."""
        with (self._folder / ".lock").open("ab") as file:
            fcntl.flock(file, how)
            yield

    @property
    def _record(self) -> Path:
        return self._folder / "served.json"
