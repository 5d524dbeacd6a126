"""Random streams: one for each purpose and block of patients, so that none depends on how much another draws."""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, purpose: str, block: int = 0) -> np.random.Generator:
    """Return the generator of one purpose.

    Args:
        seed: Seed of the cohort.
        purpose: Such as "images".
        block: Number of the block of patients.

    Returns:
        A generator that is the same for the same arguments, and independent of all others.
    """
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), block])
