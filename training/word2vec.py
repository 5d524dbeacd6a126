"""Fitting word vectors on training notes: Word2Vec, context predicts word (CBOW)."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from gensim.models import Word2Vec
from gensim.utils import RULE_DEFAULT, RULE_DISCARD

from training.settings import WordEmbeddingSettings
from training.text import TextEmbedding, tokenize

# Words of this frequency have half the length of the rarest ones.
_RARE = 1e-3


def fit_embedding(texts: Sequence[str], settings: WordEmbeddingSettings) -> TextEmbedding:
    """Fit Word2Vec on the given notes and on nothing else.

    One worker and a fixed seed make it deterministic. A vector's direction is Word2Vec's; its length falls with the
    word's frequency p as a / (a + p) (smooth inverse frequency, Arora et al. 2017), so that the words of every
    note do not drown the telling ones. All are scaled to a root mean square of 1, the scale of the other inputs of the
    network; an unknown word gets the mean vector.

    Args:
        texts: Notes of training rows, one text a patient; empty ones are skipped.
        settings: Sizes and seed.

    Returns:
        The embedding; padding and unknown only where no word is in the notes of ``min_patients`` patients.
    """
    # Else every occurrence of a word would be a string of its own.
    sentences = [[sys.intern(word) for word in words] for words in map(tokenize, texts) if words]
    model = Word2Vec(
        vector_size=settings.dimensions,
        window=settings.window,
        min_count=1,
        max_final_vocab=settings.max_words - 2,
        sg=0,
        epochs=settings.epochs,
        seed=settings.seed,
        workers=1,
    )
    if sentences:
        model.build_vocab(sentences, trim_rule=_shared_by(sentences, settings.min_patients))
    if not len(model.wv):
        return TextEmbedding.empty(settings.dimensions)
    model.train(sentences, total_examples=model.corpus_count, epochs=settings.epochs)
    counts = np.array([model.wv.get_vecattr(word, "count") for word in model.wv.index_to_key], dtype=np.float64)
    rarity = _RARE / (_RARE + counts / counts.sum())
    words = np.asarray(model.wv.vectors, dtype=np.float64)
    words = words / np.maximum(np.linalg.norm(words, axis=1, keepdims=True), 1e-12) * rarity[:, None]
    words = (words / np.sqrt(np.mean(words**2))).astype(np.float32)
    reserved = np.stack([np.zeros(settings.dimensions, dtype=np.float32), words.mean(axis=0)])
    return TextEmbedding(
        vocabulary=["", "<unknown>", *model.wv.index_to_key], vectors=np.concatenate([reserved, words])
    )


def _shared_by(sentences: Sequence[Sequence[str]], patients: int) -> Callable[[str, int, int], int]:
    """Return gensim's rule that drops a word which fewer patients share: it might name one of them."""
    sharing = Counter(word for words in sentences for word in set(words))
    return lambda word, count, min_count: RULE_DISCARD if sharing[word] < patients else RULE_DEFAULT
