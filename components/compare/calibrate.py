"""Calibrates the candidate: fitted on its out-of-fold training rows, looked at once on the test rows."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

import numpy as np

from components.compare.results import Results
from components.compare.settings import CalibrationSettings
from data_schemas.calibration import Calibration
from data_schemas.predictions import OUT_OF_FOLD, TEST
from evaluation.metrics import score
from evaluation.recalibration import Decisions, decide, fit_temperature, lowest_probability, scale

JUDGED = ("log_loss", "brier", "calibration_error")


@dataclass(frozen=True)
class SetScores:
    """How the conformal sets of some test rows do; None where no row defines a figure.

    Attributes:
        rows: Number of rows.
        coverage: Share of the sets that hold the true class.
        mean_set_size: Classes in a set.
        abstained: Share of rows without a diagnosis.
        accuracy_of_answered: Share of right diagnoses among the others.
    """

    rows: int
    coverage: float | None
    mean_set_size: float | None
    abstained: float | None
    accuracy_of_answered: float | None


@dataclass(frozen=True)
class CalibrationResult:
    """The candidate's calibration and what it does on the test rows.

    Attributes:
        calibration: What the served model applies.
        before: ``JUDGED`` by name, of the probabilities as the model gives them.
        after: The same of the calibrated ones.
        sets: The conformal sets of all test rows.
        sets_by_class: Those of each class's rows.
    """

    calibration: Calibration
    before: dict[str, float]
    after: dict[str, float]
    sets: SetScores
    sets_by_class: dict[str, SetScores]

    def document(self) -> dict[str, object]:
        """Return the figures for metrics.json."""
        return self.calibration.model_dump(exclude={"contract_version", "classes"}) | {
            "test": {
                "before": self.before,
                "after": self.after,
                **asdict(self.sets),
                "by_class": {name: asdict(scores) for name, scores in self.sets_by_class.items()},
            }
        }

    def metrics(self) -> dict[str, float]:
        """Return the figures on the test rows for MLflow."""
        sets = {name: value for name, value in asdict(self.sets).items() if name != "rows" and value is not None}
        return (
            {f"test/calibrated/{name}": value for name, value in self.after.items()}
            | {f"test/conformal/{name}": float(value) for name, value in sets.items()}
            | {"temperature": self.calibration.temperature}
        )


def calibrate_candidate(results: Results, settings: CalibrationSettings) -> CalibrationResult | None:
    """Fit the candidate's calibration on its out-of-fold rows, and apply it to its test rows.

    The out-of-fold predictions are those of the folds' models, each fitted on fewer rows than the served one, so that
    the sets err on the large side; no test row has a part in the fit.

    Args:
        results: From ``evaluate``.
        settings: Section ``compare.calibration``.

    Returns:
        The calibration; None where the candidate has no out-of-fold rows.
    """
    fitted = results.evaluated[OUT_OF_FOLD].get(results.candidate)
    if fitted is None:
        return None
    labels, probabilities = fitted.rows.labels, fitted.rows.probabilities
    temperature = fit_temperature(labels, probabilities)
    calibration = Calibration(
        classes=results.classes,
        temperature=temperature,
        alpha=settings.alpha,
        lowest_probability=lowest_probability(labels, scale(probabilities, temperature), settings.alpha),
        largest_set=max(1, math.floor(settings.largest_set * len(results.classes) + 1e-9)),
        abstain_below=settings.abstain_below,
        rows=len(labels),
    )
    test = results.evaluated[TEST][results.candidate]
    decisions = decide(test.rows.probabilities, calibration)
    after = score(replace(test.rows, probabilities=decisions.probabilities))
    labels = test.rows.labels
    return CalibrationResult(
        calibration=calibration,
        before={name: test.scores.overall[name] for name in JUDGED},
        after={name: after.overall[name] for name in JUDGED},
        sets=_set_scores(labels, decisions, np.ones(len(labels), dtype=bool)),
        sets_by_class={name: _set_scores(labels, decisions, labels == k) for k, name in enumerate(results.classes)},
    )


def _set_scores(labels: np.ndarray, decisions: Decisions, chosen: np.ndarray) -> SetScores:
    right = decisions.probabilities.argmax(axis=1) == labels
    return SetScores(
        rows=int(chosen.sum()),
        coverage=_mean(decisions.sets[np.arange(len(labels)), labels][chosen]),
        mean_set_size=_mean(decisions.sets.sum(axis=1)[chosen]),
        abstained=_mean(decisions.abstained[chosen]),
        accuracy_of_answered=_mean(right[chosen & ~decisions.abstained]),
    )


def _mean(values: np.ndarray) -> float | None:
    return float(np.mean(values)) if len(values) else None
