from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from components.common.scores import flat_settings, overall_scores
from components.cross_validate.cross_validate import cross_validate_model
from components.cross_validate.settings import CrossValidateSettings
from data_schemas.predictions import OUT_OF_FOLD, TEST, class_probabilities, read_predictions
from tests.training.synthetic import make_features

SETTINGS = CrossValidateSettings(
    members=1,
    network={"units": 8, "image_filters": (4,), "text_length": 16},
    optimiser={"epochs": 3, "batch_size": 16, "learning_rate": 0.01},
    words={"dimensions": 6, "max_words": 40},
    tabular={"forest_trees": 20},
)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return make_features(tmp_path_factory.mktemp("cross_validate") / "f", patients=60, classes=3)


def test_every_training_row_is_predicted_once_by_a_model_that_did_not_see_it(features, tmp_path):
    texts: list[str] = []
    result = cross_validate_model(
        "random_forest", features.folder, tmp_path / "o", SETTINGS, predict_test=True, progress=texts.append
    )
    frame = read_predictions(tmp_path / "o" / "predictions.parquet")
    held_out = frame[frame["set"] == OUT_OF_FOLD]
    assert sorted(held_out["sample"]) == features.train_rows.tolist()
    np.testing.assert_array_equal(held_out["fold"], features.samples["fold"].to_numpy()[held_out["sample"]])
    assert frame.loc[frame["set"] == TEST, "sample"].tolist() == features.test_rows.tolist()
    labels, probabilities = (
        features.labels[held_out["sample"]],
        class_probabilities(held_out, features.manifest.classes),
    )
    assert result.metrics["accuracy"] == pytest.approx(accuracy_score(labels, probabilities.argmax(axis=1)))
    assert result.metrics["macro_auc"] == pytest.approx(roc_auc_score(labels, probabilities, multi_class="ovr"))
    assert "test_macro_auc" in result.metrics
    assert texts == ["fold 1/3", "fold 2/3", "fold 3/3", "all training rows, then the test rows"]
    assert [item.params["fold"] for item in result.nested] == [0, 1, 2, -1]
    timing = json.loads((tmp_path / "o" / "timing.json").read_text())
    assert len(timing["fit_seconds"]) == 3
    assert list(timing["seconds_per_diagnosis"]) == features.manifest.classes
    assert json.loads((tmp_path / "o" / "summary.json").read_text())["status"] == "done"


def test_a_network_reports_its_history(features, tmp_path):
    result = cross_validate_model("cnn_lstm_attention", features.folder, tmp_path / "o", SETTINGS, predict_test=False)
    frame = read_predictions(tmp_path / "o" / "predictions.parquet")
    assert set(frame["set"]) == {OUT_OF_FOLD}
    assert all(1 <= len(item.history["loss"]) <= 3 for item in result.nested)
    assert result.params["network.units"] == 8 and result.params["words.max_words"] == 40


def test_a_model_without_its_modality_is_not_applicable(tmp_path):
    features = make_features(tmp_path / "f", patients=30, classes=3, image=None)
    result = cross_validate_model("cnn", features.folder, tmp_path / "o", SETTINGS, predict_test=True)
    frame = read_predictions(tmp_path / "o" / "predictions.parquet")
    assert len(frame) == 0 and "probability:class 2" in frame
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert summary == {"model": "cnn", "status": "not_applicable", "reason": "The cohort has no image."}
    assert result.warnings == ["cnn was left out. The cohort has no image."]


def test_an_unknown_model_writes_nothing(features, tmp_path):
    with pytest.raises(ValueError, match="received 'resnet'"):
        cross_validate_model("resnet", features.folder, tmp_path / "o", SETTINGS, predict_test=True)
    assert list(tmp_path.iterdir()) == []


def test_scores_leave_out_what_is_not_finite(features):
    rows = np.flatnonzero(features.labels == 0)[:4]
    probabilities = np.tile([0.6, 0.3, 0.1], (4, 1))
    scores = overall_scores(features, rows, probabilities)
    assert scores["accuracy"] == 1 and "macro_auc" not in scores
    assert scores["log_loss"] == pytest.approx(-np.log(0.6))


def test_settings_become_flat():
    flat = flat_settings(SETTINGS)
    assert flat["optimiser.epochs"] == 3 and flat["network.image_filters"] == "[4]" and flat["seed"] == 2022
    assert all(isinstance(value, str | int | float | bool) for value in flat.values())
