"""How well a model does in parts of the held-out patients: by sex, site and age."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from components.register.settings import GateSettings
from evaluation.intervals import bootstrap_weights, percentile_interval
from evaluation.resampled import auc_by_class
from evaluation.rows import PredictedRows

_TWO_SIDED = 0.95


@dataclass(frozen=True)
class Subgroup:
    """One part of the held-out patients.

    Attributes:
        attribute: "sex", "site" or "age".
        value: Such as "female" or "40 to 64".
        patients: How many.
        classes: How many classes have patients enough to count.
        macro_auc: Over these classes.
        low: Lower end of its bootstrap interval.
        high: Upper end.
    """

    attribute: str
    value: str
    patients: int
    classes: int
    macro_auc: float
    low: float
    high: float

    @property
    def name(self) -> str:
        """Such as "age 40 to 64"."""
        return f"{self.attribute} {self.value}"

    def to_document(self) -> dict[str, object]:
        """Return it as JSON values."""
        return asdict(self)


def attributes_of(samples: pd.DataFrame, patients: pd.DataFrame, age_bands: list[int]) -> pd.DataFrame:
    """Return sex, site and age band of samples.

    Args:
        samples: Columns patient_id and window_end.
        patients: The cohort's patients: patient_id, sex, site, birth_year; each may be null.
        age_bands: Ages at which a new band begins; empty for none.

    Returns:
        Columns sex, site and age, in the order of the samples; null where unknown.
    """
    known = samples[["patient_id"]].merge(patients, on="patient_id", how="left", validate="many_to_one")
    # Years are all that is known of a birth date, so an age may be one too high.
    age = samples["window_end"].dt.year.to_numpy(float) - known["birth_year"].to_numpy(float)
    found = pd.DataFrame({"sex": known["sex"].to_numpy(object), "site": known["site"].to_numpy(object)})
    found["age"] = _bands(age, age_bands)
    return found.where(found.notna() & (found != ""), None)


def _bands(age: np.ndarray, starts: list[int]) -> np.ndarray:
    names = np.full(len(age), None, dtype=object)
    if not starts:
        return names
    edges = [0, *starts, 1000]
    for low, high in itertools.pairwise(edges):
        text = f"under {high}" if low == 0 else (f"{low} and over" if high == 1000 else f"{low} to {high - 1}")
        names[(age >= low) & (age < high)] = text
    return names


def score_subgroups(predicted: PredictedRows, attributes: pd.DataFrame, settings: GateSettings) -> list[Subgroup]:
    """Score a model in each subgroup that is large enough.

    An attribute with a single value is the whole, and is left out.

    Args:
        predicted: The model's held-out rows.
        attributes: From ``attributes_of``, one row a predicted row.
        settings: Smallest sizes and resamples.

    Returns:
        The subgroups, the worst first.
    """
    found = [
        group
        for attribute in attributes.columns.astype(str)
        if attributes[attribute].nunique() > 1
        for group in _groups_of(attribute, predicted, attributes[attribute], settings)
    ]
    return sorted(found, key=lambda group: group.macro_auc)


def _groups_of(
    attribute: str, predicted: PredictedRows, values: pd.Series, settings: GateSettings
) -> Iterator[Subgroup]:
    for value in sorted(values.dropna().unique()):
        own = predicted.select((values == value).to_numpy())
        counts = np.bincount(own.labels, minlength=own.class_count)
        counted = (counts >= settings.smallest_class) & (len(own) - counts >= settings.smallest_class)
        if own.group_count < settings.smallest_group or not counted.any():
            continue
        weights = bootstrap_weights(own.labels, own.groups, resamples=settings.resamples, seed=settings.seed)
        once = auc_by_class(own, np.ones((1, len(own))))[:, counted]
        bounds = percentile_interval(auc_by_class(own, weights)[:, counted].mean(axis=1), _TWO_SIDED)
        yield Subgroup(
            attribute=attribute,
            value=str(value),
            patients=own.group_count,
            classes=int(counted.sum()),
            macro_auc=float(once.mean()),
            low=bounds.low,
            high=bounds.high,
        )
