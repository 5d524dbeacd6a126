"""Latent patients: who they are, how severe each disease is, and how far each modality shows it.

The chain of causes is: class -> severity of every disease -> expression in a modality -> what is measured. A modality
shows a disease more or less than it is severe, each on its own, so that modalities complete each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from components.ingest.demo.classes import CLASSES, DISEASES
from components.ingest.demo.randomness import stream
from components.ingest.demo.settings import DemoSettings

SITES = ("north", "south", "harbour")
MODALITIES = ("series", "image", "text")
# Chance that a modality does not show a disease at all.
_SILENT = {"series": 0.06, "image": 0.10, "text": 0.10}
_FIRST_DAY = np.datetime64("2022-06-01")
_LAST_DAY = np.datetime64("2022-12-31")
_GIVEN_NAMES = ("Alder", "Birch", "Cedar", "Elder", "Hazel", "Juniper", "Linden", "Maple", "Olive", "Rowan", "Willow")

# Mean and deviation of the age in years, by class.
_AGES = np.array([[50, 14], [63, 11], [58, 12], [63, 10], [57, 12], [60, 13]], dtype=np.float64)
# How likely the second disease (column) is beside the dominant one (row); 0 on the diagonal.
_COMPANIONS = np.array(
    [
        [0.0, 0.3, 0.2, 0.4, 0.2],  # cardiovascular disease
        [0.3, 0.0, 0.1, 0.4, 0.3],  # diabetes
        [0.5, 0.2, 0.0, 0.3, 0.1],  # COPD
        [0.3, 0.3, 0.1, 0.0, 0.4],  # hypertension
        [0.2, 0.3, 0.1, 0.6, 0.0],  # chronic kidney disease
    ]
)


@dataclass(frozen=True)
class Patients:
    """The patients of a cohort, or a block of them. Arrays have one row a patient; D diseases as in ``DISEASES``.

    Attributes:
        mrn: Record numbers, invented.
        name: Names, invented.
        sex: "M", "F" or "U".
        age: Years at the start.
        site: Index into ``SITES``.
        label: Index into ``CLASSES``: 0, or the most severe disease plus 1.
        severity: float64 ``[n, D]`` in [0, 1].
        expression: By modality, float64 ``[n, D]`` in [0, 1.2]: what the modality shows of the severity.
        treated: Bool ``[n, D]``: takes medicine against the disease.
        present: By modality, bool ``[n]``.
        start: datetime64[D]: local day at whose midnight the observation starts.
    """

    mrn: np.ndarray
    name: np.ndarray
    sex: np.ndarray
    age: np.ndarray
    site: np.ndarray
    label: np.ndarray
    severity: np.ndarray
    expression: dict[str, np.ndarray]
    treated: np.ndarray
    present: dict[str, np.ndarray]
    start: np.ndarray

    def __len__(self) -> int:
        """Return the number of patients."""
        return len(self.label)

    def block(self, start: int, stop: int) -> Patients:
        """Return the patients from ``start`` up to, but without, ``stop``."""
        rows = slice(start, stop)
        parts = {name: value[rows] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return Patients(
            **parts,
            expression={name: value[rows] for name, value in self.expression.items()},
            present={name: value[rows] for name, value in self.present.items()},
        )

    def table(self) -> pd.DataFrame:
        """Return patients.csv of an export: mrn, name, sex, birth_date, site."""
        born = self.start - (self.age * 365.25).astype("timedelta64[D]")
        return pd.DataFrame(
            {
                "mrn": self.mrn,
                "name": self.name,
                "sex": self.sex,
                "birth_date": born.astype(str),
                "site": np.array(SITES, dtype=object)[self.site],
            }
        )


def draw_patients(settings: DemoSettings) -> Patients:
    """Draw all patients of a cohort, in random order of the classes.

    Args:
        settings: Settings of the cohort.

    Returns:
        Exactly as many patients of each class as ``settings.counts`` says.
    """
    rng = stream(settings.seed, "patients")
    label = rng.permutation(np.repeat(np.arange(len(CLASSES)), list(settings.counts.values())))
    count = len(label)
    severity = draw_severity(rng, label, settings.comorbidity_rate)
    numbers = pd.Series(rng.permutation(count) + 1).astype(str).str.zfill(7)
    given = pd.Series(np.array(_GIVEN_NAMES, dtype=object)[rng.integers(len(_GIVEN_NAMES), size=count)])
    latest = _LAST_DAY - np.timedelta64(settings.days, "D")
    days = max((latest - _FIRST_DAY).astype(int), 1)
    mean, deviation = _AGES[label].T
    return Patients(
        mrn=("DEMO" + numbers).to_numpy(object),
        name=(given + " Testpatient-" + numbers).to_numpy(object),
        sex=rng.choice(np.array(["M", "F", "U"], dtype=object), size=count, p=[0.5, 0.49, 0.01]),
        age=np.clip(rng.normal(mean, deviation), 18, 95),
        site=rng.choice(len(SITES), size=count, p=[0.45, 0.35, 0.2]),
        label=label,
        severity=severity,
        expression={name: _express(rng, severity, _SILENT[name]) for name in MODALITIES},
        treated=rng.random(severity.shape) < np.where(severity > 0.2, 0.2 + 0.5 * severity, 0.0),
        present=_draw_presence(rng, count, settings),
        start=_FIRST_DAY + rng.integers(days, size=count).astype("timedelta64[D]"),
    )


def draw_severity(rng: np.random.Generator, label: np.ndarray, comorbidity_rate: float) -> np.ndarray:
    """Draw how severe each disease is.

    Everybody has a little of everything; the ill have their disease from mild, hardly above that background, to
    severe; some have a second disease, which is milder than the dominant one.

    Args:
        rng: Random generator.
        label: int ``[n]``, index into ``CLASSES``.
        comorbidity_rate: Share of the ill who have a second disease.

    Returns:
        float64 ``[n, D]`` in [0, 1]; the largest of an ill patient's row is that of the label.
    """
    rows = np.arange(len(label))
    ill = label > 0
    dominant = np.maximum(label - 1, 0)
    severity = 0.3 * rng.beta(1.0, 5.0, size=(len(label), len(DISEASES)))
    own = 0.3 + 0.7 * rng.beta(2.4, 1.3, size=len(label))
    cumulative = np.cumsum(_COMPANIONS / _COMPANIONS.sum(axis=1, keepdims=True), axis=1)[dominant]
    second = (rng.random(len(label))[:, None] > cumulative).sum(axis=1).clip(max=len(DISEASES) - 1)
    both = ill & (rng.random(len(label)) < comorbidity_rate)
    companion = own * rng.uniform(0.35, 0.85, size=len(label))
    severity[rows[both], second[both]] = companion[both]
    severity[ill] = np.minimum(severity[ill], 0.95 * own[ill, None])
    severity[rows[ill], dominant[ill]] = own[ill]
    return severity


def _express(rng: np.random.Generator, severity: np.ndarray, silent: float) -> np.ndarray:
    """Return how far a modality shows each severity: not at all, less than it is, or more."""
    shown = rng.random(severity.shape) >= silent
    return np.clip(severity * rng.uniform(0.6, 1.3, size=severity.shape) * shown, 0.0, 1.2)


def _draw_presence(rng: np.random.Generator, count: int, settings: DemoSettings) -> dict[str, np.ndarray]:
    """Draw which modalities there are, at random and independent of the disease; nobody lacks all three."""
    missing = dict(
        zip(MODALITIES, (settings.missing_series, settings.missing_images, settings.missing_notes), strict=True)
    )
    present = {name: rng.random(count) >= share for name, share in missing.items()}
    nothing = ~np.logical_or.reduce(list(present.values()))
    present[min(missing, key=lambda name: missing[name])] |= nothing
    return present
