"""What the report says of the data: the rejected rows, the validation's anomalies, and earlier steps' warnings."""

from __future__ import annotations

from typing import Any

from evaluation.report import Cell, Table


def validation_items(summary: dict[str, Any], warnings: list[str]) -> list[str]:
    """Return the anomalies of the validation, then the warnings of other steps, each once.

    Args:
        summary: Content of the validation's summary.json; "anomalies" are objects with feature, kind, severity
            and reason.
        warnings: Warnings that the steps before left in their records.

    Returns:
        One line each; one line that says so where there is nothing to tell.
    """
    if not summary:
        found = ["Validation left no summary."]
    else:
        anomalies = summary.get("anomalies", [])
        found = [_anomaly_line(entry) for entry in anomalies]
        if not anomalies:
            found = [f"Validation (TFDV {summary.get('tfdv_version', 'of unknown version')}) found no anomalies."]
    told = {line.partition(": ")[2] for line in found}
    return found + [f"Warning: {line}" for line in warnings if line not in told]


def rejected_table(summary: dict[str, Any]) -> Table | None:
    """Return how many source rows were rejected at ingest, and why.

    Args:
        summary: Content of the validation's summary.json; its "rejected" has a total, and by_reason with
            field, reason and rows.

    Returns:
        The table, or None where none was rejected or the summary does not tell.
    """
    rejected = summary.get("rejected") or {}
    if not rejected.get("total"):
        return None
    rows = [
        [Cell(str(entry["reason"])), Cell(str(entry.get("field") or "–")), Cell(str(entry["rows"]))]
        for entry in rejected.get("by_reason", [])
    ]
    listed = sum(entry["rows"] for entry in rejected.get("by_reason", []))
    notes = [f"Further reasons make up the other {rejected['total'] - listed}."] if listed < rejected["total"] else []
    return Table(
        caption=f"Source rows rejected at ingest, by reason; {rejected['total']} in all",
        headers=["Reason", "Field", "Rows"],
        rows=rows,
        notes=notes,
    )


def _anomaly_line(entry: dict[str, Any]) -> str:
    """One line, in the words of the validate step's own warnings."""
    severity = str(entry.get("severity", "warning")).capitalize()
    return f"{severity}: {entry['feature']}: {str(entry['reason']).rstrip('.')} ({entry['kind']})"
