"""Invented patients: who they are, and how ill. All else follows from a severity a disease."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from components.ingest.demo.settings import CLASSES, DemoSettings

DISEASES = CLASSES[1:]
SITES = ("north", "south", "east")
_FAMILY = ("Testperson", "Sampleton", "Mockford", "Fakenham", "Demoson", "Placeholder", "Notreal", "Inventa")
_GIVEN = ("Alba", "Bero", "Cilla", "Dorin", "Elvi", "Faro", "Gita", "Hanno", "Ilva", "Joris", "Kaia", "Loris")


@dataclass(frozen=True)
class People:
    """The patients of a cohort.

    Attributes:
        table: mrn, name, sex, birth_date, site, label; one row a patient, shuffled.
        severity: float ``[n, 5]`` in [0, 1] by disease of ``DISEASES``; the label's is a patient's highest.
        treatment: float ``[n, 5]`` in [0.1, 0.9]: what treatment leaves of a disease's effect on the channels.
        age: float ``[n]`` in years.
        present: Bool ``[n, 3]``: whether the patient has series, image and note.
    """

    table: pd.DataFrame
    severity: np.ndarray
    treatment: np.ndarray
    age: np.ndarray
    present: np.ndarray

    def __len__(self) -> int:
        """Return the number of patients."""
        return len(self.table)


def invent_people(settings: DemoSettings, random: np.random.Generator) -> People:
    """Invent patients with the wanted class counts.

    Args:
        settings: The settings.
        random: Source of chance.

    Returns:
        The patients.
    """
    labels = random.permutation(np.repeat(np.arange(len(CLASSES)), settings.counts))
    n = len(labels)
    severity = _severity(labels, settings, random)
    ill = labels > 0
    age = np.clip(random.normal(np.where(ill, 63, 50), 13), 19, 95)
    sex = random.choice(["F", "M", "U"], size=n, p=[0.49, 0.49, 0.02])
    birth = pd.Timestamp("2022-06-01") - pd.to_timedelta(np.round(age * 365.25), unit="D")
    names = [f"{_GIVEN[i]} {_FAMILY[j]}" for i, j in random.integers(0, (len(_GIVEN), len(_FAMILY)), size=(n, 2))]
    table = pd.DataFrame(
        {
            "mrn": [f"FAKE{number:07d}" for number in random.permutation(n) + 1_000_001],
            "name": names,
            "sex": sex,
            "birth_date": birth.strftime("%Y-%m-%d"),
            "site": random.choice(SITES, size=n),
            "label": np.asarray(CLASSES)[labels],
        }
    )
    return People(
        table=table,
        severity=severity,
        treatment=random.uniform(0.1, 0.9, size=severity.shape),
        age=age,
        present=_present(n, settings, random),
    )


def _severity(labels: np.ndarray, settings: DemoSettings, random: np.random.Generator) -> np.ndarray:
    """Draw severities: the label's disease from mild to grave, some second diseases, traces in the healthy."""
    n = len(labels)
    severity = np.zeros((n, len(DISEASES)))
    ill = np.flatnonzero(labels > 0)
    main = labels[ill] - 1
    severity[ill, main] = 0.15 + 0.85 * random.beta(1.8, 1.6, size=len(ill))
    second = (main + random.integers(1, len(DISEASES), size=len(ill))) % len(DISEASES)
    has_second = random.random(len(ill)) < settings.comorbid
    share = random.uniform(0.3, 0.9, size=len(ill))
    severity[ill[has_second], second[has_second]] = (share * severity[ill, main])[has_second]
    healthy = np.flatnonzero(labels == 0)
    trace = random.random(len(healthy)) < 0.25
    severity[healthy[trace], random.integers(0, len(DISEASES), size=trace.sum())] = random.uniform(
        0.02, 0.15, size=trace.sum()
    )
    return severity


def _present(n: int, settings: DemoSettings, random: np.random.Generator) -> np.ndarray:
    lost = np.array([settings.without_series, settings.without_image, settings.without_note])
    present = random.random((n, 3)) >= lost
    # A patient with nothing at all would not be in the export.
    present[~present.any(axis=1), 0] = True
    return present
