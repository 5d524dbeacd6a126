"""Two annotators who do not always agree, and an adjudicator."""

from __future__ import annotations

import numpy as np
import pandas as pd

from components.ingest.demo.people import People
from components.ingest.demo.physiology import START
from components.ingest.demo.settings import CLASSES, DemoSettings

# What a mild case is mistaken for.
_MISTAKEN_FOR = {
    "healthy": "hypertension",
    "cardiovascular_disease": "healthy",
    "diabetes": "healthy",
    "copd": "cardiovascular_disease",
    "hypertension": "chronic_kidney_disease",
    "chronic_kidney_disease": "hypertension",
}


def annotate(people: People, settings: DemoSettings, random: np.random.Generator) -> pd.DataFrame:
    """Let two annotators label every patient, and an adjudicator those on whom they differ.

    Mild cases are mistaken more often. At most one of the two is mistaken, so that adjudicated labels have the wanted
    class counts.

    Args:
        people: The patients.
        settings: The settings.
        random: Source of chance.

    Returns:
        mrn, annotator, label (Z1 to Z6), time.
    """
    label = people.table["label"].to_numpy()
    grade = people.severity.max(axis=1)
    chance = np.where(label == "healthy", 0.06 + grade, 0.22 * (1 - grade))
    mistaken = random.random(len(label)) < chance
    first = random.random(len(label)) < 0.5
    wrong = np.array([_MISTAKEN_FOR[name] for name in label])
    time = START + pd.to_timedelta(settings.days, unit="D")
    given = {
        "reader_a": np.where(mistaken & first, wrong, label),
        "reader_b": np.where(mistaken & ~first, wrong, label),
    }
    parts = [
        pd.DataFrame({"mrn": people.table["mrn"], "annotator": name, "label": labels, "time": time})
        for name, labels in given.items()
    ]
    settled = people.table.loc[mistaken, ["mrn", "label"]].assign(
        annotator="adjudicator", time=time + pd.Timedelta(2, "D")
    )
    table = pd.concat([*parts, settled], ignore_index=True)[["mrn", "annotator", "label", "time"]]
    table["label"] = "Z" + (table["label"].map(CLASSES.index) + 1).astype(str)
    return table
