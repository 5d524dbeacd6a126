"""The classes of the demo cohort, and how a cohort of any size is divided among them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

HEALTHY = "healthy"
DISEASES = ("cardiovascular_disease", "diabetes", "copd", "hypertension", "chronic_kidney_disease")
CLASSES = (HEALTHY, *DISEASES)
CLASS_LABELS = {f"Z{number}": name for number, name in enumerate(CLASSES, start=1)}
# Section "Cohort" of the paper: 300 participants.
PAPER_COUNTS = dict(zip(CLASSES, (100, 60, 50, 40, 30, 20), strict=True))


def scale_counts(reference: Mapping[str, int], total: int) -> dict[str, int]:
    """Divide a cohort among classes in the proportions of a reference, by largest remainder.

    Args:
        reference: Patients by class, each at least 1.
        total: Patients to divide, at least 0.

    Returns:
        Patients by class, in the same order; they sum to ``total``, and each class has at least one patient where
        there are as many patients as classes.

    Example:
        >>> scale_counts({"a": 2, "b": 1}, 10)
        {'a': 7, 'b': 3}
    """
    weights = np.array(list(reference.values()), dtype=np.float64)
    quotas = total * weights / weights.sum()
    counts = np.floor(quotas).astype(np.int64)
    by_remainder = np.argsort(counts - quotas, kind="stable")
    counts[by_remainder[: total - counts.sum()]] += 1
    if total >= len(counts):
        # A class that came away empty takes a patient of the largest one.
        for empty in np.flatnonzero(counts == 0):
            counts[counts.argmax()] -= 1
            counts[empty] = 1
    return dict(zip(reference, counts.tolist(), strict=True))
