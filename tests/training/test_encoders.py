from __future__ import annotations

import keras
import numpy as np

from training.encoders import (
    attention_pool,
    image_layout,
    masked_softmax,
    number_embedding,
    series_summary,
    sinusoids,
)
from training.settings import NetworkSettings


def test_series_summary_by_hand():
    series = np.float32([[[1, 0], [3, 5], [8, 0]]])
    observed = np.float32([[[1, 0], [1, 0], [0, 0]]])
    summary = np.asarray(series_summary(series, observed))[0].reshape(9, 2)
    channel = [2, 1, 1, 8, 1, 8, 7, 2 / 3, 1]
    np.testing.assert_allclose(summary[:, 0], channel, atol=1e-3)
    np.testing.assert_allclose(summary[[0, 1, 7, 8], 1], 0, atol=2e-3)


def test_masked_softmax_is_exactly_zero_at_the_mask():
    scores, mask = np.float32([[1, 2, 50], [3, 4, 5]]), np.float32([[1, 1, 0], [0, 0, 0]])
    weights = np.asarray(masked_softmax(scores, mask))
    np.testing.assert_allclose(weights[0, :2], np.exp([1, 2]) / np.exp([1, 2]).sum(), rtol=1e-6)
    assert weights[0, 2] == 0 and (weights[1] == 0).all()


def test_attention_pool_is_a_weighted_mean():
    tokens = keras.Input((4, 3))
    pooled, weights = attention_pool(tokens, None, NetworkSettings(units=4), "t")
    values = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    vector, weight = keras.Model(tokens, [pooled, weights]).predict_on_batch(values)
    np.testing.assert_allclose(vector, np.einsum("bnu,bn->bu", values, weight), rtol=1e-4, atol=1e-5)


def test_number_embedding_learns_thresholds():
    random = np.random.default_rng(0)
    numbers = random.normal(size=(256, 3)).astype(np.float32)
    inside = (np.abs(numbers[:, 1]) < 0.5).astype(np.float32)
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,))
    hidden = number_embedding(inputs, NetworkSettings(units=16, dropout=0), "numbers")
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))
    model.compile(keras.optimizers.Adam(0.02), "binary_crossentropy")
    for _ in range(60):
        model.train_on_batch(numbers, inside)
    assert ((model.predict_on_batch(numbers)[:, 0] > 0.5) == inside).mean() > 0.93


def test_image_layout_tells_places_apart():
    image, tokens = keras.Input((8, 8, 1)), keras.Input((4, 3))
    model = keras.Model([image, tokens], image_layout(image, tokens, NetworkSettings(units=6)))
    picture = np.zeros((2, 8, 8, 1), dtype=np.float32)
    picture[0, 1, 1], picture[1, 6, 6] = 1, 1
    vectors = model.predict_on_batch([picture, np.zeros((2, 4, 3), dtype=np.float32)])
    assert vectors.shape == (2, 6) and np.abs(vectors[0] - vectors[1]).max() > 1e-3


def test_sinusoids_by_hand():
    table = sinusoids(3, 4)
    np.testing.assert_allclose(table[0], [0, 1, 0, 1])
    np.testing.assert_allclose(table[2], [np.sin(2), np.cos(2), np.sin(0.02), np.cos(0.02)], rtol=1e-6)
