"""Images as they are sent, brought to the model's shape by the functions that made its training images."""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from components.ingest.images import image_pixels, resize_image
from data_schemas.cohort import ImageShape
from serving.patients import Fault

# No format that needs another program to be read.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
# Also bounds the memory: three float32 a pixel.
MOST_PIXELS = 25_000_000
# Weights of red, green and blue in Pillow's own conversion to grey (ITU-R 601-2).
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_FILE_REMEDY = f"Send a whole {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file in base64"
_PIXELS_REMEDY = "Send [height][width] or [height][width][1 or 3] finite numbers in [0, 1], or an image file in base64"


class ImageError(ValueError):
    """An image that cannot be used.

    Args:
        problem: What is wrong.
        remedy: What the caller can do about it.
        malformed: Whether it is no image at all.
    """

    def __init__(self, problem: str, remedy: str, *, malformed: bool = False) -> None:
        super().__init__(problem)
        self.problem, self.remedy, self.malformed = problem, remedy, malformed

    def fault(self, field: str) -> Fault:
        """Return the fault of a request.

        Args:
            field: Path of the image.
        """
        return Fault(field, self.problem, self.remedy, self.malformed)


def read_image(image: str | list[Any] | np.ndarray, shape: ImageShape) -> tuple[np.ndarray, list[str]]:
    """Decode an image and bring it to the model's shape.

    Args:
        image: A file in base64, or pixels.
        shape: The model's.

    Returns:
        float32 ``[height, width, channels]`` in [0, 1], and warnings.

    Raises:
        ImageError: It is no image, is too large, or its pixels are outside [0, 1].
    """
    pixels = _decode(image) if isinstance(image, str) else _numbers(image)
    warnings = []
    if pixels.shape[2] == 3 and shape.channels == 1:
        pixels = (pixels @ _LUMA)[..., None]
        warnings.append("image: its colours were turned to grey, as the model was trained on grey images")
    resized = resize_image(np.ascontiguousarray(pixels), (shape.height, shape.width))
    return np.broadcast_to(resized, (shape.height, shape.width, shape.channels)), warnings


def _decode(text: str) -> np.ndarray:
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError("is not base64", _FILE_REMEDY, malformed=True) from error
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            if opened.height * opened.width > MOST_PIXELS:
                raise ImageError(f"has more than {MOST_PIXELS // 1_000_000} million pixels", "Send it smaller")
            return image_pixels(opened)
    except ImageError:
        raise
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ImageError("is truncated, or no image file that can be read", _FILE_REMEDY) from error


def _numbers(image: list[Any] | np.ndarray) -> np.ndarray:
    try:
        pixels = np.array(image)
        if pixels.dtype == object:
            pixels = np.array(_plain(image))
    except (ValueError, OverflowError) as error:
        raise ImageError("has rows of unequal length", _PIXELS_REMEDY, malformed=True) from error
    if pixels.dtype.kind not in "fiu" or pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise ImageError("is not a table of numbers", _PIXELS_REMEDY, malformed=True)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if pixels.shape[2] not in (1, 3) or pixels[..., 0].size > MOST_PIXELS:
        raise ImageError("has another number of channels than 1 or 3", _PIXELS_REMEDY)
    # A comparison with NaN is false, so the bounds are stated the other way round.
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        raise ImageError("has pixels outside [0, 1]", _PIXELS_REMEDY, malformed=not np.isfinite(pixels).all())
    return pixels.astype(np.float32)


def _plain(value: Any) -> Any:
    """Turn arrays of arrays, as Parquet and MLflow hand them on, into lists."""
    if isinstance(value, np.ndarray) and value.dtype == object:
        value = value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list) else value
