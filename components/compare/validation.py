"""What the report says of the data: the validation's findings, earlier steps' warnings, and the rejected rows."""

from __future__ import annotations

from typing import Any

_TEXT_KEYS = ("message", "text", "description", "reason", "short_description")
_COUNT_KEYS = ("count", "rows", "total", "rejected")


def validation_items(summary: dict[str, Any], warnings: list[str]) -> list[str]:
    """Return the errors and warnings of the validation, then those of other steps, each once.

    Args:
        summary: Content of the validation's summary.json; its "errors" and "warnings" may be lines or objects.
        warnings: Warnings that the steps before left in their records.

    Returns:
        One line each; one line that says so where there is nothing to tell.
    """
    if not summary:
        found = ["Validation left no summary."]
    else:
        found = [f"Error: {line}" for line in _lines(summary.get("errors"))]
        found += [f"Warning: {line}" for line in _lines(summary.get("warnings"))]
    known = {line.partition(": ")[2] for line in found}
    found += [f"Warning: {line}" for line in warnings if line not in known]
    return found or ["Validation found no anomalies."]


def rejected_section_items(summary: dict[str, Any]) -> list[str]:
    """Return how many source rows were rejected, and why.

    Args:
        summary: Content of the validation's summary.json; its "rejected" may be a count, counts by reason, a list of objects
            with a reason and a count, or an object with a count and "by_reason".

    Returns:
        Lines; empty where the summary does not tell.
    """
    rejected = summary.get("rejected")
    if rejected is None:
        return []
    if isinstance(rejected, int):
        return [_rejected_total(rejected)]
    by_reason = rejected
    if isinstance(rejected, dict) and ("by_reason" in rejected or "reasons" in rejected):
        by_reason = rejected.get("by_reason", rejected.get("reasons"))
    counts = _reason_counts(by_reason)
    total = sum(counts.values())
    if isinstance(rejected, dict):
        total = next((rejected[key] for key in _COUNT_KEYS if isinstance(rejected.get(key), int)), total)
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return [_rejected_total(total), *[f"Rejected, {reason}: {count}." for reason, count in ordered]]


def _rejected_total(count: int) -> str:
    return f"Source rows rejected at ingest: {count}."


def _reason_counts(reasons: Any) -> dict[str, int]:
    if isinstance(reasons, dict):
        return {str(reason): count for reason, count in reasons.items() if isinstance(count, int)}
    counts: dict[str, int] = {}
    for entry in reasons or []:
        if isinstance(entry, dict) and "reason" in entry:
            count = next((entry[key] for key in _COUNT_KEYS if isinstance(entry.get(key), int)), 1)
            counts[str(entry["reason"])] = counts.get(str(entry["reason"]), 0) + count
    return counts


def _lines(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{name}: {text}" for name, text in value.items()]
    return [_line(entry) for entry in value] if isinstance(value, list) else []


def _line(entry: Any) -> str:
    if not isinstance(entry, dict):
        return str(entry)
    text = next((str(entry[key]) for key in _TEXT_KEYS if entry.get(key)), "")
    place = [str(entry[key]) for key in ("table", "feature", "channel", "field", "class") if entry.get(key)]
    return ": ".join([*([", ".join(place)] if place else []), *([text] if text else [])]) or str(entry)
