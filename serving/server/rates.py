"""Counts of requests by address that all workers share, so that a rate limit holds for the server as a whole."""

from __future__ import annotations

import fcntl
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from limits.storage import MemoryStorage

_BUCKETS, _WAYS = 1024, 8
_COUNTER = np.dtype([("key", "<u8"), ("count", "<i8"), ("expires", "<f8")])


def create_counters(path: Path) -> None:
    """Write a table of counters, all of them free.

    Args:
        path: The file.
    """
    path.write_bytes(bytes(_BUCKETS * _WAYS * _COUNTER.itemsize))


class SharedStorage(MemoryStorage):
    """Counters in a file that several processes map; what is computed of them stays the library's.

    The table has a fixed size. Where a bucket is full, the counter that expires first makes room: an address is then
    counted anew, and none is refused for another one's requests.

    Args:
        path: From ``create_counters``.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._table = np.memmap(path, dtype=_COUNTER, mode="r+", shape=(_BUCKETS, _WAYS))
        self._file = path.open("rb")

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Add to a counter; see ``limits.storage.Storage``."""
        now = time.time()
        with self._locked():
            bucket, way, digest = self._find(key)
            if way is None:
                way = int(bucket["expires"].argmin())
                bucket[way] = (digest, 0, 0.0)
            if bucket["expires"][way] <= now:
                bucket["count"][way], bucket["expires"][way] = 0, now + expiry
            bucket["count"][way] += amount
            return int(bucket["count"][way])

    def decr(self, key: str, amount: int = 1) -> int:
        """Take from a counter, down to 0."""
        with self._locked():
            bucket, way, _ = self._find(key)
            if way is None:
                return 0
            bucket["count"][way] = max(bucket["count"][way] - amount, 0)
            return int(bucket["count"][way])

    def get(self, key: str) -> int:
        """Return a counter; 0 where it has expired."""
        with self._locked():
            bucket, way, _ = self._find(key)
            return 0 if way is None or bucket["expires"][way] <= time.time() else int(bucket["count"][way])

    def _find(self, key: str) -> tuple[Any, int | None, int]:
        """Return the key's bucket, its place there or None, and its digest."""
        digest = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") | 1
        bucket = self._table[(digest >> 1) % _BUCKETS]
        found = np.flatnonzero(bucket["key"] == digest)
        return bucket, int(found[0]) if len(found) else None, digest

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # The system lets go of it where a worker dies.
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
