"""Magnetic-resonance-like images of a trunk: generated anatomy whose organs change with the diseases."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from components.ingest.demo.classes import DISEASES
from components.ingest.demo.patients import Patients

_CARDIAC, _DIABETES, _COPD, _HYPERTENSION, _KIDNEY = range(len(DISEASES))
_EDGE_SHARPNESS = 14.0
_LARGEST_CHUNK_PIXELS = 2**20
_CYSTS = 3


def draw_images(rng: np.random.Generator, patients: Patients, size: tuple[int, int]) -> np.ndarray:
    """Draw one image for each patient of a block.

    Args:
        rng: Random generator.
        patients: The block, whether or not a patient's image will be written.
        size: Height and width in pixels.

    Returns:
        float32 ``[n, height, width]`` in [0, 1].
    """
    images = np.empty((len(patients), *size), dtype=np.float32)
    chunk = max(_LARGEST_CHUNK_PIXELS // (size[0] * size[1]), 1)
    for start in range(0, len(patients), chunk):
        rows = slice(start, start + chunk)
        images[rows] = _draw(rng, patients.expression["image"][rows], patients.site[rows], size)
    return images


def _draw(rng: np.random.Generator, shown: np.ndarray, site: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    count = len(shown)

    def vary(spread: float) -> np.ndarray:
        return rng.normal(0, spread, size=count)

    cardiac, diabetes, copd, hypertension, kidney = shown.T
    x, y = _coordinates(rng, count, size)
    canvas = np.zeros((count, *size), dtype=np.float32)
    rim = 0.09 + 0.05 * diabetes + vary(0.02)
    _paint(canvas, x, y, (0, 0), (0.84 + vary(0.02), 0.96 + vary(0.02)), 0.62 + 0.06 * diabetes + vary(0.03))
    _paint(canvas, x, y, (0, 0), (0.84 - rim, 0.96 - rim), 0.34 + vary(0.02))
    for side in (-1, 1):
        width, height = 0.24 * (1 + 0.10 * copd + vary(0.06)), 0.34 * (1 + 0.20 * copd + vary(0.08))
        centre = (side * 0.36 + vary(0.02), -0.40 + 0.10 * copd + vary(0.03))
        _paint(canvas, x, y, centre, (width, height), 0.15 - 0.07 * copd + 0.05 * cardiac + vary(0.025))
    _paint(canvas, x, y, (-0.30, 0.22), (0.30, 0.17 + vary(0.012)), 0.50 + 0.16 * diabetes + vary(0.06))
    _paint_heart(canvas, x, y, cardiac, hypertension, vary)
    breadth = 0.06 * (1 + 0.6 * hypertension + 0.2 * cardiac + vary(0.15))
    _paint(canvas, x, y, (0.0, 0.28), (breadth, 0.38), 0.74 + vary(0.04))
    for side in (-1, 1):
        scale = 1 - 0.34 * kidney - 0.10 * hypertension - 0.04 * diabetes + vary(0.08)
        brightness = 0.68 - 0.20 * kidney - 0.05 * hypertension + vary(0.05)
        _paint(canvas, x, y, (side * 0.34 + vary(0.02), 0.60 + vary(0.03)), (0.15 * scale, 0.21 * scale), brightness)
    _paint_cysts(rng, canvas, x, y)
    return _scan(rng, canvas, x, y, site)


def _coordinates(rng: np.random.Generator, count: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return where each pixel lies in the trunk, which is moved, turned and scaled a little in every patient."""
    rows, columns = np.meshgrid(np.linspace(-1, 1, size[0]), np.linspace(-1, 1, size[1]), indexing="ij")
    shift = rng.normal(0, 0.025, size=(2, count, 1, 1))
    scale = 1 + rng.normal(0, 0.025, size=(2, count, 1, 1))
    angle = rng.normal(0, 0.03, size=(count, 1, 1))
    x = (np.cos(angle) * columns - np.sin(angle) * rows - shift[0]) * scale[0]
    y = (np.sin(angle) * columns + np.cos(angle) * rows - shift[1]) * scale[1]
    return x.astype(np.float32), y.astype(np.float32)


def _column(value: np.ndarray | float) -> np.ndarray:
    return np.asarray(value, dtype=np.float32).reshape(-1, 1, 1)


def _paint(
    canvas: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    centre: tuple[np.ndarray | float, np.ndarray | float],
    radii: tuple[np.ndarray | float, np.ndarray | float],
    brightness: np.ndarray | float,
) -> None:
    """Paint an ellipse with a soft edge over the canvas, in place; all its parameters may differ by patient."""
    distance = np.hypot((x - _column(centre[0])) / _column(radii[0]), (y - _column(centre[1])) / _column(radii[1]))
    cover = 0.5 * (1 + np.tanh(0.5 * _EDGE_SHARPNESS * (1 - distance)))
    canvas += cover * (_column(brightness) - canvas)


def _paint_heart(
    canvas: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    cardiac: np.ndarray,
    hypertension: np.ndarray,
    vary: Callable[[float], np.ndarray],
) -> None:
    size = 0.22 * (1 + 0.34 * cardiac + 0.06 * hypertension + vary(0.08))
    centre = (0.08 + 0.03 * cardiac + vary(0.02), -0.20 + vary(0.02))
    _paint(canvas, x, y, centre, (size, 0.95 * size), 0.60 + vary(0.03))
    # High pressure thickens the wall: the chamber is a smaller part of the heart.
    chamber = size * (0.68 + 0.10 * cardiac - 0.30 * hypertension + vary(0.05))
    _paint(canvas, x, y, centre, (chamber, 0.9 * chamber), 0.84 + vary(0.03))


def _paint_cysts(rng: np.random.Generator, canvas: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    """Paint up to three harmless bright or dark spots, in the healthy and the ill alike."""
    count = len(canvas)
    for _ in range(_CYSTS):
        radius = np.where(rng.random(count) < 0.35, rng.uniform(0.03, 0.10, size=count), 1e-3)
        centre = (rng.uniform(-0.6, 0.6, size=count), rng.uniform(-0.7, 0.8, size=count))
        _paint(canvas, x, y, centre, (radius, radius), rng.choice([0.05, 0.9], size=count))


def _scan(rng: np.random.Generator, canvas: np.ndarray, x: np.ndarray, y: np.ndarray, site: np.ndarray) -> np.ndarray:
    """Add what the scanner does: uneven field, contrast of the site's machine, and Rician noise."""
    count = len(canvas)
    tilt = rng.normal(0, 0.06, size=(3, count, 1, 1)).astype(np.float32)
    field = 1 + tilt[0] * x + tilt[1] * y + tilt[2] * x * y
    contrast = _column(np.array([1.0, 0.94, 1.05])[site] * rng.normal(1, 0.04, size=count))
    noise = _column(rng.uniform(0.02, 0.06, size=count))
    real, imaginary = rng.standard_normal((2, *canvas.shape), dtype=np.float32) * noise
    return np.clip(np.hypot(canvas * field * contrast + real, imaginary), 0.0, 1.0)
