"""What ``compare`` keeps of single patients, sealed."""

import numpy as np
import pandas as pd

from components.common.evidence_key import derive_key
from components.common.sealed import blind, unseal
from components.compare.compare import compare_models
from data_schemas.predictions import read_predictions
from tests.components.compare.conftest import CANDIDATE, write_steps


def test_the_candidates_predictions_are_kept_sealed(tmp_path, quick, evidence_key):
    steps = write_steps(tmp_path)
    result = compare_models(**steps.arguments(), output=tmp_path / "out", settings=quick)
    assert result.artifacts["held_out"] == tmp_path / "out" / "predictions.sealed"
    key = derive_key(evidence_key)
    kept = unseal((tmp_path / "out" / "predictions.sealed").read_bytes(), key)
    assert set(kept["model"]) == {CANDIDATE}
    # Both sets, each patient with the probabilities that its own step gave it.
    folders = [steps.candidate, tmp_path / f"cross_validate_{CANDIDATE}"]
    given = pd.concat([blind(read_predictions(folder / "predictions.parquet"), key) for folder in folders])
    given = given.sort_values(["set", "patient"]).reset_index(drop=True)
    assert kept["patient"].tolist() == given["patient"].tolist()
    columns = [f"probability:{name}" for name in steps.classes]
    assert np.allclose(kept[columns], given[columns], atol=0, rtol=0)
    assert result.tags["vitalfuse.test_patients"] == str((kept["set"] == "test").sum())
    assert len(result.tags["vitalfuse.test_patients_digest"]) == 32


def test_no_pseudonym_is_in_any_file(tmp_path, quick):
    steps = write_steps(tmp_path)
    compare_models(**steps.arguments(), output=tmp_path / "out", settings=quick)
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [name for name in steps.samples["patient_id"] if name.encode() in content], path


def test_without_a_key_nothing_of_a_patient_is_kept_and_that_is_told(tmp_path, quick, monkeypatch):
    monkeypatch.delenv("VITALFUSE_EVIDENCE_KEY")
    monkeypatch.delenv("VITALFUSE_PSEUDONYM_KEY", raising=False)
    steps = write_steps(tmp_path)
    result = compare_models(**steps.arguments(), output=tmp_path / "out", settings=quick)
    assert "held_out" not in result.artifacts
    assert not (tmp_path / "out" / "predictions.sealed").exists()
    assert "VITALFUSE_EVIDENCE_KEY" in result.warnings[-1]
