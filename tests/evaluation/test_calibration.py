from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from evaluation.calibration import brier_scores, confidence_bins, expected_calibration_error, reliability
from tests.evaluation.conftest import random_rows


def test_two_class_brier_is_twice_scikit_learns_binary_one():
    rows = random_rows(50, 2)
    binary = brier_score_loss(rows.labels, rows.probabilities[:, 1])
    assert brier_scores(rows.labels, rows.probabilities).mean() == pytest.approx(2 * binary)


def test_reliability_equals_scikit_learns_curve():
    rows = random_rows(200, 4, signal=2.0)
    curve = reliability(rows.labels, rows.probabilities)
    right = rows.predicted == rows.labels
    accuracy, confidence = calibration_curve(right, rows.probabilities.max(axis=1), n_bins=10)
    np.testing.assert_allclose(curve.accuracy, accuracy)
    np.testing.assert_allclose(curve.confidence, confidence)
    assert curve.count.sum() == 200


def test_perfect_calibration_has_no_error():
    # Four rows at .75, three of them right.
    probabilities = np.tile([0.75, 0.25], (4, 1))
    assert expected_calibration_error(np.array([0, 0, 0, 1]), probabilities) == pytest.approx(0)


@pytest.mark.parametrize(("highest", "expected"), [(1.0, 9), (0.9, 8), (0.901, 9), (0.5, 4)])
def test_a_bin_holds_its_upper_edge(highest, expected):
    assert confidence_bins(np.array([[highest, 1 - highest]]))[0] == expected


@given(st.integers(2, 6), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_the_error_is_between_zero_and_one(classes, seed):
    rows = random_rows(30, classes, seed=seed)
    assert 0 <= expected_calibration_error(rows.labels, rows.probabilities) <= 1
