"""Puts the report together: what was run, the verdict, the data, the paper's tables and figures, and the limits."""

from __future__ import annotations

from typing import Any

import numpy as np

from components.compare.calibrate import CalibrationResult
from components.compare.names import model_name
from components.compare.page_tables import (
    QUALITY,
    auc_table,
    before_after_table,
    class_table,
    comparison_table,
    conformal_table,
    overall_table,
    precision_table,
    presence_table,
    seconds_table,
)
from components.compare.results import Results
from components.compare.settings import CompareSettings
from components.compare.validation import rejected_table, validation_items
from components.compare.verdict import verdict
from data_schemas.features import MODALITIES
from data_schemas.predictions import OUT_OF_FOLD, TEST
from evaluation.paper import paper_results
from evaluation.report import Cell, Plot, Report, Section, Table, readable


def build_report(
    results: Results, plots: dict[str, Plot], settings: CompareSettings, calibrated: CalibrationResult | None
) -> Report:
    """Build the report.

    Args:
        results: From ``evaluate``.
        plots: From ``charts.all_charts``, as SVG.
        settings: Section ``compare`` of the settings.
        calibrated: From ``calibrate_candidate``.

    Returns:
        The report; it holds no patient's id.
    """
    manifest = results.inputs.features.manifest
    notices = ["For research and evaluation only: not a medical device, and not for clinical use."]
    if manifest.synthetic:
        notices.insert(0, "These data are synthetic. The scores show that the software works, and nothing clinical.")
    return Report(
        title=f"{manifest.name}: {model_name(results.candidate)} and its baselines",
        notices=notices,
        verdict=verdict(results, settings),
        facts=_facts(results, settings),
        sections=[
            _headline_section(results, plots),
            _data_section(results),
            _auc_section(results, plots),
            _precision_section(results),
            _class_section(results, plots),
            _seconds_section(results, plots),
            _calibration_section(results, plots, calibrated),
            _paper_section(),
            _limits_section(results, settings),
        ],
    )


def _facts(results: Results, settings: CompareSettings) -> list[tuple[str, str]]:
    features = results.inputs.features
    manifest, samples = features.manifest, features.samples
    shown = [readable(label) for label in manifest.classes]
    image = manifest.image
    return [
        ("Cohort", f"{manifest.name}, digest {manifest.cohort_digest[:19]}"),
        (
            "Samples",
            f"{len(samples)} of {samples['patient_id'].nunique()} patients: {len(features.train_rows)} for training in "
            f"{manifest.folds} folds, {len(features.test_rows)} held out",
        ),
        ("Classes", f"{len(shown)}: {', '.join(shown)}"),
        (
            "Series",
            f"{manifest.steps} steps of {duration(manifest.step_seconds)}; channels: "
            + ", ".join(readable(name) for name in manifest.channel_names),
        ),
        ("Images", f"{image.height} × {image.width} × {image.channels}" if image else "none in this cohort"),
        (
            "Intervals",
            f"{settings.confidence:.0%} bootstrap percentile, {settings.resamples} resamples of patients within "
            f"classes, seed {settings.seed}",
        ),
    ]


def _headline_section(results: Results, plots: dict[str, Plot]) -> Section:
    tables: list[Table | Plot | None] = [
        overall_table(results, TEST),
        plots["macro_auc"],
        comparison_table(results, TEST),
        overall_table(results, OUT_OF_FOLD, folded=True) if results.evaluated[OUT_OF_FOLD] else None,
        comparison_table(results, OUT_OF_FOLD, folded=True),
    ]
    return Section(
        anchor="models",
        title="Models",
        paragraphs=[
            "Held-out rows are the test split, that no model has seen and that were scored once. Out-of-fold rows are "
            "the training split, each scored by a model that was fitted on the other folds."
        ],
        blocks=[block for block in tables if block is not None],
    )


def _data_section(results: Results) -> Section:
    features = results.inputs.features
    samples = features.samples
    rows = []
    for label in results.classes:
        own = samples[samples["label"] == label]
        cells = [Cell(readable(label)), Cell(str(len(own)))]
        rows.append([*cells, *[Cell(str(int((own["split"] == split).sum()))) for split in ("train", "test")]])
    counts = Table(
        caption=f"Samples by class; all {len(samples)} samples",
        headers=["Class", "Samples", "Training", "Held out"],
        rows=rows,
    )
    present = np.asarray(features.present)
    items = [
        f"{name.capitalize()}: present in {int(count)} of {len(samples)} samples."
        for name, count in zip(MODALITIES, present.sum(axis=0), strict=True)
    ]
    summary: dict[str, Any] = results.inputs.validation
    rejected = rejected_table(summary)
    if rejected is None and "rejected" in summary:
        items.append("No source row was rejected at ingest.")
    items += validation_items(summary, results.inputs.warnings)
    blocks: list[Table | Plot] = [counts, presence_table(results)]
    if rejected is not None:
        blocks.append(rejected)
    return Section(anchor="data", title="Data and validation", items=items, blocks=blocks)


def _auc_section(results: Results, plots: dict[str, Plot]) -> Section:
    blocks: list[Table | Plot] = [auc_table(results, TEST)]
    if results.evaluated[OUT_OF_FOLD]:
        blocks.append(auc_table(results, OUT_OF_FOLD, folded=True))
    blocks += [plots[name] for name in ("roc_test", "roc_out_of_fold") if name in plots]
    return Section(anchor="table-2", title="Table II: AUC by class and model", blocks=blocks)


def _precision_section(results: Results) -> Section:
    table = precision_table(results)
    return Section(
        anchor="table-3",
        title="Table III: macro precision by fold",
        paragraphs=[] if table else ["No model has out-of-fold predictions."],
        blocks=[table] if table else [],
    )


def _class_section(results: Results, plots: dict[str, Plot]) -> Section:
    names = ("fig_4_confusion", "fig_5_accuracy_by_class", "fig_6_kappa_mcc_by_class")
    blocks: list[Table | Plot] = [plots[name] for name in names]
    blocks.append(class_table(results, TEST))
    if results.candidate in results.evaluated[OUT_OF_FOLD]:
        blocks.append(class_table(results, OUT_OF_FOLD, folded=True))
    if all(paper_results().code(label) for label in results.classes):
        blocks.append(_paper_confusion_table())
    return Section(anchor="classes", title="Figs. 4 to 6: the candidate by class", blocks=blocks)


def _paper_confusion_table() -> Table:
    paper = paper_results()
    rows = [
        [Cell(code), *[Cell(str(count)) for count in line]]
        for code, line in zip(paper.codes, paper.confusion.tolist(), strict=True)
    ]
    return Table(
        caption="The paper's Fig. 4; all 300 participants, training rows among them; true class by row",
        headers=["True", *paper.codes],
        rows=rows,
        folded=True,
    )


def _seconds_section(results: Results, plots: dict[str, Plot]) -> Section:
    name = "fig_7_seconds_for_one_diagnosis"
    blocks: list[Table | Plot] = [plots[name]] if name in plots else []
    return Section(anchor="fig-7", title="Fig. 7: seconds for one diagnosis", blocks=[*blocks, seconds_table(results)])


def _calibration_section(results: Results, plots: dict[str, Plot], calibrated: CalibrationResult | None) -> Section:
    paragraphs = [
        "Log loss, Brier score (0 to 2) and calibration error judge the probabilities, lower being better. "
        "The paper has no such figures."
    ]
    blocks: list[Table | Plot] = [plots["reliability"], overall_table(results, TEST, metrics=QUALITY)]
    if calibrated is None:
        paragraphs.append("The candidate has no out-of-fold predictions, so the registered model is not calibrated.")
    else:
        paragraphs.append(_calibration_text(calibrated))
        blocks += [before_after_table(results, calibrated), conformal_table(results, calibrated)]
    return Section(anchor="calibration", title="Calibration and further scores", paragraphs=paragraphs, blocks=blocks)


def _calibration_text(calibrated: CalibrationResult) -> str:
    calibration = calibrated.calibration
    floor = f", or no probability reaches {calibration.abstain_below:g}" if calibration.abstain_below else ""
    return (
        f"The registered model divides the logarithms of its probabilities by a temperature of "
        f"{calibration.temperature:.3g}, fitted on {calibration.rows} out-of-fold training rows. Its conformal set "
        f"holds the classes with a calibrated probability of {calibration.lowest_probability:.3g} or more, so that on "
        f"patients like these about {1 - calibration.alpha:.0%} of the sets hold the true class. It gives no diagnosis "
        f"where the set is empty or holds more than {calibration.largest_set} of {len(calibration.classes)} "
        f"classes{floor}."
    )


def _paper_section() -> Section:
    paper = paper_results()
    confusion = paper.confusion
    total = confusion.sum()
    hit = np.diagonal(confusion)
    one_vs_rest = (total - confusion.sum(axis=0) - confusion.sum(axis=1) + 2 * hit) / total
    recall = hit / confusion.sum(axis=1)
    rows = [
        [
            Cell(code),
            Cell(f"{hit[k]} of {confusion[k].sum()}"),
            Cell(f"{recall[k]:.1%}"),
            Cell(f"{one_vs_rest[k]:.1%}"),
            Cell(f"{paper.accuracy[code]:.1%}"),
        ]
        for k, code in enumerate(paper.codes)
    ]
    table = Table(
        caption="The paper's Fig. 4 against its Fig. 5; all 300 participants",
        headers=["Class", "Fig. 4, right", "Recall by Fig. 4", "Accuracy one-vs-rest by Fig. 4", "Fig. 5"],
        rows=rows,
    )
    return Section(
        anchor="paper",
        title="How the paper's numbers are to be read",
        items=[
            "Its Figs. 4 and 5 disagree: neither recall nor one-vs-rest accuracy computed from Fig. 4 gives Fig. 5.",
            "Its Fig. 4 counts all 300 participants, though 80 % of them are said to be training data. Here every "
            "figure says on which rows it is computed, and none is computed on rows that its model was fitted on.",
            "It does not say on which rows normalisation and Word2Vec were fitted. Here both are fitted on training "
            "rows only, again in every fold.",
            "Its baselines are not specified, and none of its numbers has an interval. Here all models share samples, "
            "folds and resamples, and a baseline wins where it wins.",
            "Its data are private. No number here was computed on them, so a difference from the paper is one of "
            "cohorts as well as of models.",
        ],
        blocks=[table],
    )


def _limits_section(results: Results, settings: CompareSettings) -> Section:
    test = len(results.inputs.features.test_rows)
    items = [
        f"With {test} held-out rows, differences smaller than the intervals' width cannot be seen.",
        "Intervals tell of the draw of patients; not of another seed of training, another hospital or another time.",
        "An interval such as 1.000 to 1.000 means that no resample held an error; on few rows that is no certainty.",
        "The best model is named on the same rows that score it, which flatters it a little.",
        f"Baselines compared: {len(results.comparisons[TEST])}; p-values are Holm-adjusted, and below "
        f"{settings.significance:g} counts as a difference.",
        "A label is one class a patient, as in the paper; patients with several diseases are scored on one of them.",
    ]
    if results.inputs.features.manifest.synthetic:
        items.insert(0, "The cohort was generated: how well a model does on it says nothing of real patients.")
    return Section(anchor="limits", title="Limits", items=items)


def duration(seconds: float) -> str:
    """Return a duration in the largest unit that makes it a short number, such as "6 h".

    Args:
        seconds: The duration, above 0.

    Returns:
        A number and days, h, min or s.
    """
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= size and (seconds / size * 4).is_integer():
            number = f"{seconds / size:g}"
            return f"{number} {'day' if (number, unit) == ('1', 'days') else unit}"
    return f"{seconds:g} s"
