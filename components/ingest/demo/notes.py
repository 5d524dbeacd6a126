"""Clinical notes: symptoms present and denied, history, family, drugs, in changing order and with typing errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from components.ingest.demo import phrases
from components.ingest.demo.classes import DISEASES
from components.ingest.demo.observations import local_times
from components.ingest.demo.patients import Patients
from components.ingest.demo.phrases import Finding
from components.ingest.demo.physiology import DAY_SECONDS
from components.ingest.demo.settings import DemoSettings

_MOST_SYMPTOMS = 5
_MOST_DENIED = 3
_MOST_DRUGS = 4
_DENIED_SHARE = 0.14
_NO_HISTORY_SHARE = 0.22
_SUSPECTED_SHARE = 0.12
_FAMILY_SHARE = 0.3
# Chance that the note names a disease that it shows fully.
_NAMED_SHARE = 0.38
_NAMED_BASE = 0.01
_FOLLOW_UP_SHARE = 0.25
_TYPING_ERRORS_A_NOTE = 0.9


def write_notes(rng: np.random.Generator, patients: Patients, settings: DemoSettings) -> pd.DataFrame:
    """Write the notes of a block of patients.

    Args:
        rng: Random generator.
        patients: The block.
        settings: Days and time zone.

    Returns:
        mrn, time (datetime64[s], local), text; one note on the first day, and for some a short one in the second half
        of their stay. Patients without notes have no row.
    """
    count = len(patients)
    texts = np.concatenate([_admission(rng, patients), _follow_up(rng, patients)])
    again = rng.random(count) < _FOLLOW_UP_SHARE
    hours = rng.uniform(8, 18, size=(2, count))
    days = np.stack([np.zeros(count), np.floor(rng.uniform(0.5, 1, size=count) * settings.days)])
    seconds = (days * DAY_SECONDS + hours * 3600).round()
    table = pd.DataFrame(
        {
            "mrn": np.tile(patients.mrn, 2),
            "time": local_times(np.tile(patients.start, 2), seconds.reshape(-1), settings.time_zone),
            "text": _mistype(rng, texts),
        }
    )
    written = np.concatenate([patients.present["text"], patients.present["text"] & again])
    order = np.argsort(np.tile(np.arange(count), 2), kind="stable")
    return table.iloc[order[written[order]]].reset_index(drop=True)


def _admission(rng: np.random.Generator, patients: Patients) -> np.ndarray:
    """Return the long note of every patient, ``[n]``: an opening, four sections in any order, a plan."""
    sections = [
        _symptoms(rng, patients),
        _history(rng, patients),
        _family(rng, len(patients)),
        _drugs(rng, patients),
    ]
    shuffled = np.stack(sections, axis=1)
    shuffled = np.take_along_axis(shuffled, rng.random(shuffled.shape).argsort(axis=1), axis=1)
    opening, plan = (_choose(rng, options, len(patients)) for options in (phrases.OPENINGS, phrases.PLANS))
    return _join([opening, *shuffled.T, plan])


def _follow_up(rng: np.random.Generator, patients: Patients) -> np.ndarray:
    return _join([np.full(len(patients), "Follow-up.", dtype=object), _symptoms(rng, patients)])


def _symptoms(rng: np.random.Generator, patients: Patients) -> np.ndarray:
    """Return what the patients complain of and what they deny, ``[n]``."""
    count = len(patients)
    chance = phrases.chances(phrases.SYMPTOMS, patients.expression["text"])
    felt = rng.random(chance.shape) < chance
    denied = ~felt & (rng.random(chance.shape) < _DENIED_SHARE)
    complaints = _listing(rng, phrases.SYMPTOMS, felt, _MOST_SYMPTOMS, "and")
    denials = _listing(rng, phrases.SYMPTOMS, denied, _MOST_DENIED, "or")
    lasting = _choose(rng, phrases.SOME_TIME, count)
    complaint = _sentence(_choose(rng, phrases.COMPLAINS, count), complaints, lasting)
    complaint = np.where(complaints == "", _choose(rng, phrases.WELL, count), complaint)
    return _join([complaint, _sentence(_choose(rng, phrases.DENIES, count), denials)])


def _history(rng: np.random.Generator, patients: Patients) -> np.ndarray:
    """Return the diseases that are named as known, as excluded, and as suspected, ``[n]``."""
    shown = patients.expression["text"]
    count = len(patients)
    named = rng.random(shown.shape) < _NAMED_BASE + _NAMED_SHARE * np.clip(shown, 0, 1)
    excluded = ~named & (rng.random(shown.shape) < _NO_HISTORY_SHARE * (1 - np.clip(shown, 0, 1)))
    suspected = ~named & (rng.random(shown.shape) < _SUSPECTED_SHARE / len(DISEASES) * (1 + shown))
    parts = [
        (phrases.HISTORY, named, "and"),
        (phrases.NO_HISTORY, excluded, "or"),
        (phrases.SUSPECTED, suspected, "or"),
    ]
    return _join(
        [
            _sentence(_choose(rng, starts, count), _listing(rng, _DISEASES, rows, 2, joint))
            for starts, rows, joint in parts
        ]
    )


def _family(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return which diseases run in the family, ``[n]``: those of others say nothing of the patient."""
    rows = rng.random((count, len(DISEASES))) < _FAMILY_SHARE / len(DISEASES)
    return _sentence(_choose(rng, phrases.RELATIVES, count), _listing(rng, _DISEASES, rows, 1, "and"))


def _drugs(rng: np.random.Generator, patients: Patients) -> np.ndarray:
    """Return the medication, ``[n]``, as far as the note tells it."""
    chance = phrases.chances(phrases.DRUGS, patients.treated * np.clip(patients.expression["text"] * 1.5, 0, 1))
    taken = rng.random(chance.shape) < chance
    drugs = _listing(rng, phrases.DRUGS, taken, _MOST_DRUGS, "and")
    sentence = _sentence(_choose(rng, phrases.TAKES, len(patients)), drugs)
    return np.where(drugs == "", _choose(rng, phrases.NO_DRUGS, len(patients)), sentence)


_DISEASES = tuple(Finding(wordings, 0.0, {}) for wordings in phrases.DISEASE_NAMES)


def _choose(rng: np.random.Generator, options: Sequence[str], count: int) -> np.ndarray:
    return np.array(options, dtype=object)[rng.integers(len(options), size=count)]


def _listing(
    rng: np.random.Generator, findings: Sequence[Finding], mentioned: np.ndarray, most: int, joint: str
) -> np.ndarray:
    """List what is mentioned, each finding in one of its wordings, in random order.

    Args:
        rng: Random generator.
        findings: ``f`` findings.
        mentioned: Bool ``[n, f]``.
        most: Longest list.
        joint: Word before the last entry.

    Returns:
        Such as "cough, wheeze and fatigue", ``[n]``; empty where nothing is mentioned.
    """
    wordings = np.stack([_choose(rng, finding.wordings, len(mentioned)) for finding in findings], axis=1)
    order = np.where(mentioned, rng.random(mentioned.shape), np.inf).argsort(axis=1)[:, :most]
    words = np.where(np.take_along_axis(mentioned, order, axis=1), np.take_along_axis(wordings, order, axis=1), "")
    # Entries that are mentioned come first, so an empty one ends the list.
    listed = words[:, 0]
    for place in range(1, words.shape[1]):
        last = words[:, place + 1] == "" if place + 1 < words.shape[1] else np.ones(len(words), dtype=bool)
        separator = np.where(last, f" {joint} ", ", ").astype(object)
        listed = np.where(words[:, place] == "", listed, listed + separator + words[:, place])
    return listed


def _sentence(start: np.ndarray, middle: np.ndarray, end: np.ndarray | None = None) -> np.ndarray:
    """Return sentences, ``[n]``; empty where the middle is."""
    text = start + " " + middle
    if end is not None:
        text = text + np.where(end == "", "", " ").astype(object) + end
    return np.where(middle == "", "", text + ".")


def _join(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Join parts, each ``[n]``, by spaces; empty ones leave no gap."""
    text = parts[0]
    for part in parts[1:]:
        text = text + np.where((text == "") | (part == ""), "", " ").astype(object) + part
    return text


def _mistype(rng: np.random.Generator, texts: np.ndarray) -> list[str]:
    """Exchange neighbouring letters at a few random places of each text."""
    errors = rng.poisson(_TYPING_ERRORS_A_NOTE, size=len(texts))
    places = np.split(rng.random(errors.sum()), np.cumsum(errors)[:-1])
    return [_exchange(text, where) for text, where in zip(texts, places, strict=True)]


def _exchange(text: str, places: np.ndarray) -> str:
    for place in (places * (len(text) - 1)).astype(int).tolist():
        pair = text[place : place + 2]
        if pair.isalpha():
            text = text[:place] + pair[::-1] + text[place + 2 :]
    return text
