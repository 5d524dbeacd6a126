"""Pseudonyms: a keyed hash of the source's patient key, so that nobody without the key can link them back."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable

import pandas as pd

from components.common.environment import PSEUDONYM_KEY
from data_schemas.errors import InputError

PSEUDONYM_LENGTH = 16
_SHORTEST_KEY = 16


def pseudonym_key() -> bytes:
    """Return the secret key from the environment variable VITALFUSE_PSEUDONYM_KEY.

    Returns:
        The key.

    Raises:
        InputError: The variable is not set, or shorter than 16 characters.
    """
    key = os.environ.get(PSEUDONYM_KEY, "")
    if len(key) < _SHORTEST_KEY:
        raise InputError(
            f"the secret key of the pseudonyms is {'too short' if key else 'missing'}: it needs {_SHORTEST_KEY} "
            "characters at least",
            field=PSEUDONYM_KEY,
            remedy="Set the variable to the output of `openssl rand -hex 32`, on a cluster from a Kubernetes secret",
        )
    return key.encode()


def pseudonyms(keys: pd.Series, secret: bytes) -> pd.Series:
    """Return a pseudonym for each patient key: HMAC-SHA256, the first 16 hexadecimal characters.

    Args:
        keys: The source's patient keys.
        secret: The secret key.

    Returns:
        Pseudonyms with the same index.
    """
    return keys.map(lambda key: hmac.digest(secret, str(key).encode(), hashlib.sha256).hex()[:PSEUDONYM_LENGTH])


def listing_digest(keys: Iterable[object], secret: bytes) -> str:
    """Return a digest of patient keys in their order: HMAC-SHA256, so that nobody without the key can try lists.

    Args:
        keys: The source's patient keys.
        secret: The secret key.

    Returns:
        64 hexadecimal characters; another for another secret key.
    """
    digest = hmac.new(secret, digestmod=hashlib.sha256)
    for key in keys:
        digest.update(str(key).encode() + b"\0")
    return digest.hexdigest()
