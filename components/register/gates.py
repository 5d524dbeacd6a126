"""Gates: what a version has to reach before it may be called challenger or champion."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from components.register.non_inferiority import NonInferiority, compare_with_champion
from components.register.settings import GateName, GateSettings
from components.register.subgroups import Subgroup, attributes_of, score_subgroups
from data_schemas.cohort import Cohort
from data_schemas.errors import InputError
from data_schemas.features import Features
from data_schemas.predictions import TEST, class_probabilities, read_predictions
from evaluation.rows import PredictedRows

GATES_TAG = "vitalfuse.gates"
GATES_FOLDER = "gates"
GATES_JSON, GATES_TEXT = "gates.json", "gates.txt"
PASSED, FAILED, NOT_EVALUATED, SKIPPED = "passed", "failed", "not evaluated", "skipped"
TITLES: dict[str, str] = {
    "macro_auc": "macro AUC",
    "kappa": "kappa",
    "calibration_error": "calibration error",
    "worst_subgroup_auc": "worst subgroup's macro AUC",
    "non_inferiority": "macro AUC, less the champion's",
    "validation": "errors in the data",
    "latency": "time of one diagnosis",
}


@dataclass(frozen=True)
class Gate:
    """One gate and what was found.

    Attributes:
        name: One of ``GateName``.
        status: ``PASSED``, ``FAILED``, ``NOT_EVALUATED`` or ``SKIPPED``.
        value: The figure; None where there is none.
        threshold: What it is held against.
        direction: "at least" or "at most".
        unit: Of both; empty for a plain number.
        low: Lower end of the figure's interval, or its one-sided bound; None where there is none.
        high: Upper end.
        detail: What the figure is of, or why there is none.
    """

    name: str
    status: str
    value: float | None
    threshold: float
    direction: Literal["at least", "at most"]
    unit: str = ""
    low: float | None = None
    high: float | None = None
    detail: str = ""

    def describe(self) -> str:
        """Return status, figure, threshold and detail as one line without the name."""
        if self.status in (SKIPPED, NOT_EVALUATED):
            return f"{self.status}: {self.detail}" if self.detail else self.status
        unit = f" {self.unit}" if self.unit else ""
        detail = f"; {self.detail}" if self.detail else ""
        text = f"{self.status}: {_number(self.value)}{self._bounds()}{unit}, {self.direction} {self.threshold:g}{unit}"
        return text + detail

    def _bounds(self) -> str:
        if self.low is not None and self.high is not None:
            return f" [{_number(self.low)}, {_number(self.high)}]"
        return f" (bound {_number(self.low)})" if self.low is not None else ""


@dataclass(frozen=True)
class Verdict:
    """All gates of a version.

    Attributes:
        gates: In a fixed order.
        patients: Held-out patients behind the figures.
        champion: Version that it was compared with, or None.
        subgroups: Every subgroup that is large enough, the worst first.
        settings: The thresholds.
    """

    gates: list[Gate]
    patients: int
    champion: str | None
    subgroups: list[Subgroup]
    settings: GateSettings = field(default_factory=GateSettings)

    @property
    def failed(self) -> list[Gate]:
        """The gates that count as failed."""
        counted = (FAILED, NOT_EVALUATED) if self.settings.strict else (FAILED,)
        return [gate for gate in self.gates if gate.status in counted]

    @property
    def status(self) -> str:
        """``PASSED`` or ``FAILED``."""
        return FAILED if self.failed else PASSED

    def to_document(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "verdict": self.status,
            "failed": [gate.name for gate in self.failed],
            "patients": self.patients,
            "champion": self.champion,
            "gates": [asdict(gate) for gate in self.gates],
            "subgroups": [group.to_document() for group in self.subgroups],
            "settings": self.settings.model_dump(mode="json"),
        }

    def to_text(self) -> str:
        """Return everything as lines that a person reads."""
        width = max(len(title) for title in TITLES.values())
        lines = [f"Gates: {self.status}, on {self.patients} held-out patients", ""]
        lines += [f"{TITLES[gate.name]:<{width}}  {gate.describe()}" for gate in self.gates]
        if self.subgroups:
            lines += ["", "Macro AUC by subgroup"]
            lines += [
                f"{group.name:<{width}}  {group.macro_auc:.3f} [{group.low:.3f}, {group.high:.3f}], "
                f"{group.patients} patients, {group.classes} classes"
                for group in self.subgroups
            ]
        return "\n".join(lines) + "\n"

    def tags(self) -> dict[str, str]:
        """Return the verdict and each gate as tags of a version."""
        return {GATES_TAG: self.status} | {f"{GATES_TAG}.{gate.name}": gate.describe() for gate in self.gates}

    def write(self, folder: Path) -> Path:
        """Write gates.json and gates.txt.

        Args:
            folder: Folder to make.

        Returns:
            The folder.
        """
        folder.mkdir(parents=True)
        document = json.dumps(self.to_document(), indent=2, allow_nan=False)
        (folder / GATES_JSON).write_text(document + "\n", encoding="utf-8")
        (folder / GATES_TEXT).write_text(self.to_text(), encoding="utf-8")
        return folder


@dataclass(frozen=True)
class Champion:
    """The version to compare with.

    Attributes:
        version: Its number; None where there is no champion.
        predictions: Its blinded predictions; None where they can't be had.
        own: The new version's predictions, blinded with the same key; None likewise.
        reason: Why they can't be had.
    """

    version: str | None = None
    predictions: pd.DataFrame | None = None
    own: pd.DataFrame | None = None
    reason: str = "there is no champion yet"


@dataclass(frozen=True)
class _Evidence:
    """What the gates look at, read once."""

    scores: dict[str, Any]
    calibrated: dict[str, Any]
    patients: int
    subgroups: list[Subgroup]
    errors: list[str]
    seconds: list[float]
    champion: Champion
    settings: GateSettings


def evaluate_gates(
    *,
    cohort: Path,
    features: Path,
    validation: Path,
    candidate: Path,
    comparison: Path,
    champion: Champion,
    settings: GateSettings,
) -> Verdict:
    """Hold a trained model against the gates, by predictions of held-out patients that were made already.

    Args:
        cohort: Output of ``ingest``, for the subgroups.
        features: Output of ``preprocess``.
        validation: Output of ``validate``.
        candidate: Output of ``train``.
        comparison: Output of ``compare``: the scores are those of its report.
        champion: The version to compare with.
        settings: The thresholds.

    Returns:
        The verdict.
    """
    predicted, attributes = _held_out(Features.open(features), Cohort.open(cohort), candidate, settings)
    metrics = _read_json(comparison / "metrics.json")
    timing = _read_json(candidate / "timing.json")
    anomalies = _read_json(validation / "summary.json").get("anomalies", [])
    evidence = _Evidence(
        scores=metrics["models"][metrics["candidate"]]["test"],
        calibrated=((metrics.get("calibration") or {}).get("test") or {}).get("after") or {},
        patients=predicted.group_count,
        subgroups=score_subgroups(predicted, attributes, settings),
        errors=[
            f"{item['feature']} ({item['kind']})"
            for item in anomalies
            if item.get("severity") == "error" or item["kind"] in settings.error_kinds
        ],
        seconds=list(timing.get("seconds_per_diagnosis", {}).values()),
        champion=champion,
        settings=settings,
    )
    gates = [_looked_at(name, evidence) for name in get_args(GateName)]
    return Verdict(gates, evidence.patients, champion.version, evidence.subgroups, settings)


def non_inferiority_gate(champion: Champion, settings: GateSettings) -> Gate:
    """Hold a version against the champion, on the patients that both held out.

    Args:
        champion: The champion's and the version's predictions.
        settings: Margin and confidence.

    Returns:
        The gate: passed where the one-sided lower bound of the difference is above minus the margin.
    """
    margin = settings.non_inferiority_margin
    try:
        if champion.predictions is None or champion.own is None:
            raise InputError(champion.reason)
        found: NonInferiority = compare_with_champion(champion.own, champion.predictions, settings)
    except InputError as error:
        return Gate("non_inferiority", NOT_EVALUATED, None, -margin, "at least", detail=error.problem)
    return Gate(
        "non_inferiority",
        PASSED if found.bound >= -margin else FAILED,
        found.difference,
        -margin,
        "at least",
        low=found.bound,
        detail=f"the bound counts; version {champion.version}, {found.common} common patients",
    )


def _looked_at(name: str, evidence: _Evidence) -> Gate:
    gate = _GATES[name](evidence)
    if name not in evidence.settings.skip:
        return gate
    return Gate(gate.name, SKIPPED, None, gate.threshold, gate.direction, gate.unit)


def _score(name: Literal["macro_auc", "kappa"]) -> Callable[[_Evidence], Gate]:
    def gate(evidence: _Evidence) -> Gate:
        return _score_gate(name, evidence, getattr(evidence.settings, name), "at least")

    return gate


def _score_gate(name: str, evidence: _Evidence, threshold: float, direction: Literal["at least", "at most"]) -> Gate:
    value = evidence.scores.get(name)
    low, high = evidence.scores.get("intervals", {}).get(name, (None, None))
    detail = "" if value is not None else "not defined on these patients"
    return Gate(name, _status(value, threshold, direction), value, threshold, direction, "", low, high, detail)


def _calibration(evidence: _Evidence) -> Gate:
    """That of the calibrated probabilities, which are served; else that of the model's own."""
    threshold = evidence.settings.calibration_error
    served = evidence.calibrated.get("calibration_error")
    if served is None:
        return _score_gate("calibration_error", evidence, threshold, "at most")
    status = _status(served, threshold, "at most")
    return Gate("calibration_error", status, served, threshold, "at most", detail="calibrated, as served")


def _subgroup(evidence: _Evidence) -> Gate:
    threshold = evidence.settings.worst_subgroup_auc
    if not evidence.subgroups:
        detail = f"no subgroup by sex, site or age has {evidence.settings.smallest_group} patients"
        return Gate("worst_subgroup_auc", NOT_EVALUATED, None, threshold, "at least", detail=detail)
    worst = evidence.subgroups[0]
    status = _status(worst.macro_auc, threshold, "at least")
    detail = f"{worst.name}, {worst.patients} patients; the worst of {len(evidence.subgroups)}"
    return Gate("worst_subgroup_auc", status, worst.macro_auc, threshold, "at least", "", worst.low, worst.high, detail)


def _champion(evidence: _Evidence) -> Gate:
    return non_inferiority_gate(evidence.champion, evidence.settings)


def _validation(evidence: _Evidence) -> Gate:
    count = len(evidence.errors)
    return Gate("validation", FAILED if count else PASSED, count, 0, "at most", detail=", ".join(evidence.errors))


def _latency(evidence: _Evidence) -> Gate:
    threshold = evidence.settings.latency_ms
    if not evidence.seconds:
        return Gate("latency", NOT_EVALUATED, None, threshold, "at most", "ms", detail="train timed no diagnosis")
    slowest = 1000 * max(evidence.seconds)
    detail = "median of the slowest class"
    return Gate("latency", _status(slowest, threshold, "at most"), slowest, threshold, "at most", "ms", detail=detail)


_GATES: dict[str, Callable[[_Evidence], Gate]] = {
    "macro_auc": _score("macro_auc"),
    "kappa": _score("kappa"),
    "calibration_error": _calibration,
    "worst_subgroup_auc": _subgroup,
    "non_inferiority": _champion,
    "validation": _validation,
    "latency": _latency,
}


def _status(value: float | None, threshold: float, direction: str) -> str:
    if value is None or math.isnan(value):
        return NOT_EVALUATED
    return PASSED if (value >= threshold if direction == "at least" else value <= threshold) else FAILED


def _held_out(
    features: Features, cohort: Cohort, candidate: Path, settings: GateSettings
) -> tuple[PredictedRows, pd.DataFrame]:
    """Return the candidate's held-out rows, and sex, site and age band of each."""
    frame = read_predictions(candidate / "predictions.parquet")
    frame = frame[frame["set"] == TEST].sort_values("sample", kind="stable")
    rows = frame["sample"].to_numpy()
    samples = features.samples.iloc[rows]
    predicted = PredictedRows(
        labels=features.labels[rows],
        probabilities=class_probabilities(frame, features.manifest.classes),
        groups=pd.factorize(samples["patient_id"])[0],
        rows=rows,
        folds=samples["fold"].to_numpy(),
    )
    patients = cohort.table("patients", ["patient_id", "sex", "site", "birth_year"])
    return predicted, attributes_of(samples, patients, settings.age_bands)


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _number(value: float | None) -> str:
    return "–" if value is None else (f"{value:.3f}" if abs(value) < 100 and value != int(value) else f"{value:g}")
