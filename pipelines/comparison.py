"""Compares runs and registered versions: scores, settings, cohorts, and differences on the patients in common."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import numpy as np
import pandas as pd

from components.common.parent_run import children
from components.common.sealed import matched_rows
from components.common.tracking import CACHED_TAG, SOURCE_RUN_TAG, STEP_TAG
from components.common.uris import without_passwords
from components.compare.held_out import TEST_DIGEST_TAG, TEST_PATIENTS_TAG
from components.register.evidence import COMPARE_RUN_TAG, read_sealed
from components.register.gates import GATES_TAG
from components.register.non_inferiority import class_names
from data_schemas.errors import InputError
from data_schemas.predictions import TEST
from evaluation.comparisons import Comparison, adjust, compare_pair
from evaluation.intervals import bootstrap_weights
from evaluation.metrics import OVERALL_METRICS
from pipelines.registry import SHORTEST_PREFIX, find_run, find_version, parse_version

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

RowSet = Literal["test", "out_of_fold"]
LOWER_IS_BETTER = ("log_loss", "brier", "calibration_error")
LOCAL_UI = "http://127.0.0.1:5000"
# Where a run's files lie, or what a cluster gives it, changes no score.
_NOT_COMPARED = ("workspace", "cluster.", "tracking.")


@dataclass(frozen=True)
class Compared:
    """One run or version.

    Attributes:
        label: What it is called here.
        run: The pipeline's run.
        step: The run of its ``compare`` step.
        version: The registered version, where it was named by one.
        predictions: Blinded predictions of the candidate; None where they can't be had.
        reason: Why not.
    """

    label: str
    run: Run
    step: Run
    version: ModelVersion | None
    predictions: pd.DataFrame | None
    reason: str


def compare_runs(
    client: MlflowClient,
    named: list[str],
    *,
    model: str,
    rows: RowSet = "test",
    key: bytes | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare runs and versions with the first of them.

    Args:
        client: MLflow client.
        named: Runs by the beginning of their id, or versions; two at least.
        model: The registered model where a version is named without one.
        rows: Held-out patients, or out-of-fold predictions of training patients.
        key: Key of the sealed predictions.
        resamples: Bootstrap resamples of patients.
        confidence: Share of the resamples inside the intervals of differences.
        seed: Seed of the resampling.

    Returns:
        JSON values: ``rows``, ``runs``, ``metrics`` (one entry a metric, values in the order of the runs), ``settings``
        that differ, ``differences`` to the first run, ``warnings``, ``url`` of MLflow's page that compares the runs.

    Raises:
        InputError: Fewer than two, one that isn't there, or one named twice.
    """
    if len(named) < 2:
        raise InputError("two runs at least are needed to compare", remedy="Name runs, or versions such as @champion")
    compared = [_find(client, text, model, key) for text in named]
    ids = [item.run.info.run_id for item in compared]
    if len(set(ids)) < len(ids):
        twice = next(item.label for item in compared if ids.count(item.run.info.run_id) > 1)
        raise InputError(f"{twice} and another one are the same run", remedy="Name each run once")
    differences = _differences(compared, rows, resamples, confidence, seed)
    return {
        "rows": rows,
        "runs": [_run_document(item) for item in compared],
        "metrics": [_metric(name, compared, rows) for name in OVERALL_METRICS],
        "settings": _differing_settings(compared),
        "differences": differences,
        "confidence": confidence,
        "warnings": _warnings(compared, differences, rows),
        "url": compare_url(client.tracking_uri, compared),
    }


def _find(client: MlflowClient, text: str, model: str, key: bytes | None) -> Compared:
    # Four digits or more may begin a run's id.
    name = None if text.isdigit() and len(text) >= SHORTEST_PREFIX else parse_version(text, model)
    version = find_version(client, name) if name else None
    run = _run_of(client, version) if version else find_run(client, text)
    label = run.info.run_id[:8]
    if version:
        label = f"version {version.version}" if version.name == model else f"{version.name}/{version.version}"
    step = _compare_step(client, run, version, label)
    try:
        predictions, reason = read_sealed(client, step.info.run_id, key), ""
    except InputError as error:
        predictions, reason = None, error.problem
    return Compared(label, run, step, version, predictions, reason)


def _run_of(client: MlflowClient, version: ModelVersion) -> Run:
    run_id = version.tags.get("vitalfuse.run_id") or version.run_id
    if not run_id:
        raise InputError(f"{version.name} version {version.version} names no run that made it")
    return find_run(client, run_id)


def _compare_step(client: MlflowClient, run: Run, version: ModelVersion | None, label: str) -> Run:
    """Return the run of the ``compare`` step that did the work, also where the step came from the cache."""
    from mlflow.exceptions import MlflowException

    step_id = version.tags.get(COMPARE_RUN_TAG) if version else None
    if step_id is None:
        steps = [child for child in children(client, run.info.run_id) if child.data.tags.get(STEP_TAG) == "compare"]
        finished = [step for step in steps if step.info.status == "FINISHED"]
        if not finished:
            raise InputError(f"run {label} has no finished step compare", remedy="Name a run that went to its end")
        tags = finished[0].data.tags
        step_id = tags.get(SOURCE_RUN_TAG) if tags.get(CACHED_TAG) else finished[0].info.run_id
    try:
        return client.get_run(str(step_id))
    except MlflowException as error:
        raise InputError(f"the scores of {label} are gone: MLflow has no run {step_id}") from error


def _run_document(item: Compared) -> dict[str, Any]:
    tags = item.run.data.tags
    version = item.version
    started = datetime.fromtimestamp(item.run.info.start_time / 1000, UTC)
    return {
        "label": item.label,
        "run_id": item.run.info.run_id,
        "name": item.run.info.run_name,
        "started": started.isoformat(timespec="seconds"),
        "status": item.run.info.status,
        "git_commit": tags.get("mlflow.source.git.commit"),
        "cohort": item.run.data.params.get("ingest.name"),
        "cohort_digest": tags.get("vitalfuse.cohort_digest"),
        "model": f"{version.name}/{version.version}" if version else tags.get("vitalfuse.model"),
        "aliases": sorted(version.aliases) if version else [],
        "gates": version.tags.get(GATES_TAG) if version else None,
        "test_patients": _whole(item.step.data.tags.get(TEST_PATIENTS_TAG)),
        "test_patients_digest": item.step.data.tags.get(TEST_DIGEST_TAG),
        "predictions": item.reason or "kept",
    }


def _metric(name: str, compared: list[Compared], rows: RowSet) -> dict[str, Any]:
    def figures(item: Compared) -> dict[str, float | None]:
        found = item.step.data.metrics
        key = f"{rows}/{name}"
        return {"value": found.get(key), "low": found.get(f"{key}_low"), "high": found.get(f"{key}_high")}

    return {
        "metric": name,
        "better": "lower" if name in LOWER_IS_BETTER else "higher",
        "runs": [figures(item) for item in compared],
    }


def _differing_settings(compared: list[Compared]) -> list[dict[str, Any]]:
    params = [item.run.data.params for item in compared]
    names = sorted(set().union(*params))
    return [
        {"setting": name, "runs": [values.get(name) for values in params]}
        for name in names
        if not name.startswith(_NOT_COMPARED) and len({values.get(name) for values in params}) > 1
    ]


def _differences(
    compared: list[Compared], rows: RowSet, resamples: int, confidence: float, seed: int
) -> list[dict[str, Any]]:
    """The other runs minus the first, each on the patients that both have, Holm-adjusted over the runs."""
    first = compared[0]
    documents: list[dict[str, Any]] = []
    pairs: list[Comparison] = []
    for other in compared[1:]:
        document: dict[str, Any] = {"run": other.label, "to": first.label}
        documents.append(document)
        try:
            pair, counts = _pair(first, other, rows, resamples, confidence, seed)
        except InputError as error:
            document["reason"] = error.problem
            continue
        document |= counts
        pairs.append(pair)
    adjusted = iter(adjust(pairs))
    return [document if "reason" in document else document | _pair_document(next(adjusted)) for document in documents]


def _pair(
    first: Compared, other: Compared, rows: RowSet, resamples: int, confidence: float, seed: int
) -> tuple[Comparison, dict[str, int]]:
    tables = {}
    for item in (first, other):
        if item.predictions is None:
            raise InputError(f"of {item.label}, {item.reason}")
        tables[item.label] = item.predictions[item.predictions["set"] == rows]
    classes = class_names(tables[first.label])
    if set(classes) != set(class_names(tables[other.label])):
        raise InputError(f"{first.label} and {other.label} have other classes")
    kept, counts = matched_rows(tables, classes)
    counts |= {"own": len(tables[other.label]), "of_first": len(tables[first.label])}
    own = kept[other.label]
    if len(own) < 2:
        raise InputError(f"{first.label} and {other.label} have no patients in common")
    weights = bootstrap_weights(own.labels, own.groups, resamples=resamples, seed=seed)
    return compare_pair(own, kept[first.label], weights, name=other.label, confidence=confidence), counts


def _pair_document(pair: Comparison) -> dict[str, Any]:
    def difference(name: Literal["macro_auc", "accuracy"]) -> dict[str, float | None]:
        found = getattr(pair, name)
        return {
            "value": _finite(found.value),
            "low": _finite(found.interval.low),
            "high": _finite(found.interval.high),
            "p": _finite(found.p_value),
        }

    return {
        "macro_auc": difference("macro_auc") | {"p_holm": _finite(pair.macro_auc_adjusted_p_value)},
        "accuracy": difference("accuracy"),
        "only_this_right": pair.only_candidate,
        "only_first_right": pair.only_baseline,
        "mcnemar_p": _finite(pair.mcnemar_p_value),
        "mcnemar_p_holm": _finite(pair.mcnemar_adjusted_p_value),
    }


def _warnings(compared: list[Compared], differences: list[dict[str, Any]], rows: RowSet) -> list[str]:
    first = compared[0]
    lines = []
    whose = "held-out" if rows == TEST else "training"
    for other, difference in zip(compared[1:], differences, strict=True):
        if "reason" in difference:
            lines.append(f"No difference between {other.label} and {first.label}: {difference['reason']}.")
        elif difference["common"] < max(difference["own"], difference["of_first"]):
            lines.append(
                f"{other.label} and {first.label} saw different {whose} patients: {difference['common']} in common, of "
                f"{difference['own']} and {difference['of_first']}. Their scores can't be compared; the differences "
                "are on the common ones."
            )
        if difference.get("relabelled"):
            lines.append(
                f"{difference['relabelled']} common patients have another label in {other.label} than in "
                f"{first.label}; they are left out."
            )
        if "reason" in difference and rows == TEST:
            digests = {item.step.data.tags.get(TEST_DIGEST_TAG) for item in (first, other)}
            if len(digests) > 1 and None not in digests:
                lines.append(f"{other.label} and {first.label} saw different held-out patients, or used other keys.")
    cohorts = {item.run.data.tags.get("vitalfuse.cohort_digest") for item in compared}
    if len(cohorts) > 1:
        lines.append("The runs had different cohorts: see their digests.")
    return lines


def compare_url(uri: str, compared: list[Compared]) -> str:
    """Return the address of MLflow's page that compares runs.

    Args:
        uri: Tracking URI; a database is shown by ``vitalfuse ui``.
        compared: The runs.

    Returns:
        The address.
    """
    base = without_passwords(uri).rstrip("/") if uri.startswith("http") else LOCAL_UI
    runs = json.dumps([item.run.info.run_id for item in compared], separators=(",", ":"))
    experiments = json.dumps(list(dict.fromkeys(item.run.info.experiment_id for item in compared)))
    return f"{base}/#/compare-runs?runs={quote(runs)}&experiments={quote(experiments)}"


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
