"""The comparison's numbers as tidy tables, one row a figure, for the CSV files."""

from __future__ import annotations

import numpy as np
import pandas as pd

from components.compare.names import HEADLINE
from components.compare.results import Evaluated, Results
from data_schemas.features import MODALITIES
from data_schemas.predictions import OUT_OF_FOLD, TEST
from evaluation.metrics import OVERALL_METRICS
from evaluation.paper import NO_CLASS_FIGURE, NO_MODEL_FIGURE, paper_results


def all_tables(results: Results) -> dict[str, pd.DataFrame]:
    """Build every table.

    Args:
        results: From ``evaluate``.

    Returns:
        File name without ending to table. None has a patient's id.
    """
    return {
        "headline": overall_table(results),
        "comparisons": comparisons_table(results),
        "table_2_auc_by_class": auc_table(results),
        "table_3_macro_precision_by_fold": precision_table(results),
        "fig_4_confusion": confusion_table(results),
        "fig_5_accuracy_by_class": class_table(results, ("accuracy", "recall", "precision", "specificity")),
        "fig_6_kappa_mcc_by_class": class_table(results, ("kappa", "mcc")),
        "fig_7_seconds_for_one_diagnosis": seconds_table(results),
        "modalities": modality_table(results),
    }


def overall_table(results: Results) -> pd.DataFrame:
    """All overall metrics with intervals.

    Args:
        results: From ``evaluate``.

    Returns:
        Columns set, rows, model, metric, value, low, high.
    """
    return pd.DataFrame(
        [
            {
                "set": kind,
                "rows": len(entry.rows),
                "model": name,
                "metric": metric,
                "value": entry.scores.overall[metric],
                "low": entry.intervals.overall[metric].low,
                "high": entry.intervals.overall[metric].high,
            }
            for kind, name, entry in _entries(results)
            for metric in OVERALL_METRICS
        ]
    )


def comparisons_table(results: Results) -> pd.DataFrame:
    """The paired comparisons of the candidate with each baseline.

    Args:
        results: From ``evaluate``.

    Returns:
        One row a set and baseline; differences are candidate minus baseline.
    """
    rows = [
        {
            "set": kind,
            "rows": pair.rows,
            "candidate": results.candidate,
            "baseline": pair.baseline,
            "macro_auc_difference": pair.macro_auc.value,
            "macro_auc_low": pair.macro_auc.interval.low,
            "macro_auc_high": pair.macro_auc.interval.high,
            "macro_auc_p": pair.macro_auc.p_value,
            "macro_auc_p_holm": pair.macro_auc_adjusted_p_value,
            "accuracy_difference": pair.accuracy.value,
            "accuracy_low": pair.accuracy.interval.low,
            "accuracy_high": pair.accuracy.interval.high,
            "only_candidate_right": pair.only_candidate,
            "only_baseline_right": pair.only_baseline,
            "mcnemar_p": pair.mcnemar_p_value,
            "mcnemar_p_holm": pair.mcnemar_adjusted_p_value,
        }
        for kind, pairs in results.comparisons.items()
        for pair in pairs
    ]
    return pd.DataFrame(rows, columns=None if rows else ["set", "rows", "candidate", "baseline"])


def auc_table(results: Results) -> pd.DataFrame:
    """Table II: AUC by class and model.

    Args:
        results: From ``evaluate``.

    Returns:
        Columns set, rows, model, class, class_rows, value, low, high, paper, paper_note.
    """
    paper = paper_results()
    rows = []
    for kind, name, entry in _entries(results):
        for k, label in enumerate(results.classes):
            published = paper.class_auc(name, label)
            note = "" if published is not None else _paper_note(name, label)
            rows.append(_class_row(kind, name, entry, "auc", k, label) | {"paper": published, "paper_note": note})
    return pd.DataFrame(rows).drop(columns="metric").astype({"paper": float})


def class_table(results: Results, metrics: tuple[str, ...]) -> pd.DataFrame:
    """Figs. 5 and 6: metrics by class, of every model.

    Args:
        results: From ``evaluate``.
        metrics: Names among ``metrics.CLASS_METRICS``.

    Returns:
        Columns set, rows, model, metric, class, class_rows, value, low, high, paper, paper_note. The paper gives these
        figures for its CNN-LSTM only, kappa and MCC in words.
    """
    rows = [
        _class_row(kind, name, entry, metric, k, label)
        | dict(zip(("paper", "paper_note"), _published(name, metric, label), strict=True))
        for kind, name, entry in _entries(results)
        for metric in metrics
        for k, label in enumerate(results.classes)
    ]
    return pd.DataFrame(rows).astype({"paper": float})


def precision_table(results: Results) -> pd.DataFrame:
    """Table III: macro precision by fold, each on the rows that the fold held out.

    Args:
        results: From ``evaluate``.

    Returns:
        Columns model, fold (from 1), rows, value, low, high, paper; the paper's number of the same fold where it has
        one and the classes are the paper's. The two cohorts' folds have nothing in common but the number.
    """
    paper = paper_results()
    same_classes = all(paper.code(label) for label in results.classes)
    rows = []
    for name, folds in results.fold_precision.items():
        published = (paper.fold_precision(name) if same_classes else None) or []
        for entry in folds:
            rows.append(
                {
                    "model": name,
                    "fold": entry.fold + 1,
                    "rows": entry.rows,
                    "value": entry.value,
                    "low": entry.interval.low,
                    "high": entry.interval.high,
                    "paper": published[entry.fold] if entry.fold < len(published) else np.nan,
                }
            )
    return pd.DataFrame(rows, columns=["model", "fold", "rows", "value", "low", "high", "paper"])


def confusion_table(results: Results) -> pd.DataFrame:
    """Fig. 4: confusion matrices of every model, counts.

    Args:
        results: From ``evaluate``.

    Returns:
        Columns set, rows, model, true, predicted, count, paper_count_of_300 (of the paper's
        CNN-LSTM, where the classes are the paper's).
    """
    paper = paper_results()
    codes = [paper.code(label) for label in results.classes]
    rows = []
    for kind, name, entry in _entries(results):
        published = paper.models.get(name) == "CNN-LSTM"
        for (i, j), count in np.ndenumerate(entry.scores.confusion):
            true, predicted = codes[i], codes[j]
            known = published and true is not None and predicted is not None
            cell = paper.confusion[paper.codes.index(true or ""), paper.codes.index(predicted or "")] if known else None
            rows.append(
                {
                    "set": kind,
                    "rows": len(entry.rows),
                    "model": name,
                    "true": results.classes[i],
                    "predicted": results.classes[j],
                    "count": int(count),
                    "paper_count_of_300": cell,
                }
            )
    return pd.DataFrame(rows).astype({"paper_count_of_300": "Int64"})


def seconds_table(results: Results) -> pd.DataFrame:
    """Fig. 7: median seconds for one diagnosis, by class.

    Args:
        results: From ``evaluate``.

    Returns:
        Columns model, class, seconds, paper_seconds (its CNN-LSTM), paper_traditional_seconds.
    """
    paper = paper_results()
    rows = [
        {
            "model": name,
            "class": label,
            "seconds": model.seconds_per_diagnosis.get(label, np.nan),
            "paper_seconds": paper.diagnosis_seconds.get(paper.code(label) or "", np.nan)
            if paper.models.get(name) == "CNN-LSTM"
            else np.nan,
            "paper_traditional_seconds": paper.traditional_seconds.get(paper.code(label) or "", np.nan),
        }
        for name, model in results.inputs.models.items()
        if not model.reason
        for label in results.classes
    ]
    return pd.DataFrame(rows)


def modality_table(results: Results) -> pd.DataFrame:
    """How often each combination of modalities is present, and how the candidate fares on it.

    Args:
        results: From ``evaluate``.

    Returns:
        Columns set, one Boolean a modality, rows, accuracy (of the candidate).
    """
    frames = []
    for kind in (TEST, OUT_OF_FOLD):
        entry = results.evaluated[kind].get(results.candidate)
        if entry is None:
            continue
        frame = pd.DataFrame(results.inputs.features.present[entry.rows.rows], columns=list(MODALITIES))
        frame["right"] = entry.rows.predicted == entry.rows.labels
        grouped = frame.groupby(list(MODALITIES), sort=True)["right"].agg(rows="size", accuracy="mean")
        frames.append(grouped.reset_index().assign(set=kind).sort_values("rows", ascending=False, kind="stable"))
    return pd.concat(frames, ignore_index=True)[["set", *MODALITIES, "rows", "accuracy"]]


def headline_rows(results: Results) -> list[dict[str, str | float | int | None]]:
    """The rows of the short table that ends a run: every model on held-out rows, the best first.

    Args:
        results: From ``evaluate``.

    Returns:
        One dictionary a model: model, status, reason, candidate, rows, each headline metric and its ``_low`` and
        ``_high``; None where undefined.
    """
    rows: list[dict[str, str | float | int | None]] = []
    for name, model in results.inputs.models.items():
        entry = results.evaluated[TEST].get(name)
        status = "not_applicable" if model.reason else ("done" if entry else "no_test_predictions")
        row: dict[str, str | float | int | None] = {
            "model": name,
            "status": status,
            "reason": model.reason or None,
            "candidate": name == results.candidate,
            "rows": len(entry.rows) if entry else 0,
        }
        for metric in HEADLINE:
            row[metric] = finite(entry.scores.overall[metric]) if entry else None
            row[f"{metric}_low"] = finite(entry.intervals.overall[metric].low) if entry else None
            row[f"{metric}_high"] = finite(entry.intervals.overall[metric].high) if entry else None
        rows.append(row)
    return sorted(rows, key=lambda row: -float(row["macro_auc"]) if row["macro_auc"] is not None else 1.0)


def finite(value: float) -> float | None:
    """Return a number that JSON can hold.

    Args:
        value: Any number.

    Returns:
        The number, or None for NaN and infinities.
    """
    return float(value) if np.isfinite(value) else None


def _entries(results: Results) -> list[tuple[str, str, Evaluated]]:
    return [(kind, name, entry) for kind in (TEST, OUT_OF_FOLD) for name, entry in results.evaluated[kind].items()]


def _class_row(kind: str, name: str, entry: Evaluated, metric: str, k: int, label: str) -> dict[str, object]:
    bounds = entry.intervals.by_class[metric][k]
    return {
        "set": kind,
        "rows": len(entry.rows),
        "model": name,
        "metric": metric,
        "class": label,
        "class_rows": int(np.count_nonzero(entry.rows.labels == k)),
        "value": entry.scores.by_class[metric][k],
        "low": bounds.low,
        "high": bounds.high,
    }


def _published(name: str, metric: str, label: str) -> tuple[float, str]:
    """The paper's number and words for a metric of a class; its Figs. 5 and 6 are of its CNN-LSTM alone."""
    paper = paper_results()
    code = paper.code(label)
    if code is None or paper.models.get(name) != "CNN-LSTM":
        return np.nan, _paper_note(name, label) or NO_MODEL_FIGURE
    if metric == "accuracy":
        return paper.accuracy[code], ""
    if metric in ("kappa", "mcc"):
        return np.nan, paper.kappa_and_mcc[code]
    if metric == "recall":
        own = paper.codes.index(code)
        return float(paper.confusion[own, own] / paper.confusion[own].sum()), "from Fig. 4, all 300 participants"
    return np.nan, "the paper has no such figure"


def _paper_note(name: str, label: str) -> str:
    paper = paper_results()
    if paper.code(label) is None:
        return NO_CLASS_FIGURE
    return NO_MODEL_FIGURE if name not in paper.models else ""
