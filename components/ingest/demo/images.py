"""MRI-like images of an invented torso: anatomy, findings by severity, and findings that mean nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import gaussian_filter

from components.ingest.demo.people import DISEASES, People
from components.ingest.demo.physiology import START
from components.ingest.demo.settings import DemoSettings

MODALITY = "MR"
_CHUNK = 500
_DEPTH = {8: (255, np.uint8), 16: (65535, np.uint16)}


def write_images(folder: Path, people: People, settings: DemoSettings, random: np.random.Generator) -> pd.DataFrame:
    """Draw and write one PNG a patient that has an image.

    Args:
        folder: An existing folder.
        people: The patients.
        settings: The settings.
        random: Source of chance.

    Returns:
        mrn, time, modality, file.
    """
    rows = np.flatnonzero(people.present[:, 1])
    bits = np.where(random.random(len(rows)) < settings.eight_bit, 8, 16)
    day = random.integers(0, settings.days, size=len(rows))
    names = [f"image_{place:06d}.png" for place in range(len(rows))]
    for start, images in _draw(people.severity[rows], settings.image_size, random):
        for place, image in enumerate(images, start=start):
            highest, kind = _DEPTH[int(bits[place])]
            Image.fromarray(np.round(image * highest).astype(kind)).save(folder / names[place])
    return pd.DataFrame(
        {
            "mrn": people.table["mrn"].to_numpy()[rows],
            "time": START + pd.to_timedelta(day * 24 + 10, unit="h"),
            "modality": MODALITY,
            "file": names,
        }
    )


def _draw(
    severity: np.ndarray, size: tuple[int, int], random: np.random.Generator
) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(severity), _CHUNK):
        yield start, draw_images(severity[start : start + _CHUNK], size, random)


def draw_images(severity: np.ndarray, size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Draw images.

    Cardiovascular disease enlarges the heart; hypertension thickens its wall and shrinks the kidneys a little; kidney
    disease shrinks and brightens them; COPD makes holes in the lungs; diabetes leaves bright specks in the abdomen. What
    is seen follows the severity loosely, and healthy people vary in each of these.

    Args:
        severity: float ``[n, 5]`` by disease.
        size: Height and width.
        random: Source of chance.

    Returns:
        float32 ``[n, height, width]`` in [0, 1].
    """
    n = len(severity)
    # A finding is more or less than the illness behind it.
    seen = np.clip(severity + random.normal(0, 0.17, size=severity.shape), -0.25, 1.2)
    cvd, diabetes, copd, hypertension, kidney = (seen[:, i] for i in range(len(DISEASES)))
    y, x = np.meshgrid(np.linspace(-1, 1, size[0]), np.linspace(-1, 1, size[1]), indexing="ij")
    shift = random.normal(0, 0.04, size=(2, n))
    scale = random.normal(1, 0.05, size=n)
    grid = _Grid((y[None] - shift[0][:, None, None]) / scale[:, None, None],
                 (x[None] - shift[1][:, None, None]) / scale[:, None, None])
    image = 0.42 * grid.ellipse(0, 0, 0.93, 0.78)
    lungs = grid.ellipse(-0.3, -0.36, 0.34, 0.24) + grid.ellipse(-0.3, 0.36, 0.34, 0.24)
    image -= 0.28 * lungs
    image -= 0.11 * np.maximum(copd, 0)[:, None, None] * lungs * _speckle(n, size, 1.6, random)
    radius = 0.15 + 0.075 * cvd + random.normal(0, 0.018, size=n)
    wall = 0.035 + 0.03 * np.maximum(hypertension, 0) + random.normal(0, 0.006, size=n)
    image += 0.42 * grid.ellipse(-0.22, 0.05, radius, radius)
    image -= 0.30 * grid.ellipse(-0.22, 0.05, np.maximum(radius - wall, 0.02), np.maximum(radius - wall, 0.02))
    shrink = 1 - 0.34 * kidney - 0.14 * hypertension + random.normal(0, 0.07, size=n)
    bright = 0.22 + 0.13 * np.maximum(kidney, 0)
    for side in (-0.34, 0.34):
        image += bright[:, None, None] * grid.ellipse(0.36, side, 0.20 * shrink, 0.11 * shrink)
    abdomen = grid.ellipse(0.42, 0, 0.26, 0.2)
    image += (0.06 + 0.16 * np.maximum(diabetes, 0))[:, None, None] * abdomen * _specks(n, size, random)
    image += _meaningless(grid, n, random)
    image = gaussian_filter(image, sigma=(0, 0.6, 0.6))
    image *= (1 + 0.12 * random.normal(size=n))[:, None, None]
    image += _field(n, size, random) + random.normal(0, 0.035, size=image.shape)
    return np.clip(image + 0.05, 0, 1).astype(np.float32)


class _Grid:
    """Coordinates of all pixels of all images, after each image's shift and scale."""

    def __init__(self, y: np.ndarray, x: np.ndarray) -> None:
        self.y, self.x = y, x

    def ellipse(
        self, y: float | np.ndarray, x: float | np.ndarray, height: float | np.ndarray, width: float | np.ndarray
    ) -> np.ndarray:
        """Return 1 inside an ellipse and 0 outside, with a soft edge; each argument is one value or one an image."""
        y, x, height, width = (np.asarray(value, dtype=float).reshape(-1, 1, 1) for value in (y, x, height, width))
        distance = np.sqrt(((self.y - y) / height) ** 2 + ((self.x - x) / width) ** 2)
        return np.clip((1.0 - distance) * 6 + 0.5, 0, 1)


def _speckle(n: int, size: tuple[int, int], sigma: float, random: np.random.Generator) -> np.ndarray:
    noise = gaussian_filter(random.normal(size=(n, *size)), sigma=(0, sigma, sigma))
    return np.clip(noise / noise.std() + 0.3, 0, 3)


def _specks(n: int, size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    return gaussian_filter((random.random((n, *size)) < 0.05).astype(float), sigma=(0, 0.5, 0.5)) * 3


def _meaningless(grid: _Grid, n: int, random: np.random.Generator) -> np.ndarray:
    """One bright or dark spot somewhere, in sick and healthy alike."""
    y, x = random.uniform(-0.7, 0.7, size=(2, n))
    size = random.uniform(0.03, 0.09, size=n)
    return (0.2 * random.normal(size=n))[:, None, None] * grid.ellipse(y, x, size, size)


def _field(n: int, size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """The slow change of brightness over an image that coils leave."""
    y, x = np.meshgrid(np.linspace(-1, 1, size[0]), np.linspace(-1, 1, size[1]), indexing="ij")
    slope = random.normal(0, 0.05, size=(2, n))
    return slope[0][:, None, None] * y + slope[1][:, None, None] * x
