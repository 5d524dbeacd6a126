"""The settings of the embed_text step."""

from __future__ import annotations

from components.common.settings import Section
from training.settings import WordEmbeddingSettings


class EmbedTextSettings(Section, WordEmbeddingSettings):
    """Word2Vec on the training notes; the sizes of ``cross_validate.words`` should be the same."""
