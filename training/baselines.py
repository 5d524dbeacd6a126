"""Neural baselines: CNN on images, LSTM and GRU on series, a transformer on all tokens."""

from __future__ import annotations

import keras
from keras import layers, ops

from training.data import InputSpec
from training.encoders import (
    Cell,
    image_tokens,
    sinusoids,
    time_tokens,
    word_embedding,
    word_mask,
)
from training.fusion import network_inputs, presence
from training.settings import NetworkSettings


def build_cnn(spec: InputSpec, settings: NetworkSettings) -> keras.Model:
    """Build the CNN baseline: the image alone.

    Args:
        spec: Shapes; it must have an image.
        settings: Sizes.

    Returns:
        A model from ``network_inputs`` to ``probabilities`` ``[batch, classes]``.
    """
    inputs = network_inputs(spec, ("image",), settings.text_length)
    tokens = image_tokens(inputs["image"], settings)
    pooled = layers.Flatten(name="image_flat")(tokens)
    return _classifier(inputs, ("image",), pooled, spec, settings, "cnn")


def build_recurrent(spec: InputSpec, settings: NetworkSettings, cell: Cell) -> keras.Model:
    """Build the LSTM or GRU baseline: the series alone.

    Args:
        spec: Shapes.
        settings: Sizes.
        cell: The recurrent layer.

    Returns:
        A model from ``network_inputs`` to ``probabilities`` ``[batch, classes]``.
    """
    inputs = network_inputs(spec, ("series",), settings.text_length)
    tokens = time_tokens(inputs["series"], ops.cast(inputs["series_observed"], "float32"), settings, cell)
    pooled = ops.concatenate([ops.mean(tokens, axis=1), tokens[:, -1, :]], axis=-1)
    return _classifier(inputs, ("series",), pooled, spec, settings, cell)


def build_transformer(
    spec: InputSpec, modalities: tuple[str, ...], settings: NetworkSettings, words: int, dimensions: int
) -> keras.Model:
    """Build the transformer baseline: self-attention over the tokens of all modalities, absent ones masked.

    Args:
        spec: Shapes.
        modalities: Modalities to read, at least one.
        settings: Sizes.
        words: Rows of the word table.
        dimensions: Length of a word vector.

    Returns:
        A model from ``network_inputs`` to ``probabilities`` ``[batch, classes]``.
    """
    inputs = network_inputs(spec, modalities, settings.text_length)
    present = presence(inputs, modalities)
    tokens, masks = [], []
    for place, name in enumerate(modalities):
        part = _LINEAR_TOKENS[name](inputs, settings, words, dimensions)
        positions = sinusoids(part.shape[1], settings.units)
        kind = layers.Dense(settings.units, use_bias=False, name=f"{name}_kind")(ops.ones_like(part[:, :1, :1]))
        tokens.append(part + positions + kind)
        mask = word_mask(inputs["tokens"]) if name == "text" else ops.ones_like(part[:, :, 0])
        masks.append(mask * present[:, place : place + 1])
    mask = ops.concatenate(masks, axis=-1) if len(masks) > 1 else masks[0]
    hidden = ops.concatenate(tokens, axis=1) if len(tokens) > 1 else tokens[0]
    for block in range(settings.transformer_layers):
        hidden = _transformer_block(hidden, mask, settings, block)
    hidden = layers.LayerNormalization(name="final_normalisation")(hidden)
    total = ops.sum(hidden * ops.expand_dims(mask, -1), axis=1)
    pooled = total / ops.maximum(ops.sum(mask, axis=-1, keepdims=True), 1.0)
    pooled = layers.Dropout(settings.dropout, name="pooled_dropout")(pooled)
    probabilities = layers.Dense(len(spec.classes), activation="softmax", name="probabilities")(pooled)
    return keras.Model(inputs, {"probabilities": probabilities}, name="transformer")


def _classifier(
    inputs: dict,
    modalities: tuple[str, ...],
    pooled: keras.KerasTensor,
    spec: InputSpec,
    settings: NetworkSettings,
    name: str,
) -> keras.Model:
    pooled = ops.where(presence(inputs, modalities) > 0, pooled, 0.0)
    pooled = layers.Dropout(settings.dropout, name="pooled_dropout")(pooled)
    joint = layers.Dense(settings.units, activation="relu", name="joint")(pooled)
    joint = layers.Dropout(settings.dropout, name="joint_dropout")(joint)
    probabilities = layers.Dense(len(spec.classes), activation="softmax", name="probabilities")(joint)
    return keras.Model(inputs, {"probabilities": probabilities}, name=name)


def _series_patches(inputs: dict, settings: NetworkSettings, words: int, dimensions: int) -> keras.KerasTensor:
    observed = ops.cast(inputs["series_observed"], "float32")
    both = ops.concatenate([inputs["series"], observed], axis=-1)
    # Coarser than the recurrent tokens: attention costs the square of their number.
    stride = 2 * settings.time_stride
    return layers.Conv1D(settings.units, stride, strides=stride, padding="same", name="series_patches")(both)


def _image_patches(inputs: dict, settings: NetworkSettings, words: int, dimensions: int) -> keras.KerasTensor:
    image = inputs["image"]
    # Patches of a quarter of the side, so that any size gives at most 16 of them.
    size = (max(-(-image.shape[1] // 4), 1), max(-(-image.shape[2] // 4), 1))
    patches = layers.Conv2D(settings.units, size, strides=size, padding="same", name="image_patches")(image)
    return layers.Reshape((patches.shape[1] * patches.shape[2], settings.units), name="image_places")(patches)


def _word_vectors(inputs: dict, settings: NetworkSettings, words: int, dimensions: int) -> keras.KerasTensor:
    vectors = word_embedding(inputs["tokens"], dimensions, settings, words)
    return layers.Dense(settings.units, name="word_tokens")(vectors)


_LINEAR_TOKENS = {"series": _series_patches, "image": _image_patches, "text": _word_vectors}


def _transformer_block(
    hidden: keras.KerasTensor, mask: keras.KerasTensor, settings: NetworkSettings, block: int
) -> keras.KerasTensor:
    normal = layers.LayerNormalization(name=f"attention_normalisation_{block}")(hidden)
    heads = settings.transformer_heads
    attention = layers.MultiHeadAttention(heads, max(settings.units // heads, 1), name=f"attention_{block}")
    # Only keys are masked: a query at padding is dropped by the pooling, and a softmax always has a key to look at.
    keys = ops.expand_dims(ops.cast(mask, "bool"), 1)
    hidden = hidden + attention(normal, normal, attention_mask=keys)
    normal = layers.LayerNormalization(name=f"dense_normalisation_{block}")(hidden)
    wide = layers.Dense(2 * settings.units, activation="relu", name=f"dense_wide_{block}")(normal)
    wide = layers.Dropout(settings.dropout, name=f"dense_dropout_{block}")(wide)
    return hidden + layers.Dense(settings.units, name=f"dense_{block}")(wide)
