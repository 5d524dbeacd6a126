from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import log_loss

from data_schemas.calibration import Calibration
from evaluation.recalibration import decide, fit_temperature, lowest_probability, scale


def draw(rows: int, classes: int, seed: int, sharpness: float = 1.0):
    """Labels drawn from probabilities, and the same probabilities made sharper than they are."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(rows, classes)) * 2
    true = softmax(logits, axis=1)
    labels = (true.cumsum(axis=1) < random.random((rows, 1))).sum(axis=1)
    return labels, softmax(logits * sharpness, axis=1)


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_the_temperature_undoes_what_sharpened_the_logits(sharpness):
    labels, probabilities = draw(20_000, 5, seed=1, sharpness=sharpness)
    assert fit_temperature(labels, probabilities) == pytest.approx(sharpness, rel=0.05)


def test_no_temperature_nearby_has_a_lower_log_loss():
    labels, probabilities = draw(300, 4, seed=2, sharpness=2.0)
    found = fit_temperature(labels, probabilities)
    best = log_loss(labels, scale(probabilities, found))
    for factor in (0.9, 0.99, 1.01, 1.1):
        assert log_loss(labels, scale(probabilities, found * factor)) > best


def test_a_model_that_is_never_wrong_gets_a_bounded_temperature():
    labels = np.array([0, 1, 2] * 5)
    assert 0.05 <= fit_temperature(labels, np.eye(3)[labels] * 0.97 + 0.01) < 0.2
    assert np.isfinite(scale(np.eye(3), 0.05)).all()


def test_scaling_by_hand():
    # Temperature 2 takes square roots: 0.64 and 0.36 become 0.8 and 0.6, over 1.4.
    np.testing.assert_allclose(scale(np.array([[0.64, 0.36]]), 2.0), [[0.8 / 1.4, 0.6 / 1.4]])
    np.testing.assert_allclose(scale(np.array([[0.5, 0.3, 0.2]]), 1.0), [[0.5, 0.3, 0.2]])


@pytest.mark.parametrize(
    ("alpha", "lowest"),
    # Nine rows; the rank is ceil(10 * (1 - alpha)) from the highest: 9, 8, 5, and 10 of 9.
    [(0.1, 0.1), (0.2, 0.2), (0.5, 0.5), (0.05, 0.0)],
)
def test_the_threshold_is_the_finite_sample_quantile(alpha, lowest):
    true = np.array([0.3, 0.9, 0.1, 0.5, 0.7, 0.2, 0.8, 0.4, 0.6])
    assert lowest_probability(np.zeros(9, dtype=int), np.stack([true, 1 - true], axis=1), alpha) == lowest


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 60), alpha=st.floats(0.01, 0.49))
@settings(max_examples=60, deadline=None)
def test_the_sets_cover_as_many_of_their_own_rows_as_the_quantile_asks(seed, rows, alpha):
    labels, probabilities = draw(rows, 4, seed)
    calibration = _calibration(lowest_probability=lowest_probability(labels, scale(probabilities, 1.0), alpha))
    sets = decide(probabilities, calibration).sets
    assert sets[np.arange(rows), labels].sum() >= min(rows, (rows + 1) * (1 - alpha) - 1e-9)


def test_sets_cover_new_rows_at_the_promised_share():
    """Marginal coverage over many draws of calibration and new rows, as the theorem says, with a wrong model."""
    covered = []
    for seed in range(400):
        labels, probabilities = draw(120, 4, seed, sharpness=2.0)
        fitted, new = slice(0, 60), slice(60, 120)
        lowest = lowest_probability(labels[fitted], probabilities[fitted], 0.2)
        covered.append((probabilities[new][np.arange(60), labels[new]] >= lowest).mean())
    # The share is between 0.8 and 0.8 + 1/61; the mean of 400 draws has a standard error of about 0.003.
    assert 0.79 < np.mean(covered) < 0.83


def _calibration(**changes) -> Calibration:
    values = {
        "classes": ["a", "b", "c", "d"],
        "temperature": 1.0,
        "alpha": 0.1,
        "lowest_probability": 0.25,
        "largest_set": 2,
        "abstain_below": 0.0,
        "rows": 10,
    }
    return Calibration.model_validate(values | changes)


@pytest.mark.parametrize(
    ("probabilities", "changes", "classes", "abstains"),
    [
        ([0.7, 0.2, 0.05, 0.05], {}, [0], False),
        ([0.5, 0.3, 0.1, 0.1], {}, [0, 1], False),
        ([0.5, 0.3, 0.1, 0.1], {"abstain_below": 0.6}, [0, 1], True),
        ([0.3, 0.3, 0.3, 0.1], {}, [0, 1, 2], True),
        ([0.3, 0.3, 0.3, 0.1], {"largest_set": 3}, [0, 1, 2], False),
        ([0.4, 0.4, 0.1, 0.1], {"lowest_probability": 0.5}, [], True),
        # Scaled first: 0.64 and 0.36 become 0.57 and 0.43.
        ([0.64, 0.36, 0.0, 0.0], {"temperature": 2.0, "lowest_probability": 0.42}, [0, 1], False),
    ],
)
def test_a_decision_by_hand(probabilities, changes, classes, abstains):
    decisions = decide(np.array([probabilities]), _calibration(**changes))
    assert np.flatnonzero(decisions.sets[0]).tolist() == classes
    assert decisions.abstained.tolist() == [abstains]


def test_it_is_read_as_it_was_written(tmp_path):
    _calibration().write(tmp_path)
    assert Calibration.read(tmp_path) == _calibration()
    assert Calibration.read(tmp_path / "elsewhere") is None
