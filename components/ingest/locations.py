"""Where sources lie: local files and folders, and S3 prefixes that are copied to a temporary folder."""

from __future__ import annotations

import hashlib
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from components.ingest.settings import IngestSettings, PhysioNet2012Source
from data_schemas.errors import InputError

_S3 = "s3://"
_NOT_THERE = "Check the path in the settings; relative paths start at the current directory"


@dataclass(frozen=True)
class ListedFile:
    """One file of a location, as a listing tells it.

    Attributes:
        name: Path below the location, with forward slashes.
        size: Bytes.
        stamp: Time of the last change, or the object's etag.
        key: Object key in the bucket; empty for local files.
    """

    name: str
    size: int
    stamp: str
    key: str = ""


def list_location(location: str) -> list[ListedFile]:
    """List the files of a location, in name order, without reading them.

    Args:
        location: A local file or folder, or ``s3://bucket/prefix``.

    Returns:
        At least one file.

    Raises:
        InputError: Nothing is there, or the store cannot be reached.
    """
    listed = _list_s3(location) if location.startswith(_S3) else _list_local(location)
    if not listed:
        raise InputError("is not there, or is empty", file=location, remedy=_NOT_THERE)
    return sorted(listed, key=lambda entry: entry.name)


def _list_local(location: str) -> list[ListedFile]:
    root = Path(location)
    if root.is_file():
        paths = [(root.name, root)]
    else:
        paths = [(path.relative_to(root).as_posix(), path) for path in root.rglob("*") if path.is_file()]
    return [
        ListedFile(name=name, size=status.st_size, stamp=str(status.st_mtime_ns))
        for name, path in paths
        if not path.name.startswith(".")
        for status in [path.stat()]
    ]


def _split_s3(location: str) -> tuple[str, str]:
    bucket, _, prefix = location.removeprefix(_S3).partition("/")
    return bucket, prefix


def _list_s3(location: str) -> list[ListedFile]:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, prefix = _split_s3(location)
    folder = prefix if prefix.endswith("/") or not prefix else f"{prefix}/"
    try:
        pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        objects = [entry for page in pages for entry in page.get("Contents", [])]
    except (BotoCoreError, ClientError, ValueError) as error:
        raise InputError(
            f"cannot be listed ({_cause(error)})",
            file=location,
            remedy="Check bucket, credentials and AWS_ENDPOINT_URL in the environment",
        ) from error
    wanted = [entry for entry in objects if entry["Key"] == prefix or entry["Key"].startswith(folder)]
    return [
        ListedFile(
            name=PurePosixPath(entry["Key"]).name if entry["Key"] == prefix else entry["Key"].removeprefix(folder),
            size=entry["Size"],
            stamp=entry["ETag"].strip('"'),
            key=entry["Key"],
        )
        for entry in wanted
        if not entry["Key"].endswith("/")
    ]


def _cause(error: Exception) -> str:
    """Return S3's own word for a refusal, such as NoSuchBucket, else the kind of error."""
    response = getattr(error, "response", None) or {}
    return response.get("Error", {}).get("Code") or type(error).__name__


def local_copy(location: str, stack: ExitStack) -> Path:
    """Return a local path with the content of a location.

    Args:
        location: A local file or folder, or ``s3://bucket/prefix``.
        stack: Removes the copy of an S3 prefix when it closes.

    Returns:
        A file where the location is a single file, else a folder.

    Raises:
        InputError: Nothing is there, or the store cannot be reached.
    """
    listed = list_location(location)
    if not location.startswith(_S3):
        return Path(location)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vitalfuse-source-")))
    _download(location, listed, folder)
    bucket_key = _split_s3(location)[1]
    return folder / listed[0].name if listed[0].key == bucket_key else folder


def _download(location: str, listed: list[ListedFile], folder: Path) -> None:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    bucket = _split_s3(location)[0]
    client = boto3.client("s3")

    def fetch(entry: ListedFile) -> None:
        target = folder / entry.name
        if not target.resolve().is_relative_to(folder.resolve()):
            raise InputError("has an object whose name leads out of the prefix", file=location)
        target.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(bucket, entry.key, str(target))

    try:
        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(fetch, listed))
    except (BotoCoreError, ClientError) as error:
        raise InputError(
            f"cannot be downloaded ({_cause(error)})", file=location, remedy="Check credentials and network"
        ) from error


def all_locations(settings: IngestSettings) -> list[str]:
    """Return every location that the settings name.

    Args:
        settings: Section ``ingest``.

    Returns:
        Paths and S3 prefixes, in the order of the settings.
    """
    locations = [source.path for source in settings.sources]
    locations += [
        source.outcomes
        for source in settings.sources
        if isinstance(source, PhysioNet2012Source) and source.outcomes is not None
    ]
    return locations + ([settings.labels.file] if settings.labels else [])


def source_digest(settings: IngestSettings) -> str:
    """Return a digest of the listing of all sources: names, sizes, and times or etags.

    It reads no file, so it is quick, and changes whenever a file is added, removed or written.

    Args:
        settings: Section ``ingest``.

    Returns:
        SHA-256, hexadecimal.

    Raises:
        InputError: A source is not there.
    """
    digest = hashlib.sha256()
    for location in all_locations(settings):
        for entry in list_location(location):
            digest.update(f"{location}\0{entry.name}\0{entry.size}\0{entry.stamp}\n".encode())
    return digest.hexdigest()
