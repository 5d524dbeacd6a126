"""Reads what the comparison is made from: predictions, timings, presence flags and the validation summary."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_schemas.errors import InputError
from data_schemas.features import Features
from data_schemas.predictions import OUT_OF_FOLD, TEST, class_probabilities, read_predictions
from evaluation.rows import PredictedRows

SETS = (TEST, OUT_OF_FOLD)


@dataclass(frozen=True)
class ModelInput:
    """What one model left behind.

    Attributes:
        name: Model name.
        reason: Why it could not run on this cohort; empty where it ran.
        rows: ``TEST`` and ``OUT_OF_FOLD`` to predicted rows; a set that the model has not predicted is absent.
        seconds_per_diagnosis: Class name to median seconds for a single sample.
        fit_seconds: Seconds of each fit.
    """

    name: str
    reason: str
    rows: dict[str, PredictedRows]
    seconds_per_diagnosis: dict[str, float]
    fit_seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class ComparisonInputs:
    """Everything that the comparison reads.

    Attributes:
        features: The opened features.
        candidate: Name of the candidate.
        models: Every model by name, the candidate first.
        validation: Content of the validation's summary.json; empty where there is none.
        warnings: Warnings of the steps before, one line each.
    """

    features: Features
    candidate: str
    models: dict[str, ModelInput]
    validation: dict[str, Any]
    warnings: list[str]


def load_inputs(features: Path, candidate: Path, cross_validations: list[Path], validation: Path) -> ComparisonInputs:
    """Read and check the outputs of the steps before.

    The candidate's test predictions come from its own folder; every out-of-fold prediction, and the baselines' test
    predictions, come from the cross-validation folders.

    Args:
        features: Output of ``preprocess``.
        candidate: Output of ``train``.
        cross_validations: Outputs of ``cross_validate``, one a model, in any order.
        validation: Output of ``validate``.

    Returns:
        The inputs.

    Raises:
        InputError: A file is absent, or predictions do not fit the features: another label, a test row among the
            training rows, another fold, or no probabilities.
    """
    opened = Features.open(features)
    own = _read_folder(candidate, opened)
    if TEST not in own.rows:
        raise InputError(
            "the candidate has no predictions of test rows",
            file=f"{candidate.name}/predictions.parquet",
            remedy="Run train again on the present features",
        )
    others = [_read_folder(folder, opened) for folder in cross_validations]
    names = [other.name for other in others]
    if len(set(names)) != len(names):
        raise InputError(f"a model was cross-validated twice: {', '.join(sorted(names))}")
    models = {own.name: own} | {other.name: other for other in others if other.name != own.name}
    for other in others:
        if other.name == own.name:
            models[own.name] = ModelInput(
                name=own.name,
                reason="",
                rows=other.rows | own.rows,
                seconds_per_diagnosis=own.seconds_per_diagnosis or other.seconds_per_diagnosis,
                fit_seconds=other.fit_seconds or own.fit_seconds,
            )
    return ComparisonInputs(
        features=opened,
        candidate=own.name,
        models=models,
        validation=_read_json(validation / "summary.json"),
        warnings=_step_warnings([validation, features, candidate, *cross_validations]),
    )


def _read_folder(folder: Path, features: Features) -> ModelInput:
    path = folder / "predictions.parquet"
    if not path.is_file():
        raise InputError("there is no predictions.parquet", file=folder.name, remedy="Run the step before again")
    frame = read_predictions(path)
    summary = _read_json(folder / "summary.json")
    timing = _read_json(folder / "timing.json")
    named = frame["model"].unique().tolist()
    if len(named) > 1:
        raise InputError(f"predictions of one model were expected; received {', '.join(named)}", file=folder.name)
    name = named[0] if named else summary.get("model")
    if not name:
        raise InputError("neither predictions nor a summary name the model", file=folder.name)
    reason = ""
    if summary.get("status") == "not_applicable":
        reason = summary.get("reason") or "it cannot run on this cohort"
    rows = {} if reason else {kind: _predicted_rows(frame, kind, features, folder.name) for kind in SETS}
    return ModelInput(
        name=name,
        reason=reason,
        rows={kind: predicted for kind, predicted in rows.items() if len(predicted)},
        seconds_per_diagnosis=timing.get("seconds_per_diagnosis") or {},
        fit_seconds=np.atleast_1d(timing.get("fit_seconds", [])).astype(float).tolist(),
    )


def _predicted_rows(frame: pd.DataFrame, kind: str, features: Features, folder: str) -> PredictedRows:
    chosen = frame[frame["set"] == kind].sort_values("sample", kind="stable")
    rows = chosen["sample"].to_numpy(np.int64)
    file = f"{folder}/predictions.parquet"
    samples = features.samples
    if len(rows) and (rows.min() < 0 or rows.max() >= len(samples)):
        raise InputError(f"predictions name samples that the {len(samples)} features do not have", file=file)
    if len(np.unique(rows)) != len(rows):
        raise InputError(f"a sample has two {kind} predictions", file=file)
    own = samples.iloc[rows]
    split = "test" if kind == TEST else "train"
    remedy = "Run the step again on the present features"
    if not (own["split"] == split).all():
        raise InputError(f"{kind} predictions include rows that are not {split} rows", file=file, remedy=remedy)
    if not np.array_equal(own["label"].to_numpy(), chosen["label"].to_numpy()):
        raise InputError("labels differ from those of the features", file=file, field="label", remedy=remedy)
    folds = own["fold"].to_numpy(np.int64)
    if kind == OUT_OF_FOLD and not np.array_equal(folds, chosen["fold"].to_numpy(np.int64)):
        raise InputError("folds differ from those of the features", file=file, field="fold", remedy=remedy)
    classes = features.manifest.classes
    absent = [name for name in classes if f"probability:{name}" not in chosen]
    if absent:
        raise InputError(f"there are no probabilities of the class {absent[0]!r}", file=file, remedy=remedy)
    patients, _ = pd.factorize(samples["patient_id"])
    try:
        return PredictedRows(
            labels=features.labels[rows],
            probabilities=class_probabilities(chosen, classes),
            groups=patients[rows],
            rows=rows,
            folds=folds,
        )
    except ValueError as error:
        raise InputError(str(error), file=file) from error


def _read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON object; empty where the file is absent."""
    if not path.is_file():
        return {}
    content = json.loads(path.read_text())
    return content if isinstance(content, dict) else {}


def _step_warnings(folders: list[Path]) -> list[str]:
    """Warnings that earlier steps left in their records, each once, in order."""
    lines = [str(line) for folder in folders for line in _read_json(folder / "record.json").get("warnings", [])]
    return list(dict.fromkeys(lines))
