"""Z-scores as layers of the model (eq. 3): statistics of training rows, fitted again in every fold."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

from data_schemas.cohort import ImageShape
from data_schemas.features import MODALITIES, Features
from training.data import PREDICTION_BATCH, InputSpec
from training.settings import NetworkSettings

# Keeps a pixel that is nearly constant over patients from growing to many deviations, in units of the image's range.
_PIXEL_DEVIATION = 0.02


def series_statistics(features: Features, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each channel over the measured cells of some rows (eq. 3).

    Args:
        features: The features.
        rows: int ``[m]``, the rows to learn from.

    Returns:
        Two float32 ``[channels]``; a channel that is never measured, or is constant, gets a variance of 1.
    """
    channels = len(features.manifest.channels)
    count, total, squares = np.zeros(channels), np.zeros(channels), np.zeros(channels)
    # The first measured value of a channel as an offset keeps the sum of squares accurate.
    offset = np.zeros(channels)
    for start in range(0, len(rows), PREDICTION_BATCH):
        part = rows[start : start + PREDICTION_BATCH]
        observed = np.asarray(features.series_observed[part])
        values = np.asarray(features.series[part], dtype=np.float64)
        new = (count == 0) & observed.any(axis=(0, 1))
        flat = np.where(observed, values, 0.0).reshape(-1, channels)
        first = observed.reshape(-1, channels).argmax(axis=0)
        offset = np.where(new, flat[first, np.arange(channels)], offset)
        centred = np.where(observed, values - offset, 0.0)
        count += observed.sum(axis=(0, 1))
        total += centred.sum(axis=(0, 1))
        squares += (centred**2).sum(axis=(0, 1))
    seen = np.maximum(count, 1)
    mean = total / seen
    variance = squares / seen - mean**2
    variance = np.where(variance > 1e-12 * np.maximum(offset**2, 1e-12), variance, 1.0)
    return (mean + offset).astype(np.float32), variance.astype(np.float32)


def averaging_factor(image: ImageShape, settings: NetworkSettings) -> int:
    """Pixels, in each direction, that the network averages into one.

    Args:
        image: Shape of the images.
        settings: Side to average down to, about.

    Returns:
        1 where the images are small enough.
    """
    return max(round(min(image.height, image.width) / settings.image_size), 1)


def averaged_shape(image: ImageShape, settings: NetworkSettings) -> ImageShape:
    """Shape of an image after averaging; pixels beyond the last whole block are left out.

    Args:
        image: Shape of the images.
        settings: Side to average down to, about.

    Returns:
        The smaller shape.
    """
    factor = averaging_factor(image, settings)
    return ImageShape(height=image.height // factor, width=image.width // factor, channels=image.channels)


def image_statistics(
    features: Features, rows: np.ndarray, shape: ImageShape, factor: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each averaged pixel over the images of some rows.

    Args:
        features: The features.
        rows: int ``[m]``, the rows to learn from; those without an image are left out.
        shape: Shape after averaging.
        factor: Pixels averaged into one, in each direction.

    Returns:
        Two float32 ``[height, width, channels]``; zeros and ones where no row has an image.
    """
    rows = rows[np.asarray(features.present[rows, MODALITIES.index("image")], dtype=bool)]
    size = (shape.height, shape.width, shape.channels)
    total, squares = np.zeros(size), np.zeros(size)
    if not len(rows):
        return np.zeros(size, dtype=np.float32), np.ones(size, dtype=np.float32)
    for start in range(0, len(rows), PREDICTION_BATCH):
        images = np.asarray(features.images[rows[start : start + PREDICTION_BATCH]], dtype=np.float64)
        cut = images[:, : shape.height * factor, : shape.width * factor]
        blocks = cut.reshape(-1, shape.height, factor, shape.width, factor, shape.channels).mean(axis=(2, 4))
        # Values lie in [0, 1] and are summed in float64, so that the plain formula loses nothing that matters.
        total += blocks.sum(axis=0)
        squares += (blocks**2).sum(axis=0)
    mean = total / len(rows)
    variance = np.maximum(squares / len(rows) - mean**2, 0.0) + _PIXEL_DEVIATION**2
    return mean.astype(np.float32), variance.astype(np.float32)


def fit_standardiser(
    features: Features, rows: np.ndarray, spec: InputSpec, modalities: tuple[str, ...], settings: NetworkSettings
) -> keras.Model | None:
    """Fit the z-scores on some rows.

    Args:
        features: The features.
        rows: int ``[m]``, training rows.
        spec: Shapes.
        modalities: Modalities of the network.
        settings: Image size and limit.

    Returns:
        A model from raw ``series`` and ``image`` (those of the modalities) to the same names standardised, or None
        where the network reads neither.
    """
    inputs, outputs = {}, {}
    if "series" in modalities:
        mean, variance = series_statistics(features, rows)
        inputs["series"] = keras.Input((spec.steps, len(mean)), dtype="float32", name="series")
        outputs["series"] = standardised_series(inputs["series"], mean, variance, settings.clip)
    if "image" in modalities and spec.image is not None:
        image, factor = spec.image, averaging_factor(spec.image, settings)
        mean, variance = image_statistics(features, rows, averaged_shape(image, settings), factor)
        size = (image.height, image.width, image.channels)
        inputs["image"] = keras.Input(size, dtype="float32", name="image")
        outputs["image"] = standardised_image(inputs["image"], mean, variance, factor, settings.clip)
    return keras.Model(inputs, outputs, name="standardise") if inputs else None


def standardised_series(
    series: keras.KerasTensor, mean: np.ndarray, variance: np.ndarray, clip: float
) -> keras.KerasTensor:
    """Z-score of each channel, within ±clip; NaN becomes 0, the mean.

    Args:
        series: float32 ``[batch, steps, channels]``, NaN where a channel was never measured.
        mean: float32 ``[channels]``, from ``series_statistics``.
        variance: float32 ``[channels]``.
        clip: Limit in standard deviations.

    Returns:
        float32 of the same shape, finite.
    """
    scaled = _normalised(series, mean, variance, axis=-1, name="series_z_score")
    return ops.clip(ops.where(ops.isnan(scaled), 0.0, scaled), -clip, clip)


def standardised_image(
    image: keras.KerasTensor, mean: np.ndarray, variance: np.ndarray, factor: int, clip: float
) -> keras.KerasTensor:
    """Average an image down, then z-score each pixel, within ±clip.

    Args:
        image: float32 ``[batch, height, width, channels]`` in [0, 1].
        mean: float32, the shape of an averaged image, from ``image_statistics``.
        variance: Likewise.
        factor: Pixels averaged into one, in each direction.
        clip: Limit in standard deviations.

    Returns:
        float32 ``[batch, smaller height, smaller width, channels]``.
    """
    smaller = layers.AveragePooling2D(factor, name="image_average")(image) if factor > 1 else image
    scaled = _normalised(smaller, mean, variance, axis=(1, 2, 3), name="image_z_score")
    return ops.clip(scaled, -clip, clip)


def _normalised(
    values: keras.KerasTensor, mean: np.ndarray, variance: np.ndarray, axis: int | tuple[int, ...], name: str
) -> keras.KerasTensor:
    layer = layers.Normalization(axis=axis, mean=mean, variance=variance, name=name)
    scaled = layer(values)
    # As arrays they are constants of every graph; the ONNX export takes Keras's tensors for inputs.
    layer.mean = np.asarray(layer.mean)
    layer.variance = np.asarray(layer.variance)
    return scaled
