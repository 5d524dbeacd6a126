from __future__ import annotations

import keras
import numpy as np
import pytest

from data_schemas.cohort import ImageShape
from tests.training.synthetic import make_features
from training.data import InputSpec
from training.settings import NetworkSettings
from training.standardise import (
    averaged_shape,
    averaging_factor,
    fit_standardiser,
    image_statistics,
    series_statistics,
    standardised_image,
    standardised_series,
)


def test_statistics_are_those_of_observed_training_cells(features):
    rows = features.train_rows[:40]
    mean, variance = series_statistics(features, rows)
    observed = np.where(features.series_observed[rows], features.series[rows].astype(np.float64), np.nan)
    np.testing.assert_allclose(mean, np.nanmean(observed, axis=(0, 1)), rtol=1e-6)
    np.testing.assert_allclose(variance, np.nanvar(observed, axis=(0, 1)), rtol=1e-5)


def test_statistics_of_channels_never_measured_or_constant(features, tmp_path):
    copy = make_features(tmp_path, patients=12, classes=2, channels=2)
    series, observed = np.array(copy.series), np.array(copy.series_observed)
    series[:, :, 0], observed[:, :, 0] = np.nan, False
    series[:, :, 1] = 98.6
    np.save(tmp_path / "series.npy", series)
    np.save(tmp_path / "series_observed.npy", observed)
    mean, variance = series_statistics(type(copy).open(tmp_path), np.arange(12))
    np.testing.assert_allclose(mean, [0, 98.6], rtol=1e-6)
    np.testing.assert_array_equal(variance, [1, 1])


def test_series_by_hand():
    inputs = keras.Input((2, 2))
    model = keras.Model(inputs, standardised_series(inputs, np.float32([10, 0]), np.float32([4, 1]), clip=3.0))
    series = np.float32([[[12, np.nan], [100, -0.5]]])
    np.testing.assert_allclose(np.asarray(model(series)), [[[1, 0], [3, -0.5]]], rtol=1e-6)


def test_image_by_hand():
    inputs = keras.Input((4, 4, 1))
    mean, variance = np.full((2, 2, 1), 0.5, dtype=np.float32), np.full((2, 2, 1), 0.25, dtype=np.float32)
    model = keras.Model(inputs, standardised_image(inputs, mean, variance, 2, clip=3.0))
    image = np.zeros((1, 4, 4, 1), dtype=np.float32)
    image[0, :2, :2] = [[[1], [1]], [[1], [0]]]
    np.testing.assert_allclose(np.asarray(model(image))[0, :, :, 0], [[0.5, -1], [-1, -1]], rtol=1e-6)


@pytest.mark.parametrize(
    ("size", "factor", "shape"), [((64, 64), 2, (32, 32)), ((40, 100), 1, (40, 100)), ((101, 130), 3, (33, 43))]
)
def test_averaging(size, factor, shape):
    image = ImageShape(height=size[0], width=size[1], channels=1)
    settings = NetworkSettings(image_size=32)
    assert averaging_factor(image, settings) == factor
    averaged = averaged_shape(image, settings)
    assert (averaged.height, averaged.width) == shape


def test_image_statistics_are_those_of_training_images(features):
    rows = features.train_rows[:30]
    present = rows[np.array(features.present[rows, 1])]
    assert len(present) < len(rows)
    mean, variance = image_statistics(features, rows, ImageShape(height=8, width=8, channels=1), 2)
    blocks = np.array(features.images[present], dtype=np.float64).reshape(-1, 8, 2, 8, 2, 1).mean(axis=(2, 4))
    np.testing.assert_allclose(mean, blocks.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(variance, blocks.var(axis=0) + 0.02**2, rtol=1e-5)
    mean, variance = image_statistics(features, rows[:0], ImageShape(height=8, width=8, channels=1), 2)
    assert not mean.any() and (variance == 1).all()


def test_fitted_standardiser_agrees_with_the_network_shapes(features):
    settings = NetworkSettings(image_size=8)
    spec = InputSpec.of(features)
    model = fit_standardiser(features, features.train_rows, spec, ("series", "image"), settings)
    raw = {"series": np.array(features.series[:5]), "image": np.array(features.images[:5])}
    outputs = model(raw)
    assert outputs["image"].shape == (5, 8, 8, 1) and outputs["series"].shape == (5, 12, 3)
    assert all(np.isfinite(np.asarray(values)).all() for values in outputs.values())
    assert fit_standardiser(features, features.train_rows, spec, ("text",), settings) is None
