"""The candidate: CNN, LSTM and word tokens, attention inside each modality, then attention across modalities."""

from __future__ import annotations

import keras
from keras import layers, ops

from data_schemas.features import MODALITIES
from training.data import InputSpec
from training.encoders import (
    attention_pool,
    image_layout,
    image_tokens,
    masked_softmax,
    number_embedding,
    series_summary,
    time_tokens,
    word_embedding,
    word_mask,
    word_tokens,
)
from training.settings import NetworkSettings


def network_inputs(spec: InputSpec, modalities: tuple[str, ...], text_length: int) -> dict[str, keras.KerasTensor]:
    """Make the input tensors of a network.

    Args:
        spec: Shapes.
        modalities: Modalities that the network reads.
        text_length: Words of a note.

    Returns:
        ``present`` bool ``[batch, 3]`` (columns ``MODALITIES``) and, by modality, ``series`` float32 with
        ``series_observed`` bool ``[batch, steps, channels]``, ``image`` float32, ``tokens`` int32 ``[batch, length]``.
    """
    inputs = {"present": keras.Input((len(MODALITIES),), dtype="bool", name="present")}
    if "series" in modalities:
        shape = (spec.steps, len(spec.channels))
        inputs["series"] = keras.Input(shape, dtype="float32", name="series")
        inputs["series_observed"] = keras.Input(shape, dtype="bool", name="series_observed")
    if "image" in modalities and spec.image is not None:
        size = (spec.image.height, spec.image.width, spec.image.channels)
        inputs["image"] = keras.Input(size, dtype="float32", name="image")
    if "text" in modalities:
        inputs["tokens"] = keras.Input((text_length,), dtype="int32", name="tokens")
    return inputs


def presence(inputs: dict[str, keras.KerasTensor], modalities: tuple[str, ...]) -> keras.KerasTensor:
    """Tell which modalities each sample has; a note without a single word counts as absent.

    Args:
        inputs: From ``network_inputs``.
        modalities: Modalities that the network reads.

    Returns:
        float32 ``[batch, len(modalities)]`` of 0 and 1.
    """
    columns = []
    for name in modalities:
        place = MODALITIES.index(name)
        column = ops.cast(inputs["present"][:, place : place + 1], "float32")
        if name == "text":
            column = column * ops.max(word_mask(inputs["tokens"]), axis=-1, keepdims=True)
        columns.append(column)
    return ops.concatenate(columns, axis=-1)


def build_fusion(
    spec: InputSpec, modalities: tuple[str, ...], settings: NetworkSettings, words: int, dimensions: int
) -> keras.Model:
    """Build the CNN-LSTM-attention network, from standardised inputs to probabilities and attention.

    An absent modality gets an attention of exactly zero and its values have no influence; with no modality at all
    the result is what the last layer's bias says. The layers are Keras's own, so that a saved model loads
    anywhere in safe mode.

    Args:
        spec: Shapes.
        modalities: Modalities to build encoders for, at least one.
        settings: Sizes and regularisation.
        words: Rows of the word table.
        dimensions: Length of a word vector.

    Returns:
        A model from ``network_inputs`` (series standardised) to ``probabilities`` ``[batch, classes]``,
        ``modality_attention`` ``[batch, 3]`` in the order of ``MODALITIES`` and ``<modality>_attention`` over its
        tokens.
    """
    inputs = network_inputs(spec, modalities, settings.text_length)
    vectors, outputs = [], {}
    for name in modalities:
        vector, weights = _ENCODERS[name](inputs, settings, words, dimensions)
        vectors.append(layers.Dropout(settings.dropout, name=f"{name}_vector_dropout")(vector))
        outputs[f"{name}_attention"] = weights
    present = presence(inputs, modalities)
    weights = _modality_attention(vectors, present, settings)
    # Weighted vectors side by side: evidence of one modality adds to, and never averages away, another's.
    weighted = [
        ops.where(present[:, i : i + 1] > 0, vector * weights[:, i : i + 1], 0.0) for i, vector in enumerate(vectors)
    ]
    joint = ops.concatenate(weighted, axis=-1) if len(weighted) > 1 else weighted[0]
    joint = layers.Dense(settings.units, activation="relu", name="joint")(joint)
    joint = layers.Dropout(settings.dropout, name="joint_dropout")(joint)
    logits = [layers.Dense(len(spec.classes), name="joint_logits")(joint)]
    # Each modality also speaks for itself: with few patients, sums of separate evidence are learnt sooner than the
    # joint view. Times the number of modalities present: a missing one leaves the others' evidence at its size.
    count = ops.sum(present, axis=-1, keepdims=True)
    for name, vector in zip(modalities, weighted, strict=True):
        logits.append(layers.Dense(len(spec.classes), use_bias=False, name=f"{name}_logits")(vector * count))
    outputs["probabilities"] = layers.Softmax(name="probabilities")(layers.Add(name="logits")(logits))
    outputs["modality_attention"] = _in_order(weights, modalities)
    return keras.Model(inputs, outputs, name="cnn_lstm_attention")


def _series_vector(
    inputs: dict, settings: NetworkSettings, words: int, dimensions: int
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    observed = ops.cast(inputs["series_observed"], "float32")
    tokens = time_tokens(inputs["series"], observed, settings, "lstm")
    pooled, weights = attention_pool(tokens, None, settings, "series")
    parts = [pooled, tokens[:, -1, :]]
    if settings.summary:
        parts.append(number_embedding(series_summary(inputs["series"], observed), settings, "summary"))
    return layers.Dense(settings.units, name="series_vector")(ops.concatenate(parts, axis=-1)), weights


def _image_vector(
    inputs: dict, settings: NetworkSettings, words: int, dimensions: int
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    tokens = image_tokens(inputs["image"], settings)
    pooled, weights = attention_pool(tokens, None, settings, "image")
    both = ops.concatenate([pooled, image_layout(inputs["image"], tokens, settings)], axis=-1)
    return layers.Dense(settings.units, name="image_vector")(both), weights


def _text_vector(
    inputs: dict, settings: NetworkSettings, words: int, dimensions: int
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    mask = word_mask(inputs["tokens"])
    tokens = word_tokens(word_embedding(inputs["tokens"], dimensions, settings, words), mask, settings)
    pooled, weights = attention_pool(tokens, mask, settings, "text")
    # Word tokens are not negative, so that padding, at zero, never wins the maximum.
    both = ops.concatenate([pooled, ops.max(tokens, axis=1)], axis=-1)
    return layers.Dense(settings.units, name="text_vector")(both), weights


_ENCODERS = {"series": _series_vector, "image": _image_vector, "text": _text_vector}


def _modality_attention(
    vectors: list[keras.KerasTensor], present: keras.KerasTensor, settings: NetworkSettings
) -> keras.KerasTensor:
    if len(vectors) == 1:
        return present
    stacked = ops.stack(vectors, axis=1)
    hidden = layers.Dense(settings.units, activation="tanh", name="modality_attention_hidden")(stacked)
    scores = ops.squeeze(layers.Dense(1, name="modality_attention_score")(hidden), -1)
    return masked_softmax(scores, present)


def _in_order(weights: keras.KerasTensor, modalities: tuple[str, ...]) -> keras.KerasTensor:
    """Spread the weights over all of ``MODALITIES``, with zeros for those that the cohort lacks."""
    columns = []
    for name in MODALITIES:
        if name in modalities:
            place = modalities.index(name)
            columns.append(weights[:, place : place + 1])
        else:
            columns.append(ops.zeros_like(weights[:, :1]))
    return ops.concatenate(columns, axis=-1)
