from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from components.embed_text.embed_text import embed_notes
from components.embed_text.settings import EmbedTextSettings
from tests.training.synthetic import make_features
from training.text import TextEmbedding


def test_only_training_notes_are_read(tmp_path):
    features = make_features(tmp_path / "f", patients=30, classes=3)
    notes = pd.read_parquet(tmp_path / "f" / "notes.parquet")
    notes.loc[features.test_rows, "text"] = "heldoutword heldoutword heldoutword"
    notes.to_parquet(tmp_path / "f" / "notes.parquet")
    result = embed_notes(tmp_path / "f", tmp_path / "e", EmbedTextSettings(dimensions=6, epochs=2))
    embedding = TextEmbedding.load(tmp_path / "e")
    assert "heldoutword" not in embedding.vocabulary and "cough" in embedding.vocabulary
    assert result.metrics["vocabulary"] == len(embedding.vocabulary) == len(embedding.vectors)
    assert result.metrics["notes"] == features.present[features.train_rows, 2].sum()
    assert result.metrics["unknown_share"] == 0
    assert result.artifacts["embedding"] == tmp_path / "e"
    assert result.warnings == []


def test_unknown_share_by_hand(tmp_path):
    features = make_features(tmp_path / "f", patients=10, classes=2)
    notes = pd.read_parquet(tmp_path / "f" / "notes.parquet")
    notes["text"] = ""
    notes.loc[features.train_rows[:2], "text"] = ["cough cough rare", "cough"]
    notes.to_parquet(tmp_path / "f" / "notes.parquet")
    result = embed_notes(tmp_path / "f", tmp_path / "e", EmbedTextSettings(dimensions=4, epochs=1))
    assert result.metrics["unknown_share"] == pytest.approx(1 / 4)


def test_a_cohort_without_notes(tmp_path):
    make_features(tmp_path / "f", patients=20, classes=2, text=False)
    result = embed_notes(tmp_path / "f", tmp_path / "e", EmbedTextSettings(dimensions=6))
    embedding = TextEmbedding.load(tmp_path / "e")
    assert embedding.vocabulary == ["", "<unknown>"]
    np.testing.assert_array_equal(embedding.vectors, np.zeros((2, 6)))
    assert "without text" in result.warnings[0]
