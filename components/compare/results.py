"""Scores, intervals and paired comparisons of all models, on held-out and on out-of-fold rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from components.common.result import ignore_progress
from components.compare.inputs import SETS, ComparisonInputs
from components.compare.settings import CompareSettings
from data_schemas.predictions import OUT_OF_FOLD, TEST
from evaluation.comparisons import Comparison, adjust, compare_pair
from evaluation.intervals import Interval, Intervals, bootstrap_intervals, bootstrap_weights, percentile_interval
from evaluation.metrics import Scores, score
from evaluation.resampled import macro_precision
from evaluation.rows import PredictedRows, common_rows


@dataclass(frozen=True)
class Evaluated:
    """One model on one set of rows.

    Attributes:
        rows: The rows.
        scores: Metrics.
        intervals: Their bootstrap intervals.
    """

    rows: PredictedRows
    scores: Scores
    intervals: Intervals


@dataclass(frozen=True)
class FoldPrecision:
    """Macro precision of one model on one fold's held-out rows (Table III).

    Attributes:
        fold: From 0.
        rows: Number of rows.
        value: Macro precision.
        interval: Its bootstrap interval.
    """

    fold: int
    rows: int
    value: float
    interval: Interval


@dataclass(frozen=True)
class Results:
    """Everything computed.

    Attributes:
        inputs: What it was computed from.
        evaluated: Set name to model name to its evaluation; the candidate first.
        comparisons: Set name to the candidate against every baseline, Holm-adjusted within the set.
        fold_precision: Model name to its folds.
    """

    inputs: ComparisonInputs
    evaluated: dict[str, dict[str, Evaluated]]
    comparisons: dict[str, list[Comparison]]
    fold_precision: dict[str, list[FoldPrecision]]

    @property
    def candidate(self) -> str:
        """Name of the candidate."""
        return self.inputs.candidate

    @property
    def classes(self) -> list[str]:
        """Class names."""
        return self.inputs.features.manifest.classes

    def best(self, kind: str) -> str | None:
        """Return the model with the highest macro AUC on a set of rows.

        Args:
            kind: ``TEST`` or ``OUT_OF_FOLD``.

        Returns:
            Model name (the candidate where it ties), or None where no macro AUC is defined.
        """
        values = {
            name: entry.scores.overall["macro_auc"]
            for name, entry in self.evaluated[kind].items()
            if np.isfinite(entry.scores.overall["macro_auc"])
        }
        return max(values, key=values.__getitem__) if values else None


def evaluate(
    inputs: ComparisonInputs, settings: CompareSettings, progress: Callable[[str], None] = ignore_progress
) -> Results:
    """Compute all scores, intervals and comparisons.

    Args:
        inputs: From ``load_inputs``.
        settings: Resamples, confidence and seed.
        progress: Called with short texts.

    Returns:
        The results.
    """
    evaluated: dict[str, dict[str, Evaluated]] = {}
    comparisons = {}
    for kind in SETS:
        rows = {name: model.rows[kind] for name, model in inputs.models.items() if kind in model.rows}
        evaluated[kind] = {}
        for name, predicted in rows.items():
            progress(f"intervals of {name}, {kind.replace('_', '-')} rows")
            evaluated[kind][name] = _evaluate_rows(predicted, settings)
        progress(f"paired tests, {kind.replace('_', '-')} rows")
        comparisons[kind] = _compare(rows, inputs.candidate, settings)
    folds = {
        name: _fold_precision(entry.rows, inputs.features.manifest.folds, settings)
        for name, entry in evaluated[OUT_OF_FOLD].items()
    }
    return Results(inputs=inputs, evaluated=evaluated, comparisons=comparisons, fold_precision=folds)


def _evaluate_rows(predicted: PredictedRows, settings: CompareSettings) -> Evaluated:
    weights = bootstrap_weights(predicted.labels, predicted.groups, resamples=settings.resamples, seed=settings.seed)
    return Evaluated(
        rows=predicted,
        scores=score(predicted),
        intervals=bootstrap_intervals(predicted, weights, settings.confidence),
    )


def _compare(rows: dict[str, PredictedRows], candidate: str, settings: CompareSettings) -> list[Comparison]:
    """The candidate against each baseline on the rows that all models share."""
    if candidate not in rows or len(rows) < 2:
        return []
    shared = common_rows(rows)
    own = shared[candidate]
    if len(own) == 0:
        return []
    weights = bootstrap_weights(own.labels, own.groups, resamples=settings.resamples, seed=settings.seed)
    pairs = [
        compare_pair(own, other, weights, name=name, confidence=settings.confidence)
        for name, other in shared.items()
        if name != candidate
    ]
    return adjust(pairs)


def _fold_precision(predicted: PredictedRows, folds: int, settings: CompareSettings) -> list[FoldPrecision]:
    entries = []
    for fold in range(folds):
        own = predicted.select(predicted.folds == fold)
        if len(own) == 0:
            continue
        weights = bootstrap_weights(own.labels, own.groups, resamples=settings.resamples, seed=settings.seed)
        entries.append(
            FoldPrecision(
                fold=fold,
                rows=len(own),
                value=float(macro_precision(own, np.ones((1, len(own))))[0]),
                interval=percentile_interval(macro_precision(own, weights), settings.confidence),
            )
        )
    return entries


def described_rows(kind: str, entry: Evaluated) -> str:
    """Say which rows a figure is computed on.

    Args:
        kind: ``TEST`` or ``OUT_OF_FOLD``.
        entry: A model on these rows.

    Returns:
        Such as "held-out test rows, n = 60".
    """
    patients = entry.rows.group_count
    count = f"n = {len(entry.rows)}"
    if patients != len(entry.rows):
        count += f" of {patients} patients"
    return f"{'held-out test rows' if kind == TEST else 'out-of-fold training rows'}, {count}"
