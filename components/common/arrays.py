"""Array files that are written from front to back, or joined, without being held in memory."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np


class ArrayWriter:
    """Writes a ``.npy`` file piece by piece along its first axis, as ``np.save`` would write it at once.

    Args:
        path: The file.
        shape: Shape of the whole array.
        dtype: Type of its elements.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self._path = path
        self._dtype = dtype
        self._missing = math.prod(shape) * dtype.itemsize
        self._stream = path.open("wb")
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": tuple(map(int, shape))}
        np.lib.format.write_array_header_1_0(self._stream, header)

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(self, kind: type | None, error: object, trace: object) -> None:
        self._stream.close()
        if kind is None and self._missing:
            raise ValueError(f"{self._path.name} lacks {self._missing} bytes of what its shape says.")

    def write(self, values: np.ndarray) -> None:
        """Append values.

        Args:
            values: The next rows.
        """
        data = np.ascontiguousarray(values, dtype=self._dtype)
        self._stream.write(data.data.cast("B") if data.size else b"")
        self._missing -= data.nbytes

    def copy(self, path: Path) -> None:
        """Append another array file.

        Args:
            path: A ``.npy`` file of the same type.

        Raises:
            ValueError: It is of another type.
        """
        with path.open("rb") as stream:
            np.lib.format.read_magic(stream)
            _, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
            if dtype != self._dtype or fortran_order:
                raise ValueError(f"{path.name} holds {dtype}, not {self._dtype}.")
            self._missing -= path.stat().st_size - stream.tell()
            shutil.copyfileobj(stream, self._stream, 1 << 22)


def array_shape(path: Path) -> tuple[int, ...]:
    """Return the shape of an array file without reading its values.

    Args:
        path: A ``.npy`` file.
    """
    with path.open("rb") as stream:
        np.lib.format.read_magic(stream)
        return np.lib.format.read_array_header_1_0(stream)[0]


def join_arrays(parts: list[Path], output: Path) -> tuple[int, ...]:
    """Join array files along their first axis, some bytes at a time.

    Args:
        parts: ``.npy`` files of one type and equal shapes but for the first axis, one at least.
        output: The file to write.

    Returns:
        The shape of the result.

    Raises:
        ValueError: The files differ in type or in the shape of a row.
    """
    shapes = [array_shape(part) for part in parts]
    if len({shape[1:] for shape in shapes}) > 1:
        raise ValueError(f"{output.name} cannot be joined from parts of shapes {shapes}.")
    shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
    dtype = np.load(parts[0], mmap_mode="r").dtype if math.prod(shapes[0]) else np.load(parts[0]).dtype
    with ArrayWriter(output, shape, dtype) as writer:
        for part in parts:
            writer.copy(part)
    return shape
