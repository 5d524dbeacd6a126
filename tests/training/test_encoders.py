from __future__ import annotations

import keras
import numpy as np

from training.encoders import attention_pool, centred_image, masked_softmax, series_summary, sinusoids
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


def test_centred_image_averages_and_centres():
    image = np.zeros((1, 4, 4, 1), dtype=np.float32)
    image[0, :2, :2] = 1
    centred = np.asarray(centred_image(image, NetworkSettings(image_size=4)))
    np.testing.assert_allclose([centred.max(), centred.min(), centred.mean()], [3, -1, 0], atol=1e-6)
    image = np.repeat(np.repeat(image, 2, axis=1), 2, axis=2)
    np.testing.assert_allclose(
        np.asarray(centred_image(image, NetworkSettings(image_size=4))), centred, atol=1e-6
    )


def test_sinusoids_by_hand():
    table = sinusoids(3, 4)
    np.testing.assert_allclose(table[0], [0, 1, 0, 1])
    np.testing.assert_allclose(table[2], [np.sin(2), np.cos(2), np.sin(0.02), np.cos(0.02)], rtol=1e-6)
