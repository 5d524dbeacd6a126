"""From memory-mapped features to batches of model inputs; a fold is an index, never a copy of the arrays."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import keras
import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from data_schemas.cohort import ImageShape
from data_schemas.features import MODALITIES, Features
from training.settings import ClassWeight, NetworkSettings
from training.text import UNKNOWN

PREDICTION_BATCH = 256


@dataclass(frozen=True)
class InputSpec:
    """The shapes that a model of these features takes and gives.

    Attributes:
        classes: Class names, in the order of the probabilities.
        channels: Channel names, in the order of the series' last axis.
        steps: Steps of the series' grid.
        image: Shape of an image, or None.
        modalities: Those of ``MODALITIES`` that at least one training row has; the others are left out of models.
    """

    classes: tuple[str, ...]
    channels: tuple[str, ...]
    steps: int
    image: ImageShape | None
    modalities: tuple[str, ...]

    @classmethod
    def of(cls, features: Features) -> InputSpec:
        """Read the shapes from a features folder.

        Args:
            features: The features; only the training rows decide which modalities there are.

        Returns:
            The shapes.
        """
        manifest = features.manifest
        has = features.present[features.train_rows].any(axis=0)
        usable = {"series": len(manifest.channels) > 0, "image": manifest.image is not None, "text": True}
        return cls(
            classes=tuple(manifest.classes),
            channels=tuple(manifest.channel_names),
            steps=manifest.steps,
            image=manifest.image,
            modalities=tuple(m for m, found in zip(MODALITIES, has, strict=True) if found and usable[m]),
        )


def gather(features: Features, rows: np.ndarray, modalities: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Copy the inputs of some rows out of the memory-mapped arrays; word numbers are the caller's to add.

    Args:
        features: The features.
        rows: int ``[m]``, indices into them.
        modalities: Modalities whose arrays are wanted.

    Returns:
        Arrays by input name: ``present`` bool ``[m, 3]``; ``series`` float32 and ``series_observed`` bool
        ``[m, steps, channels]``; ``image`` float32 ``[m, height, width, channels]``.
    """
    inputs: dict[str, np.ndarray] = {"present": np.array(features.present[rows], dtype=bool)}
    if "series" in modalities:
        inputs["series"] = np.array(features.series[rows], dtype=np.float32)
        inputs["series_observed"] = np.array(features.series_observed[rows], dtype=bool)
    if "image" in modalities:
        inputs["image"] = np.array(features.images[rows], dtype=np.float32)
    return inputs


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


def class_weights(labels: np.ndarray, classes: int, mode: ClassWeight) -> np.ndarray:
    """Weight of each class in the loss, from the rows that are fitted on.

    Args:
        labels: int ``[m]``, class indices of those rows.
        classes: Number of classes.
        mode: "balanced": m / (classes present * count of the class); "none": ones.

    Returns:
        float32 ``[classes]``; 1 for a class without rows.
    """
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    if mode == "none":
        return np.ones(classes, dtype=np.float32)
    weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.where(counts > 0, weights, 1.0).astype(np.float32)


def validation_split(
    features: Features, rows: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Divide training rows into a part to fit on and a part for early stopping: by patient, stratified.

    Args:
        features: The features, for labels and patients.
        rows: int ``[m]``, training rows.
        fraction: Share of the rows in the second part, about.
        seed: Seed of the division.

    Returns:
        Rows to fit on and rows to validate on, both sorted.
    """
    labels = features.labels[rows]
    patients = features.samples["patient_id"].to_numpy()[rows]
    # Patients are numbered in row order, so that the split does not change with their pseudonyms.
    _, first, codes = np.unique(patients, return_index=True, return_inverse=True)
    groups = first[codes]
    parts = min(max(round(1 / fraction), 2), int(np.bincount(labels).max()), len(first))
    splitter = StratifiedGroupKFold(n_splits=max(parts, 2), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # Classes with fewer patients than parts are allowed here: early stopping then does not see them.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        fit, validate = next(splitter.split(np.zeros(len(rows)), labels, groups))
    return np.sort(rows[fit]), np.sort(rows[validate])


def augment(
    inputs: dict, modalities: tuple[str, ...], settings: NetworkSettings, random: np.random.Generator
) -> dict:
    """Make a training batch harder, so that the network neither leans on one modality nor learns samples by heart.

    Hides whole modalities (one that the sample has always stays), makes single words unknown, and shifts images by
    a few pixels.

    Args:
        inputs: A batch from ``gather``.
        modalities: Modalities of the model.
        settings: Chances and sizes.
        random: Source of chance.

    Returns:
        A new batch; arrays that stay as they are shared with ``inputs``.
    """
    changed = dict(inputs)
    used = [MODALITIES.index(name) for name in modalities]
    if len(used) > 1 and settings.modality_dropout > 0:
        changed["present"] = _hide_modalities(inputs["present"], used, settings.modality_dropout, random)
    if "tokens" in inputs and settings.word_dropout > 0:
        tokens = inputs["tokens"]
        hidden = (tokens > UNKNOWN) & (random.random(tokens.shape) < settings.word_dropout)
        changed["tokens"] = np.where(hidden, np.int32(UNKNOWN), tokens)
    if "image" in inputs and settings.image_shift > 0:
        changed["image"] = _shift_images(inputs["image"], settings.image_shift, random)
    return changed


def _hide_modalities(
    present: np.ndarray, used: list[int], chance: float, random: np.random.Generator
) -> np.ndarray:
    kept = present.copy()
    scores = random.random((len(present), len(used)))
    # Among the modalities that a sample has, the one with the highest score is never hidden.
    best = np.where(present[:, used], scores, -1.0).argmax(axis=1)
    hidden = scores < chance
    hidden[np.arange(len(present)), best] = False
    kept[:, used] &= ~hidden
    return kept


def _shift_images(images: np.ndarray, largest: int, random: np.random.Generator) -> np.ndarray:
    _, height, width, _ = images.shape
    down, right = random.integers(-largest, largest + 1, size=(2, len(images)))
    rows = np.clip(np.arange(height) + down[:, None], 0, height - 1)
    columns = np.clip(np.arange(width) + right[:, None], 0, width - 1)
    return images[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]


def build_standardiser(mean: np.ndarray, variance: np.ndarray, steps: int, clip: float) -> keras.Model:
    """Build the z-score layer (eq. 3), as a model from raw series to finite standardised series.

    Args:
        mean: float32 ``[channels]``, from ``series_statistics`` of training rows.
        variance: float32 ``[channels]``.
        steps: Steps of the grid.
        clip: Limit of the result in standard deviations.

    Returns:
        A model float32 ``[batch, steps, channels]`` to the same shape: (x - mean) / deviation within ±clip; NaN
        becomes 0, the mean.
    """
    series = keras.Input((steps, len(mean)), dtype="float32", name="series")
    normalisation = keras.layers.Normalization(axis=-1, mean=mean, variance=variance, name="z_score")
    scaled = normalisation(series)
    # As arrays they are constants of every graph; the ONNX export takes Keras's tensors for inputs.
    normalisation.mean = np.asarray(normalisation.mean)
    normalisation.variance = np.asarray(normalisation.variance)
    finite = keras.ops.where(keras.ops.isnan(scaled), 0.0, scaled)
    return keras.Model(series, keras.ops.clip(finite, -clip, clip), name="standardise")
