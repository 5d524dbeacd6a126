"""The metrics of many bootstrap resamples at once.

A resample is a row of a weight matrix: how often each sample was drawn. Scikit-learn takes one resample at a time, a
tenth of a second for all metrics, so that 1,000 resamples of eight models would take a quarter of an hour. Here every
metric is a matrix product or a cumulative sum over all resamples; with weights of 1 the values equal scikit-learn's.
"""

from __future__ import annotations

import numpy as np

from evaluation.calibration import DEFAULT_BINS, brier_scores, confidence_bins
from evaluation.rows import PredictedRows

_CHUNK_CELLS = 8_000_000


def resampled_scores(
    predicted: PredictedRows, weights: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Compute ``metrics.score`` for every resample.

    Args:
        predicted: Rows of one model.
        weights: int or float ``[resamples, n]``, how often each row was drawn.

    Returns:
        Overall metrics, each float64 ``[resamples]``, and metrics by class, each float64 ``[resamples, classes]``,
        with the names of ``metrics.OVERALL_METRICS`` and ``metrics.CLASS_METRICS``; NaN where undefined.
    """
    confusion = confusion_matrices(predicted, weights)
    by_class = {"auc": auc_by_class(predicted, weights)} | _class_metrics(confusion)
    overall = _overall_metrics(confusion) | {
        "macro_auc": _nan_mean(by_class["auc"]),
        "log_loss": weighted_mean(_log_losses(predicted), weights),
        "brier": weighted_mean(brier_scores(predicted.labels, predicted.probabilities), weights),
        "calibration_error": _calibration_errors(predicted, weights),
    }
    return overall, by_class


def rank_auc(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the AUC of every resample as the Mann-Whitney statistic, with ties counted as one half.

    Rows are sorted once; each resample then needs two sums over the groups of equal score and one cumulative sum.

    Args:
        truth: Bool ``[n]``.
        scores: float ``[n]``.
        weights: int or float ``[resamples, n]``, not negative.

    Returns:
        float64 ``[resamples]`` in [0, 1]; NaN for a resample without a positive or without a negative.
    """
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    positive = truth[order].astype(np.float64)
    values = np.empty(len(weights))
    chunk = max(1, _CHUNK_CELLS // len(scores))
    for begin in range(0, len(weights), chunk):
        drawn = weights[begin : begin + chunk, order]
        positives = np.add.reduceat(drawn * positive, starts, axis=1)
        negatives = np.add.reduceat(drawn * (1 - positive), starts, axis=1)
        below = np.cumsum(negatives, axis=1) - negatives / 2
        pairs = positives.sum(axis=1) * negatives.sum(axis=1)
        values[begin : begin + chunk] = _ratio((positives * below).sum(axis=1), pairs)
    return values


def auc_by_class(predicted: PredictedRows, weights: np.ndarray) -> np.ndarray:
    """Return the one-vs-rest AUC of every resample and class.

    Args:
        predicted: Rows of one model.
        weights: int or float ``[resamples, n]``.

    Returns:
        float64 ``[resamples, classes]``; NaN where a class has no row or all rows.
    """
    columns = [
        rank_auc(predicted.labels == k, predicted.probabilities[:, k], weights) for k in range(predicted.class_count)
    ]
    return np.stack(columns, axis=1)


def macro_auc(predicted: PredictedRows, weights: np.ndarray) -> np.ndarray:
    """Return the macro AUC of every resample, over the classes that have one.

    Args:
        predicted: Rows of one model.
        weights: int or float ``[resamples, n]``.

    Returns:
        float64 ``[resamples]``.
    """
    return _nan_mean(auc_by_class(predicted, weights))


def accuracy(predicted: PredictedRows, weights: np.ndarray) -> np.ndarray:
    """Return the accuracy of every resample.

    Args:
        predicted: Rows of one model.
        weights: int or float ``[resamples, n]``.

    Returns:
        float64 ``[resamples]``.
    """
    return weighted_mean((predicted.predicted == predicted.labels).astype(np.float64), weights)


def macro_precision(predicted: PredictedRows, weights: np.ndarray) -> np.ndarray:
    """Return the macro precision of every resample, over the classes that were drawn.

    Args:
        predicted: Rows of one model.
        weights: int or float ``[resamples, n]``.

    Returns:
        float64 ``[resamples]``.
    """
    return _overall_metrics(confusion_matrices(predicted, weights))["macro_precision"]


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean of every resample.

    Args:
        values: float ``[n]``.
        weights: int or float ``[resamples, n]``.

    Returns:
        float64 ``[resamples]``.
    """
    return _weighted_sums(values, weights) / weights.sum(axis=1)


def confusion_matrices(predicted: PredictedRows, weights: np.ndarray) -> np.ndarray:
    """Return the confusion matrix of every resample.

    Args:
        predicted: Rows of one model.
        weights: int or float ``[resamples, n]``.

    Returns:
        float64 ``[resamples, classes, classes]``, true class by row and predicted class by column.
    """
    classes = predicted.class_count
    cell = predicted.labels * classes + predicted.predicted
    indicator = np.zeros((len(predicted), classes * classes))
    indicator[np.arange(len(predicted)), cell] = 1
    return _weighted_sums(indicator, weights).reshape(-1, classes, classes)


def _class_metrics(confusion: np.ndarray) -> dict[str, np.ndarray]:
    total = confusion.sum(axis=(1, 2))[:, None]
    hit = np.diagonal(confusion, axis1=1, axis2=2)
    actual, decided = confusion.sum(axis=2), confusion.sum(axis=1)
    false_alarm, missed = decided - hit, actual - hit
    rejected = total - hit - false_alarm - missed
    absent = actual == 0
    whole = actual == total
    chance = (actual * decided + (total - actual) * (total - decided)) / total**2
    accuracy = (hit + rejected) / total
    spread = np.sqrt(actual * (total - actual) * decided * (total - decided))
    product = hit * rejected - false_alarm * missed
    kappa = _ratio(accuracy - chance, 1 - chance)
    values = {
        "accuracy": accuracy,
        "recall": _ratio(hit, actual),
        "specificity": _ratio(rejected, total - actual),
        "precision": _ratio(hit, decided, empty=0.0),
        "kappa": np.where(whole, np.nan, kappa),
        "mcc": np.where(whole, np.nan, _ratio(product, spread, empty=0.0)),
    }
    return {name: np.where(absent, np.nan, value) for name, value in values.items()}


def _overall_metrics(confusion: np.ndarray) -> dict[str, np.ndarray]:
    total = confusion.sum(axis=(1, 2))
    hit = np.diagonal(confusion, axis1=1, axis2=2)
    actual, decided = confusion.sum(axis=2), confusion.sum(axis=1)
    absent = actual == 0
    accuracy = hit.sum(axis=1) / total
    agreement = (actual * decided).sum(axis=1)
    recall = _ratio(hit, actual)
    precision = np.where(absent, np.nan, _ratio(hit, decided, empty=0.0))
    f1 = np.where(absent, np.nan, _ratio(2 * hit, actual + decided, empty=0.0))
    spread = np.sqrt((total**2 - np.square(actual).sum(axis=1)) * (total**2 - np.square(decided).sum(axis=1)))
    single = (~absent).sum(axis=1) < 2
    return {
        "accuracy": accuracy,
        "macro_precision": _nan_mean(precision),
        "macro_recall": _nan_mean(recall),
        "macro_f1": _nan_mean(f1),
        "kappa": np.where(single, np.nan, _ratio(accuracy - agreement / total**2, 1 - agreement / total**2)),
        "mcc": np.where(single, np.nan, _ratio(hit.sum(axis=1) * total - agreement, spread, empty=0.0)),
    }


def _log_losses(predicted: PredictedRows) -> np.ndarray:
    """Each row's log loss, clipped as scikit-learn does."""
    own = predicted.probabilities[np.arange(len(predicted)), predicted.labels]
    own = own / predicted.probabilities.sum(axis=1)
    smallest = np.finfo(np.float64).eps
    return -np.log(np.clip(own, smallest, 1 - smallest))


def _calibration_errors(predicted: PredictedRows, weights: np.ndarray) -> np.ndarray:
    place = np.eye(DEFAULT_BINS)[confidence_bins(predicted.probabilities)]
    gap = (predicted.predicted == predicted.labels) - predicted.probabilities.max(axis=1)
    return np.abs(_weighted_sums(place * gap[:, None], weights)).sum(axis=1) / weights.sum(axis=1)


def _weighted_sums(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sums over the rows of every resample; the weights become floats some resamples at a time."""
    chunk = max(1, _CHUNK_CELLS // len(values))
    parts = [weights[begin : begin + chunk].astype(np.float64) @ values for begin in range(0, len(weights), chunk)]
    return np.concatenate(parts)


def _ratio(numerator: np.ndarray, denominator: np.ndarray, empty: float = np.nan) -> np.ndarray:
    """Divide; ``empty`` where the denominator is 0."""
    filled = denominator > 0
    return np.where(filled, numerator / np.where(filled, denominator, 1), empty)


def _nan_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN; NaN where nothing is left."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0).sum(axis=-1), known.sum(axis=-1))
