"""The digest of a cohort's content, the same for any pseudonym key and any file times."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from data_schemas.cohort import SCHEMAS, Channel, SourceFile

_CHUNK = 1 << 20


def content_digest(
    tables: dict[str, pd.DataFrame], images: np.ndarray | None, classes: list[str], channels: list[Channel]
) -> str:
    """Return the SHA-256 of tables, images, classes and channels.

    Patients count by their position, not by their pseudonym; the list of rejected rows does not count.

    Args:
        tables: The cohort's tables by name.
        images: float32 images, or None.
        classes: Ordered class names.
        channels: Ordered channels.

    Returns:
        SHA-256, hexadecimal.
    """
    digest = hashlib.sha256(json.dumps([classes, [channel.model_dump() for channel in channels]]).encode())
    position = pd.Index(tables["patients"]["patient_id"])
    for name in sorted(tables.keys() - {"rejected"}):
        table = tables[name]
        for column in SCHEMAS[name]:
            digest.update(f"{name}.{column.name}".encode())
            if column.name == "patient_id":
                codes, names = pd.factorize(table["patient_id"])
                digest.update(position.get_indexer(pd.Index(names, dtype=object))[codes].astype("<i8").tobytes())
            else:
                _update(digest, pa.array(table[column.name], type=column.type, from_pandas=True))
    if images is not None:
        digest.update(str(images.shape).encode())
        for image in images:
            digest.update(np.ascontiguousarray(image, dtype="<f4").tobytes())
    return digest.hexdigest()


def _update(digest: hashlib._Hash, array: pa.Array) -> None:
    """Add an Arrow array by its values; its buffers may differ for equal values."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_list(array.type):
        digest.update(pc.fill_null(pc.list_value_length(array), -1).to_numpy().astype("<i8").tobytes())
        array = pc.list_flatten(array)
    digest.update(np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).tobytes())
    if pa.types.is_string(array.type):
        # Distinct texts in the order in which they first appear, and which row has which.
        encoded = pc.fill_null(array, "").dictionary_encode()
        digest.update(encoded.indices.to_numpy().astype("<i8").tobytes())
        digest.update(json.dumps(encoded.dictionary.to_pylist()).encode())
    elif pa.types.is_timestamp(array.type):
        digest.update(pc.fill_null(array.cast(pa.int64()), 0).to_numpy().astype("<i8").tobytes())
    else:
        digest.update(pc.fill_null(array, 0).to_numpy().astype("<f8").tobytes())


def file_digest(name: str, paths: list[Path]) -> SourceFile:
    """Return size and SHA-256 of a source file, or of a group of files in name order.

    Args:
        name: How the manifest calls it; not the files' own names where those tell who the patients are.
        paths: One file, or the group's files.

    Returns:
        The entry of the manifest.
    """
    total = hashlib.sha256()
    size = 0
    for path in paths:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                total.update(chunk)
        size += path.stat().st_size
    return SourceFile(name=name, bytes=size, sha256=total.hexdigest())
