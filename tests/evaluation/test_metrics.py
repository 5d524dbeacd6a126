from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from evaluation.metrics import CLASS_METRICS, OVERALL_METRICS, score
from evaluation.rows import PredictedRows, common_rows
from tests.evaluation.conftest import make_rows, random_rows

# Fig. 4 of the paper: true class by row. 300 participants.
FIGURE_4 = np.array(
    [
        [100, 0, 0, 0, 0, 0],
        [1, 59, 0, 0, 0, 0],
        [2, 0, 48, 0, 0, 0],
        [0, 0, 0, 40, 0, 0],
        [0, 0, 0, 0, 28, 2],
        [0, 0, 0, 0, 0, 20],
    ]
)


def rows_of(confusion: np.ndarray) -> PredictedRows:
    classes = len(confusion)
    labels = np.repeat(np.repeat(np.arange(classes), classes), confusion.ravel())
    decided = np.repeat(np.tile(np.arange(classes), classes), confusion.ravel())
    return make_rows(labels, np.eye(classes)[decided])


def test_confusion_and_accuracies_of_the_papers_figure_4_are_those_counted_by_hand():
    scores = score(rows_of(FIGURE_4))
    assert np.array_equal(scores.confusion, FIGURE_4)
    assert scores.overall["accuracy"] == pytest.approx(295 / 300)
    one_vs_rest = np.array([297, 299, 298, 300, 298, 298]) / 300
    np.testing.assert_allclose(scores.by_class["accuracy"], one_vs_rest)
    np.testing.assert_allclose(scores.by_class["recall"], [1, 59 / 60, 48 / 50, 1, 28 / 30, 1])
    np.testing.assert_allclose(scores.by_class["precision"], [100 / 103, 1, 1, 1, 1, 20 / 22])
    assert scores.overall["macro_precision"] == pytest.approx((100 / 103 + 4 + 20 / 22) / 6)


def test_two_by_two_kappa_and_mcc_equal_the_hand_computed_numbers():
    # 20 + 15 right of 50: observed .7; chance (25*30 + 25*20) / 2500 = .5; kappa = .4.
    scores = score(rows_of(np.array([[20, 5], [10, 15]])))
    assert scores.overall["kappa"] == pytest.approx(0.4)
    assert scores.overall["mcc"] == pytest.approx((20 * 15 - 5 * 10) / np.sqrt(30 * 20 * 25 * 25))
    np.testing.assert_allclose(scores.by_class["kappa"], [0.4, 0.4])


def test_auc_with_a_tie_equals_the_share_of_ordered_pairs():
    # Class 1 scores .8 .5 against .5 .2: three pairs ordered and one tied = 3.5 / 4.
    positive = np.array([0.8, 0.5, 0.5, 0.2])
    scores = score(make_rows(np.array([1, 1, 0, 0]), np.stack([1 - positive, positive], axis=1)))
    np.testing.assert_allclose(scores.by_class["auc"], [0.875, 0.875])
    assert scores.overall["macro_auc"] == pytest.approx(0.875)


def test_losses_equal_the_hand_computed_numbers():
    scores = score(make_rows(np.array([0, 1]), np.array([[0.8, 0.2], [0.6, 0.4]])))
    assert scores.overall["log_loss"] == pytest.approx(-(np.log(0.8) + np.log(0.4)) / 2)
    assert scores.overall["brier"] == pytest.approx((2 * 0.2**2 + 2 * 0.6**2) / 2)
    # Two bins of one row each: |1 - .8| and |0 - .6|.
    assert scores.overall["calibration_error"] == pytest.approx((0.2 + 0.6) / 2)


def test_macro_auc_equals_scikit_learns_one_vs_rest(six_class_rows):
    expected = sk.roc_auc_score(six_class_rows.labels, six_class_rows.probabilities, multi_class="ovr")
    assert score(six_class_rows).overall["macro_auc"] == pytest.approx(expected)


def test_an_absent_class_is_named_and_left_out_of_every_average():
    rows = random_rows(90, 3, seed=1)
    kept = rows.select(rows.labels != 1)
    scores = score(kept)
    assert scores.absent == [1]
    assert all(np.isnan(scores.by_class[name][1]) for name in CLASS_METRICS)
    assert scores.overall["macro_auc"] == pytest.approx(np.mean(scores.by_class["auc"][[0, 2]]))
    assert scores.overall["macro_precision"] == pytest.approx(np.mean(scores.by_class["precision"][[0, 2]]))


def test_one_class_alone_has_no_auc_kappa_or_mcc_but_an_accuracy():
    scores = score(make_rows(np.zeros(3, dtype=int), np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])))
    assert scores.overall["accuracy"] == pytest.approx(2 / 3)
    assert all(np.isnan(scores.overall[name]) for name in ("macro_auc", "kappa", "mcc"))


def test_a_class_that_is_never_predicted_has_precision_zero():
    scores = score(rows_of(np.array([[5, 0], [5, 0]])))
    assert scores.overall["macro_precision"] == pytest.approx(0.25)
    assert scores.overall["mcc"] == 0


def test_every_metric_is_reported(six_class_rows):
    scores = score(six_class_rows)
    assert tuple(scores.overall) == OVERALL_METRICS
    assert set(scores.by_class) == set(CLASS_METRICS)


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="one row at least"):
        score(random_rows(10, 2).select(np.zeros(10, dtype=bool)))


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0, 2], [[0.5, 0.5], [0.5, 0.5]], "0 to 1"),
        ([0, 1], [[0.5, 0.6], [0.5, 0.5]], "sum to 1"),
        ([0, 1], [[np.nan, 0.5], [0.5, 0.5]], "finite"),
        ([0], [[0.5, 0.5], [0.5, 0.5]], "one length"),
        ([0], [[1.0]], "classes >= 2"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(labels, probabilities, message):
    with pytest.raises(ValueError, match=message):
        make_rows(np.array(labels), np.array(probabilities))


def test_common_rows_are_sorted_and_shared_by_all():
    rows = random_rows(20, 2)
    shuffled = rows.select(np.random.default_rng(0).permutation(20)[:12])
    kept = common_rows({"one": rows, "other": shuffled})
    assert np.array_equal(kept["one"].rows, np.sort(shuffled.rows))
    assert np.array_equal(kept["one"].rows, kept["other"].rows)


def test_models_that_disagree_on_a_label_are_refused():
    rows = random_rows(20, 2)
    other = make_rows(1 - rows.labels, rows.probabilities)
    with pytest.raises(ValueError, match="disagrees"):
        common_rows({"one": rows, "other": other})
