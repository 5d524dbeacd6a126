"""The HTML report of monitoring."""

from __future__ import annotations

from evaluation.report import MISSING, Cell, Report, Section, Table, interval, number, readable
from serving.monitor.drift import FeatureDrift
from serving.monitor.findings import Check, Findings


def build_report(findings: Findings) -> Report:
    """Lay the findings out as a page.

    Args:
        findings: What was found.

    Returns:
        The page, for ``evaluation.report.render_html``.
    """
    facts = [
        ("Model", findings.model),
        ("Version", findings.version or "not from the registry"),
        ("Predictions", f"{findings.rows}, {findings.first} to {findings.last}"),
    ]
    if findings.labelled is not None:
        facts.append(
            ("Labels", f"{findings.labelled.patients} patients, {findings.labelled.unmatched} without prediction")
        )
    return Report(
        title="vitalfuse monitor",
        notices=["Not for clinical use. For research and evaluation."],
        verdict=[findings.headline()],
        facts=facts,
        sections=[_checks(findings), _inputs(findings), _answers(findings)],
    )


def _checks(findings: Findings) -> Section:
    rows = [
        [
            Cell(check.name),
            Cell(check.status, strong=check.status == "exceeded"),
            Cell(_figure(check.value)),
            Cell(_figure(check.threshold)),
            Cell(_figure(check.reference)),
            Cell(_figure(check.current), interval=_bounds(check)),
            Cell(check.detail),
        ]
        for check in findings.checks
    ]
    headers = ["check", "status", "value", "threshold", "reference", "now", "detail"]
    return Section(
        "checks",
        "Checks",
        paragraphs=["Training is advised where a value is above its threshold."],
        blocks=[Table("Every rule of the settings section monitor", headers, rows)],
    )


def _inputs(findings: Findings) -> Section:
    headers = ["feature", "distance", "threshold", "training rows", "now", "why not judged"]
    ordered = sorted(findings.drift, key=lambda feature: -(feature.distance if feature.distance is not None else -1))
    return Section(
        "inputs",
        "Inputs",
        paragraphs=[
            "TFDV's distance between the training rows and what was logged: Jensen-Shannon divergence for numbers, "
            "L-infinity distance for categories. Beside it means, or the share of the most frequent value.",
        ],
        blocks=[Table("Every feature, the farthest first", headers, [_feature(feature) for feature in ordered])],
    )


def _feature(feature: FeatureDrift) -> list[Cell]:
    return [
        Cell(readable(feature.feature.removeprefix("channel:").replace(":", ", "))),
        Cell(_figure(feature.distance), strong=feature.drifted),
        Cell(_figure(feature.threshold)),
        Cell(_figure(feature.reference)),
        Cell(_figure(feature.current)),
        Cell(feature.reason),
    ]


def _answers(findings: Findings) -> Section:
    shares = [
        [Cell(readable(name)), Cell(_figure(findings.reference.class_shares[name])), Cell(_figure(share))]
        for name, share in findings.answers.class_shares.items()
    ]
    return Section(
        "answers",
        "Answers",
        blocks=[Table("Share of the rows by most probable class", ["class", "held-out rows", "now"], shares)],
    )


def _figure(value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{value:g}" if float(value).is_integer() else number(value)


def _bounds(check: Check) -> str:
    return "" if check.low is None or check.high is None else interval(check.low, check.high)
