"""Point estimates of the paper's metrics, and of calibration, by scikit-learn.

Classes that have no row, or that have all rows, have no AUC. They are left out of every average over classes and
their own figures are NaN; ``Scores.absent`` names them so that a report can say so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn import metrics as sk

from evaluation.calibration import brier_scores, expected_calibration_error
from evaluation.rows import PredictedRows

OVERALL_METRICS = (
    "macro_auc",
    "accuracy",
    "macro_precision",
    "kappa",
    "mcc",
    "macro_recall",
    "macro_f1",
    "log_loss",
    "brier",
    "calibration_error",
)
CLASS_METRICS = ("auc", "accuracy", "recall", "specificity", "precision", "kappa", "mcc")


@dataclass(frozen=True)
class Scores:
    """Metrics of one model on some rows.

    Attributes:
        overall: Scalars, keyed by ``OVERALL_METRICS``. Averages are over the classes that occur among the rows.
        by_class: float ``[classes]`` each, keyed by ``CLASS_METRICS``, one-vs-rest; NaN for absent classes.
        confusion: int ``[classes, classes]``, true class by row and predicted class by column (Fig. 4).
        absent: Indices of the classes without a row.
    """

    overall: dict[str, float]
    by_class: dict[str, np.ndarray]
    confusion: np.ndarray
    absent: list[int]


def score(predicted: PredictedRows) -> Scores:
    """Compute all metrics of one model.

    Overall: macro AUC (one-vs-rest, unweighted mean), accuracy, macro precision, recall and F1 (a class that is
    never predicted has precision 0), Cohen's kappa and MCC of the whole confusion matrix, log loss (natural
    logarithm), multi-class Brier score (0 to 2) and expected calibration error of the top class (0 to 1).

    By class, one-vs-rest: AUC (Table II); accuracy, the share of *all* rows on which "this class or not" is
    right (Fig. 5); recall, the share of this class's rows that were found (the diagonal of Fig. 4);
    specificity; precision; kappa and MCC (Fig. 6).

    Args:
        predicted: Rows of one model, one at least.

    Returns:
        The scores. Metrics that the rows do not define are NaN.

    Raises:
        ValueError: There are no rows.
    """
    if len(predicted) == 0:
        raise ValueError("Metrics need one row at least; received none.")
    classes = np.arange(predicted.class_count)
    labels, decided = predicted.labels, predicted.predicted
    counts = np.bincount(labels, minlength=len(classes))
    present = np.flatnonzero(counts)
    confusion = sk.confusion_matrix(labels, decided, labels=classes)
    by_class = _scores_by_class(predicted, present)
    precision, recall, f1, _ = sk.precision_recall_fscore_support(
        labels, decided, labels=present, average="macro", zero_division=0
    )
    overall = {
        "macro_auc": _mean(by_class["auc"]),
        "accuracy": sk.accuracy_score(labels, decided),
        "macro_precision": precision,
        "kappa": _kappa(labels, decided),
        "mcc": sk.matthews_corrcoef(labels, decided) if len(present) > 1 else np.nan,
        "macro_recall": recall,
        "macro_f1": f1,
        "log_loss": sk.log_loss(labels, _normalised(predicted.probabilities), labels=classes),
        "brier": brier_scores(labels, predicted.probabilities).mean(),
        "calibration_error": expected_calibration_error(labels, predicted.probabilities),
    }
    return Scores(
        overall={name: float(value) for name, value in overall.items()},
        by_class=by_class,
        confusion=confusion,
        absent=[int(k) for k in np.flatnonzero(counts == 0)],
    )


def _scores_by_class(predicted: PredictedRows, present: np.ndarray) -> dict[str, np.ndarray]:
    """One-vs-rest metrics; a loop over classes, not rows."""
    values = {name: np.full(predicted.class_count, np.nan) for name in CLASS_METRICS}
    labels, decided = predicted.labels, predicted.predicted
    counts = sk.multilabel_confusion_matrix(labels, decided, labels=np.arange(predicted.class_count))
    for k in present:
        (rejected, false_alarms), (missed, hits) = counts[k]
        values["accuracy"][k] = (hits + rejected) / len(predicted)
        values["recall"][k] = hits / (hits + missed)
        values["precision"][k] = hits / max(hits + false_alarms, 1)
        if hits + missed == len(predicted):
            continue
        values["specificity"][k] = rejected / (rejected + false_alarms)
        values["auc"][k] = sk.roc_auc_score(labels == k, predicted.probabilities[:, k])
        values["kappa"][k] = sk.cohen_kappa_score(labels == k, decided == k)
        values["mcc"][k] = sk.matthews_corrcoef(labels == k, decided == k)
    return values


def _kappa(labels: np.ndarray, decided: np.ndarray) -> float:
    """Cohen's kappa; NaN where all labels are one class, for chance agreement then says nothing."""
    return float(sk.cohen_kappa_score(labels, decided)) if len(np.unique(labels)) > 1 else float("nan")


def _normalised(probabilities: np.ndarray) -> np.ndarray:
    """Make float32-rounded rows sum to 1 exactly, which ``log_loss`` warns about otherwise."""
    return probabilities / probabilities.sum(axis=1, keepdims=True)


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")
