from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from components.ingest.demo.classes import DISEASES
from components.ingest.demo.notes import write_notes
from components.ingest.demo.patients import draw_patients
from components.ingest.demo.phrases import SYMPTOMS, chances
from components.ingest.demo.settings import DemoSettings

SETTINGS = DemoSettings(patients=900, missing_notes=0)


@pytest.fixture(scope="module")
def patients():
    return draw_patients(SETTINGS)


@pytest.fixture(scope="module")
def notes(patients):
    return write_notes(np.random.default_rng(4), patients, SETTINGS)


def test_everybody_has_a_note_and_some_have_two(notes, patients):
    counts = notes["mrn"].value_counts()
    assert set(counts.index) == set(patients.mrn)
    assert (counts == 2).mean() == pytest.approx(0.25, abs=0.05)
    assert notes["mrn"].drop_duplicates().tolist() == patients.mrn.tolist()
    assert notes["text"].str.len().min() > 10


@pytest.mark.parametrize(
    "phrase",
    [
        r"\b(?:Denies|Negative for|Without|No) [a-z]",
        r"\b(?:No history of|No known|Never had|No h/o) ",
        r"\b(?:Mother had|Father with|FH:|Family history of)",
        r"\b(?:To rule out|Possible|Worried about)",
        r"\b(?:SOB|HTN|T2DM|CKD|CAD)\b",
        r"\b(?:No regular medication|Meds: none)",
    ],
)
def test_negations_relatives_and_abbreviations_are_there(notes, phrase):
    assert 0.02 < notes["text"].str.contains(phrase).mean() < 0.9


def test_naming_a_disease_is_no_proof_of_it(notes, patients):
    named = notes[notes["text"].str.contains("diabetes|T2DM")]
    label = pd.Series(patients.label, index=patients.mrn)
    share = (named["mrn"].map(label) == 1 + DISEASES.index("diabetes")).mean()
    assert 0.15 < share < 0.6


def test_wordings_vary_and_letters_are_exchanged(notes):
    assert notes["text"].nunique() > 0.97 * len(notes)
    assert notes["text"].str.contains("Amditted|Adimtted|Admtited|Admitetd|Admittde|Routnie|Ruotine|monitroing").any()


@pytest.mark.parametrize(
    ("disease", "words"),
    [
        ("diabetes", "thirst|polydipsia"),
        ("copd", "wheez|whistling"),
        ("hypertension", "nosebleeds|epistaxis"),
        ("chronic_kidney_disease", "itch|pruritus"),
        ("cardiovascular_disease", "chest|retrosternal"),
    ],
)
def test_symptoms_follow_the_disease(patients, disease, words):
    shown = np.zeros_like(patients.severity)
    well = replace(patients, expression={"text": shown.copy()})
    shown[:, DISEASES.index(disease)] = 1.0
    ill = replace(patients, expression={"text": shown})
    share = {
        name: write_notes(np.random.default_rng(4), group, SETTINGS)["text"]
        .str.contains(rf"(?:Reports|Complains of|c/o|Presents with|notes|States) [^.]*(?:{words})")
        .mean()
        for name, group in (("well", well), ("ill", ill))
    }
    assert share["ill"] > share["well"] + 0.2


def test_chances_by_hand():
    expression = np.zeros((3, len(DISEASES)))
    expression[1, 0], expression[2] = 0.5, 2.0
    pain = SYMPTOMS[0]
    result = chances((pain,), expression)[:, 0]
    heart, lung = pain.causes[0], pain.causes[2]
    assert result[0] == pytest.approx(pain.base)
    assert result[1] == pytest.approx(1 - (1 - pain.base) * (1 - 0.5 * heart))
    assert result[2] == pytest.approx(1 - (1 - pain.base) * (1 - heart) * (1 - lung))
