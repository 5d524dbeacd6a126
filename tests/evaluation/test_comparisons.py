from __future__ import annotations

import numpy as np
import pytest

from evaluation.comparisons import adjust, bootstrap_p_value, compare_pair, holm, mcnemar_p_value
from evaluation.intervals import bootstrap_weights
from evaluation.metrics import score
from tests.evaluation.conftest import make_rows, random_rows


@pytest.mark.parametrize(
    ("only_first", "only_second", "expected"),
    [
        (0, 0, 1.0),
        (5, 0, 2 / 2**5),
        (1, 7, 2 * (1 + 8) / 2**8),  # both tails of binomial(8, 1/2) at 1: (C(8,0) + C(8,1)) / 256, twice
        (4, 4, 1.0),
    ],
)
def test_mcnemar_equals_the_binomial_tails_counted_by_hand(only_first, only_second, expected):
    assert mcnemar_p_value(only_first, only_second) == pytest.approx(expected)


def test_holm_by_hand():
    # Sorted .01 .02 .04 .30 times 4 3 2 1 = .04 .06 .08 .30.
    np.testing.assert_allclose(holm(np.array([0.04, 0.01, 0.30, 0.02])), [0.08, 0.04, 0.30, 0.06])


def test_holm_is_monotone_capped_and_skips_undefined_values():
    # Sorted .02 .021 times 2 1 = .04 .021, which may not fall below .04.
    np.testing.assert_allclose(holm(np.array([0.021, np.nan, 0.02])), [0.04, np.nan, 0.04])
    np.testing.assert_allclose(holm(np.array([0.9, 0.8])), [1, 1])


def test_bootstrap_p_value_counts_both_tails():
    # 3 of 99 are at or below 0: 2 * (3 + 1) / 100.
    assert bootstrap_p_value(np.r_[np.full(96, 1.0), [-1.0, -1.0, 0.0]]) == pytest.approx(0.08)
    assert bootstrap_p_value(np.ones(99)) == pytest.approx(0.02)
    assert bootstrap_p_value(np.zeros(9)) == 1
    assert np.isnan(bootstrap_p_value(np.array([np.nan])))


def test_a_model_does_not_differ_from_itself():
    rows = random_rows(60, 3)
    weights = bootstrap_weights(rows.labels, rows.groups, resamples=200)
    comparison = compare_pair(rows, rows, weights, name="itself")
    assert comparison.macro_auc.value == 0
    assert comparison.macro_auc.p_value == 1
    assert comparison.mcnemar_p_value == 1
    assert (comparison.only_candidate, comparison.only_baseline) == (0, 0)


def test_a_clearly_better_candidate_is_found_better_and_by_the_right_amount():
    baseline = random_rows(150, 3, seed=1, signal=0.0)
    candidate = make_rows(baseline.labels, random_rows(150, 3, seed=1, signal=3.0).probabilities)
    weights = bootstrap_weights(baseline.labels, baseline.groups, resamples=500)
    comparison = compare_pair(candidate, baseline, weights, name="noise")
    assert comparison.macro_auc.value == pytest.approx(
        score(candidate).overall["macro_auc"] - score(baseline).overall["macro_auc"]
    )
    assert comparison.macro_auc.interval.low > 0
    assert comparison.macro_auc.p_value == pytest.approx(2 / 501)
    assert comparison.mcnemar_p_value < 1e-6
    right = candidate.predicted == candidate.labels
    also = baseline.predicted == baseline.labels
    assert comparison.only_candidate == np.sum(right & ~also)
    assert comparison.only_baseline == np.sum(~right & also)
    assert comparison.accuracy.value == pytest.approx((comparison.only_candidate - comparison.only_baseline) / 150)


def test_mcnemar_is_withheld_where_a_patient_has_several_rows():
    rows = random_rows(40, 2)
    repeated = make_rows(rows.labels, rows.probabilities, groups=np.arange(40) // 2)
    weights = bootstrap_weights(repeated.labels, repeated.groups, resamples=20)
    comparison = compare_pair(repeated, repeated, weights, name="itself")
    assert np.isnan(comparison.mcnemar_p_value)


def test_adjusted_p_values_are_those_of_holm():
    rows = random_rows(80, 2, signal=2.0)
    weights = bootstrap_weights(rows.labels, rows.groups, resamples=100)
    others = [make_rows(rows.labels, random_rows(80, 2, seed=s, signal=1.0).probabilities) for s in range(3)]
    raw = [compare_pair(rows, other, weights, name=str(i)) for i, other in enumerate(others)]
    adjusted = adjust(raw)
    np.testing.assert_allclose(
        [c.macro_auc_adjusted_p_value for c in adjusted], holm(np.array([c.macro_auc.p_value for c in raw]))
    )
    np.testing.assert_allclose(
        [c.mcnemar_adjusted_p_value for c in adjusted], holm(np.array([c.mcnemar_p_value for c in raw]))
    )


def test_different_rows_are_refused():
    rows = random_rows(20, 2)
    weights = bootstrap_weights(rows.labels, rows.groups, resamples=5)
    with pytest.raises(ValueError, match="same rows"):
        compare_pair(rows, rows.select(np.arange(19)), weights, name="short")
