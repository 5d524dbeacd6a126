"""The embed_text step: word vectors from the notes of the training rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from components.common.files import atomic_folder
from components.common.result import StepResult, ignore_progress
from components.embed_text.settings import EmbedTextSettings
from data_schemas.features import Features
from training.text import UNKNOWN, TextEmbedding, tokenize
from training.word2vec import fit_embedding


def embed_notes(
    features: Path,
    output: Path,
    settings: EmbedTextSettings,
    progress: Callable[[str], None] = ignore_progress,
) -> StepResult:
    """Fit Word2Vec (CBOW) on the notes of the training rows.

    Args:
        features: The features folder.
        output: The folder to write: vocabulary.json and vectors.npy (see ``training.text.TextEmbedding``).
        settings: The settings of the step.
        progress: Receives short texts on what is being done.

    Returns:
        Metrics: notes and words fitted on, vocabulary size, and the share of unknown words in training notes.
        A warning where there is no note.
    """
    opened = Features.open(features)
    notes = [opened.texts[row] for row in opened.train_rows if opened.texts[row]]
    progress(f"{len(notes)} notes")
    embedding = fit_embedding(notes, settings)
    with atomic_folder(output) as folder:
        embedding.save(folder)
    words, unknown = _count_words(notes, embedding)
    warnings = []
    if not notes:
        warnings.append("No training patient has a note: the models run without text.")
    elif len(embedding.vocabulary) <= UNKNOWN + 1:
        warnings.append(f"No word is in the notes of {settings.min_patients} training patients: all words are unknown.")
    return StepResult(
        metrics={
            "notes": float(len(notes)),
            "words": float(words),
            "vocabulary": float(len(embedding.vocabulary)),
            "unknown_share": unknown / max(words, 1),
        },
        params={f"words.{name}": value for name, value in settings.model_dump().items()},
        artifacts={"embedding": output},
        warnings=warnings,
    )


def _count_words(notes: list[str], embedding: TextEmbedding) -> tuple[int, int]:
    """All words, and those that are not in the vocabulary; note by note, for there may be millions."""
    words = unknown = 0
    for note in notes:
        tokens = tokenize(note)
        words += len(tokens)
        unknown += sum(token not in embedding.numbers for token in tokens)
    return words, unknown
