"""What doctors write: symptoms with their synonyms and abbreviations, drugs, headings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from components.ingest.demo.classes import DISEASES


@dataclass(frozen=True)
class Finding:
    """A symptom or a drug.

    Attributes:
        wordings: Ways to write it.
        base: Chance that it is mentioned in somebody without any disease.
        causes: Chance that a fully expressed disease (position in ``DISEASES``) causes it.
    """

    wordings: tuple[str, ...]
    base: float
    causes: dict[int, float]


_CARDIAC, _DIABETES, _COPD, _HYPERTENSION, _KIDNEY = range(len(DISEASES))

SYMPTOMS = (
    Finding(("chest pain", "chest tightness", "retrosternal pressure", "CP"), 0.022, {_CARDIAC: 0.8, _COPD: 0.17}),
    Finding(
        ("palpitations", "racing heart", "irregular heartbeat"),
        0.033,
        {_CARDIAC: 0.65, _HYPERTENSION: 0.17, _DIABETES: 0.07},
    ),
    Finding(
        ("shortness of breath", "dyspnea", "SOB", "breathlessness"),
        0.033,
        {_CARDIAC: 0.58, _COPD: 0.87, _KIDNEY: 0.29},
    ),
    Finding(("cough with sputum", "productive cough", "chronic cough"), 0.039, {_COPD: 0.8, _CARDIAC: 0.12}),
    Finding(("wheezing", "wheeze", "whistling breath"), 0.017, {_COPD: 0.72}),
    Finding(("excessive thirst", "polydipsia", "always thirsty"), 0.028, {_DIABETES: 0.72, _KIDNEY: 0.14}),
    Finding(("frequent urination", "polyuria", "nocturia"), 0.039, {_DIABETES: 0.65, _KIDNEY: 0.43}),
    Finding(("numb feet", "tingling in the toes", "paresthesia of the feet"), 0.017, {_DIABETES: 0.51, _KIDNEY: 0.14}),
    Finding(("blurred vision", "blurry vision", "visual disturbance"), 0.028, {_DIABETES: 0.36, _HYPERTENSION: 0.36}),
    Finding(("headache", "morning headache", "HA"), 0.066, {_HYPERTENSION: 0.72, _KIDNEY: 0.29}),
    Finding(("dizziness", "lightheadedness", "vertigo"), 0.044, {_HYPERTENSION: 0.51, _CARDIAC: 0.36}),
    Finding(("nosebleeds", "epistaxis"), 0.017, {_HYPERTENSION: 0.43}),
    Finding(
        ("swollen ankles", "leg edema", "pitting oedema", "swelling of the legs"),
        0.022,
        {_KIDNEY: 0.72, _CARDIAC: 0.51},
    ),
    Finding(("itching", "pruritus", "itchy skin"), 0.028, {_KIDNEY: 0.58}),
    Finding(("foamy urine", "proteinuria on dipstick", "frothy urine"), 0.011, {_KIDNEY: 0.65, _DIABETES: 0.22}),
    Finding(
        ("fatigue", "tiredness", "low energy", "exhaustion"),
        0.083,
        dict.fromkeys(range(len(DISEASES)), 0.3),
    ),
    Finding(("weight loss", "losing weight"), 0.028, {_DIABETES: 0.29, _COPD: 0.29, _KIDNEY: 0.22}),
    Finding(("poor sleep", "insomnia"), 0.066, {_COPD: 0.22, _HYPERTENSION: 0.14}),
)
# For drugs, ``causes`` is the chance that one who is treated for the disease takes it.
DRUGS = (
    Finding(("metoprolol", "bisoprolol", "a beta blocker"), 0.011, {_CARDIAC: 0.58, _HYPERTENSION: 0.36}),
    Finding(("aspirin 100 mg", "ASA", "clopidogrel"), 0.028, {_CARDIAC: 0.58, _DIABETES: 0.22, _COPD: 0.14}),
    Finding(
        ("lisinopril", "ramipril", "an ACE inhibitor"), 0.011, {_HYPERTENSION: 0.58, _KIDNEY: 0.51, _CARDIAC: 0.36}
    ),
    Finding(("amlodipine", "amlodipine 5 mg"), 0.011, {_HYPERTENSION: 0.51, _KIDNEY: 0.36}),
    Finding(("furosemide", "torasemide"), 0.006, {_CARDIAC: 0.36, _KIDNEY: 0.51}),
    Finding(("metformin", "metformin 850 mg bid"), 0.006, {_DIABETES: 0.65}),
    Finding(("an inhaler as needed", "salbutamol", "tiotropium"), 0.022, {_COPD: 0.72, _CARDIAC: 0.07}),
    Finding(("atorvastatin", "simvastatin", "a statin"), 0.055, {_CARDIAC: 0.51, _DIABETES: 0.43, _HYPERTENSION: 0.29}),
    Finding(("vitamin D", "ibuprofen as needed", "pantoprazole"), 0.11, {_KIDNEY: 0.14}),
)
DISEASE_NAMES = (
    ("heart disease", "coronary artery disease", "CAD", "heart failure"),
    ("diabetes", "type 2 diabetes", "T2DM", "diabetes mellitus"),
    ("COPD", "chronic bronchitis", "emphysema", "chronic obstructive lung disease"),
    ("hypertension", "high blood pressure", "HTN"),
    ("kidney disease", "CKD", "renal insufficiency", "chronic kidney disease"),
)
OPENINGS = ("Seen for review.", "Routine visit.", "Admitted for monitoring.", "Referred by GP.", "Pt seen on ward.", "")
COMPLAINS = ("Reports", "Complains of", "c/o", "Presents with", "Pt notes", "States")
DENIES = ("Denies", "No", "Negative for", "Without", "Pt denies")
WELL = ("Feels well.", "No complaints.", "Asymptomatic.", "Doing fine.")
SOME_TIME = ("for some weeks", "since last month", "on and off", "x 2 wks", "on exertion", "", "", "")
HISTORY = ("Known", "History of", "h/o", "PMH:", "Previously diagnosed with")
NO_HISTORY = ("No history of", "No known", "Never had", "No h/o")
SUSPECTED = ("To rule out", "Possible", "Asked about", "Worried about")
RELATIVES = ("Mother had", "Father with", "FH:", "Brother has", "Family history of", "Grandmother had")
TAKES = ("Takes", "Meds:", "On", "Current medication:")
NO_DRUGS = ("No regular medication.", "Meds: none.", "Not on any drugs.", "")
PLANS = ("Follow up in 2 weeks.", "Continue monitoring.", "Labs pending.", "Discussed with pt.", "Imaging ordered.", "")


def chances(findings: tuple[Finding, ...], expression: np.ndarray) -> np.ndarray:
    """Return how likely each finding is: any of the diseases may cause it, or none (noisy or).

    Args:
        findings: ``f`` symptoms or drugs.
        expression: float64 ``[n, diseases]``, at least 0; values above 1 count as 1.

    Returns:
        float64 ``[n, f]`` in [0, 1].
    """
    strength = np.zeros((len(DISEASES), len(findings)))
    for place, finding in enumerate(findings):
        strength[list(finding.causes), place] = list(finding.causes.values())
    spared = 1 - np.clip(expression, 0, 1)[:, :, None] * strength
    return 1 - (1 - np.array([finding.base for finding in findings])) * spared.prod(axis=1)
