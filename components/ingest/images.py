"""Image files -> float32 pixels in [0, 1], all of one shape."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

from components.ingest.rejections import Rejections

# Pixels that are held at a time.
PIXELS = 4_000_000
_DEEP_GREY = {"I;16", "I;16L", "I;16B", "I;16N", "I"}


def decode_image(file: Path | BinaryIO) -> np.ndarray:
    """Decode one image file.

    Args:
        file: A file that Pillow reads, such as an 8-bit or 16-bit PNG.

    Returns:
        float32 ``[height, width, 1 or 3]`` in [0, 1]; 1 channel for grey images.

    Raises:
        OSError: The file is truncated or no image.
        ValueError: The pixels are of a kind that has no known range.
    """
    with Image.open(file) as image:
        return image_pixels(image)


def image_pixels(image: Image.Image) -> np.ndarray:
    """Return the pixels of an opened image; ingest and serving call this.

    Args:
        image: The image.

    Returns:
        float32 ``[height, width, 1 or 3]`` in [0, 1]; 1 channel for grey images.

    Raises:
        OSError: The file is truncated or no image.
        ValueError: The pixels are of a kind that has no known range.
    """
    image.load()
    if image.mode in _DEEP_GREY:
        pixels = np.asarray(image, dtype=np.float32)[..., None] / 65535.0
        if pixels.min() < 0 or pixels.max() > 1:
            raise ValueError("pixels need more than 16 bits")
        return pixels
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image.convert("L"), dtype=np.float32)[..., None] / 255.0
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    return np.asarray(image.convert("RGBA").convert("RGB"), dtype=np.float32) / 255.0


def resize_image(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize by antialiased bilinear interpolation, which stays within [0, 1]; ingest and serving call this.

    Args:
        pixels: float32 ``[height, width, channels]`` in [0, 1].
        size: New height and width.

    Returns:
        float32 ``[new height, new width, channels]`` in [0, 1].
    """
    if pixels.shape[:2] == size:
        return pixels
    planes = [
        np.asarray(Image.fromarray(plane, mode="F").resize((size[1], size[0]), Image.Resampling.BILINEAR))
        for plane in np.moveaxis(pixels, -1, 0)
    ]
    return np.clip(np.stack(planes, axis=-1), 0.0, 1.0)


def fit_image(pixels: np.ndarray, size: tuple[int, int], channels: int) -> np.ndarray:
    """Bring an image to a size, and to a number of channels by repetition.

    Args:
        pixels: float32 ``[height, width, 1 or channels]`` in [0, 1].
        size: Height and width of the result.
        channels: Channels of the result.

    Returns:
        float32 ``[*size, channels]`` in [0, 1].
    """
    return np.broadcast_to(resize_image(pixels, size), (*size, channels))


def decode_images(
    index: pd.DataFrame, size: tuple[int, int] | None, output: Path, rejections: Rejections
) -> pd.DataFrame:
    """Decode images one by one into one file, so that memory does not grow with their number.

    Args:
        index: Columns key, time, modality, path, file, row.
        size: Height and width to bring them to; None: each keeps its own.
        output: The file to write: float32 pixels of one image after the other; not written without images.
        rejections: Takes files that cannot be decoded.

    Returns:
        The rows of the decoded images, in the same order, with columns ``height``, ``width`` and ``depth``.

    Raises:
        InputError: A file cannot be decoded and ``on_bad_row`` is "fail".
    """
    shapes = np.zeros((len(index), 3), dtype=np.int64)
    if not len(index):
        return index.assign(height=shapes[:, 0], width=shapes[:, 1], depth=shapes[:, 2])
    with output.open("wb") as stream:
        for position, path in enumerate(index["path"]):
            try:
                pixels = decode_image(Path(path))
            except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
                absent = not path or isinstance(error, FileNotFoundError)
                rejections.malformed(
                    index.iloc[[position]],
                    "file",
                    "image file is not there" if absent else "image is truncated or cannot be read",
                    remedy="Export the image again",
                )
                continue
            if size is not None:
                pixels = fit_image(pixels, size, pixels.shape[2])
            shapes[position] = pixels.shape
            stream.write(np.ascontiguousarray(pixels, dtype=np.float32).tobytes())
    table = index.assign(height=shapes[:, 0], width=shapes[:, 1], depth=shapes[:, 2])
    return table[shapes[:, 0] > 0]


def common_shape(shapes: pd.DataFrame) -> tuple[int, int, int]:
    """Return the shape that all images of a cohort are brought to.

    Args:
        shapes: Columns height, width and depth, one row an image, one at least.

    Returns:
        The most common height and width, the first of those that are equally common, and the largest depth.
    """
    counts = shapes.groupby(["height", "width"], sort=False).size()
    height, width = counts.index[int(np.argmax(counts.to_numpy()))]
    return int(height), int(width), int(shapes["depth"].max())


def read_images(shapes: pd.DataFrame, pixels: Path, shape: tuple[int, int, int]) -> Iterator[np.ndarray]:
    """Yield decoded images at one shape, some at a time.

    Args:
        shapes: Columns height, width and depth, one row an image.
        pixels: The file that ``decode_images`` wrote.
        shape: Height, width and channels of the result.

    Yields:
        float32 ``[some, *shape]`` in [0, 1].
    """
    table = shapes[["height", "width", "depth"]].to_numpy(np.int64)
    changes = np.flatnonzero((np.diff(table, axis=0) != 0).any(axis=1)) + 1
    with pixels.open("rb") as stream:
        for start, stop in pairwise([0, *changes.tolist(), len(table)]):
            own = tuple(int(length) for length in table[start])
            most = max(1, PIXELS // int(np.prod(own)))
            for first in range(start, stop, most):
                number = min(most, stop - first)
                images = np.fromfile(stream, np.float32, number * int(np.prod(own))).reshape(number, *own)
                if own != shape:
                    images = np.stack([fit_image(image, shape[:2], shape[2]) for image in images])
                yield images
