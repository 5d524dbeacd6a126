"""The ``compare`` step: from out-of-fold and test predictions to tables, figures and one report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from components.common.evidence_key import evidence_key
from components.common.files import atomic_folder
from components.common.result import StepResult, ignore_progress
from components.common.sealed import SEALED_FILE, SEALED_FOLDER
from components.compare.calibrate import CalibrationResult, calibrate_candidate
from components.compare.charts import all_charts
from components.compare.held_out import NO_KEY, write_sealed_predictions
from components.compare.inputs import SETS, load_inputs
from components.compare.page import build_report
from components.compare.results import Evaluated, Results, evaluate
from components.compare.settings import CompareSettings
from components.compare.tables import all_tables, comparisons_table, finite, headline_rows
from data_schemas.predictions import OUT_OF_FOLD, TEST
from evaluation.plots import save_png, to_svg
from evaluation.report import Plot, render_html


def compare_models(
    features: Path,
    candidate: Path,
    cross_validations: list[Path],
    validation: Path,
    output: Path,
    settings: CompareSettings,
    progress: Callable[[str], None] = ignore_progress,
) -> StepResult:
    """Compare the candidate with every baseline and write the report.

    Args:
        features: Output of ``preprocess``.
        candidate: Output of ``train``: the candidate's test predictions.
        cross_validations: Outputs of ``cross_validate``, one a model: out-of-fold predictions of all, and test
            predictions of the baselines.
        validation: Output of ``validate``: what the report says of the data.
        output: Folder to write: report.html, metrics.json, headline.json, tables/*.csv, figures/*.png; where the
            candidate has out-of-fold predictions, calibration.json for the registered model; and where the environment
            has a key for them, the candidate's predictions as predictions.sealed.
        settings: Section ``compare`` of the settings.
        progress: Called with short texts.

    Returns:
        Metrics ("test/<model>/<metric>", "out_of_fold/<model>/<metric>", and the candidate's as "test/<metric>"),
        the best model, and the report, tables and figures.

    Raises:
        InputError: Predictions are absent or do not fit the features.
    """
    inputs = load_inputs(features, candidate, cross_validations, validation)
    results = evaluate(inputs, settings, progress)
    calibrated = calibrate_candidate(results, settings.calibration)
    key = evidence_key()
    tags: dict[str, str] = {}
    progress("tables and figures")
    with atomic_folder(output) as folder:
        (folder / "tables").mkdir()
        (folder / "figures").mkdir()
        for name, table in all_tables(results).items():
            table.to_csv(folder / "tables" / f"{name}.csv", index=False)
        plots = {}
        for name, chart in all_charts(results).items():
            file = f"figures/{name}.png"
            save_png(chart.figure, folder / file)
            plots[name] = Plot(chart.caption, to_svg(chart.figure, name), chart.alternative, file)
        report = build_report(results, plots, settings, calibrated)
        (folder / "report.html").write_text(render_html(report), encoding="utf-8")
        if calibrated:
            calibrated.calibration.write(folder)
        _write_json(folder / "metrics.json", metrics_document(results, calibrated))
        _write_json(folder / "headline.json", headline_rows(results))
        if key is not None:
            tags = write_sealed_predictions(results, folder / SEALED_FILE, key)
    return StepResult(
        metrics=_flat_metrics(results) | (calibrated.metrics() if calibrated else {}),
        params={"resamples": settings.resamples, "confidence": settings.confidence, "seed": settings.seed},
        artifacts={
            "report": output / "report.html",
            "tables": output / "tables",
            "figures": output / "figures",
            "metrics": output / "metrics.json",
        }
        | ({SEALED_FOLDER: output / SEALED_FILE} if key is not None else {}),
        tags={"candidate": results.candidate, "best_model": results.best(TEST) or "", **tags},
        warnings=_warnings(results) + ([] if key is not None else [NO_KEY]),
    )


def metrics_document(results: Results, calibrated: CalibrationResult | None) -> dict[str, object]:
    """Return all scores as plain numbers, for other programs.

    Args:
        results: From ``evaluate``.
        calibrated: From ``calibrate_candidate``.

    Returns:
        ``{"candidate", "best_model", "best_model_out_of_fold", "classes", "models": {name: {"status", "reason", "test",
        "out_of_fold"}}, "comparisons": [...], "calibration": {...} or None}``; a set holds each overall metric as a
        number, and under "rows", "intervals", "by_class", "confusion" and "absent_classes" the rest. Undefined numbers
        are None.
    """
    models: dict[str, dict[str, object]] = {}
    for name, model in results.inputs.models.items():
        document: dict[str, object] = {
            "status": "not_applicable" if model.reason else "done",
            "reason": model.reason or None,
        }
        for kind in SETS:
            entry = results.evaluated[kind].get(name)
            document[kind] = _set_document(entry, results.classes) if entry else None
        models[name] = document
    frame = comparisons_table(results)
    return {
        "candidate": results.candidate,
        "best_model": results.best(TEST),
        "best_model_out_of_fold": results.best(OUT_OF_FOLD),
        "classes": results.classes,
        "models": models,
        "comparisons": json.loads(frame.to_json(orient="records")),
        "calibration": calibrated.document() if calibrated else None,
    }


def _set_document(entry: Evaluated, classes: list[str]) -> dict[str, object]:
    overall = {name: finite(value) for name, value in entry.scores.overall.items()}
    bounds = {name: [finite(b.low), finite(b.high)] for name, b in entry.intervals.overall.items()}
    by_class = {
        label: {metric: finite(values[k]) for metric, values in entry.scores.by_class.items()}
        for k, label in enumerate(classes)
    }
    return overall | {
        "rows": len(entry.rows),
        "intervals": bounds,
        "by_class": by_class,
        "confusion": entry.scores.confusion.tolist(),
        "absent_classes": [classes[k] for k in entry.scores.absent],
    }


def _flat_metrics(results: Results) -> dict[str, float]:
    flat: dict[str, float] = {}
    for kind in SETS:
        for name, entry in results.evaluated[kind].items():
            scores = {metric: value for metric, value in entry.scores.overall.items() if finite(value) is not None}
            flat |= {f"{kind}/{name}/{metric}": value for metric, value in scores.items()}
            if name == results.candidate:
                flat |= {f"{kind}/{metric}": value for metric, value in scores.items()}
                flat |= {
                    f"{kind}/{metric}_{side}": getattr(bounds, side)
                    for metric, bounds in entry.intervals.overall.items()
                    for side in ("low", "high")
                    if finite(getattr(bounds, side)) is not None
                }
    return flat


def _warnings(results: Results) -> list[str]:
    lines = []
    absent = results.evaluated[TEST][results.candidate].scores.absent
    if absent:
        names = ", ".join(results.classes[k] for k in absent)
        lines.append(f"Held-out rows have no sample of: {names}; averages over classes leave it out.")
    if results.candidate not in results.evaluated[OUT_OF_FOLD]:
        lines.append("The candidate has no out-of-fold predictions: the registered model is not calibrated.")
    return lines


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
