"""The version of the code behind each step, as part of its cache key.

KFP's cache key holds a component's own source, not that of the package that it imports; so every step takes the package
version and a digest of the sources that it uses. Each step holds what it was given against the code that it runs: an
image of other code would fill the cache with results under a name that is not theirs.
"""

from __future__ import annotations

import hashlib
import os
from functools import cache
from importlib import metadata
from pathlib import Path

from components.common import environment
from data_schemas.errors import InputError

ROOT = Path(__file__).resolve().parents[2]

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
# With shards, other tasks stand for these steps.
_WHOLE_STEPS = {
    "ingest_shard": "ingest",
    "merge_cohort": "ingest",
    "preprocess_shard": "preprocess",
    "merge_features": "preprocess",
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


def check_code_version(step: str, wanted: str) -> None:
    """Make sure that this process runs the code that its results will be cached under.

    Args:
        step: Name of a task, with the model or the shard in brackets where there is one.
        wanted: The version that the run was started with.

    Raises:
        InputError: This process has other code.
    """
    task = step.partition("[")[0]
    here = code_version(_WHOLE_STEPS.get(task, task))
    # Where the run was started, the package need not be installed: the sources count.
    if here.rpartition("+")[2] == wanted.rpartition("+")[2]:
        return
    if os.environ.get(environment.RUNNER_PROCESS):
        raise InputError(
            f"the code of {step} was changed while the run was on: it is {here}, and was {wanted}",
            remedy="Run it again; steps whose code is the same are not repeated",
        )
    raise InputError(
        f"the image holds other code of {step}: {here}, and the run wants {wanted}",
        field="cluster.images",
        remedy="Build and push the images of the code that the run was started with, or name their tag in "
        "cluster.images.tag",
    )
