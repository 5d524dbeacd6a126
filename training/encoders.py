"""Encoders: each turns one modality into tokens, float32 ``[batch, tokens, units]``."""

from __future__ import annotations

from typing import Literal

import keras
import numpy as np
from keras import layers, ops

from training.settings import NetworkSettings

Cell = Literal["lstm", "gru"]
_MASKED = -1e9


def image_tokens(image: keras.KerasTensor, settings: NetworkSettings) -> keras.KerasTensor:
    """Convolution and max pooling (sections 5 and 6 of the paper): spatial tokens of an image.

    Args:
        image: float32 ``[batch, height, width, channels]``, standardised.
        settings: Filters of each block; a block halves height and width while they exceed 2 pixels.

    Returns:
        ``[batch, places, units]``.
    """
    hidden = image
    for block, filters in enumerate(settings.image_filters):
        hidden = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"image_convolution_{block}")(hidden)
        if min(hidden.shape[1:3]) > 2:
            hidden = layers.MaxPooling2D(2, name=f"image_pooling_{block}")(hidden)
    height, width, filters = hidden.shape[1:]
    tokens = layers.Reshape((height * width, filters), name="image_places")(hidden)
    return layers.Dense(settings.units, activation="relu", name="image_tokens")(tokens)


def image_layout(image: keras.KerasTensor, tokens: keras.KerasTensor, settings: NetworkSettings) -> keras.KerasTensor:
    """Where in the image what is: all spatial tokens and a coarse view side by side, which pooling would lose.

    Args:
        image: float32 ``[batch, height, width, channels]``, standardised.
        tokens: ``[batch, places, units]``, from ``image_tokens``.
        settings: Sizes.

    Returns:
        ``[batch, units]``.
    """
    factor = max(min(image.shape[1:3]) // 8, 1)
    coarse = layers.AveragePooling2D(factor, name="image_coarse")(image) if factor > 1 else image
    parts = [layers.Flatten(name="image_coarse_flat")(coarse), layers.Flatten(name="image_tokens_flat")(tokens)]
    both = layers.Dropout(settings.dropout, name="image_layout_dropout")(ops.concatenate(parts, axis=-1))
    return layers.Dense(settings.units, activation="relu", name="image_layout")(both)


def time_tokens(
    series: keras.KerasTensor, observed: keras.KerasTensor, settings: NetworkSettings, cell: Cell
) -> keras.KerasTensor:
    """A recurrent network over the series: one token for every ``time_stride`` grid steps.

    Args:
        series: float32 ``[batch, steps, channels]``, standardised, finite.
        observed: float32 of the same shape: 1 where measured, 0 where imputed.
        settings: Sizes.
        cell: The recurrent layer.

    Returns:
        ``[batch, ceil(steps / time_stride), units]``.
    """
    hidden = layers.Concatenate(name="series_with_mask")([series, observed])
    hidden = layers.Conv1D(
        settings.units,
        3,
        strides=settings.time_stride,
        padding="same",
        activation="relu",
        name="series_convolution",
    )(hidden)
    hidden = layers.Dropout(settings.dropout, name="series_dropout")(hidden)
    recurrent = layers.LSTM if cell == "lstm" else layers.GRU
    return recurrent(settings.units, return_sequences=True, name=cell)(hidden)


def series_summary(series: keras.KerasTensor, observed: keras.KerasTensor) -> keras.KerasTensor:
    """Summary statistics of the standardised series, the scales that recurrence tends to lose.

    Args:
        series: float32 ``[batch, steps, channels]``, standardised, finite.
        observed: float32 of the same shape: 1 where measured.

    Returns:
        ``[batch, 9 * channels]``: mean and deviation over measured cells, lowest, highest, first, last, change, the
        measured fraction and whether it was measured at all, of each channel.
    """
    count = ops.sum(observed, axis=1)
    mean = ops.sum(series * observed, axis=1) / ops.maximum(count, 1.0)
    spread = ops.sum(ops.square(series - ops.expand_dims(mean, 1)) * observed, axis=1) / ops.maximum(count, 1.0)
    first, last = series[:, 0, :], series[:, -1, :]
    parts = [
        mean,
        ops.sqrt(spread + 1e-6),
        ops.min(series, axis=1),
        ops.max(series, axis=1),
        first,
        last,
        last - first,
        ops.mean(observed, axis=1),
        ops.max(observed, axis=1),
    ]
    return ops.concatenate(parts, axis=-1)


def number_embedding(numbers: keras.KerasTensor, settings: NetworkSettings, name: str) -> keras.KerasTensor:
    """Give every number hinges of its own before they are mixed, so that thresholds are easy to learn.

    Args:
        numbers: float32 ``[batch, n]``, of a scale about 1.
        settings: Sizes.
        name: Name of the layers.

    Returns:
        ``[batch, 2 * units]``.
    """
    hinges = layers.EinsumDense(
        "bn,nk->bnk",
        (numbers.shape[-1], settings.hinges),
        activation="relu",
        bias_axes="nk",
        kernel_initializer=keras.initializers.RandomNormal(stddev=1.0),
        bias_initializer=keras.initializers.RandomUniform(-1.0, 1.0),
        name=f"{name}_hinges",
    )(numbers)
    flat = layers.Dropout(settings.dropout, name=f"{name}_dropout")(layers.Flatten(name=f"{name}_flat")(hinges))
    return layers.Dense(2 * settings.units, activation="relu", name=name)(flat)


def word_embedding(
    tokens: keras.KerasTensor, dimensions: int, settings: NetworkSettings, words: int
) -> keras.KerasTensor:
    """Look the words up in the Word2Vec vectors.

    Args:
        tokens: int32 ``[batch, length]``; 0 is padding.
        dimensions: Length of a vector.
        settings: Whether the vectors are trained further.
        words: Rows of the table.

    Returns:
        ``[batch, length, dimensions]``; exactly zero at padding.
    """
    table = layers.Embedding(words, dimensions, trainable=settings.train_embedding, name="words")
    return table(tokens) * ops.expand_dims(word_mask(tokens), -1)


def word_tokens(vectors: keras.KerasTensor, mask: keras.KerasTensor, settings: NetworkSettings) -> keras.KerasTensor:
    """Word tokens with their neighbours; a note's padding has no influence on them.

    Args:
        vectors: ``[batch, length, dimensions]``, zero at padding.
        mask: float32 ``[batch, length]``: 1 at words.
        settings: Sizes.

    Returns:
        ``[batch, length, units]``.
    """
    hidden = layers.SpatialDropout1D(settings.dropout / 2, name="word_dropout")(vectors)
    hidden = layers.Conv1D(settings.units, 3, padding="same", activation="relu", name="word_tokens")(hidden)
    return hidden * ops.expand_dims(mask, -1)


def word_mask(tokens: keras.KerasTensor) -> keras.KerasTensor:
    """Tell words from padding.

    Args:
        tokens: int32 ``[batch, length]``.

    Returns:
        float32 ``[batch, length]``: 1 at words, 0 at padding.
    """
    return ops.cast(ops.not_equal(tokens, 0), "float32")


def masked_softmax(scores: keras.KerasTensor, mask: keras.KerasTensor) -> keras.KerasTensor:
    """Softmax over the last axis with exactly zero weight where the mask is 0.

    Args:
        scores: float32 ``[batch, n]``.
        mask: float32 ``[batch, n]`` of 0 and 1.

    Returns:
        ``[batch, n]``, summing to 1, or to 0 where the whole mask is 0.
    """
    return ops.softmax(scores * mask + (1.0 - mask) * _MASKED, axis=-1) * mask


def attention_pool(
    tokens: keras.KerasTensor, mask: keras.KerasTensor | None, settings: NetworkSettings, name: str
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Attention inside a modality: a weighted mean of its tokens, weights from a small network.

    Args:
        tokens: ``[batch, n, units]``.
        mask: float32 ``[batch, n]``, 1 at tokens that count; None where all do.
        settings: Sizes.
        name: Name of the modality.

    Returns:
        The vector ``[batch, units]`` and the weights ``[batch, n]``.
    """
    hidden = layers.Dense(settings.units, activation="tanh", name=f"{name}_attention_hidden")(tokens)
    scores = ops.squeeze(layers.Dense(1, name=f"{name}_attention_score")(hidden), -1)
    weights = ops.softmax(scores, axis=-1) if mask is None else masked_softmax(scores, mask)
    return ops.sum(tokens * ops.expand_dims(weights, -1), axis=1), weights


def sinusoids(length: int, units: int) -> np.ndarray:
    """Fixed sine and cosine positions of the transformer.

    Args:
        length: Number of places.
        units: Length of a token.

    Returns:
        float32 ``[length, units]`` in [-1, 1].
    """
    place = np.arange(length)[:, None]
    rate = np.exp(-np.log(10_000.0) * (np.arange(units) // 2 * 2) / units)
    angle = place * rate
    return np.where(np.arange(units) % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)
