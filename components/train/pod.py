"""One pod of a TrainJob: all pods fit together, and the first one, the chief, writes what the train step writes.

Arguments: features, embedding and the folder to write, each a path or ``s3://bucket/prefix``; settings as JSON. The
manifest of ``vitalfuse train-job`` calls this module.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

from components.common.files import atomic_folder
from components.common.step import RECORD_FILE, run_step
from components.ingest.locations import SourceFiles, overlap
from components.ingest.s3_errors import s3_errors
from components.train.settings import TrainSettings
from data_schemas.errors import InputError, StoreError
from training.addresses import TF_CONFIG, pod_tf_config

MODULE = "components.train.pod"
_S3 = "s3://"
_STEP = "train"
_TARGET = "Check the place, and credentials and rights there"


def main(arguments: list[str]) -> None:
    """Take part in the fit; where this is the chief, write the model and tell MLflow of it.

    Args:
        arguments: Those of the command line.

    Raises:
        InputError: An input is not there or can't be used, or the model can't be written to its place.
        StoreError: S3 failed.
        SystemExit: The chief failed; 2 where the input is at fault.
    """
    features, embedding, output = arguments[:3]
    settings = TrainSettings.model_validate_json(arguments[3])
    os.environ[TF_CONFIG] = pod_tf_config(os.environ)
    with ExitStack() as stack:
        inputs = fetch_folder(features, stack), fetch_folder(embedding, stack)

        from components.train.candidate import fit_candidate, help_fitting
        from training.distributed import join_workers

        workers = join_workers(settings, one_machine=False)
        if workers.is_chief:
            check_target(output, [features, embedding])
            written = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model"
            run_step(
                _STEP,
                lambda folder, progress: fit_candidate(*inputs, folder, settings, progress, workers),
                output=written,
            )
            deliver(written, output)
        else:
            help_fitting(*inputs, settings, workers)
        workers.wait_for_all()


def fetch_folder(location: str, stack: ExitStack) -> Path:
    """Return a folder as one of this machine.

    Args:
        location: A path, or ``s3://bucket/prefix``, which is downloaded.
        stack: Removes what was downloaded when it closes.

    Returns:
        The folder.

    Raises:
        InputError: It is not there, or the store refuses it.
        StoreError: The store failed.
    """
    if not location.startswith(_S3):
        return Path(location)
    files = SourceFiles(location, stack)
    first = files.paths(files.names)[0]
    return first.parents[len(PurePosixPath(files.names[0]).parts) - 1]


def check_apart(model: str, inputs: Sequence[str]) -> None:
    """Refuse to write the model over what it is fitted to, judged by the names alone.

    Args:
        model: A path, or ``s3://bucket/prefix``.
        inputs: Likewise, each of them.

    Raises:
        InputError: The model's place is, contains or lies in that of an input.
    """
    for location in inputs:
        if overlap(model, location):
            raise _would_replace(model, location)


def _would_replace(model: str, location: str) -> InputError:
    return InputError(
        f"the model would be written over its input, for this place is, contains or lies in {location}",
        file=model,
        remedy="Name another place for the model",
    )


def check_target(location: str, inputs: Sequence[str]) -> None:
    """Look whether the place can be written, and a folder holds nothing but an earlier model, before hours of fitting.

    Args:
        location: A path, or ``s3://bucket/prefix``.
        inputs: Paths and prefixes of what the model is fitted to.

    Raises:
        InputError: It can't be written, or something would be lost.
        StoreError: The store failed.
    """
    check_apart(location, inputs)
    if location.startswith(_S3):
        import boto3

        with s3_errors(location, "the bucket can't be reached", _TARGET):
            boto3.client("s3").head_bucket(Bucket=location.removeprefix(_S3).partition("/")[0])
        return
    target = Path(location)
    try:
        for name in inputs:
            if not name.startswith(_S3) and (_lies_in(target, Path(name)) or _lies_in(Path(name), target)):
                raise _would_replace(location, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=target.parent).close()
        lost = target.is_file() or (target.is_dir() and any(target.iterdir()) and not _is_model(target))
    except OSError as error:
        raise InputError(f"can't be written ({error.strerror})", file=location, remedy=_TARGET) from error
    if lost:
        raise InputError(
            "holds something else than an earlier model, which the new one would replace",
            file=location,
            remedy="Name a folder that is empty or not there yet",
        )


def _lies_in(path: Path, folder: Path) -> bool:
    """Tell whether a path is a folder or lies in it, also by links, and where a claim is mounted twice."""
    path = path.resolve()
    return folder.exists() and any(part.exists() and part.samefile(folder) for part in (path, *path.parents))


def _is_model(folder: Path) -> bool:
    """Tell whether the step ``train`` wrote the folder, by the record that it leaves."""
    try:
        return json.loads((folder / RECORD_FILE).read_bytes())["step"] == _STEP
    except (OSError, ValueError, TypeError, KeyError):
        return False


def deliver(folder: Path, location: str) -> None:
    """Copy the finished folder to where it was wanted; the record of the step comes last, so that it tells of the end.

    Args:
        folder: The folder.
        location: A path, or ``s3://bucket/prefix``, whose objects of the same names are replaced.

    Raises:
        InputError: The store refuses it.
        StoreError: The store failed.
    """
    if not location.startswith(_S3):
        with atomic_folder(Path(location)) as target:
            shutil.copytree(folder, target, dirs_exist_ok=True)
        return
    import boto3

    bucket, _, prefix = location.removeprefix(_S3).partition("/")
    client = boto3.client("s3")
    files = (path for path in folder.rglob("*") if path.is_file())
    for path in sorted(files, key=lambda path: path.name == RECORD_FILE):
        key = PurePosixPath(prefix.rstrip("/"), path.relative_to(folder).as_posix())
        with s3_errors(location, "can't be written", _TARGET):
            client.upload_file(str(path), bucket, str(key))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        print(f"vitalfuse: {error}", file=sys.stderr)
        sys.exit(2)
    except StoreError as error:
        # All pods start anew, as often as their retries allow.
        print(f"vitalfuse: {error}.", file=sys.stderr)
        sys.exit(1)
