from __future__ import annotations

import json

import numpy as np
import pytest

from components.embed_text.embed_text import embed_notes
from components.embed_text.settings import EmbedTextSettings
from components.train.settings import TrainSettings
from components.train.train import train_candidate
from data_schemas.errors import InputError
from data_schemas.features import Features
from data_schemas.predictions import TEST, class_probabilities, read_predictions
from tests.training.synthetic import make_features
from training.onnx_session import open_onnx

SETTINGS = TrainSettings(
    members=1,
    network={"units": 8, "image_filters": (4,), "text_length": 16},
    optimiser={"epochs": 4, "batch_size": 16, "learning_rate": 0.01},
)


def _train(tmp_path, **options):
    make_features(tmp_path / "f", patients=40, classes=2, **options)
    embed_notes(tmp_path / "f", tmp_path / "e", EmbedTextSettings(dimensions=6, epochs=2))
    texts: list[str] = []
    result = train_candidate(tmp_path / "f", tmp_path / "e", tmp_path / "m", SETTINGS, progress=texts.append)
    return result, texts


def test_everything_is_written_and_agrees(tmp_path):
    result, texts = _train(tmp_path)
    features = Features.open(tmp_path / "f")
    assert {path.name for path in (tmp_path / "m").iterdir()} == {
        "model.keras", "model.onnx", "vocabulary.json", "channels.json", "devices.parquet", "contract.json",
        "settings.json",
        "predictions.parquet", "timing.json", "history.json", "summary.json",
    }  # fmt: skip
    frame = read_predictions(tmp_path / "m" / "predictions.parquet")
    assert frame["sample"].tolist() == features.test_rows.tolist()
    assert set(frame["set"]) == {TEST} and set(frame["model"]) == {"cnn_lstm_attention"}
    probabilities = class_probabilities(frame, features.manifest.classes)
    accuracy = (probabilities.argmax(axis=1) == features.labels[features.test_rows]).mean()
    assert result.metrics["test_accuracy"] == pytest.approx(accuracy)
    assert result.metrics["onnx_max_difference"] <= 1e-5
    attention = sum(result.metrics[f"attention_{name}"] for name in ("series", "image", "text"))
    assert attention == pytest.approx(features.present[features.test_rows].any(axis=1).mean(), abs=1e-5)
    history = json.loads((tmp_path / "m" / "history.json").read_text())
    assert len(history["loss"]) == len(history["validation_loss"]) == result.metrics["epochs"] <= 4
    assert result.nested[0].history == history
    summary = json.loads((tmp_path / "m" / "summary.json").read_text())
    assert summary["status"] == "done" and summary["metrics"] == result.metrics
    assert TrainSettings.model_validate_json((tmp_path / "m" / "settings.json").read_text()) == SETTINGS
    assert texts == ["fitting", "exporting", "predicting the test rows"]


def test_series_only(tmp_path):
    result, _ = _train(tmp_path, image=None, text=False)
    contract = json.loads((tmp_path / "m" / "contract.json").read_text())
    assert contract["image"] is None and contract["modalities"] == ["series"]
    session = open_onnx(tmp_path / "m" / "model.onnx")
    assert {node.name for node in session.get_inputs()} == {"present", "series", "series_observed"}
    assert result.metrics["attention_image"] == 0


def test_a_cohort_without_any_modality_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="no modality"):
        _train(tmp_path, image=None, text=False, series=False)
    assert not (tmp_path / "m").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"f", "e"}


def test_test_rows_have_no_influence_on_the_model(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    _train(tmp_path / "a", image=None, text=False)
    features = make_features(tmp_path / "b" / "f", patients=40, classes=2, image=None, text=False)
    series = np.array(features.series)
    series[features.test_rows] = 1e6
    np.save(tmp_path / "b" / "f" / "series.npy", series)
    train_candidate(tmp_path / "b" / "f", tmp_path / "a" / "e", tmp_path / "b" / "m", SETTINGS)
    first, second = ((tmp_path / name / "m" / "history.json").read_text() for name in "ab")
    assert first == second
