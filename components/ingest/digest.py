"""Digests: of a cohort's content, the same for any pseudonym key, file times and shards; and of source files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_schemas.cohort import Channel

_CHUNK = 1 << 20


class ContentDigest:
    """SHA-256 of a cohort's tables, images, classes and channels, taken while they are written piece by piece.

    Where a piece ends has no influence. Patients count by their position, not by their pseudonym; rejected rows do not
    count.
    """

    def __init__(self) -> None:
        self._columns: dict[str, _ColumnDigest] = {}
        self._images = hashlib.sha256()

    def update(self, name: str, table: pa.Table, patients: np.ndarray | None) -> None:
        """Add rows of a table.

        Args:
            name: Name of the table.
            table: The next rows, in the table's schema.
            patients: int64 ``[rows]``, positions of their patients; None where the table has no patients.
        """
        for column in table.column_names:
            digest = self._columns.setdefault(f"{name}.{column}", _ColumnDigest())
            if column == "patient_id" and patients is not None:
                digest.update(pa.array(patients))
            else:
                for chunk in table[column].chunks:
                    digest.update(chunk)

    def update_images(self, images: np.ndarray) -> None:
        """Add images.

        Args:
            images: float32 ``[n, height, width, channels]``, the next ones.
        """
        self._images.update(np.ascontiguousarray(images, dtype="<f4").tobytes())

    def hexdigest(self, classes: list[str], channels: list[Channel], shape: tuple[int, ...] | None) -> str:
        """Return the digest of all that was added.

        Args:
            classes: Ordered class names.
            channels: Ordered channels.
            shape: Shape of the images, or None.

        Returns:
            SHA-256, hexadecimal.
        """
        content = {
            "classes": classes,
            "channels": [channel.model_dump() for channel in channels],
            "columns": {name: digest.hexdigests() for name, digest in self._columns.items()},
            "images": [shape, self._images.hexdigest()],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class _ColumnDigest:
    """Digests of a column's values, of the lengths of texts and lists, and of the places of missing values."""

    def __init__(self) -> None:
        self._hashes = [hashlib.sha256() for _ in range(4)]
        self._rows = 0

    def update(self, array: pa.Array) -> None:
        """Add an Arrow array by its values; its buffers may differ for equal values."""
        values, lengths, list_lengths, missing = self._hashes
        if array.null_count:
            places = np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False)) + self._rows
            missing.update(places.astype("<i8").tobytes())
        self._rows += len(array)
        if pa.types.is_list(array.type):
            list_lengths.update(pc.fill_null(pc.list_value_length(array), -1).to_numpy().astype("<i4"))
            array = pc.list_flatten(array)
        if pa.types.is_string(array.type):
            texts = pc.fill_null(array, "")
            lengths.update(pc.binary_length(texts).to_numpy().astype("<i4"))
            values.update(_text_bytes(texts))
        elif pa.types.is_timestamp(array.type) or pa.types.is_integer(array.type):
            values.update(pc.fill_null(array.cast(pa.int64()), 0).to_numpy().astype("<i8"))
        else:
            values.update(pc.fill_null(array, 0).to_numpy().astype("<f8"))

    def hexdigests(self) -> list[str | int]:
        """Return the number of rows and all digests."""
        return [self._rows, *(digest.hexdigest() for digest in self._hashes)]


def _text_bytes(texts: pa.StringArray) -> memoryview:
    """Return the texts of an array without missing values, one after the other."""
    _, offsets, data = texts.buffers()
    bounds = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return memoryview(data or b"")[int(bounds[0]) : int(bounds[-1])] if len(texts) else memoryview(b"")


def streams_digest(streams: Iterable[BinaryIO]) -> str:
    """Return the SHA-256 of some files, one after the other.

    Args:
        streams: The opened files; each is closed when it has been read.

    Returns:
        SHA-256, hexadecimal.
    """
    digest = hashlib.sha256()
    for stream in streams:
        with stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
