"""The report's tables: results as cells, with the paper's numbers below ours."""

from __future__ import annotations

import math

import numpy as np

from components.compare.calibrate import JUDGED, CalibrationResult
from components.compare.names import HEADLINE, METRICS, join_names, model_name
from components.compare.results import Evaluated, Results, described_rows
from components.compare.tables import headline_rows, modality_table
from data_schemas.features import MODALITIES
from data_schemas.predictions import OUT_OF_FOLD, TEST
from evaluation.intervals import Interval
from evaluation.paper import NO_CLASS_FIGURE, NO_MODEL_FIGURE, paper_results
from evaluation.report import Cell, Table, interval, number, p_value, readable

QUALITY = ("macro_recall", "macro_f1", "log_loss", "brier", "calibration_error")


def overall_table(results: Results, kind: str, *, metrics: tuple[str, ...] = HEADLINE, folded: bool = False) -> Table:
    """Every model's overall metrics, the best first, models that cannot run last.

    Args:
        results: From ``evaluate``.
        kind: ``TEST`` or ``OUT_OF_FOLD``.
        metrics: Names among ``metrics.OVERALL_METRICS``.
        folded: Whether the reader opens it.

    Returns:
        The table.
    """
    entries = results.evaluated[kind]
    order = [str(row["model"]) for row in headline_rows(results)]
    rows = []
    for name in order:
        called = model_name(name) + (" (candidate)" if name == results.candidate else "")
        entry = entries.get(name)
        if entry is None:
            reason = "not applicable" if results.inputs.models[name].reason else "no predictions"
            rows.append([Cell(called), Cell(reason), *[Cell("–")] * (len(metrics) - 1)])
            continue
        rows.append(
            [Cell(called, strong=name == results.candidate)]
            + [value_cell(entry.scores.overall[m], entry.intervals.overall[m]) for m in metrics]
        )
    notes = [
        f"{model_name(name)} is not applicable: {model.reason.rstrip('.')}."
        for name, model in results.inputs.models.items()
        if model.reason
    ]
    some = next(iter(entries.values()))
    if some.scores.absent:
        names = ", ".join(readable(results.classes[k]) for k in some.scores.absent)
        notes.append(f"These rows have no sample of {names}; averages over classes leave it out.")
    return Table(
        caption=f"Every model; {described_rows(kind, some)}",
        headers=["Model", *[METRICS[m] for m in metrics]],
        rows=rows,
        notes=notes,
        file="tables/headline.csv",
        folded=folded,
    )


def comparison_table(results: Results, kind: str, *, folded: bool = False) -> Table | None:
    """The paired comparisons of the candidate with each baseline.

    Args:
        results: From ``evaluate``.
        kind: ``TEST`` or ``OUT_OF_FOLD``.
        folded: Whether the reader opens it.

    Returns:
        The table, or None where nothing was compared.
    """
    pairs = results.comparisons[kind]
    if not pairs:
        return None
    rows = [
        [
            Cell(model_name(pair.baseline)),
            _signed_cell(pair.macro_auc.value, pair.macro_auc.interval),
            Cell(p_value(pair.macro_auc.p_value)),
            Cell(p_value(pair.macro_auc_adjusted_p_value)),
            _signed_cell(pair.accuracy.value, pair.accuracy.interval),
            Cell(f"{pair.only_candidate} : {pair.only_baseline}"),
            Cell(p_value(pair.mcnemar_p_value)),
            Cell(p_value(pair.mcnemar_adjusted_p_value)),
        ]
        for pair in pairs
    ]
    own = results.evaluated[kind][results.candidate]
    where = "held-out test rows" if kind == TEST else "out-of-fold training rows"
    notes = ["Differences are candidate minus baseline on the same rows and the same bootstrap resamples."]
    if own.rows.group_count != len(own.rows):
        notes.append("McNemar's test is left out: some patients have several rows, which it would take as independent.")
    return Table(
        caption=f"{model_name(results.candidate)} against each baseline; {where} common to all models, "
        f"n = {pairs[0].rows}",
        headers=[
            "Baseline",
            "Macro AUC difference",
            "Bootstrap test",
            "Holm-adjusted",
            "Accuracy difference",
            "Right alone (ours : theirs)",
            "McNemar's test",
            "Holm-adjusted",
        ],
        rows=rows,
        notes=notes,
        file="tables/comparisons.csv",
        folded=folded,
    )


def auc_table(results: Results, kind: str, *, folded: bool = False) -> Table:
    """Table II: AUC by class and model, the paper's below ours.

    Args:
        results: From ``evaluate``.
        kind: ``TEST`` or ``OUT_OF_FOLD``.
        folded: Whether the reader opens it.

    Returns:
        The table.
    """
    paper = paper_results()
    rows = []
    for name, entry in results.evaluated[kind].items():
        row = [Cell(model_name(name), strong=name == results.candidate)]
        for k, label in enumerate(results.classes):
            published = paper.class_auc(name, label)
            shown = "" if published is None else f"{published:.2f}"
            row.append(value_cell(entry.scores.by_class["auc"][k], entry.intervals.by_class["auc"][k], shown))
        rows.append(row)
    some = next(iter(results.evaluated[kind].values()))
    return Table(
        caption=f"Table II, AUC by class and model, one-vs-rest; {described_rows(kind, some)}",
        headers=["Model", *_class_headers(results, some)],
        rows=rows,
        notes=_paper_notes(results, models=True),
        file="tables/table_2_auc_by_class.csv",
        folded=folded,
    )


def class_table(results: Results, kind: str, *, folded: bool = False) -> Table:
    """Figs. 5 and 6 as numbers: the candidate's metrics by class.

    Args:
        results: From ``evaluate``.
        kind: ``TEST`` or ``OUT_OF_FOLD``.
        folded: Whether the reader opens it.

    Returns:
        The table.
    """
    paper = paper_results()
    entry = results.evaluated[kind][results.candidate]
    rows = []
    for k, label in enumerate(results.classes):
        code = paper.code(label)
        published = {"accuracy": f"{paper.accuracy[code]:.3f}"} if code else {}
        if code:
            published |= dict.fromkeys(("kappa", "mcc"), paper.kappa_and_mcc[code])
        row = [Cell(readable(label)), Cell(str(int(np.count_nonzero(entry.rows.labels == k))))]
        for metric in ("accuracy", "recall", "specificity", "precision", "kappa", "mcc"):
            bounds = entry.intervals.by_class[metric][k]
            row.append(value_cell(entry.scores.by_class[metric][k], bounds, published.get(metric, "")))
        rows.append(row)
    return Table(
        caption=f"Figs. 5 and 6 as numbers, {model_name(results.candidate)}; {described_rows(kind, entry)}",
        headers=["Class", "Rows", "Accuracy, one-vs-rest", "Recall", "Specificity", "Precision", "Kappa", "MCC"],
        rows=rows,
        notes=[
            "Accuracy, one-vs-rest: share of all rows on which “this class or not” is right. Recall: share of the "
            "class's own rows that were found. The paper does not say which of them its Fig. 5 shows.",
            *_paper_notes(results, models=False),
        ],
        file="tables/fig_5_accuracy_by_class.csv, tables/fig_6_kappa_mcc_by_class.csv",
        folded=folded,
    )


def precision_table(results: Results) -> Table | None:
    """Table III: macro precision by fold and model.

    Args:
        results: From ``evaluate``.

    Returns:
        The table, or None where no model has out-of-fold predictions.
    """
    if not results.fold_precision:
        return None
    count = results.inputs.features.manifest.folds
    same_classes = all(paper_results().code(label) for label in results.classes)
    rows = []
    for name, folds in results.fold_precision.items():
        published = paper_results().fold_precision(name) if same_classes else None
        by_fold = {entry.fold: entry for entry in folds}
        row = [Cell(model_name(name), strong=name == results.candidate)]
        for fold in range(count):
            entry = by_fold.get(fold)
            same = f"{published[fold]:.2f}" if published and count == len(published) else ""
            row.append(value_cell(entry.value, entry.interval, same) if entry else Cell("–"))
        values = np.array([entry.value for entry in folds])
        mean = "" if published is None else f"{np.mean(published):.3f} ({min(published):.2f} to {max(published):.2f})"
        spread = f"{number(values.min())} to {number(values.max())}"
        rows.append([*row, Cell(number(float(values.mean())), f"folds {spread}", mean)])
    sizes = [entry.rows for entry in next(iter(results.fold_precision.values()))]
    some = next(iter(results.evaluated[OUT_OF_FOLD].values()))
    size = str(min(sizes)) if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
    notes = ["A fold is scored by models that were fitted on the other folds."]
    if same_classes:
        notes.append(
            "The paper's 10 folds are of another cohort; their mean and range stand beside ours, and each of them too "
            "where there are 10 here."
        )
        without = [name for name in results.fold_precision if paper_results().fold_precision(name) is None]
        if without:
            notes.append(f"{join_names(without)}: {NO_MODEL_FIGURE}.")
    else:
        notes.append("The paper's classes are others, so its macro precision does not stand beside ours.")
    return Table(
        caption=f"Table III, macro precision by fold; {described_rows(OUT_OF_FOLD, some)}, {size} a fold",
        headers=["Model", *[f"Fold {fold + 1}" for fold in range(count)], "Mean of folds"],
        rows=rows,
        notes=notes,
        file="tables/table_3_macro_precision_by_fold.csv",
    )


def seconds_table(results: Results) -> Table:
    """Fig. 7 as numbers: median seconds for one diagnosis by class and model.

    Args:
        results: From ``evaluate``.

    Returns:
        The table.
    """
    paper = paper_results()
    codes = [paper.code(label) or "" for label in results.classes]
    rows = []
    for name, model in results.inputs.models.items():
        if not model.seconds_per_diagnosis:
            continue
        values = [model.seconds_per_diagnosis.get(label, math.nan) for label in results.classes]
        cells = [Cell("–" if math.isnan(value) else f"{value:.3g}") for value in values]
        rows.append([Cell(model_name(name), strong=name == results.candidate), *cells])
    if any(codes):
        rows.append([Cell("Paper: its method"), *[Cell(str(paper.diagnosis_seconds.get(c, "–"))) for c in codes]])
        rows.append([Cell("Paper: EMR"), *[Cell(str(paper.traditional_seconds.get(c, "–"))) for c in codes]])
    return Table(
        caption="Fig. 7 as numbers, seconds for one diagnosis; median over single samples of each class",
        headers=["Model", *[readable(label) for label in results.classes]],
        rows=rows,
        notes=[
            "Ours is the model alone on one prepared sample. The paper does not say what its seconds include, or on "
            "which machine; the two are not the same measurement.",
            *_paper_notes(results, models=False),
        ],
        file="tables/fig_7_seconds_for_one_diagnosis.csv",
    )


def presence_table(results: Results) -> Table:
    """Which modalities the samples have, and how the candidate fares on each combination.

    Args:
        results: From ``evaluate``.

    Returns:
        The table.
    """
    rows = []
    for record in modality_table(results).to_dict("records"):
        present = [name for name in MODALITIES if record[name]]
        rows.append(
            [
                Cell(" + ".join(present) or "none"),
                Cell("held-out test" if record["set"] == TEST else "out-of-fold training"),
                Cell(str(record["rows"])),
                Cell(number(record["accuracy"])),
            ]
        )
    return Table(
        caption=f"Modalities present, and accuracy of {model_name(results.candidate)} on these rows",
        headers=["Present", "Rows of", "Number", "Accuracy"],
        rows=rows,
        file="tables/modalities.csv",
    )


def before_after_table(results: Results, calibrated: CalibrationResult) -> Table:
    """The candidate's probabilities before and after calibration.

    Args:
        results: From ``evaluate``.
        calibrated: From ``calibrate_candidate``.

    Returns:
        The table.
    """
    rows = [
        [Cell(name), *[Cell(number(figures[metric])) for metric in JUDGED]]
        for name, figures in (("As the model gives them", calibrated.before), ("Calibrated", calibrated.after))
    ]
    return Table(
        caption=f"Probabilities of {model_name(results.candidate)}, before and after calibration; "
        f"{described_rows(TEST, results.evaluated[TEST][results.candidate])}",
        headers=["Probabilities", *[METRICS[metric] for metric in JUDGED]],
        rows=rows,
    )


def conformal_table(results: Results, calibrated: CalibrationResult) -> Table:
    """Coverage and size of the conformal sets, overall and by class.

    Args:
        results: From ``evaluate``.
        calibrated: From ``calibrate_candidate``.

    Returns:
        The table.
    """
    entries = {"All rows": calibrated.sets} | {
        readable(name): scores for name, scores in calibrated.sets_by_class.items()
    }
    rows = [
        [
            Cell(name, strong=scores is calibrated.sets),
            Cell(str(scores.rows)),
            *[
                Cell(number(math.nan if value is None else value))
                for value in (
                    scores.coverage,
                    scores.mean_set_size,
                    scores.abstained,
                    scores.accuracy_of_answered,
                )
            ],
        ]
        for name, scores in entries.items()
    ]
    return Table(
        caption=f"Conformal sets of {model_name(results.candidate)} at {1 - calibrated.calibration.alpha:.0%}; "
        f"{described_rows(TEST, results.evaluated[TEST][results.candidate])}",
        headers=["True class", "Rows", "Set holds it", "Mean set size", "No diagnosis", "Accuracy of the others"],
        rows=rows,
        notes=["The confidence is one over all classes together; a single class's share may be lower."],
    )


def value_cell(value: float, bounds: Interval, paper: str = "") -> Cell:
    """Return a cell of a value, its interval and the paper's number.

    Args:
        value: The value; NaN becomes a dash.
        bounds: Its interval.
        paper: The paper's number; empty for none.

    Returns:
        The cell.
    """
    return Cell(number(value), "" if math.isnan(value) else interval(bounds.low, bounds.high), paper)


def _signed_cell(value: float, bounds: Interval) -> Cell:
    sign = "+" if value > 0 else ""
    return Cell(sign + number(value), interval(bounds.low, bounds.high))


def _class_headers(results: Results, entry: Evaluated) -> list[str]:
    counts = np.bincount(entry.rows.labels, minlength=len(results.classes))
    return [f"{readable(label)} (n\u00a0=\u00a0{counts[k]})" for k, label in enumerate(results.classes)]


def _paper_notes(results: Results, *, models: bool) -> list[str]:
    """Say which classes and models the paper has no figure for."""
    paper = paper_results()
    notes = []
    unknown = [readable(label) for label in results.classes if paper.code(label) is None]
    if unknown:
        notes.append(f"{', '.join(unknown)}: {NO_CLASS_FIGURE}.")
    if len(unknown) == len(results.classes):
        return notes
    other = [model_name(name) for name in results.inputs.models if name not in paper.models]
    if models and other:
        notes.append(f"{', '.join(other)}: {NO_MODEL_FIGURE}.")
    notes.append("The paper's numbers are of its own private cohort, without intervals.")
    return notes
