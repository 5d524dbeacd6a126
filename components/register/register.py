"""Registers the trained model in MLflow: a new version, alias ``challenger``; ``champion`` only when none exists."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from components.common import environment
from components.common.files import atomic_folder
from components.common.result import StepResult, ignore_progress
from components.common.tracking import find_parent_run_id
from components.register.reference import build_reference
from components.register.settings import RegisterSettings
from data_schemas.calibration import CALIBRATION_FILE
from data_schemas.errors import InputError
from data_schemas.features import Features
from data_schemas.reference import REFERENCE_FILE, REFERENCE_FOLDER

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHALLENGER = "challenger"
CHAMPION = "champion"
REGISTRATION_FILE = "registration.json"
# A registered model is handed on: the test rows' pseudonyms and labels stay behind.
_NOT_SHIPPED = ("predictions.parquet", "record.json")


def register_model(
    *,
    features: Path,
    candidate: Path,
    comparison: Path,
    output: Path,
    settings: RegisterSettings,
    progress: Callable[[str], None] = ignore_progress,
) -> StepResult:
    """Log the model into the active MLflow run and register it as a new version.

    Args:
        features: Output of ``preprocess``.
        candidate: Output of ``train``: the self-contained model folder.
        comparison: Output of ``compare``; its figures for the candidate become tags of the version.
        output: Folder for ``registration.json`` (name, version, aliases, digests) and ``reference.json`` (what
            monitoring compares later predictions with).
        settings: Where to register.
        progress: Told what is being done.

    Returns:
        Tags with the model's name and version.

    Raises:
        InputError: No MLflow run is active, so there is no registry to register in.
    """
    import mlflow

    run = mlflow.active_run()
    if run is None:
        raise InputError(
            "there is no MLflow store to register in", field="MLFLOW_TRACKING_URI", remedy="Name one in the environment"
        )
    opened = Features.open(features)
    client = mlflow.MlflowClient()
    with tempfile.TemporaryDirectory(prefix="vitalfuse-model-") as temporary:
        progress("logging the model")
        shipped = copy_shipped_files(candidate, comparison, Path(temporary) / "model")
        model_uri = _log_model(shipped, Path(temporary) / "code")
        tags = version_tags(opened, shipped, comparison, run.info.run_id)
    progress("registering")
    _ensure_registered_model(client, settings.model_name, opened.manifest.name)
    version = str(mlflow.register_model(model_uri, settings.model_name, tags=tags).version)
    aliases = assign_aliases(client, settings.model_name, version)
    registration = {
        "name": settings.model_name,
        "version": version,
        "aliases": aliases,
        "model_uri": model_uri,
        "tags": tags,
    }
    with atomic_folder(output) as folder:
        (folder / REGISTRATION_FILE).write_text(json.dumps(registration, indent=2))
        build_reference(features, candidate, comparison).write(folder / REFERENCE_FILE)
    return StepResult(
        params={"registered_model": settings.model_name},
        tags={"vitalfuse.model": f"{settings.model_name}/{version}", "vitalfuse.aliases": ",".join(aliases)},
        artifacts={"registration": output / REGISTRATION_FILE, REFERENCE_FOLDER: output / REFERENCE_FILE},
    )


def _log_model(shipped: Path, code: Path) -> str:
    import mlflow

    from serving import package

    info = mlflow.pyfunc.log_model(
        name="model",
        python_model=str(package.MODEL_SCRIPT),
        artifacts={package.ARTIFACT: str(shipped)},
        code_paths=package.stage_code(code),
        signature=package.signature(shipped),
        input_example=package.input_example(shipped),
        pip_requirements=package.requirements(),
        metadata=package.metadata(shipped),
    )
    return info.model_uri


def copy_shipped_files(candidate: Path, comparison: Path, target: Path) -> Path:
    """Copy what travels with a registered model: everything but what tells of single patients.

    Args:
        candidate: Output of ``train``.
        comparison: Output of ``compare``: the calibration, where there is one.
        target: Folder to make.

    Returns:
        The target.
    """
    shutil.copytree(candidate, target, ignore=shutil.ignore_patterns(*_NOT_SHIPPED))
    if (comparison / CALIBRATION_FILE).is_file():
        shutil.copy(comparison / CALIBRATION_FILE, target)
    return target


def version_tags(features: Features, shipped: Path, comparison: Path, run_id: str) -> dict[str, str]:
    """Return the tags that tie a version to its run, its cohort, its code and its evidence.

    Args:
        features: The features.
        shipped: The files that are registered.
        comparison: Output of ``compare``.
        run_id: The MLflow run of this step.

    Returns:
        Tags by name.
    """
    metrics = json.loads((comparison / "metrics.json").read_text())
    test = metrics["models"][metrics["candidate"]]["test"]
    headline = ("macro_auc", "accuracy", "macro_precision", "kappa", "mcc")
    return {
        "vitalfuse.run_id": find_parent_run_id() or run_id,
        "vitalfuse.cohort_digest": features.manifest.cohort_digest,
        "vitalfuse.cohort": features.manifest.name,
        "vitalfuse.git_commit": os.environ.get(environment.GIT_COMMIT, "unknown"),
        "vitalfuse.best_model": str(metrics["best_model"]),
        "vitalfuse.model_digest": folder_digest(shipped),
        **{f"test.{name}": f"{_value(test[name]):.4f}" for name in headline if test.get(name) is not None},
    }


def _value(metric: float | dict) -> float:
    return float(metric["value"]) if isinstance(metric, dict) else float(metric)


def folder_digest(folder: Path) -> str:
    """Return the SHA-256 of the files of a model folder that are registered, names included.

    Args:
        folder: Output of ``copy_shipped_files``, or the registered copy of it, which gives the same digest.

    Returns:
        Hexadecimal digits.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in _NOT_SHIPPED):
        digest.update(str(path.relative_to(folder)).encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _ensure_registered_model(client: MlflowClient, name: str, cohort: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(
            name, description=f"CNN-LSTM-attention diagnosis model, first trained on {cohort}. Not for clinical use."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def assign_aliases(client: MlflowClient, name: str, version: str) -> list[str]:
    """Make a version the challenger, and the champion where there is none.

    Args:
        client: MLflow client of the registry.
        name: Registered model.
        version: Its new version.

    Returns:
        The version's aliases.
    """
    client.set_registered_model_alias(name, CHALLENGER, version)
    if CHAMPION not in client.get_registered_model(name).aliases:
        client.set_registered_model_alias(name, CHAMPION, version)
        return [CHALLENGER, CHAMPION]
    return [CHALLENGER]
