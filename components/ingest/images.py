"""Image files -> one float32 array in [0, 1]."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

from components.ingest.rejections import Rejections

_DEEP_GREY = {"I;16", "I;16L", "I;16B", "I;16N", "I"}


def decode_image(file: Path | BinaryIO, formats: tuple[str, ...] | None = None) -> np.ndarray:
    """Decode one image file; ingest and serving call this.

    Args:
        file: A file that Pillow reads, such as an 8-bit or 16-bit PNG.
        formats: Pillow's names of the formats to take; None: all that it reads.

    Returns:
        float32 ``[height, width, 1 or 3]`` in [0, 1]; 1 channel for grey images.

    Raises:
        OSError: The file is truncated or no image.
        ValueError: The pixels are of a kind that has no known range.
    """
    with Image.open(file, formats=formats) as image:
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


def read_images(
    index: pd.DataFrame, size: tuple[int, int] | None, rejections: Rejections
) -> tuple[pd.DataFrame, np.ndarray | None]:
    """Decode all images of a cohort and bring them to one size.

    Args:
        index: Columns key, time, modality, path, file, row.
        size: Height and width; None: the most common size among the images.
        rejections: Takes files that cannot be decoded.

    Returns:
        The rows of the decoded images, and float32 ``[n, height, width, channels]`` in [0, 1], in the same order;
        None without images. Grey images are repeated over three channels where another image has colours.

    Raises:
        InputError: A file cannot be decoded and ``on_bad_row`` is "fail".
    """
    decoded: list[np.ndarray] = []
    readable = np.zeros(len(index), dtype=bool)
    for position, path in enumerate(index["path"]):
        try:
            decoded.append(decode_image(Path(path)))
            readable[position] = True
        except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            absent = isinstance(error, FileNotFoundError)
            rejections.malformed(
                index.iloc[[position]],
                "file",
                "image file is not there" if absent else "image is truncated or cannot be read",
                remedy="Export the image again",
            )
    if not decoded:
        return index[readable], None
    height, width = size or Counter(pixels.shape[:2] for pixels in decoded).most_common(1)[0][0]
    channels = max(pixels.shape[2] for pixels in decoded)
    images = np.empty((len(decoded), height, width, channels), dtype=np.float32)
    for row, pixels in enumerate(decoded):
        images[row] = resize_image(pixels, (height, width))
    return index[readable], images
