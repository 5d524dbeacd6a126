"""Features with a known signal in every modality, written through the real contract."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from data_schemas.cohort import Channel, ImageShape
from data_schemas.features import Features, FeaturesManifest


def make_features(
    folder: Path,
    *,
    patients: int = 72,
    classes: int = 3,
    steps: int = 12,
    channels: int = 3,
    image: tuple[int, int, int] | None = (16, 16, 1),
    text: bool = True,
    series: bool = True,
    folds: int = 3,
    missing: float = 0.1,
    strength: float = 1.0,
    seed: int = 0,
) -> Features:
    """Write a features folder whose classes differ in the series' level, a bright square and the note's words."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.arange(patients) % classes
    shape = ImageShape(height=image[0], width=image[1], channels=image[2]) if image else None
    present = random.random((patients, 3)) >= missing
    present &= np.array([series, image is not None, text])
    level = (labels / max(classes - 1, 1) - 0.5) * 2 * strength
    values = random.normal(size=(patients, steps, channels))
    values[:, :, 0] += 2 * level[:, None]
    values = (37 + values).astype(np.float32)
    observed = random.random(values.shape) > 0.3
    observed[:, 0] = True
    observed[~present[:, 0]] = False
    values[~present[:, 0]] = np.nan
    np.save(folder / "series.npy", values)
    np.save(folder / "series_observed.npy", observed)
    np.save(folder / "images.npy", _images(random, labels, level, present[:, 1], image))
    np.save(folder / "present.npy", present)
    ids = [f"p{i:04d}" for i in range(patients)]
    texts = [_note(random, label) if has else "" for label, has in zip(labels, present[:, 2], strict=True)]
    pd.DataFrame({"patient_id": ids, "text": texts}).to_parquet(folder / "notes.parquet")
    order = np.arange(patients) // classes
    test = order % 5 == 4
    samples = pd.DataFrame(
        {
            "patient_id": ids,
            "label": [f"class {label}" for label in labels],
            "window_end": pd.Timestamp("2022-06-10", tz="UTC"),
            "split": np.where(test, "test", "train"),
            "fold": np.where(test, -1, order % folds),
        }
    )
    samples.to_parquet(folder / "samples.parquet")
    manifest = FeaturesManifest(
        name="synthetic",
        classes=[f"class {label}" for label in range(classes)],
        channels=[Channel(name=f"channel {i}", unit="1", low=0, high=100) for i in range(channels)],
        steps=steps,
        step_seconds=3600,
        image=shape,
        folds=folds,
        cohort_digest="0" * 64,
    )
    (folder / "features.json").write_text(json.dumps(manifest.model_dump()))
    return Features.open(folder)


def _images(
    random: np.random.Generator,
    labels: np.ndarray,
    level: np.ndarray,
    present: np.ndarray,
    image: tuple | None,
) -> np.ndarray:
    if image is None:
        return np.zeros((len(labels), 0, 0, 0), dtype=np.float32)
    pixels = random.uniform(0.3, 0.5, size=(len(labels), *image))
    half = image[0] // 2
    pixels[:, :half, :half] += 0.2 * level[:, None, None, None]
    return (np.clip(pixels, 0, 1) * present[:, None, None, None]).astype(np.float32)


def _note(random: np.random.Generator, label: int) -> str:
    filler = random.choice(["patient", "seen", "today", "stable", "review", "plan"], size=8)
    sign = ["cough", "thirst", "oedema", "headache", "fatigue", "pallor"][label % 6]
    other = ["cough", "thirst", "oedema", "headache", "fatigue", "pallor"][(label + 1) % 6]
    return f"{' '.join(filler)} reports {sign}. No {other}. BP 120/80."
