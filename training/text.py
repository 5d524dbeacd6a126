"""From a clinical note to word numbers: one tokeniser and one vocabulary for training and for serving."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

PADDING = 0
UNKNOWN = 1
NUMBER = "<number>"
_RESERVED = ["", "<unknown>"]
_PIECE = re.compile(r"\d+(?:[.,/:]\d+)*|[^\W\d_]+(?:['-][^\W\d_]+)*|[.;:!?\n]")
_END_OF_CLAUSE = re.compile(r"[.;:!?\n]")
_NEGATIONS = frozenset(("no", "not", "without", "denies", "denied", "denying", "never", "negative", "absent"))
_TURNS = frozenset(("but", "however", "although", "though", "except", "yet"))
_NEGATION_REACH = 6


def tokenize(text: str) -> list[str]:
    """Split a note into words, the same way in training and in serving.

    Letters are lower-cased after NFKC normalisation; every number, also "120/80" and "36.6", becomes
    ``<number>``; punctuation is dropped. A word that follows a negation (no, not, without, denies, ...) within
    six words of the same clause gets the prefix ``not_``; a full stop, semicolon, colon, line end or a turn (but,
    however, ...) ends the negation, a comma does not, as in "denies cough, fever or pain".

    Args:
        text: Free text in any language that separates words; may be empty.

    Returns:
        Words in their order.

    Example:
        >>> tokenize("Denies chest pain; BP 120/80.")
        ['denies', 'not_chest', 'not_pain', 'bp', '<number>']
    """
    words: list[str] = []
    reach = 0
    for piece in _PIECE.findall(unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")):
        if _END_OF_CLAUSE.fullmatch(piece):
            reach = 0
        elif piece in _NEGATIONS:
            words.append(piece)
            reach = _NEGATION_REACH
        elif piece in _TURNS:
            words.append(piece)
            reach = 0
        else:
            word = NUMBER if piece[0].isdigit() else piece
            words.append(f"not_{word}" if reach else word)
            reach = max(reach - 1, 0)
    return words


@dataclass(frozen=True)
class TextEmbedding:
    """A vocabulary and its word vectors.

    Attributes:
        vocabulary: Words by number; 0 is padding (""), 1 is "<unknown>".
        vectors: float32 ``[len(vocabulary), dimensions]``; row 0 is zero.
    """

    vocabulary: list[str]
    vectors: np.ndarray

    def __post_init__(self) -> None:
        """Refuse a vocabulary that does not fit its vectors or the reserved numbers."""
        if self.vocabulary[:2] != _RESERVED:
            raise ValueError(f"A vocabulary starts with {_RESERVED}; received {self.vocabulary[:2]}.")
        if self.vectors.ndim != 2 or len(self.vectors) != len(self.vocabulary):
            raise ValueError(
                f"Vectors need the shape [{len(self.vocabulary)}, dimensions]; received {self.vectors.shape}."
            )

    @classmethod
    def empty(cls, dimensions: int) -> TextEmbedding:
        """Return the embedding of a cohort without notes.

        Args:
            dimensions: Length of a vector.

        Returns:
            Padding and unknown only, all zeros.
        """
        return cls(vocabulary=list(_RESERVED), vectors=np.zeros((2, dimensions), dtype=np.float32))

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Number of each word."""
        return word_numbers(self.vocabulary)

    @property
    def dimensions(self) -> int:
        """Length of a word's vector."""
        return int(self.vectors.shape[1])

    def encode(self, texts: Sequence[str], length: int) -> np.ndarray:
        """Turn notes into word numbers.

        Args:
            texts: Notes; an empty string gives padding only.
            length: Words kept of each note, from its start.

        Returns:
            int32 ``[len(texts), length]``: 0 is padding (at the end), 1 an unknown word.
        """
        return encode_words(texts, self.numbers, length)

    def save(self, folder: Path) -> None:
        """Write vocabulary.json and vectors.npy.

        Args:
            folder: An existing folder.
        """
        (folder / "vocabulary.json").write_text(json.dumps(self.vocabulary, ensure_ascii=False))
        np.save(folder / "vectors.npy", self.vectors.astype(np.float32))

    @classmethod
    def load(cls, folder: Path) -> TextEmbedding:
        """Read what ``save`` wrote.

        Args:
            folder: The folder given to ``save``.

        Returns:
            The same embedding.
        """
        vocabulary = json.loads((folder / "vocabulary.json").read_text())
        return cls(vocabulary=vocabulary, vectors=np.load(folder / "vectors.npy"))


def word_numbers(vocabulary: Sequence[str]) -> dict[str, int]:
    """Return the number of each word of a vocabulary.

    Args:
        vocabulary: Words by number; 0 is padding, 1 is unknown.

    Returns:
        Number by word, padding and unknown left out.
    """
    return {word: number for number, word in enumerate(vocabulary) if number > UNKNOWN}


def encode_words(texts: Sequence[str], numbers: Mapping[str, int], length: int) -> np.ndarray:
    """Turn notes into word numbers with a vocabulary alone, as serving does.

    Args:
        texts: Notes; an empty string gives padding only.
        numbers: From ``word_numbers``.
        length: Words kept of each note, from its start.

    Returns:
        int32 ``[len(texts), length]``.
    """
    encoded = np.full((len(texts), length), PADDING, dtype=np.int32)
    for row, text in enumerate(texts):
        words = [numbers.get(word, UNKNOWN) for word in tokenize(text)[:length]]
        encoded[row, : len(words)] = words
    return encoded
