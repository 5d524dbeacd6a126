"""The version of the code behind each step, as part of its cache key.

KFP's cache key holds a component's own source, not that of the package that it imports; so every step takes the package
version and a digest of the sources that it uses.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

from components.common import environment

ROOT = Path(__file__).resolve().parent.parent

# The rooms whose sources each step uses, beside its own folder; a changed file there makes its cache entries stale.
_SHARED = ["components/common", "data_schemas"]
SOURCES: dict[str, list[str]] = {
    "ingest": [*_SHARED, "components/ingest"],
    "validate": [*_SHARED, "components/validate"],
    "preprocess": [*_SHARED, "components/preprocess"],
    "embed_text": [*_SHARED, "components/embed_text", "training"],
    "train": [*_SHARED, "components/train", "training", "evaluation"],
    "cross_validate": [*_SHARED, "components/cross_validate", "training", "evaluation"],
    "compare": [*_SHARED, "components/compare", "evaluation"],
    # A registered model carries the code that prepares its inputs.
    "register": [
        *_SHARED,
        "components/register",
        "components/ingest",
        "components/preprocess",
        "evaluation",
        "serving",
        "training",
    ],
}
_SOURCE_SUFFIXES = {".py", ".yaml", ".pbtxt", ".jinja", ".html", ".css"}


def package_version() -> str:
    """Return the installed version of vitalfuse, or "0" where it is not installed."""
    try:
        return metadata.version("vitalfuse")
    except metadata.PackageNotFoundError:
        return "0"


@cache
def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in _SOURCE_SUFFIXES and "__pycache__" not in path.parts:
            digest.update(str(path.relative_to(folder)).encode() + b"\0")
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def code_version(step: str) -> str:
    """Return the code version of one step.

    Args:
        step: A key of ``SOURCES``.

    Returns:
        Package version and twelve hexadecimal digits of a digest of the sources that the step uses.

    Raises:
        ValueError: There is no such step.
    """
    if step not in SOURCES:
        raise ValueError(f"Steps are {sorted(SOURCES)}; received {step!r}.")
    digests = "".join(_digest(ROOT / folder) for folder in SOURCES[step])
    return f"{package_version()}+{hashlib.sha256(digests.encode()).hexdigest()[:12]}"


def code_versions() -> dict[str, str]:
    """Return the code version of every step, by step name."""
    return {step: code_version(step) for step in SOURCES}


def git_commit() -> str:
    """Return the commit of the code.

    Returns:
        That of the checkout, with "-dirty" where files differ from it; where the package is installed, the one named in
        the environment, as in the images; else "unknown".
    """
    # A package that is installed below some other checkout must not take that one's commit.
    if (ROOT / ".git").exists():
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            pass
    return os.environ.get(environment.GIT_COMMIT) or "unknown"


if __name__ == "__main__":
    print(json.dumps(code_versions()))
