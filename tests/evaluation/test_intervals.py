from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from evaluation.intervals import bootstrap_intervals, bootstrap_weights, percentile_interval
from tests.evaluation.conftest import make_rows, random_rows


def test_a_resample_has_as_many_patients_of_each_class_as_there_are():
    labels = np.repeat([0, 1, 2], [30, 8, 2])
    weights = bootstrap_weights(labels, np.arange(40), resamples=50, seed=1)
    for k, count in ((0, 30), (1, 8), (2, 2)):
        np.testing.assert_array_equal(weights[:, labels == k].sum(axis=1), np.full(50, count))


def test_rows_of_one_patient_are_drawn_together():
    groups = np.repeat(np.arange(10), 3)
    weights = bootstrap_weights(np.repeat([0, 1], 15), groups, resamples=20, seed=2)
    per_patient = weights.reshape(20, 10, 3)
    assert (per_patient == per_patient[:, :, :1]).all()
    np.testing.assert_array_equal(weights.sum(axis=1), np.full(20, 30))


def test_the_seed_alone_decides():
    labels = random_rows(50, 3).labels
    first = bootstrap_weights(labels, np.arange(50), resamples=5, seed=4)
    assert np.array_equal(first, bootstrap_weights(labels, np.arange(50), resamples=5, seed=4))
    assert not np.array_equal(first, bootstrap_weights(labels, np.arange(50), resamples=5, seed=5))


@pytest.mark.parametrize("cells", [1, 40, 10**6])
def test_draws_do_not_depend_on_how_many_are_made_at_a_time(monkeypatch, cells):
    labels, groups = np.repeat([0, 1], [30, 9]), np.r_[np.arange(30), np.repeat([40, 41, 39], 3)]
    expected = np.random.default_rng(6)
    drawn = [expected.integers(size, size=(7, size)) for size in (30, 3)]
    counts = [np.stack([np.bincount(row, minlength=draws.shape[1]) for row in draws]) for draws in drawn]
    monkeypatch.setattr("evaluation.intervals._CELLS", cells)
    weights = bootstrap_weights(labels, groups, resamples=7, seed=6)
    # The third patient of the second class is the first in the order of the groups.
    np.testing.assert_array_equal(weights, np.hstack([counts[0], np.repeat(counts[1][:, [1, 2, 0]], 3, axis=1)]))


def test_the_draws_are_uniform():
    weights = bootstrap_weights(np.zeros(20, dtype=int), np.arange(20), resamples=4000, seed=0)
    # A patient's count is binomial(20, 1/20): mean 1, variance .95.
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.08)
    np.testing.assert_allclose(weights.var(axis=0), 0.95, atol=0.12)


def test_the_interval_of_an_accuracy_is_the_binomial_one():
    # 100 rows of one class, 80 right: resampled accuracy is binomial(100, .8) / 100.
    probabilities = np.where(np.arange(100)[:, None] < 80, [[0.9, 0.1]], [[0.1, 0.9]])
    rows = make_rows(np.zeros(100, dtype=int), probabilities)
    weights = bootstrap_weights(rows.labels, rows.groups, resamples=4000, seed=7)
    interval = bootstrap_intervals(rows, weights).overall["accuracy"]
    low, high = binom.ppf([0.025, 0.975], 100, 0.8) / 100
    assert interval.low == pytest.approx(low, abs=0.011)
    assert interval.high == pytest.approx(high, abs=0.011)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    # Two normal distributions one unit apart: true AUC = Phi(1 / sqrt 2) = .7602.
    random = np.random.default_rng(11)
    covered = 0
    for trial in range(120):
        labels = np.repeat([0, 1], 60)
        chance = 1 / (1 + np.exp(-(random.normal(size=120) + labels)))
        rows = make_rows(labels, np.stack([1 - chance, chance], axis=1))
        weights = bootstrap_weights(labels, rows.groups, resamples=300, seed=trial)
        interval = bootstrap_intervals(rows, weights).overall["macro_auc"]
        covered += interval.low <= 0.7602 <= interval.high
    assert 0.88 <= covered / 120 <= 0.99


def test_percentiles_leave_out_undefined_resamples():
    interval = percentile_interval(np.r_[np.arange(101.0), np.nan], 0.9)
    assert (interval.low, interval.high) == pytest.approx((5, 95))
    assert np.isnan(percentile_interval(np.array([np.nan])).low)


def test_nothing_to_resample_is_refused():
    with pytest.raises(ValueError, match="0 rows"):
        bootstrap_weights(np.array([], dtype=int), np.array([]), resamples=10)
