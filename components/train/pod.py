"""One pod of a TrainJob: all pods fit together, and the first one, the chief, writes what the train step writes.

Arguments: features, embedding and the folder to write, each a path or ``s3://bucket/prefix``; settings as JSON. The
manifest of ``vitalfuse train-job`` calls this module.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

from components.common.files import atomic_folder
from components.common.step import RECORD_FILE, run_step
from components.ingest.locations import SourceFiles
from components.train.settings import TrainSettings
from data_schemas.errors import InputError
from training.addresses import TF_CONFIG, pod_tf_config

MODULE = "components.train.pod"
_S3 = "s3://"
_TARGET = "Check the place, and credentials and rights there"


def main(arguments: list[str]) -> None:
    """Take part in the fit; where this is the chief, write the model and tell MLflow of it.

    Args:
        arguments: Those of the command line.

    Raises:
        InputError: An input is not there, or can't be used.
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
            check_target(output)
            written = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model"
            run_step(
                "train",
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
        InputError: It is not there, or can't be downloaded.
    """
    if not location.startswith(_S3):
        return Path(location)
    files = SourceFiles(location, stack)
    first = files.paths(files.names)[0]
    return first.parents[len(PurePosixPath(files.names[0]).parts) - 1]


def check_target(location: str) -> None:
    """Look whether the folder can be written, before hours of fitting.

    Args:
        location: A path, or ``s3://bucket/prefix``.

    Raises:
        InputError: It can't.
    """
    if not location.startswith(_S3):
        try:
            Path(location).parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=Path(location).parent).close()
        except OSError as error:
            raise InputError(f"can't be written ({error.strerror})", file=location, remedy=_TARGET) from error
        return
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    bucket = location.removeprefix(_S3).partition("/")[0]
    try:
        boto3.client("s3").head_bucket(Bucket=bucket)
    except (BotoCoreError, ClientError) as error:
        raise InputError(f"the bucket can't be reached ({error})", file=location, remedy=_TARGET) from error


def deliver(folder: Path, location: str) -> None:
    """Copy the finished folder to where it was wanted; the record of the step comes last, so that it tells of the end.

    Args:
        folder: The folder.
        location: A path, or ``s3://bucket/prefix``, whose objects of the same names are replaced.
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
        client.upload_file(str(path), bucket, str(key))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        print(f"vitalfuse: {error}", file=sys.stderr)
        sys.exit(2)
