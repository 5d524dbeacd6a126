"""Keeps the candidate's predictions, sealed, so that a later run can be compared on the same patients."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from components.common.sealed import blind, patients_digest, seal
from components.compare.results import Results
from data_schemas.predictions import OUT_OF_FOLD, TEST, predictions_frame

TEST_PATIENTS_TAG = "vitalfuse.test_patients"
TEST_DIGEST_TAG = "vitalfuse.test_patients_digest"
NO_KEY = (
    "There is no key to seal predictions with, so later runs can't be compared with this one on the same patients. Set "
    "VITALFUSE_EVIDENCE_KEY."
)


def write_sealed_predictions(results: Results, path: Path, key: bytes) -> dict[str, str]:
    """Write the candidate's test and out-of-fold predictions, encrypted.

    Args:
        results: From ``evaluate``.
        path: File to write.
        key: From ``components.common.evidence_key.evidence_key``.

    Returns:
        Tags that tell two runs with the same held-out patients, and how many these are; nothing of a single patient.
    """
    features = results.inputs.features
    frames = [
        predictions_frame(
            model=results.candidate,
            rows=entry.rows.rows,
            samples=features.samples,
            classes=results.classes,
            probabilities=entry.rows.probabilities,
            prediction_set=kind,
            fold=entry.rows.folds,
        )
        for kind in (TEST, OUT_OF_FOLD)
        if (entry := results.evaluated[kind].get(results.candidate)) is not None
    ]
    blinded = blind(pd.concat(frames, ignore_index=True), key)
    path.write_bytes(seal(blinded, key))
    test = blinded[blinded["set"] == TEST]
    return {
        TEST_PATIENTS_TAG: str(test["patient"].nunique()),
        TEST_DIGEST_TAG: patients_digest(test, key),
    }
