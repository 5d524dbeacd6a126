"""Which rows of the sources a shard takes: those of a run of patients in the order of the sources."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa

from components.common.shards import Shard


@dataclass(frozen=True)
class PatientShard:
    """A shard of the patients that the sources list.

    Every row belongs to exactly one shard: that of its patient, or the first one where no source lists its patient.

    Attributes:
        shard: Which part.
        listed: Keys of all patients in the order of the sources; not needed for a single shard.
    """

    shard: Shard = field(default_factory=Shard)
    listed: pd.Index = field(default_factory=lambda: pd.Index([], dtype=object))

    @property
    def whole(self) -> bool:
        """Whether this is the only shard, which takes everything."""
        return self.shard.count == 1

    @property
    def first(self) -> bool:
        """Whether this shard also takes what belongs to no patient."""
        return self.shard.number == 1

    def takes(self, keys: pd.Series | pd.Index | np.ndarray) -> np.ndarray:
        """Tell which patients' rows the shard takes.

        Args:
            keys: ``[m]``, patient keys as text.

        Returns:
            Bool ``[m]``.
        """
        if self.whole:
            return np.ones(len(keys), dtype=bool)
        codes, distinct = pd.factorize(np.asarray(keys, dtype=object), use_na_sentinel=False)
        return self._takes_distinct(distinct)[codes]

    def takes_array(self, keys: pa.StringArray) -> np.ndarray:
        """Tell which patients' rows the shard takes, from an Arrow array.

        Args:
            keys: ``[m]``, patient keys as strings without nulls.

        Returns:
            Bool ``[m]``.
        """
        if self.whole:
            return np.ones(len(keys), dtype=bool)
        encoded = keys.dictionary_encode()
        taken = self._takes_distinct(np.array(encoded.dictionary.to_pylist(), dtype=object))
        return taken[encoded.indices.to_numpy()]

    def _takes_distinct(self, keys: np.ndarray) -> np.ndarray:
        start, stop = self.shard.bounds(len(self.listed))
        position = self.listed.get_indexer(pd.Index(keys, dtype=object))
        return ((position >= start) & (position < stop)) | ((position < 0) & self.first)


WHOLE = PatientShard()
