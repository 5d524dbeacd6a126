"""Clinical notes: complaints by severity in changing words, negations, family history, abbreviations, typos."""

from __future__ import annotations

import numpy as np
import pandas as pd

from components.ingest.demo.people import DISEASES, People
from components.ingest.demo.physiology import START
from components.ingest.demo.settings import DemoSettings

_NAMES = {
    "cardiovascular_disease": ("coronary artery disease", "CAD", "ischaemic heart disease", "heart disease"),
    "diabetes": ("diabetes", "type 2 diabetes", "T2DM", "DM"),
    "copd": ("COPD", "chronic obstructive lung disease", "emphysema", "chronic bronchitis"),
    "hypertension": ("hypertension", "HTN", "high blood pressure", "raised BP"),
    "chronic_kidney_disease": ("chronic kidney disease", "CKD", "renal insufficiency", "impaired kidney function"),
}
_COMPLAINTS = {
    "cardiovascular_disease": (
        "chest pain on exertion", "chest tightness", "palpitations", "swollen ankles", "angina", "CP when climbing stairs",
    ),
    "diabetes": ("increased thirst", "polyuria", "frequent urination", "numb feet", "blurred vision", "always thirsty"),
    "copd": ("productive cough", "wheezing", "short of breath on mild exertion", "SOB", "chronic cough", "dyspnoea"),
    "hypertension": ("morning headache", "occasional nosebleed", "pounding in the head", "headaches", "flushing"),
    "chronic_kidney_disease": (
        "foamy urine", "itching skin", "swollen ankles", "morning headache", "poor appetite", "nocturia",
    ),
}
# Said by sick and healthy alike.
_COMMON = ("fatigue", "poor sleep", "back pain", "mild headache", "dizzy now and then", "joint stiffness", "dry skin")
_OPENINGS = ("Routine visit.", "Seen in clinic.", "Follow-up.", "Pt seen today.", "New patient.", "Review.")
_REPORTS = ("Reports {}.", "Complains of {}.", "c/o {}.", "Pt mentions {}.", "Presents with {}.", "States {}.")
_DENIALS = ("Denies {}.", "No {}.", "No history of {}.", "Without {}.", "Negative for {}.", "Never had {}.")
_FAMILY = ("Family history of {}.", "Mother had {}.", "Father with {}.", "FHx: {}.", "Brother treated for {}.")
_KNOWN = ("Known {}.", "History of {}.", "Treated for {}.", "PMH: {}.", "Under control for {}.")
_SUSPECTED = ("Possible {}.", "? {}.", "Rule out {}.", "To exclude {}.")
_CLOSINGS = ("Plan: review in 4 weeks.", "Labs ordered.", "Continue as before.", "Advice given.", "Will call with results.")


def write_notes(people: People, settings: DemoSettings, random: np.random.Generator) -> pd.DataFrame:
    """Write one note a patient that has one.

    Args:
        people: The patients.
        settings: The settings.
        random: Source of chance.

    Returns:
        mrn, time, text.
    """
    rows = np.flatnonzero(people.present[:, 2])
    day = random.integers(0, settings.days, size=len(rows))
    texts = [compose_note(people.severity[row], people.age[row], random) for row in rows]
    return pd.DataFrame(
        {
            "mrn": people.table["mrn"].to_numpy()[rows],
            "time": START + pd.to_timedelta(day * 24 + 9, unit="h"),
            "text": texts,
        }
    )


def compose_note(severity: np.ndarray, age: float, random: np.random.Generator) -> str:
    """Compose one note.

    Args:
        severity: float ``[5]`` by disease.
        age: Years.
        random: Source of chance.

    Returns:
        The note.
    """
    sentences = []
    for disease, grade in zip(DISEASES, severity, strict=True):
        sentences += _about(disease, float(grade), random)
    for complaint in random.choice(_COMMON, size=random.integers(0, 3), replace=False):
        sentences.append(_pick(_REPORTS, random).format(complaint))
    random.shuffle(sentences)
    who = f"{int(age)} yo." if random.random() < 0.6 else ""
    text = " ".join([_pick(_OPENINGS, random), who, *sentences, _pick(_CLOSINGS, random)])
    return _with_typos(" ".join(text.split()), random)


def _about(disease: str, grade: float, random: np.random.Generator) -> list[str]:
    """Return what the note says of one disease: often nothing, sometimes what misleads."""
    said = []
    if random.random() < 0.7 * grade:
        complaints = random.choice(_COMPLAINTS[disease], size=1 + int(random.random() < grade), replace=False)
        said.append(_pick(_REPORTS, random).format(" and ".join(complaints)))
    elif random.random() < 0.16:
        said.append(_pick(_DENIALS, random).format(_pick(_COMPLAINTS[disease], random)))
    if random.random() < 0.42 * grade:
        said.append(_pick(_KNOWN, random).format(_pick(_NAMES[disease], random)))
    elif random.random() < 0.10:
        said.append(_pick(_DENIALS, random).format(_pick(_NAMES[disease], random)))
    if random.random() < 0.10:
        said.append(_pick(_FAMILY, random).format(_pick(_NAMES[disease], random)))
    if random.random() < 0.05 + 0.08 * grade:
        said.append(_pick(_SUSPECTED, random).format(_pick(_NAMES[disease], random)))
    return said


def _pick(options: tuple[str, ...], random: np.random.Generator) -> str:
    return options[random.integers(len(options))]


def _with_typos(text: str, random: np.random.Generator) -> str:
    """Swap two neighbouring letters in some of the longer words."""
    words = text.split(" ")
    slips = random.random(len(words)) < 0.025
    for i in np.flatnonzero(slips):
        word = words[i]
        if len(word) > 4:
            place = int(random.integers(1, len(word) - 2))
            words[i] = word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    return " ".join(words)
