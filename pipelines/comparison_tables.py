"""What ``vitalfuse compare`` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipelines.listing import below, fits

METRIC_TITLES = {
    "macro_auc": "macro AUC",
    "accuracy": "accuracy",
    "macro_precision": "macro precision",
    "kappa": "kappa",
    "mcc": "MCC",
    "macro_recall": "macro recall",
    "macro_f1": "macro F1",
    "log_loss": "log loss",
    "brier": "Brier score",
    "calibration_error": "calibration error",
}
_LABEL_WIDTH, _FIGURE_WIDTH = 20, 22
_MISSING = "–"
_P_VALUES = "p of no difference, Holm-adjusted over the runs: bootstrap for macro AUC, McNemar's test for accuracy"


def print_comparison(console: Console, document: dict[str, Any], ui_hint: str | None) -> None:
    """Print a comparison of runs, as wide as the terminal.

    Args:
        console: Where to print.
        document: From ``pipelines.comparison.compare_runs``.
        ui_hint: Command that starts the UI which the link leads to; None where it runs already.
    """
    runs = document["runs"]
    rows = "held-out patients" if document["rows"] == "test" else "out-of-fold predictions of training patients"
    parts = list(_parts(len(runs), console.width))
    for number, part in enumerate(parts):
        if number:
            console.print()
        console.print(_runs_table(runs[part.start : part.stop]))
    for number, part in enumerate(parts):
        title = f"Scores on {rows}" if number == 0 else ""
        _print(console, title, _metrics_table(document["metrics"], runs, part))
    settings = _settings_table(document["settings"], runs)
    _print(console, "Settings that differ", settings if fits(console, settings) else _below(document["settings"], runs))
    share = f"{document['confidence']:.0%}"
    title = f"Differences to {runs[0]['label']} on the n patients in common, {share} intervals"
    differences = _differences_table(document["differences"])
    _print(console, title, differences if fits(console, differences) else _blocks(document["differences"]))
    console.print(Text(_P_VALUES, style="dim"))
    console.print()
    for line in document["warnings"]:
        console.print(Text(f"warning: {line}", style="yellow"))
    console.print(Text("MLflow  ").append(document["url"], style=f"link {document['url']}"), soft_wrap=True)
    if ui_hint:
        console.print(Text(f"        after `{ui_hint}`"), soft_wrap=True)


def _print(console: Console, title: str, table: RenderableType) -> None:
    console.print()
    if title:
        console.print(Text(title, style="bold"))
    console.print(table)


def _plain(*columns: tuple[str, bool]) -> Table:
    """Return an empty table without frame; True: numbers, to the right."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title, numeric in columns:
        table.add_column(Text(title), justify="right" if numeric else "left", overflow="fold")
    return table


def _parts(count: int, width: int) -> Iterator[range]:
    """Split runs into parts whose columns fit beside each other; the first run leads the first part alone."""
    size = max(1, (width - _LABEL_WIDTH) // _FIGURE_WIDTH)
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


def _runs_table(runs: list[dict[str, Any]]) -> Table:
    """One column a run, one row a fact."""
    facts: list[tuple[str, list[str]]] = [
        ("run", [run["run_id"][:8] for run in runs]),
        ("version", [_version(run) for run in runs]),
        ("started", [run["started"][:16].replace("T", " ") for run in runs]),
        ("cohort", [_cohort(run) for run in runs]),
        ("held out", [_patients(run) for run in runs]),
        ("code", [_commit(run["git_commit"]) for run in runs]),
    ]
    table = _plain(("", False), *((run["name"] or _MISSING, False) for run in runs))
    for title, values in facts:
        table.add_row(Text(title, style="dim"), *map(Text, values))
    return table


def _version(run: dict[str, Any]) -> str:
    parts = [run["model"] or _MISSING, *(f"@{alias}" for alias in run["aliases"])]
    return " ".join(parts) + (f", gates {run['gates']}" if run["gates"] else "")


def _cohort(run: dict[str, Any]) -> str:
    digest = (run["cohort_digest"] or "")[:12]
    return " ".join(part for part in (run["cohort"], digest) if part) or _MISSING


def _patients(run: dict[str, Any]) -> str:
    if run["test_patients"] is None:
        return _MISSING
    return f"{run['test_patients']} patients, digest {run['test_patients_digest'][:8]}"


def _commit(commit: str | None) -> str:
    if not commit:
        return _MISSING
    return commit[:10] + ("-dirty" if commit.endswith("-dirty") else "")


def _metrics_table(metrics: list[dict[str, Any]], runs: list[dict[str, Any]], part: range) -> Table:
    table = _plain(("", False), *((runs[i]["label"], True) for i in part))
    for metric in metrics:
        best = _best(metric)
        title = METRIC_TITLES[metric["metric"]] + (" ↓" if metric["better"] == "lower" else "")
        table.add_row(Text(title, style="dim"), *(_figure(metric["runs"][i], i in best) for i in part))
    return table


def _best(metric: dict[str, Any]) -> set[int]:
    values = {i: run["value"] for i, run in enumerate(metric["runs"]) if run["value"] is not None}
    if len(set(values.values())) < 2:
        return set()
    wanted = (max if metric["better"] == "higher" else min)(values.values())
    return {i for i, value in values.items() if value == wanted}


def _figure(run: dict[str, Any], best: bool) -> Text:
    if run["value"] is None:
        return Text(_MISSING)
    text = Text(f"{run['value']:.3f}", style="bold" if best else "")
    if run["low"] is not None and run["high"] is not None:
        text.append(f" [{run['low']:.3f}, {run['high']:.3f}]", style="not bold dim")
    return text


def _settings_table(settings: list[dict[str, Any]], runs: list[dict[str, Any]]) -> Table:
    if not settings:
        table = _plain(("", False))
        table.add_row(Text("none"))
        return table
    table = _plain(("setting", False), *((run["label"], False) for run in runs))
    for entry in settings:
        table.add_row(Text(entry["setting"]), *(Text(_MISSING if v is None else str(v)) for v in entry["runs"]))
    return table


def _below(settings: list[dict[str, Any]], runs: list[dict[str, Any]]) -> RenderableType:
    """Return the settings with the runs' values below each."""
    lines: list[RenderableType] = []
    for entry in settings:
        values = _plain(("", False), ("", False))
        values.show_header = False
        for run, value in zip(runs, entry["runs"], strict=True):
            values.add_row(Text(run["label"], style="dim"), Text(_MISSING if value is None else str(value)))
        lines += [Text(entry["setting"]), below(values)]
    return Group(*lines)


def _blocks(differences: list[dict[str, Any]]) -> RenderableType:
    """Return the differences with both figures below each run."""
    lines: list[RenderableType] = []
    for entry in differences:
        if "reason" in entry:
            lines.append(Text(f"{entry['run']}: none: see below"))
            continue
        figures = _plain(("", False), ("", True), ("p", True))
        figures.add_row("macro AUC", _difference(entry["macro_auc"]), _p_value(entry["macro_auc"]["p_holm"]))
        figures.add_row("accuracy", _difference(entry["accuracy"]), _p_value(entry["mcnemar_p_holm"]))
        lines += [Text(f"{entry['run']}, n = {entry['common']}"), below(figures)]
    return Group(*lines)


def _differences_table(differences: list[dict[str, Any]]) -> Table:
    table = _plain(("", False), ("n", True), ("macro AUC", True), ("p", True), ("accuracy", True), ("p", True))
    for entry in differences:
        if "reason" in entry:
            table.add_row(Text(entry["run"]), _MISSING, Text("none: see below"), _MISSING, _MISSING, _MISSING)
            continue
        auc, accuracy = entry["macro_auc"], entry["accuracy"]
        table.add_row(
            Text(entry["run"]),
            str(entry["common"]),
            _difference(auc),
            _p_value(auc["p_holm"]),
            _difference(accuracy),
            _p_value(entry["mcnemar_p_holm"]),
        )
    return table


def _difference(figures: dict[str, Any]) -> Text:
    if figures["value"] is None:
        return Text(_MISSING)
    return Text(f"{figures['value']:+.3f} [{figures['low']:.3f}, {figures['high']:.3f}]")


def _p_value(value: float | None) -> Text:
    if value is None:
        return Text(_MISSING)
    return Text("<0.001" if value < 0.001 else f"{value:.3f}", style="bold" if value < 0.05 else "")
