"""Where sources lie: local files and folders, and S3 prefixes whose objects are fetched when they are needed."""

from __future__ import annotations

import hashlib
import io
import os
import re
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from components.common import environment
from components.common.files import atomic_file
from components.ingest.s3_errors import s3_errors
from components.ingest.settings import IngestSettings, PhysioNet2012Source
from data_schemas.errors import InputError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_S3 = "s3://"
_REMOTE = "Check credentials and rights there, and that nobody moves its objects meanwhile"
CHANGED_REMEDY = "Start a new run once nothing is written there any more; results so far are kept under their own names"
_NOT_THERE = "Check the path in the settings; relative paths start at the current directory"


# How Python reads the bytes of a file name that are not UTF-8.
_NOT_UTF8 = re.compile("[\udc80-\udcff]")


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


def list_location(location: str, workspace: Path | None = None) -> list[ListedFile]:
    """List the files of a location, in name order, without reading them.

    Files whose own names begin with a dot are left out, and the workspace of the run where it lies in the location.

    Args:
        location: A local file or folder, or ``s3://bucket/prefix``.
        workspace: The workspace; None: that of the run to which this process belongs, where it belongs to one.

    Returns:
        At least one file.

    Raises:
        InputError: Nothing is there, the store refuses it, or a name can't be used.
        StoreError: The store failed.
    """
    listed = _list_s3(location) if location.startswith(_S3) else _list_local(location, workspace or _own_workspace())
    if not listed:
        raise InputError("is not there, or is empty", file=location, remedy=_NOT_THERE)
    return sorted(listed, key=lambda entry: entry.name)


def _own_workspace() -> Path | None:
    run_folder = os.environ.get(environment.RUN_FOLDER)
    return Path(run_folder).parents[1] if run_folder else None


def _list_local(location: str, workspace: Path | None) -> list[ListedFile]:
    root = Path(location)
    if root.is_file():
        paths = [(root.name, root)]
    else:
        paths = [(path.relative_to(root).as_posix(), path) for path in root.rglob("*") if path.is_file()]
    inside = _name_below(root, workspace)
    paths = [(name, path) for name, path in paths if not (_is_hidden(name) or (inside and name.startswith(inside)))]
    _check_encoding(location, [name for name, _ in paths])
    return [
        ListedFile(name=name, size=status.st_size, stamp=str(status.st_mtime_ns))
        for name, path in paths
        for status in [path.stat()]
    ]


def _name_below(root: Path, workspace: Path | None) -> str:
    """Return how the names of a workspace's files begin in a folder; nothing where it is not below it."""
    if workspace is None:
        return ""
    root, workspace = root.resolve(), workspace.resolve()
    return f"{workspace.relative_to(root).as_posix()}/" if root in workspace.parents else ""


def _is_hidden(name: str) -> bool:
    return name.rpartition("/")[2].startswith(".")


def _check_encoding(location: str, names: list[str]) -> None:
    """Refuse names that no digest, manifest or table could hold; Python reads their bytes as lone surrogates.

    The message has the location and the odd bytes, not the file's name, which may be a patient's.
    """
    odd = next(filter(None, map(_NOT_UTF8.findall, names)), None)
    if odd:
        shown = "".join(f"\\x{byte:02x}" for byte in os.fsencode("".join(odd)))
        raise InputError(
            f"the name of a file or folder is not UTF-8: it has the bytes {shown}",
            file=location,
            remedy="Rename it; find . | grep -axv '.*' lists such names",
        )


def _split_s3(location: str) -> tuple[str, str]:
    bucket, _, prefix = location.removeprefix(_S3).partition("/")
    return bucket, prefix


def _list_s3(location: str) -> list[ListedFile]:
    import boto3

    bucket, prefix = _split_s3(location)
    folder = prefix if prefix.endswith("/") or not prefix else f"{prefix}/"
    remedy = "Check bucket, credentials and AWS_ENDPOINT_URL in the environment"
    with s3_errors(location, "cannot be listed", remedy, ValueError):
        pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        objects = [entry for page in pages for entry in page.get("Contents", [])]
    wanted = [entry for entry in objects if entry["Key"] == prefix or entry["Key"].startswith(folder)]
    listed = [
        ListedFile(
            name=PurePosixPath(entry["Key"]).name if entry["Key"] == prefix else entry["Key"].removeprefix(folder),
            size=entry["Size"],
            stamp=entry["ETag"].strip('"'),
            key=entry["Key"],
        )
        for entry in wanted
        # Markers of folders, which consoles make.
        if not entry["Key"].endswith("/")
    ]
    if any(not _stays_below(entry.name) for entry in listed):
        raise InputError(
            "has an object whose name leads out of the prefix: between slashes it has nothing, or . or ..",
            file=location,
            remedy="Rename it in the bucket, or name a prefix without it",
        )
    return [entry for entry in listed if not _is_hidden(entry.name)]


def _stays_below(name: str) -> bool:
    """Tell whether a name, put behind a folder, is a path in it, and the only way to write that path."""
    return not {"", ".", ".."} & set(name.split("/"))


class SourceFiles:
    """The files of one location. Objects on S3 are downloaded when they are asked for, once; or read in part.

    Args:
        location: A local file or folder, or ``s3://bucket/prefix``.
        stack: Removes downloaded objects when it closes.

    Attributes:
        name: The last part of the location.
        listed: The files in the order of the listing.
        names: Names of all files below it, in the order of their folders and names.
        single: Whether the location is one file.

    Raises:
        InputError: Nothing is there, the store refuses it, or a name can't be used.
        StoreError: The store failed.
    """

    def __init__(self, location: str, stack: ExitStack) -> None:
        self.location = location
        self._stack = stack
        self.listed = list_location(location)
        self._listed = {entry.name: entry for entry in self.listed}
        self._used: set[str] = set()
        self._remote = location.startswith(_S3)
        self._copy: Path | None = None
        self.names = sorted(self._listed, key=lambda name: name.split("/"))
        self.name = PurePosixPath(location).name
        if self._remote:
            self.single = len(self.names) == 1 and self._listed[self.names[0]].key == _split_s3(location)[1]
        else:
            self.single = Path(location).is_file()

    def check_unchanged(self) -> None:
        """Make sure that what was read is what was listed; other files may come and go.

        Raises:
            InputError: A file was written or removed since it was listed.
            StoreError: The store failed.
        """
        now = {entry for entry in list_location(self.location) if entry.name in self._used}
        changed = len({self._listed[name] for name in self._used} - now)
        if changed:
            raise InputError(
                f"{changed} of {len(self._used)} files were written or removed while they were read",
                file=self.location,
                remedy=CHANGED_REMEDY,
            )

    def __contains__(self, name: str) -> bool:
        """Tell whether there is a file of that name."""
        return name in self._listed

    def size(self, name: str) -> int:
        """Return the bytes of a file.

        Args:
            name: One of ``names``.
        """
        return self._listed[name].size

    def below(self, folder: str, *suffixes: str) -> list[str]:
        """Return the names of the files below a folder that end in one of some suffixes.

        Args:
            folder: Path below the location, or "" for all of it.
            *suffixes: Such as ``.csv``; none: any.
        """
        inside = f"{folder}/" if folder else ""
        return [name for name in self.names if name.startswith(inside) and name.endswith(suffixes or "")]

    def path(self, name: str) -> Path:
        """Return where a file lies on this machine.

        Args:
            name: One of ``names``.

        Raises:
            InputError: The store refuses the object.
            StoreError: The store failed.
        """
        return self.paths([name])[0]

    def paths(self, names: list[str]) -> list[Path]:
        """Return where some files lie on this machine; several objects are downloaded at a time.

        Args:
            names: Some of ``names``.

        Raises:
            InputError: The store refuses an object.
            StoreError: The store failed.
        """
        self._used.update(names)
        if not self._remote:
            root = Path(self.location)
            return [root if self.single else root / name for name in names]
        if self._copy is None:
            self._copy = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="vitalfuse-source-")))
        paths = [self._copy / name for name in names]
        _download(
            self.location,
            [self._listed[name] for name, path in zip(names, paths, strict=True) if not path.is_file()],
            self._copy,
        )
        return paths

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading some of its parts; of an object, only these are transferred.

        Args:
            name: One of ``names``.

        Returns:
            A binary stream that can seek.

        Raises:
            InputError: The store refuses the object.
            StoreError: The store failed; reading from the stream raises it too.
        """
        if not self._remote or (self._copy is not None and (self._copy / name).is_file()):
            return self.path(name).open("rb")
        import boto3
        import smart_open.s3

        self._used.add(name)
        bucket, key = _split_s3(self.location)[0], self._listed[name].key
        with _reading(self.location):
            return io.BufferedReader(
                _S3Stream(smart_open.s3.open(bucket, key, "rb", client=boto3.client("s3")), self.location)
            )


class _S3Stream(io.RawIOBase):
    """An object whose reading tells of errors of the store as such: readers take an OSError for a broken file."""

    def __init__(self, stream: io.BufferedIOBase, location: str) -> None:
        self._stream = stream
        self._location = location

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        with _reading(self._location):
            read = self._stream.read(len(view))
        view[: len(read)] = read
        return len(read)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with _reading(self._location):
            return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def close(self) -> None:
        self._stream.close()
        super().close()


def _reading(location: str) -> AbstractContextManager[None]:
    return s3_errors(location, "cannot be read", _REMOTE, OSError)


@dataclass(frozen=True)
class FileGroup:
    """Source files that are one entry of the manifest.

    Attributes:
        name: How the manifest calls it.
        files: Where the files are.
        names: Their names there.
        named: Whether it is a single file called by its own name; others are told by their number alone, because
            their names may tell who the patients are.
    """

    name: str
    files: SourceFiles
    names: list[str]
    named: bool = True


def one_file(location: str, stack: ExitStack) -> tuple[SourceFiles, str]:
    """Return a location that has to be a single file, such as one of labels.

    Args:
        location: A local file, or ``s3://bucket/key``.
        stack: Removes a downloaded object when it closes.

    Returns:
        The location and the file's name.

    Raises:
        InputError: It is not there, or is a folder.
    """
    files = SourceFiles(location, stack)
    if not files.single:
        raise InputError("is a folder, not a file", file=location, remedy=_NOT_THERE)
    return files, files.names[0]


def _download(location: str, listed: list[ListedFile], folder: Path) -> None:
    import boto3

    if not listed:
        return
    bucket = _split_s3(location)[0]
    client = boto3.client("s3")

    def fetch(entry: ListedFile) -> None:
        with atomic_file(folder / entry.name) as temporary:
            client.download_file(bucket, entry.key, str(temporary))

    with s3_errors(location, "cannot be downloaded", _REMOTE), ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(fetch, listed))


def overlap(first: str, second: str) -> bool:
    """Tell whether two locations are the same, or one lies in the other, by their names.

    Args:
        first: A path, or ``s3://bucket/prefix``.
        second: Likewise.
    """
    if first.startswith(_S3) != second.startswith(_S3):
        return False
    one, other = (PurePosixPath("/", location.removeprefix(_S3).lstrip("/")) for location in (first, second))
    return one.is_relative_to(other) or other.is_relative_to(one)


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


def source_digest(settings: IngestSettings, workspace: Path | None = None) -> str:
    """Return a digest of the listing of all sources: names, sizes, and times or etags.

    It reads no file, so it is quick, and changes whenever a file is added, removed or written.

    Args:
        settings: Section ``ingest``.
        workspace: As for ``list_location``.

    Returns:
        SHA-256, hexadecimal.

    Raises:
        InputError: A source is not there, or can't be listed.
        StoreError: A store failed.
    """
    return _digest((location, list_location(location, workspace)) for location in all_locations(settings))


def opened_digest(files: Iterable[SourceFiles]) -> str:
    """Return the digest of the listings by which files are read.

    Args:
        files: The locations, in the order of ``all_locations``.

    Returns:
        What ``source_digest`` returned at the time when they were opened.
    """
    return _digest((one.location, one.listed) for one in files)


def _digest(listings: Iterable[tuple[str, Iterable[ListedFile]]]) -> str:
    digest = hashlib.sha256()
    for location, listed in listings:
        for entry in listed:
            digest.update(f"{location}\0{entry.name}\0{entry.size}\0{entry.stamp}\n".encode())
    return digest.hexdigest()
