"""The features contract: memory-mapped arrays, one row a sample, that ``preprocess`` writes and models read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from data_schemas.cohort import SCHEMAS, Channel, Demographics, ImageShape
from data_schemas.errors import InputError

MODALITIES = ("series", "image", "text")


class Preparation(BaseModel):
    """How a cohort became these features: what serving has to do with a patient's raw data in the same way."""

    model_config = ConfigDict(extra="forbid")

    settings: dict[str, JsonValue] = Field(description="Section preprocess of the settings")
    demographics: Demographics = Field(description="Facts on patients that stand among the observations")


class FeaturesManifest(BaseModel):
    """What a features folder holds, readable without opening its arrays."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="Name of the cohort")
    classes: list[str] = Field(description="Class names; a class's index is its position here")
    channels: list[Channel] = Field(description="Channels in the order of the last axis of the series")
    steps: int = Field(ge=1, description="Steps of the common grid")
    step_seconds: float = Field(gt=0, description="Length of a step in seconds")
    image: ImageShape | None = Field(description="None where the whole cohort has no image")
    folds: int = Field(ge=2, description="Folds of the cross-validation, over the training rows")
    cohort_digest: str
    synthetic: bool = Field(default=False, description="Whether the source says that it is synthetic")
    preparation: Preparation | None = Field(default=None, description="None for features that preprocess has not made")

    @property
    def channel_names(self) -> list[str]:
        """Channel names in the order of the last axis of the series."""
        return [channel.name for channel in self.channels]


@dataclass(frozen=True)
class Features:
    """A features folder, opened for reading; arrays are memory-mapped and never copied for a fold.

    Attributes:
        folder: Where it lies.
        manifest: Its manifest.
    """

    folder: Path
    manifest: FeaturesManifest

    @classmethod
    def open(cls, folder: Path) -> Features:
        """Open a features folder.

        Args:
            folder: The output of ``preprocess``.

        Returns:
            The features.

        Raises:
            InputError: The folder has no features.json.
        """
        path = folder / "features.json"
        if not path.is_file():
            raise InputError(
                "is not a features folder: it has no features.json", file=str(folder), remedy="Run preprocess first"
            )
        return cls(folder=folder, manifest=FeaturesManifest.model_validate(json.loads(path.read_text())))

    def _array(self, name: str) -> np.ndarray:
        path = self.folder / f"{name}.npy"
        # An array without elements cannot be memory-mapped.
        array = np.load(path, mmap_mode="r") if path.stat().st_size > 256 else np.load(path)
        return array

    @cached_property
    def series(self) -> np.ndarray:
        """float32 ``[n, steps, channels]`` in the channels' units; NaN where a channel was never measured."""
        return self._array("series")

    @cached_property
    def series_observed(self) -> np.ndarray:
        """Bool ``[n, steps, channels]``: measured, not imputed."""
        return self._array("series_observed")

    @cached_property
    def images(self) -> np.ndarray:
        """float32 ``[n, height, width, channels]`` in [0, 1]; zeros where the sample has no image."""
        return self._array("images")

    @cached_property
    def present(self) -> np.ndarray:
        """Bool ``[n, 3]``: whether the sample has each of ``MODALITIES``."""
        return self._array("present")

    @cached_property
    def texts(self) -> list[str]:
        """The note of each sample; an empty string where it has none."""
        return pd.read_parquet(self.folder / "notes.parquet")["text"].fillna("").tolist()

    @cached_property
    def samples(self) -> pd.DataFrame:
        """patient_id, label, window_end, split ("train" or "test") and fold (-1 for test rows)."""
        return pd.read_parquet(self.folder / "samples.parquet")

    @cached_property
    def devices(self) -> pd.DataFrame:
        """Calibration certificates that were applied, as in the cohort; empty where there were none."""
        path = self.folder / "devices.parquet"
        return pd.read_parquet(path) if path.is_file() else SCHEMAS["devices"].empty_table().to_pandas()

    @cached_property
    def labels(self) -> np.ndarray:
        """int64 ``[n]``: each sample's class index."""
        index = {name: i for i, name in enumerate(self.manifest.classes)}
        return self.samples["label"].map(index).to_numpy(np.int64)

    @property
    def train_rows(self) -> np.ndarray:
        """int64 indices of the training rows."""
        return np.flatnonzero((self.samples["split"] == "train").to_numpy())

    @property
    def test_rows(self) -> np.ndarray:
        """int64 indices of the held-out rows."""
        return np.flatnonzero((self.samples["split"] == "test").to_numpy())

    def fold_rows(self, fold: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of one fold of the cross-validation.

        Args:
            fold: 0 to ``manifest.folds`` - 1.

        Returns:
            int64 indices to fit on, and int64 indices to predict.

        Raises:
            ValueError: There is no such fold.
        """
        if not 0 <= fold < self.manifest.folds:
            raise ValueError(f"There are folds 0 to {self.manifest.folds - 1}; received {fold}.")
        folds = self.samples["fold"].to_numpy()
        return np.flatnonzero((folds >= 0) & (folds != fold)), np.flatnonzero(folds == fold)
