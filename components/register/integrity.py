"""Digests of what was registered, and the proof that it is still what the registry hands out."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from components.register.audit import retried
from data_schemas.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient

MODEL_DIGEST_TAG = "vitalfuse.model_digest"
PACKAGE_DIGEST_TAG = "vitalfuse.package_digest"
# A registered model is handed on: the test rows' pseudonyms and labels stay behind.
NOT_SHIPPED = ("predictions.parquet", "record.json")
# Loading a version from a store that is a local folder leaves these in it: MLflow's note, and compiled code.
_NOT_COUNTED = ("registered_model_meta", "__pycache__")


def folder_digest(folder: Path) -> str:
    """Return the SHA-256 of the files of a model folder that are registered, names included.

    Args:
        folder: Output of ``copy_shipped_files``, or the registered copy of it, which gives the same digest.

    Returns:
        Hexadecimal digits.
    """
    return _digest(folder, NOT_SHIPPED)


def package_digest(folder: Path) -> str:
    """Return the SHA-256 of everything that MLflow keeps of a version: model, code, signature, gates.

    Args:
        folder: The version as downloaded.

    Returns:
        Hexadecimal digits.
    """
    return _digest(folder, _NOT_COUNTED)


def _digest(folder: Path, left_out: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        relative = path.relative_to(folder)
        if set(left_out) & set(relative.parts):
            continue
        digest.update(str(relative).encode() + b"\0")
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def logged_package_digest(client: MlflowClient, model_id: str) -> str:
    """Return the package digest of a logged model as MLflow has it now.

    Args:
        client: MLflow client.
        model_id: Such as ``m-...``.

    Returns:
        Hexadecimal digits.
    """
    with _downloaded(client, client.get_logged_model(model_id).artifact_location) as folder:
        return package_digest(folder)


@contextmanager
def verified_version(client: MlflowClient, name: str, version: str, recorded: dict[str, str]) -> Iterator[Path]:
    """Download a version, hold it against its recorded digests, and hand out what was verified.

    Args:
        client: MLflow client.
        name: Registered model.
        version: Its version.
        recorded: Digests by tag name, as written down when it was registered.

    Yields:
        The folder of the downloaded files; it vanishes with the block.

    Raises:
        InputError: A digest differs, none was recorded, or the files can't be read.
    """
    label = f"{name} version {version}"
    if not recorded:
        raise InputError(
            f"{label} has no recorded digest, so nothing tells whether its files are those that were registered",
            remedy="Run the pipeline again to register it anew",
        )
    location = retried(lambda: client.get_model_version_download_uri(name, version))
    with _downloaded(client, location, label) as folder:
        for tag, digest in recorded.items():
            found = _FOUND[tag](folder)
            if found != digest:
                raise InputError(
                    f"the files of {label} are not those that were registered: {tag} is {found[:12]}, recorded is "
                    f"{digest[:12]}",
                    remedy="Don't serve it; run the pipeline again, and find out who changed the artifact store",
                )
        yield folder


def _shipped_digest(folder: Path) -> str:
    from serving.package import ARTIFACT

    return folder_digest(folder / "artifacts" / ARTIFACT)


_FOUND = {PACKAGE_DIGEST_TAG: package_digest, MODEL_DIGEST_TAG: _shipped_digest}


@contextmanager
def _downloaded(client: MlflowClient, location: str, label: str = "the model") -> Iterator[Path]:
    """Copy a model from where it is stored: a ``models:`` address would be looked up in MLflow's default store."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory(prefix="vitalfuse-version-") as target:
        try:
            folder = download_artifacts(
                location, dst_path=target, tracking_uri=client.tracking_uri, registry_uri=client._registry_uri
            )
        except (MlflowException, OSError) as error:
            raise InputError(
                f"the files of {label} can't be read", remedy="Look whether the artifact store answers and has them"
            ) from error
        yield Path(folder)
