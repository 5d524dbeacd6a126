"""Atomic writes: a temporary name beside the target, then a rename."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_schemas.errors import InputError


def _temporary_sibling(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``target`` when the block ends well, and vanishes when it fails.

    Args:
        target: The file to write; its folder is created where it is absent.

    Yields:
        The temporary path to write to, in the same folder.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_sibling(target)
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``target`` when the block ends well, and vanishes when it fails.

    An earlier ``target`` is replaced as a whole.

    Args:
        target: The folder to write.

    Yields:
        The temporary folder to fill, beside ``target``.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_sibling(target)
    temporary.mkdir()
    try:
        yield temporary
        if target.is_symlink() or target.is_file():
            target.unlink()
        elif target.exists():
            shutil.rmtree(target)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_temporary_folder() -> None:
    """Look whether the folder that ``TMPDIR`` names for temporary files can be written to.

    Python otherwise goes on in another folder without a word, such as on the node's small disk.

    Raises:
        InputError: It can't.
    """
    folder = os.environ.get("TMPDIR")
    if folder and not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(
            f"user {os.getuid()} can't write to it",
            file=folder,
            field="TMPDIR",
            remedy="On a cluster, give cluster.scratch a storage class whose volumes this user may write to; "
            "see docs/cluster.md",
        )
