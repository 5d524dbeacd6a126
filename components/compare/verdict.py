"""What the comparison says, in plain sentences: the first lines of the report."""

from __future__ import annotations

import math

from components.compare.names import join_names, model_name
from components.compare.results import Results, described_rows
from components.compare.settings import CompareSettings
from data_schemas.predictions import OUT_OF_FOLD, TEST
from evaluation.comparisons import Comparison
from evaluation.report import interval, number, p_value


def verdict(results: Results, settings: CompareSettings) -> list[str]:
    """Say which model is best, and whether that could be chance.

    Args:
        results: From ``evaluate``.
        settings: Significance and the models that count as simple.

    Returns:
        Sentences; the first one is the answer.
    """
    best = results.best(TEST)
    candidate = model_name(results.candidate)
    rows = described_rows(TEST, results.evaluated[TEST][results.candidate])
    if best is None:
        return [f"No macro AUC can be computed on the {rows}: fewer than two classes occur among them."]
    lines = [_first_line(results, best, rows, settings)]
    if not results.comparisons[TEST]:
        return [*lines, f"{candidate} was compared with no other model on these rows."]
    simple = _simple_rival(results, best, settings)
    if simple:
        lines.append(simple)
    lines.append(_significance(results.comparisons[TEST], candidate, "these rows", settings))
    own = results.evaluated[OUT_OF_FOLD].get(results.candidate)
    first = results.best(OUT_OF_FOLD)
    if own is not None and first is not None and results.comparisons[OUT_OF_FOLD]:
        where = f"the {described_rows(OUT_OF_FOLD, own)}"
        behind = (
            ""
            if first == results.candidate
            else f", the candidate's {_macro_auc(results, results.candidate, OUT_OF_FOLD)}"
        )
        lines.append(
            f"On {where}, the highest macro AUC is that of {_scored(results, first, OUT_OF_FOLD)}{behind}. "
            + _significance(results.comparisons[OUT_OF_FOLD], candidate, "them", settings)
        )
    return lines


def _first_line(results: Results, best: str, rows: str, settings: CompareSettings) -> str:
    if best == results.candidate:
        return f"{_scored(results, best, TEST)} has the highest macro AUC of all models on the {rows}."
    simple = best in settings.simple_models
    pair = next((pair for pair in results.comparisons[TEST] if pair.baseline == best), None)
    p = pair.macro_auc_adjusted_p_value if pair else math.nan
    significant = p < settings.significance
    if significant:
        lead = "A simpler model wins" if simple else "Another model wins"
    else:
        lead = "A simpler model is at least as good" if simple else "Another model is at least as good"
    line = (
        f"{lead}: {_scored(results, best, TEST)} has the highest macro AUC on the {rows}, the candidate "
        f"{_scored(results, results.candidate, TEST)}."
    )
    if math.isnan(p):
        return line
    found = "is significant" if significant else "could be chance"
    return f"{line} The difference {found} ({p_value(p)} after Holm's correction)."


def _simple_rival(results: Results, best: str, settings: CompareSettings) -> str:
    """Name the simple models that the candidate, though first, cannot be told from."""
    if best != results.candidate:
        return ""
    equal = [
        pair.baseline
        for pair in results.comparisons[TEST]
        if pair.baseline in settings.simple_models and not pair.macro_auc_adjusted_p_value < settings.significance
    ]
    if not equal:
        return ""
    verb = "does" if len(equal) == 1 else "do"
    return f"A simpler model may serve as well: {join_names(equal)} {verb} not differ significantly from it."


def _significance(pairs: list[Comparison], candidate: str, where: str, settings: CompareSettings) -> str:
    better, worse, equal = _sorted_pairs(pairs, settings)
    parts = []
    if better:
        parts.append(f"is significantly better than {join_names(better)}")
    if worse:
        parts.append(f"is significantly worse than {join_names(worse)}")
    if equal:
        parts.append(f"cannot be told from {join_names(equal)}")
    limit = f"Holm-adjusted p < {settings.significance:g}"
    return f"By macro AUC on {where}, {candidate} {'; it '.join(parts)} ({limit} counts as a difference)."


def _sorted_pairs(pairs: list[Comparison], settings: CompareSettings) -> tuple[list[str], list[str], list[str]]:
    better: list[str] = []
    worse: list[str] = []
    equal: list[str] = []
    for pair in pairs:
        p = pair.macro_auc_adjusted_p_value
        if math.isnan(p) or p >= settings.significance:
            equal.append(pair.baseline)
        else:
            (better if pair.macro_auc.value > 0 else worse).append(pair.baseline)
    return better, worse, equal


def _scored(results: Results, name: str, kind: str) -> str:
    return f"{model_name(name)} ({_macro_auc(results, name, kind)})"


def _macro_auc(results: Results, name: str, kind: str) -> str:
    entry = results.evaluated[kind][name]
    bounds = entry.intervals.overall["macro_auc"]
    return f"{number(entry.scores.overall['macro_auc'])}, {interval(bounds.low, bounds.high)}"
