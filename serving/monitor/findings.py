"""What monitoring found, and whether it is a reason to train anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from data_schemas.reference import AnswersReference, Figure, TrainingReference
from evaluation.monitoring import describe_answers
from serving.monitor.drift import FeatureDrift
from serving.monitor.labels import Labelled
from serving.monitor.settings import MonitorSettings

FINE, EXCEEDED, NOT_JUDGED = "fine", "exceeded", "not judged"


@dataclass(frozen=True)
class Check:
    """One rule.

    Attributes:
        name: What is looked at.
        group: "inputs", "answers" or "labels".
        status: ``FINE``, ``EXCEEDED`` or ``NOT_JUDGED``.
        value: How far it is from the reference; None where it is not judged.
        threshold: Above it, training is advised.
        reference: The reference's own figure; None without any.
        current: The figure of the log.
        detail: What the value is of, or why it is not judged.
        low: Lower end of the current figure's interval.
        high: Upper end.
    """

    name: str
    group: str
    status: str
    value: float | None
    threshold: float
    reference: float | None = None
    current: float | None = None
    detail: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Findings:
    """All that monitoring found on one version.

    Attributes:
        model: Name of the registered model.
        version: Its version; None for a model folder.
        rows: Predictions.
        first: When the first was made (ISO 8601).
        last: When the last was made.
        checks: The rules, in order.
        drift: Every feature.
        answers: How the model answered.
        reference: How it answered on its held-out rows.
        labelled: What the labels say; None without labels.
    """

    model: str
    version: str | None
    rows: int
    first: str
    last: str
    checks: list[Check]
    drift: list[FeatureDrift]
    answers: AnswersReference
    reference: AnswersReference
    labelled: Labelled | None

    @property
    def reasons(self) -> list[Check]:
        """The rules that advise training."""
        return [check for check in self.checks if check.status == EXCEEDED]

    @property
    def retrain(self) -> bool:
        """Whether training is advised."""
        return bool(self.reasons)

    def headline(self) -> str:
        """Say the outcome in one sentence."""
        judged = [check for check in self.checks if check.status != NOT_JUDGED]
        if self.retrain:
            names = ", ".join(check.name for check in self.reasons)
            return f"Retraining is advised: {len(self.reasons)} of {len(judged)} checks exceeded ({names})."
        if not judged:
            return "Nothing could be judged: there are too few predictions."
        return f"No reason to retrain: {len(judged)} checks are fine."

    def to_document(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "headline": self.headline(),
            "retrain": self.retrain,
            "model": self.model,
            "version": self.version,
            "predictions": self.rows,
            "first": self.first,
            "last": self.last,
            "checks": [asdict(check) for check in self.checks],
            "drift": [asdict(feature) | {"drifted": feature.drifted} for feature in self.drift],
            "answers": self.answers.model_dump(),
            "held_out": self.reference.model_dump(),
            "labels": None
            if self.labelled is None
            else asdict(self.labelled)
            | {"scores": {name: figure.model_dump() for name, figure in self.labelled.scores.items()}},
        }


def judge(
    log: pd.DataFrame,
    reference: TrainingReference,
    drift: list[FeatureDrift],
    labelled: Labelled | None,
    settings: MonitorSettings,
) -> Findings:
    """Hold what was measured against the rules.

    Args:
        log: Rows of one version, one at least.
        reference: Its reference.
        drift: From ``measure_drift``.
        labelled: From ``score_labelled``; None without labels.
        settings: The rules.

    Returns:
        The findings.
    """
    probabilities = log[[f"probability:{name}" for name in reference.classes]].to_numpy(np.float64)
    calibrated = bool(log["conformal_set"].notna().all())
    abstained = log["abstained"].to_numpy(bool) if calibrated else None
    answers = describe_answers(probabilities, abstained, reference.classes, labelled.scores if labelled else {})
    checks = [_input_check(drift, settings), *_answer_checks(answers, reference.held_out, settings)]
    if labelled is not None:
        checks += _label_checks(labelled, reference.held_out.scores, settings)
    return Findings(
        model=str(log["model"].iloc[-1]),
        version=None if pd.isna(log["version"].iloc[-1]) else str(log["version"].iloc[-1]),
        rows=len(log),
        first=log["time"].min().isoformat(timespec="seconds"),
        last=log["time"].max().isoformat(timespec="seconds"),
        checks=checks,
        drift=drift,
        answers=answers,
        reference=reference.held_out,
        labelled=labelled,
    )


def _input_check(drift: Sequence[FeatureDrift], settings: MonitorSettings) -> Check:
    name, group = "inputs that drifted", "inputs"
    judged = {feature.part for feature in drift if feature.distance is not None}
    if not judged:
        reason = next((feature.reason for feature in drift), "the log and the reference share no input")
        return Check(name, group, NOT_JUDGED, None, settings.most_drifted, detail=reason)
    drifted = list(dict.fromkeys(feature.part for feature in drift if feature.drifted))
    detail = f"of {len(judged)} inputs: {', '.join(drifted)}" if drifted else f"of {len(judged)} inputs"
    return _check(name, group, float(len(drifted)), settings.most_drifted, detail=detail)


def _answer_checks(current: AnswersReference, reference: AnswersReference, settings: MonitorSettings) -> list[Check]:
    too_few = ""
    for rows, which in ((current.rows, "predictions"), (reference.rows, "held-out rows")):
        smallest = settings.smallest_sample if which == "predictions" else 1
        if rows < smallest:
            too_few = f"only {rows} {which}"
    return [
        _unless(too_few, _shares_check(current, reference, settings)),
        _difference(
            "mean confidence", current.mean_confidence, reference.mean_confidence, settings.confidence_drift, too_few
        ),
        _difference(
            "abstention rate", current.abstention_rate, reference.abstention_rate, settings.abstention_drift, too_few
        ),
    ]


def _shares_check(current: AnswersReference, reference: AnswersReference, settings: MonitorSettings) -> Check:
    """Compare the predicted classes; a distance that chance explains is no reason."""
    shares = np.array([[part.class_shares[name] for name in reference.class_shares] for part in (current, reference)])
    distance = float(np.abs(shares[0] - shares[1]).sum() / 2)
    chance = chance_distance(shares, (current.rows, reference.rows), settings)
    found = _check("shares of the classes", "answers", distance, settings.class_share_drift)
    status = found.status if distance > chance else FINE
    return replace(found, status=status, detail=f"chance alone reaches {chance:.2f}")


def chance_distance(shares: np.ndarray, rows: tuple[int, int], settings: MonitorSettings) -> float:
    """Return how far the shares of two samples of one population may lie apart.

    Args:
        shares: float ``[2, classes]``, the shares of both samples.
        rows: Their sizes.
        settings: Confidence, resamples and seed.

    Returns:
        Quantile of the total variation distance between two samples drawn with the pooled shares; 0 without rows.
    """
    if not all(rows):
        return 0.0
    pooled = np.average(shares, axis=0, weights=rows)
    random = np.random.default_rng(settings.seed)
    drawn = [random.multinomial(count, pooled / pooled.sum(), size=settings.resamples) / count for count in rows]
    return float(np.quantile(np.abs(drawn[0] - drawn[1]).sum(axis=1) / 2, settings.confidence))


def _difference(name: str, current: float | None, reference: float | None, threshold: float, too_few: str) -> Check:
    if current is None or reference is None:
        return Check(name, "answers", NOT_JUDGED, None, threshold, reference, current, too_few or "not known of both")
    return _unless(too_few, _check(name, "answers", abs(current - reference), threshold, reference, current))


_LABEL_CHECKS = (
    ("macro_auc", "fall of the macro AUC", -1, "auc_fall"),
    ("calibration_error", "rise of the calibration error", 1, "calibration_rise"),
    ("coverage", "fall of the coverage", -1, "coverage_fall"),
)


def _label_checks(labelled: Labelled, reference: Mapping[str, Figure], settings: MonitorSettings) -> list[Check]:
    """Judge scores; a change counts where it is above the threshold and the held-out value outside the interval."""
    checks = []
    for score, name, sign, setting in _LABEL_CHECKS:
        threshold = getattr(settings, setting)
        current, before = labelled.scores.get(score, Figure(value=None)), reference.get(score, Figure(value=None))
        if labelled.patients < settings.smallest_labelled:
            detail = f"only {labelled.patients} patients have a label"
        elif current.value is None or before.value is None:
            detail = "not known of both"
        else:
            change = sign * (current.value - before.value)
            bound = current.low if sign > 0 else current.high
            certain = bound is not None and sign * (bound - before.value) > 0
            found = _check(name, "labels", change, threshold, before.value, current.value)
            status = found.status if certain else FINE
            detail = f"{labelled.patients} patients" + ("" if certain else "; the interval holds the held-out value")
            checks.append(
                Check(
                    name,
                    "labels",
                    status,
                    change,
                    threshold,
                    before.value,
                    current.value,
                    detail,
                    current.low,
                    current.high,
                )
            )
            continue
        checks.append(Check(name, "labels", NOT_JUDGED, None, threshold, before.value, current.value, detail))
    return checks


def _check(
    name: str,
    group: str,
    value: float,
    threshold: float,
    reference: float | None = None,
    current: float | None = None,
    detail: str = "",
) -> Check:
    status = EXCEEDED if value > threshold else FINE
    return Check(name, group, status, value, threshold, reference, current, detail)


def _unless(reason: str, check: Check) -> Check:
    if not reason:
        return check
    return Check(check.name, check.group, NOT_JUDGED, None, check.threshold, check.reference, check.current, reason)
