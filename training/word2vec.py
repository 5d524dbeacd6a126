"""Fitting word vectors on training notes: Word2Vec, context predicts word (CBOW)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gensim.models import Word2Vec

from training.settings import WordEmbeddingSettings
from training.text import TextEmbedding, tokenize


def fit_embedding(texts: Sequence[str], settings: WordEmbeddingSettings) -> TextEmbedding:
    """Fit Word2Vec on the given notes and on nothing else.

    One worker and a fixed seed make it deterministic. Vectors are scaled to a root mean square of 1, the scale of
    the other inputs of the network; an unknown word gets the mean vector.

    Args:
        texts: Notes of training rows; empty ones are skipped.
        settings: Sizes and seed.

    Returns:
        The embedding; padding and unknown only where no word occurs ``min_count`` times.
    """
    sentences = [words for words in map(tokenize, texts) if words]
    model = Word2Vec(
        vector_size=settings.dimensions,
        window=settings.window,
        min_count=settings.min_count,
        max_final_vocab=settings.max_words - 2,
        sg=0,
        epochs=settings.epochs,
        seed=settings.seed,
        workers=1,
    )
    if sentences:
        model.build_vocab(sentences)
    if not len(model.wv):
        return TextEmbedding.empty(settings.dimensions)
    model.train(sentences, total_examples=model.corpus_count, epochs=settings.epochs)
    words = np.asarray(model.wv.vectors, dtype=np.float32)
    words = words / max(float(np.sqrt(np.mean(words**2))), 1e-12)
    reserved = np.stack([np.zeros(settings.dimensions, dtype=np.float32), words.mean(axis=0)])
    return TextEmbedding(
        vocabulary=["", "<unknown>", *model.wv.index_to_key], vectors=np.concatenate([reserved, words])
    )
