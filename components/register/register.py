"""Registers the trained model in MLflow: a new version, and challenger where it passes its gates."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from components.common import environment
from components.common.evidence_key import evidence_key
from components.common.files import atomic_folder
from components.common.mlflow_client import REQUEST_TAG, may_repeat, request_tag
from components.common.result import StepResult, ignore_progress
from components.common.sealed import blind
from components.common.step import RECORD_FILE
from components.common.tracking import find_parent_run_id
from components.register.audit import retried
from components.register.evidence import COMPARE_RUN_TAG, version_predictions
from components.register.gates import GATES_FOLDER, GATES_TAG, PASSED, TITLES, Champion, Verdict, evaluate_gates
from components.register.integrity import (
    MODEL_DIGEST_TAG,
    NOT_SHIPPED,
    PACKAGE_DIGEST_TAG,
    folder_digest,
    logged_package_digest,
)
from components.register.promotion import CHAMPION, assign_on_registration, current_aliases
from components.register.reference import build_reference
from components.register.settings import RegisterSettings
from data_schemas.calibration import CALIBRATION_FILE
from data_schemas.errors import InputError
from data_schemas.features import Features
from data_schemas.predictions import read_predictions
from data_schemas.reference import REFERENCE_FILE, REFERENCE_FOLDER

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models.model import ModelInfo

REGISTRATION_FILE = "registration.json"


def register_model(
    *,
    cohort: Path,
    features: Path,
    validation: Path,
    candidate: Path,
    comparison: Path,
    output: Path,
    settings: RegisterSettings,
    progress: Callable[[str], None] = ignore_progress,
) -> StepResult:
    """Log the model into the active MLflow run, hold it against the gates, and register it as a new version.

    Args:
        cohort: Output of ``ingest``: sex, site and year of birth, for the gates and the reference.
        features: Output of ``preprocess``.
        validation: Output of ``validate``.
        candidate: Output of ``train``: the self-contained model folder.
        comparison: Output of ``compare``; its figures for the candidate become tags of the version.
        output: Folder for ``registration.json`` (name, version, aliases, digests), ``gates``, and ``reference.json``
            (what monitoring compares later predictions with).
        settings: Where to register, and the gates.
        progress: Told what is being done.

    Returns:
        Tags with the model's name, version and verdict. A version that fails its gates is registered too, gets no
        alias, and a warning says so.

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
    name = settings.model_name
    _ensure_registered_model(client, name, opened.manifest.name)
    progress("gates")
    verdict = evaluate_gates(
        cohort=cohort,
        features=features,
        validation=validation,
        candidate=candidate,
        comparison=comparison,
        champion=find_champion(client, name, candidate),
        settings=settings.gates,
    )
    with atomic_folder(output) as folder:
        gates = verdict.write(folder / GATES_FOLDER)
        reference = build_reference(
            features, candidate, comparison, cohort, resamples=settings.gates.resamples, seed=settings.gates.seed
        )
        reference.write(folder / REFERENCE_FILE)
        with tempfile.TemporaryDirectory(prefix="vitalfuse-model-") as temporary:
            shipped = copy_shipped_files(candidate, comparison, Path(temporary) / "model")
            tags = version_tags(opened, shipped, comparison, run.info.run_id)
            # An attempt of this step that was cut off may have registered it already.
            registered = find_version(client, name, tags)
            if registered is None:
                progress("logging the model")
                logged = _log_model(client, run.info.experiment_id, shipped, gates, Path(temporary) / "code")
                progress("registering")
                tags |= {PACKAGE_DIGEST_TAG: logged_package_digest(client, logged.model_id)} | verdict.tags()
                registered = _register(client, logged.model_uri, name, tags)
        version = str(registered.version)
        tags |= registered.tags
        aliases, warnings = _assign(client, name, version, verdict, tags)
        registration = {
            "name": name,
            "version": version,
            "aliases": aliases,
            "gates": verdict.status,
            "failed_gates": [gate.name for gate in verdict.failed],
            "model_uri": registered.source,
            "tags": tags,
        }
        (folder / REGISTRATION_FILE).write_text(json.dumps(registration, indent=2))
    return StepResult(
        metrics={f"gates/{gate.name}": gate.value for gate in verdict.gates if gate.value is not None},
        params={"registered_model": name},
        tags={
            "vitalfuse.model": f"{name}/{version}",
            "vitalfuse.aliases": ",".join(aliases),
            GATES_TAG: verdict.status,
        },
        artifacts={
            "registration": output / REGISTRATION_FILE,
            GATES_FOLDER: output / GATES_FOLDER,
            REFERENCE_FOLDER: output / REFERENCE_FILE,
        },
        warnings=warnings,
    )


def find_champion(client: MlflowClient, name: str, candidate: Path) -> Champion:
    """Find the champion's predictions, and blind the candidate's with the same key.

    Args:
        client: MLflow client.
        name: Registered model.
        candidate: Output of ``train``.

    Returns:
        Both, or why they can't be had.
    """
    version = current_aliases(client, name).get(CHAMPION)
    if version is None:
        return Champion()
    try:
        key = evidence_key()
        predictions = version_predictions(client, name, version, key)
    except InputError as error:
        return Champion(version, reason=f"of version {version}, the champion: {error.problem}")
    assert key is not None
    own: pd.DataFrame = blind(read_predictions(candidate / "predictions.parquet"), key)
    return Champion(version, predictions, own)


def _assign(
    client: MlflowClient, name: str, version: str, verdict: Verdict, tags: dict[str, str]
) -> tuple[list[str], list[str]]:
    """Write the version down and set its aliases; return these, and warnings."""
    warnings = []
    if verdict.failed:
        failed = "; ".join(f"{TITLES[gate.name]} {gate.describe().removeprefix('failed: ')}" for gate in verdict.failed)
        warnings.append(f"Version {version} failed its gates and gets no alias: {failed}")
    try:
        aliases, notes = assign_on_registration(
            client, name, version, passed=verdict.status == PASSED, evidence=evidence_of(tags, verdict.to_document())
        )
    except InputError as error:
        # The version is registered by now; a person has to look at the record of promotions.
        return [], [*warnings, f"Version {version} gets no alias. {error}"]
    return sorted(aliases), warnings + [note[0].upper() + note[1:] + "." for note in notes]


def evidence_of(tags: dict[str, str], gates: dict[str, Any] | None) -> dict[str, Any]:
    """Return what an entry of the record of promotions keeps of a version's evidence.

    Args:
        tags: The version's tags.
        gates: Content of its gates.json, or None where it has none.

    Returns:
        The pipeline run, cohort and digests, the verdict and the gates that failed.
    """
    named = {
        "run": "vitalfuse.run_id",
        "cohort_digest": "vitalfuse.cohort_digest",
        "git_commit": "vitalfuse.git_commit",
        "model_digest": MODEL_DIGEST_TAG,
        "package_digest": PACKAGE_DIGEST_TAG,
    }
    evidence: dict[str, Any] = {key: tags[tag] for key, tag in named.items() if tag in tags}
    evidence["gates"] = gates["verdict"] if gates else "none"
    if gates:
        evidence["failed_gates"] = gates["failed"]
        evidence["compared_with"] = gates["champion"]
    return evidence


def find_version(client: MlflowClient, name: str, tags: dict[str, str]) -> ModelVersion | None:
    """Return the version that a pipeline run registered of a model.

    Args:
        client: MLflow client of the registry.
        name: Registered model.
        tags: Tags of the version: the pipeline run and the digest of the model's files count.

    Returns:
        The first such version, or None.
    """
    found = client.search_model_versions(
        f"name = '{name}'"
        f" and tags.`vitalfuse.run_id` = '{tags['vitalfuse.run_id']}'"
        f" and tags.`{MODEL_DIGEST_TAG}` = '{tags[MODEL_DIGEST_TAG]}'"
    )
    return min(found, key=lambda version: int(version.version), default=None)


def _register(client: MlflowClient, model_uri: str, name: str, tags: dict[str, str]) -> ModelVersion:
    """Register a model as one version, also where MLflow's answer is lost and the client asks again."""
    import mlflow

    made = mlflow.register_model(model_uri, name, tags=tags)
    first = find_version(client, name, tags) or made
    if int(made.version) != int(first.version):
        client.delete_model_version(name, made.version)
    return first


def _log_model(client: MlflowClient, experiment_id: str, shipped: Path, gates: Path, code: Path) -> ModelInfo:
    """Log the model's files, once also where MLflow's answer is lost and the client asks again."""
    import mlflow

    from serving import package

    request = request_tag()
    info = mlflow.pyfunc.log_model(
        name="model",
        python_model=str(package.MODEL_SCRIPT),
        artifacts={package.ARTIFACT: str(shipped), GATES_FOLDER: str(gates)},
        code_paths=package.stage_code(code),
        signature=package.signature(shipped),
        input_example=package.input_example(shipped),
        pip_requirements=package.requirements(),
        metadata=package.metadata(shipped),
        tags=request,
    )
    if may_repeat(client):
        named = f"tags.`{REQUEST_TAG}` = '{request[REQUEST_TAG]}'"
        for model in client.search_logged_models([experiment_id], named):
            if model.model_id != info.model_id:
                client.delete_logged_model(model.model_id)
    return info


def copy_shipped_files(candidate: Path, comparison: Path, target: Path) -> Path:
    """Copy what travels with a registered model: everything but what tells of single patients.

    Args:
        candidate: Output of ``train``.
        comparison: Output of ``compare``: the calibration, where there is one.
        target: Folder to make.

    Returns:
        The target.
    """
    shutil.copytree(candidate, target, ignore=shutil.ignore_patterns(*NOT_SHIPPED))
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
        MODEL_DIGEST_TAG: folder_digest(shipped),
        **({COMPARE_RUN_TAG: compared} if (compared := _mlflow_run(comparison)) else {}),
        **{f"test.{name}": f"{_value(test[name]):.4f}" for name in headline if test.get(name) is not None},
    }


def _mlflow_run(output: Path) -> str | None:
    """The run in which a step logged, as its record says."""
    record = output / RECORD_FILE
    return json.loads(record.read_text()).get("mlflow_run_id") if record.is_file() else None


def _value(metric: float | dict) -> float:
    return float(metric["value"]) if isinstance(metric, dict) else float(metric)


def _ensure_registered_model(client: MlflowClient, name: str, cohort: str) -> None:
    from mlflow.exceptions import MlflowException

    description = f"CNN-LSTM-attention diagnosis model, first trained on {cohort}. Not for clinical use."
    try:
        retried(lambda: client.create_registered_model(name, description=description))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
