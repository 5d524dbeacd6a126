"""The report's figures, drawn from the results."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from components.compare.names import model_name
from components.compare.results import Evaluated, Results, described_rows
from data_schemas.predictions import OUT_OF_FOLD, TEST
from evaluation.calibration import reliability
from evaluation.paper import paper_results
from evaluation.plots import DotSeries, confusion_plot, dot_plot, reliability_plot, roc_plot
from evaluation.report import number, readable


@dataclass(frozen=True)
class Chart:
    """A figure with its words.

    Attributes:
        figure: The drawing.
        caption: Title, with the rows that it is computed on.
        alternative: What a reader who cannot see it should know.
    """

    figure: Figure
    caption: str
    alternative: str


def all_charts(results: Results) -> dict[str, Chart]:
    """Draw every figure that the results allow.

    Args:
        results: From ``evaluate``.

    Returns:
        File name without ending to chart.
    """
    charts = {
        "macro_auc": _macro_auc_chart(results),
        "fig_4_confusion": _confusion_chart(results),
        "fig_5_accuracy_by_class": _class_chart(results, ("accuracy", "recall"), "Fig. 5, accuracy by class"),
        "fig_6_kappa_mcc_by_class": _class_chart(results, ("kappa", "mcc"), "Fig. 6, Cohen's kappa and MCC by class"),
        "fig_7_seconds_for_one_diagnosis": _seconds_chart(results),
        "reliability": _reliability_chart(results),
    }
    for kind in (TEST, OUT_OF_FOLD):
        charts[f"roc_{kind}"] = _roc_chart(results, kind)
    return {name: chart for name, chart in charts.items() if chart is not None}


def _macro_auc_chart(results: Results) -> Chart:
    names = [name for name in results.inputs.models if name in results.evaluated[TEST]]
    series, notes = [], []
    for kind, title in ((TEST, "Held-out test rows"), (OUT_OF_FOLD, "Out-of-fold training rows")):
        entries = [results.evaluated[kind].get(name) for name in names]
        if not any(entries):
            continue
        series.append(_series(title, entries, "macro_auc"))
        notes.append(described_rows(kind, next(entry for entry in entries if entry)))
    values = ", ".join(
        f"{model_name(name)} {number(value)}" for name, value in zip(names, series[0].values, strict=True)
    )
    return Chart(
        figure=dot_plot(
            [model_name(name) for name in names], series, label="Macro AUC (one-vs-rest)", highest=1.0, emphasis=0
        ),
        caption=f"Macro AUC of each model with bootstrap intervals; {' and '.join(notes)}",
        alternative=f"Macro AUC on held-out rows: {values}.",
    )


def _series(title: str, entries: list[Evaluated | None], metric: str) -> DotSeries:
    def column(pick: str) -> np.ndarray:
        return np.array(
            [
                np.nan
                if entry is None
                else (
                    entry.scores.overall[metric] if pick == "value" else getattr(entry.intervals.overall[metric], pick)
                )
                for entry in entries
            ]
        )

    return DotSeries(title, column("value"), column("low"), column("high"))


def _confusion_chart(results: Results) -> Chart:
    confusions, notes = {}, []
    for kind, title in ((TEST, "Held-out test rows"), (OUT_OF_FOLD, "Out-of-fold training rows")):
        entry = results.evaluated[kind].get(results.candidate)
        if entry is not None:
            confusions[title] = entry.scores.confusion
            notes.append(described_rows(kind, entry))
    own = results.evaluated[TEST][results.candidate].scores
    hits = ", ".join(
        f"{readable(label)} {int(own.confusion[k, k])} of {int(own.confusion[k].sum())}"
        for k, label in enumerate(results.classes)
    )
    return Chart(
        figure=confusion_plot(confusions, [readable(label) for label in results.classes]),
        caption=f"Fig. 4, confusion matrix of {model_name(results.candidate)}; {' and '.join(notes)}. "
        "Counts; shade is the share of the true class",
        alternative=f"Right on held-out rows: {hits}.",
    )


def _class_chart(results: Results, metrics: tuple[str, ...], title: str) -> Chart:
    names = {"accuracy": "Accuracy, one-vs-rest", "recall": "Recall", "kappa": "Kappa", "mcc": "MCC"}
    entry = results.evaluated[TEST][results.candidate]
    series = []
    for metric in metrics:
        bounds = entry.intervals.by_class[metric]
        series.append(
            DotSeries(
                names[metric],
                entry.scores.by_class[metric],
                np.array([bound.low for bound in bounds]),
                np.array([bound.high for bound in bounds]),
            )
        )
    if "accuracy" in metrics:
        paper = paper_results()
        published = [paper.accuracy.get(paper.code(label) or "", np.nan) for label in results.classes]
        if np.isfinite(published).any():
            series.append(DotSeries("Paper's accuracy", np.array(published)))
    spoken = "; ".join(
        f"{readable(label)} " + ", ".join(f"{names[m].lower()} {number(entry.scores.by_class[m][k])}" for m in metrics)
        for k, label in enumerate(results.classes)
    )
    return Chart(
        figure=dot_plot(
            [readable(label) for label in results.classes],
            series,
            label=" and ".join(names[metric] for metric in metrics),
            highest=1.0,
        ),
        caption=f"{title}, {model_name(results.candidate)}; {described_rows(TEST, entry)}",
        alternative=f"On held-out rows: {spoken}.",
    )


def _seconds_chart(results: Results) -> Chart | None:
    paper = paper_results()
    codes = [paper.code(label) or "" for label in results.classes]
    timed = {
        name: np.array([model.seconds_per_diagnosis.get(label, np.nan) for label in results.classes])
        for name, model in results.inputs.models.items()
    }
    timed = {name: values for name, values in timed.items() if np.isfinite(values).any()}
    if not timed:
        return None
    series = [DotSeries(model_name(name), values) for name, values in timed.items()]
    published = np.array([paper.diagnosis_seconds.get(code, np.nan) for code in codes])
    if np.isfinite(published).any():
        traditional = np.array([paper.traditional_seconds.get(code, np.nan) for code in codes])
        series += [DotSeries("Paper's method", published), DotSeries("Paper's EMR", traditional)]
    spoken = ", ".join(f"{model_name(name)} {np.nanmedian(values):.2g} s" for name, values in timed.items())
    return Chart(
        figure=dot_plot(
            [readable(label) for label in results.classes],
            series,
            label="Seconds for one diagnosis (median, logarithmic)",
            logarithmic=True,
        ),
        caption="Fig. 7, seconds for one diagnosis: a single prepared sample through the model, median by class",
        alternative=f"Median seconds for one diagnosis: {spoken}.",
    )


def _roc_chart(results: Results, kind: str) -> Chart | None:
    entries = results.evaluated[kind]
    if not entries or results.best(kind) is None:
        return None
    first = next(iter(entries.values()))
    spoken = ", ".join(
        f"{model_name(name)} {number(entry.scores.overall['macro_auc'])}" for name, entry in entries.items()
    )
    return Chart(
        figure=roc_plot(
            {model_name(name): entry.rows for name, entry in entries.items()},
            [readable(label) for label in results.classes],
        ),
        caption=f"ROC curves by class, one-vs-rest; {described_rows(kind, first)}",
        alternative=f"One-vs-rest ROC curves. Macro AUC: {spoken}.",
    )


def _reliability_chart(results: Results) -> Chart:
    curves, notes, spoken = {}, [], []
    for kind, title in ((TEST, "held-out test rows"), (OUT_OF_FOLD, "out-of-fold training rows")):
        entry = results.evaluated[kind].get(results.candidate)
        if entry is None:
            continue
        curves[title.capitalize()] = reliability(entry.rows.labels, entry.rows.probabilities)
        notes.append(described_rows(kind, entry))
        spoken.append(f"{number(entry.scores.overall['calibration_error'])} on {title}")
    return Chart(
        figure=reliability_plot(curves),
        caption=f"Reliability of {model_name(results.candidate)}'s probabilities; {' and '.join(notes)}. "
        "Marks are sized by rows; on the diagonal a probability can be taken at its word",
        alternative=f"Expected calibration error: {', '.join(spoken)}.",
    )
