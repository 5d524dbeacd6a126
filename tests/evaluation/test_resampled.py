from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from evaluation.intervals import bootstrap_weights
from evaluation.metrics import CLASS_METRICS, OVERALL_METRICS, score
from evaluation.resampled import rank_auc, resampled_scores
from tests.evaluation.conftest import make_rows, random_rows


@st.composite
def binary_scores(draw):
    count = draw(st.integers(2, 40))
    truth = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    truth[:2] = [True, False]
    # Few distinct values, so that ties are the rule.
    scores = np.array(draw(st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]), min_size=count, max_size=count)))
    weights = np.array(draw(st.lists(st.integers(0, 4), min_size=count, max_size=count)))
    return truth, scores, weights


@given(binary_scores())
@settings(max_examples=200, deadline=None)
def test_rank_auc_equals_scikit_learn_on_the_rows_as_often_as_drawn(case):
    truth, scores, weights = case
    drawn = np.repeat(np.arange(len(truth)), weights)
    value = rank_auc(truth, scores, weights[None].astype(float))[0]
    if len(np.unique(truth[drawn])) < 2:
        assert np.isnan(value)
    else:
        assert value == pytest.approx(sk.roc_auc_score(truth[drawn], scores[drawn]))


@given(st.integers(2, 5), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_every_resampled_metric_equals_the_point_estimate_of_the_drawn_rows(classes, seed):
    rows = random_rows(40, classes, seed=seed)
    random = np.random.default_rng(seed)
    weights = random.integers(0, 3, size=(3, 40), dtype=np.uint8)
    overall, by_class = resampled_scores(rows, weights)
    for r, weight in enumerate(weights):
        drawn = rows.select(np.repeat(np.arange(40), weight.astype(int)))
        expected = score(drawn)
        for name in OVERALL_METRICS:
            assert overall[name][r] == pytest.approx(expected.overall[name], nan_ok=True), name
        for name in CLASS_METRICS:
            np.testing.assert_allclose(by_class[name][r], expected.by_class[name], err_msg=name)


def test_degenerate_rows_agree_with_the_point_estimates():
    always_first = np.tile([0.7, 0.2, 0.1], (12, 1))
    for labels in (np.zeros(12, dtype=int), np.repeat([0, 2], 6)):
        rows = make_rows(labels, always_first)
        overall, by_class = resampled_scores(rows, np.ones((1, 12)))
        expected = score(rows)
        for name in OVERALL_METRICS:
            assert overall[name][0] == pytest.approx(expected.overall[name], nan_ok=True), name
        for name in CLASS_METRICS:
            np.testing.assert_allclose(by_class[name][0], expected.by_class[name], err_msg=name)


def test_resamples_taken_some_at_a_time_give_the_same(monkeypatch):
    rows = random_rows(40, 3, seed=1)
    weights = bootstrap_weights(rows.labels, rows.groups, resamples=7, seed=2)
    assert weights.dtype == np.uint8
    whole, whole_by_class = resampled_scores(rows, weights.astype(float))
    for cells in (1, 80, 130):
        monkeypatch.setattr("evaluation.resampled._CHUNK_CELLS", cells)
        overall, by_class = resampled_scores(rows, weights)
        for expected, found in ((whole, overall), (whole_by_class, by_class)):
            assert found.keys() == expected.keys()
            for name, values in expected.items():
                np.testing.assert_allclose(found[name], values, rtol=1e-12, err_msg=name)
