"""What an anomaly is, whoever found it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Anomaly:
    """Something in a cohort that is not as it should be.

    Attributes:
        feature: Table, column or channel.
        kind: Name of the kind, TFDV's or one of ``checks``; the settings tell which are errors.
        reason: One line with counts; no identifiers, no text of notes.
    """

    feature: str
    kind: str
    reason: str
