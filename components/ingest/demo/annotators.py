"""Two annotators who label every patient, and an adjudicator where they differ."""

from __future__ import annotations

import numpy as np
import pandas as pd

from components.ingest.demo.classes import CLASS_LABELS
from components.ingest.demo.patients import Patients

ANNOTATORS = ("annotator_a", "annotator_b")
ADJUDICATOR = "adjudicator"
_CODES = np.array(list(CLASS_LABELS), dtype=object)


def annotate(rng: np.random.Generator, patients: Patients, rate: float, days: int) -> pd.DataFrame:
    """Label all patients of a cohort.

    At most one of the two annotators is wrong, and the adjudicator finds the label that the cohort was drawn with:
    the adjudicated counts are those of the settings. Doubtful patients, mild or with a second disease that is about
    as severe, are the ones that annotators differ on.

    Args:
        rng: Random generator.
        patients: All patients.
        rate: Share of patients on whom the annotators differ.
        days: Days of observation; labels come afterwards.

    Returns:
        mrn, annotator, label (Z1 ... Z6), time (datetime64[s], local); in the order of the patients.
    """
    count = len(patients)
    alternative, doubt = _alternatives(patients)
    # The most doubtful differ first, but not in strict order.
    score = np.log(np.maximum(doubt, 1e-6)) + rng.gumbel(size=count)
    differs = np.zeros(count, dtype=bool)
    differs[np.argsort(-score, kind="stable")[: round(rate * count)]] = True
    wrong = rng.integers(len(ANNOTATORS), size=count)
    labels = np.stack([np.where(differs & (wrong == who), alternative, patients.label) for who in range(2)], axis=1)
    labels = np.concatenate([labels, patients.label[:, None]], axis=1)
    given = np.stack([np.ones(count, dtype=bool), np.ones(count, dtype=bool), differs], axis=1)
    minutes = rng.integers(0, 5 * 24 * 60, size=labels.shape)
    minutes[:, 2] += 7 * 24 * 60
    ends = (patients.start + np.timedelta64(days + 1, "D")).astype("datetime64[s]")
    times = ends[:, None] + minutes.astype("timedelta64[m]")
    patient, annotator = np.nonzero(given)
    return pd.DataFrame(
        {
            "mrn": patients.mrn[patient],
            "annotator": np.array([*ANNOTATORS, ADJUDICATOR], dtype=object)[annotator],
            "label": _CODES[labels[patient, annotator]],
            "time": times[patient, annotator],
        }
    )


def _alternatives(patients: Patients) -> tuple[np.ndarray, np.ndarray]:
    """Return the label that each patient is mistaken for, and how doubtful theirs is, above 0 and at most 1."""
    rows = np.arange(len(patients))
    order = np.argsort(-patients.severity, axis=1, kind="stable")
    first, second = (patients.severity[rows, order[:, place]] for place in range(2))
    ill = patients.label > 0
    # The ill are mistaken for their clear second disease, else for healthy; the healthy for what they have most of.
    alternative = np.where(ill, np.where(second > 0.3, order[:, 1] + 1, 0), order[:, 0] + 1)
    doubt = np.where(ill, np.maximum(1 - first, second / np.maximum(first, 1e-9)), first)
    return alternative, np.clip(doubt, 1e-3, 1.0)
