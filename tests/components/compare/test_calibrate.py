"""The candidate's calibration: fitted on out-of-fold rows alone, looked at on test rows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn import metrics as sk

from components.compare.compare import compare_models
from components.compare.settings import CalibrationSettings, CompareSettings
from data_schemas.calibration import Calibration
from data_schemas.predictions import OUT_OF_FOLD, TEST, class_probabilities, read_predictions
from evaluation.calibration import expected_calibration_error
from evaluation.recalibration import scale
from tests.components.compare.conftest import CANDIDATE, Steps, write_model, write_steps


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    root = tmp_path_factory.mktemp("calibrated")
    steps = write_steps(root)
    result = compare_models(**steps.arguments(), output=root / "out", settings=CompareSettings(resamples=100))
    return steps, root / "out", result


def _predicted(steps: Steps, kind: str) -> tuple[np.ndarray, np.ndarray]:
    folder = steps.candidate if kind == TEST else steps.cross_validations[0]
    frame = read_predictions(folder / "predictions.parquet")
    frame = frame[frame["set"] == kind]
    labels = frame["label"].map({name: k for k, name in enumerate(steps.classes)}).to_numpy()
    return labels, class_probabilities(frame, steps.classes)


def test_temperature_and_threshold_are_those_of_the_out_of_fold_rows(compared):
    steps, out, _ = compared
    calibration = Calibration.read(out)
    labels, probabilities = _predicted(steps, OUT_OF_FOLD)
    assert calibration.classes == steps.classes
    assert calibration.rows == len(labels)
    # A search on a grid, by scikit-learn's log loss.
    grid = np.geomspace(0.1, 10, 400)
    losses = [sk.log_loss(labels, scale(probabilities, value)) for value in grid]
    assert calibration.temperature == pytest.approx(grid[np.argmin(losses)], rel=0.02)
    true = scale(probabilities, calibration.temperature)[np.arange(len(labels)), labels]
    covered = (true >= calibration.lowest_probability).sum()
    assert covered == int(np.ceil((len(labels) + 1) * 0.9))


def test_the_figures_are_those_of_the_test_rows(compared):
    steps, out, result = compared
    calibration = Calibration.read(out)
    document = json.loads((out / "metrics.json").read_text())["calibration"]
    assert document["temperature"] == calibration.temperature
    figures = document["test"]
    labels, probabilities = _predicted(steps, TEST)
    scaled = scale(probabilities, calibration.temperature)
    for name, values in (("before", probabilities), ("after", scaled)):
        assert figures[name]["log_loss"] == pytest.approx(sk.log_loss(labels, values))
        assert figures[name]["calibration_error"] == pytest.approx(expected_calibration_error(labels, values))
    sets = scaled >= calibration.lowest_probability
    assert figures["coverage"] == pytest.approx(sets[np.arange(len(labels)), labels].mean())
    assert figures["mean_set_size"] == pytest.approx(sets.sum(axis=1).mean())
    # Half of six classes, by default.
    answered = (sets.sum(axis=1) >= 1) & (sets.sum(axis=1) <= 3)
    assert figures["abstained"] == pytest.approx(1 - answered.mean())
    right = scaled.argmax(axis=1) == labels
    assert figures["accuracy_of_answered"] == pytest.approx(right[answered].mean())
    by_class = figures["by_class"]
    assert sum(by_class[name]["rows"] for name in steps.classes) == figures["rows"] == len(labels)
    weighted = sum(by_class[name]["rows"] * by_class[name]["coverage"] for name in steps.classes)
    assert weighted / len(labels) == pytest.approx(figures["coverage"])
    assert result.metrics["test/conformal/coverage"] == figures["coverage"]
    assert result.metrics["test/calibrated/log_loss"] == figures["after"]["log_loss"]
    assert result.metrics["temperature"] == calibration.temperature


def test_the_test_rows_have_no_part_in_it(tmp_path):
    """Other test predictions leave calibration.json as it is, byte for byte."""
    written = []
    for number, signal in enumerate((3.0, -2.0)):
        root = tmp_path / str(number)
        steps = write_steps(root)
        classes, samples = steps.classes, steps.samples
        write_model(root / "again", CANDIDATE, samples, classes, sets=(TEST,), signal=signal, seed=number)
        arguments = steps.arguments() | {"candidate": root / "again"}
        compare_models(**arguments, output=root / "out", settings=CompareSettings(resamples=100))
        written.append((root / "out" / "calibration.json").read_bytes())
    assert written[0] == written[1]


def test_settings_decide_when_there_is_no_diagnosis(tmp_path):
    steps = write_steps(tmp_path)
    chosen = CalibrationSettings(alpha=0.3, largest_set=0.01, abstain_below=0.6)
    settings = CompareSettings(resamples=100, calibration=chosen)
    compare_models(**steps.arguments(), output=tmp_path / "out", settings=settings)
    calibration = Calibration.read(tmp_path / "out")
    assert (calibration.alpha, calibration.largest_set, calibration.abstain_below) == (0.3, 1, 0.6)


def test_the_report_shows_it(compared):
    _, out, _ = compared
    page = (out / "report.html").read_text()
    document = json.loads((out / "metrics.json").read_text())["calibration"]
    assert f"a temperature of {document['temperature']:.3g}, fitted on 144 out-of-fold training rows" in page
    assert "Conformal sets of CNN-LSTM-attention at 90%" in page
    assert f"{document['test']['after']['calibration_error']:.3f}" in page


def test_a_candidate_without_out_of_fold_rows_is_not_calibrated(tmp_path, quick):
    steps = write_steps(tmp_path)
    arguments = steps.arguments() | {"cross_validations": steps.cross_validations[1:]}
    result = compare_models(**arguments, output=tmp_path / "out", settings=quick)
    assert not (tmp_path / "out" / "calibration.json").exists()
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["calibration"] is None
    assert any("not calibrated" in line for line in result.warnings)
    assert "so the registered model is not calibrated" in (tmp_path / "out" / "report.html").read_text()
