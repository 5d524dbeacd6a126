"""The split into training and test patients, and the folds: stratified, by patient, made once for every model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold

from data_schemas.errors import InputError

HELD_OUT = -1


def held_out_counts(counts: np.ndarray, test_fraction: float) -> np.ndarray:
    """Return how many patients of each class are held out: the nearest number to the fraction, and at least one.

    Args:
        counts: int ``[classes]``, patients of each class.
        test_fraction: Share of each class, above 0 and below 1.

    Returns:
        int64 ``[classes]``.
    """
    return np.maximum(1, np.floor(counts * test_fraction + 0.5)).astype(np.int64)


def check_classes(counts: np.ndarray, classes: Sequence[str], *, folds: int, test_fraction: float) -> None:
    """Check that every class has patients for the test set and for each fold.

    Args:
        counts: int ``[classes]``, patients of each class.
        classes: Class names.
        folds: Folds of the cross-validation.
        test_fraction: Share of each class that is held out.

    Raises:
        InputError: The cohort is empty, has a single class, or has a class with too few patients.
    """
    total = int(counts.sum())
    if total == 0:
        raise InputError("The cohort is empty: it has 0 patients", remedy="Check the source and its rejected rows")
    if len(classes) < 2 or np.count_nonzero(counts) < 2:
        names = [name for name, count in zip(classes, counts, strict=True) if count] or list(classes)
        raise InputError(
            f"The cohort has a single class: all {total} patients are {', '.join(names)}",
            remedy="Bring patients of at least two classes",
        )
    training = counts - held_out_counts(counts, test_fraction)
    small = np.flatnonzero(training < folds)
    if len(small):
        listed = "; ".join(
            f"{classes[i]}: {counts[i]} patients, of which {max(int(training[i]), 0)} for training"
            for i in small.tolist()
        )
        most = int(training.min())
        remedy = f"Set preprocess.folds to {most} at most" if most >= 2 else "Bring more patients of it"
        raise InputError(
            f"Every class needs {folds} training patients, one for each of {folds} folds, beside those held out "
            f"(test_fraction {test_fraction:g}). Too few: {listed}",
            field="preprocess.folds",
            remedy=f"{remedy}, or leave the class out at ingest",
        )


def split_patients(labels: np.ndarray, *, folds: int, test_fraction: float, seed: int) -> np.ndarray:
    """Hold out test patients and deal the others to folds, class by class.

    The result depends on the order of the patients, their labels and the seed alone, never on their pseudonyms.

    Args:
        labels: int ``[patients]``, class indices; every class passes ``check_classes``.
        folds: Folds of the cross-validation.
        test_fraction: Share of each class that is held out.
        seed: Seed of the drawing.

    Returns:
        int64 ``[patients]``: the fold of each training patient (0 to ``folds`` - 1), ``HELD_OUT`` for test patients.
        Within a class, the sizes of two folds differ by one patient at most.
    """
    random = np.random.default_rng(seed)
    order = np.lexsort((random.permutation(len(labels)), labels))
    names, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    rank = np.empty(len(labels), dtype=np.int64)
    rank[order] = np.arange(len(labels)) - np.repeat(starts, counts)
    test = rank < held_out_counts(counts, test_fraction)[np.searchsorted(names, labels)]
    fold = np.full(len(labels), HELD_OUT, dtype=np.int64)
    training = np.flatnonzero(~test)
    splitter = StratifiedKFold(n_splits=folds, shuffle=True, random_state=seed)
    for number, (_, chosen) in enumerate(splitter.split(training, labels[training])):
        fold[training[chosen]] = number
    return fold


def split_samples(
    patients: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    folds: int,
    test_fraction: float,
    seed: int,
) -> np.ndarray:
    """Split samples so that all samples of a patient stay together.

    Args:
        patients: ``[n]``, the patient of each sample, any hashable type.
        labels: ``[n]``, class names; the same for all samples of a patient.
        classes: Class names in their fixed order.
        folds: Folds of the cross-validation.
        test_fraction: Share of each class's patients that is held out.
        seed: Seed of the drawing.

    Returns:
        int64 ``[n]``: fold, or ``HELD_OUT`` for samples of test patients.

    Raises:
        InputError: A label is not one of the classes, a patient has two labels, or a class has too few patients.
    """
    codes = pd.Categorical(labels, categories=list(classes)).codes.astype(np.int64)
    if (codes < 0).any():
        raise InputError(
            f"{int((codes < 0).sum())} patients have a label that is not one of the classes {', '.join(classes)}",
            file="patients.parquet",
            field="label",
            remedy="Add the label to the source's classes, or leave those patients out",
        )
    patient, _ = pd.factorize(patients)
    patient_labels = codes[np.unique(patient, return_index=True)[1]]
    if (patient_labels[patient] != codes).any():
        raise InputError("A patient has samples with different labels", file="patients.parquet", field="label")
    counts = np.bincount(patient_labels, minlength=len(classes))
    check_classes(counts, classes, folds=folds, test_fraction=test_fraction)
    return split_patients(patient_labels, folds=folds, test_fraction=test_fraction, seed=seed)[patient]
