"""From memory-mapped features to batches of model inputs; a fold is an index, never a copy of the arrays."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

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
    features: Features, rows: np.ndarray, fraction: float, seed: int, part: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Divide training rows into a part to fit on and a part for early stopping: by patient, stratified.

    Args:
        features: The features, for labels and patients.
        rows: int ``[m]``, training rows.
        fraction: Share of the rows in the second part, about.
        seed: Seed of the division.
        part: Which of the parts to validate on, counted round; different parts do not overlap.

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
        divisions = list(splitter.split(np.zeros(len(rows)), labels, groups))
    fit, validate = divisions[part % len(divisions)]
    return np.sort(rows[fit]), np.sort(rows[validate])


def augment(
    inputs: dict,
    modalities: tuple[str, ...],
    settings: NetworkSettings,
    random: np.random.Generator,
    *,
    size: int | None = None,
    part: slice = slice(None),
) -> dict:
    """Make a training batch harder, so that the network neither leans on one modality nor learns samples by heart.

    Hides whole modalities (one that the sample has always stays), makes single words unknown, and shifts images by
    a few pixels.

    Args:
        inputs: A batch from ``gather``, or a part of one.
        modalities: Modalities of the model.
        settings: Chances and sizes.
        random: Source of chance.
        size: Samples of the whole batch; chance is drawn for all of them, so that a part fares as it does within the
            whole. None: the inputs are the whole batch.
        part: Which of them the inputs are.

    Returns:
        A new batch; arrays that stay as they are shared with ``inputs``.
    """
    changed = dict(inputs)
    used = [MODALITIES.index(name) for name in modalities]
    if len(used) > 1 and settings.modality_dropout > 0:
        scores = random.random((size or len(inputs["present"]), len(used)))[part]
        changed["present"] = _hide_modalities(inputs["present"], used, settings.modality_dropout, scores)
    if "tokens" in inputs and settings.word_dropout > 0:
        tokens = inputs["tokens"]
        scores = random.random((size or len(tokens), tokens.shape[1]))[part]
        changed["tokens"] = np.where((tokens > UNKNOWN) & (scores < settings.word_dropout), np.int32(UNKNOWN), tokens)
    if "image" in inputs and settings.image_shift > 0:
        largest = settings.image_shift
        shifts = random.integers(-largest, largest + 1, size=(2, size or len(inputs["image"])))[:, part]
        changed["image"] = _shift_images(inputs["image"], shifts)
    return changed


def _hide_modalities(present: np.ndarray, used: list[int], chance: float, scores: np.ndarray) -> np.ndarray:
    kept = present.copy()
    # Among the modalities that a sample has, the one with the highest score is never hidden.
    best = np.where(present[:, used], scores, -1.0).argmax(axis=1)
    hidden = scores < chance
    hidden[np.arange(len(present)), best] = False
    kept[:, used] &= ~hidden
    return kept


def _shift_images(images: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    _, height, width, _ = images.shape
    down, right = shifts
    rows = np.clip(np.arange(height) + down[:, None], 0, height - 1)
    columns = np.clip(np.arange(width) + right[:, None], 0, width - 1)
    return images[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]
