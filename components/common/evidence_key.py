"""The key of sealed predictions: without it nobody learns whom they are of."""

from __future__ import annotations

import hashlib
import hmac
import os

from components.common import environment
from data_schemas.errors import InputError

_SHORTEST_KEY = 16
_DIGEST_LENGTH = 12


def evidence_key() -> bytes | None:
    """Return the key of sealed predictions: VITALFUSE_EVIDENCE_KEY, else one derived from the key of the pseudonyms.

    The derived key opens sealed predictions and does not lead back to the key of the pseudonyms, so it can be given to
    those who compare versions.

    Returns:
        32 bytes, or None where the environment has neither key.

    Raises:
        InputError: VITALFUSE_EVIDENCE_KEY is shorter than 16 characters.
    """
    own = os.environ.get(environment.EVIDENCE_KEY, "")
    if own and len(own) < _SHORTEST_KEY:
        raise InputError(
            f"the key of sealed predictions is too short: it needs {_SHORTEST_KEY} characters at least",
            field=environment.EVIDENCE_KEY,
            remedy="Set it to the output of `openssl rand -hex 32`",
        )
    secret = own or os.environ.get(environment.PSEUDONYM_KEY, "")
    return derive_key(secret) if secret else None


def derive_key(secret: str) -> bytes:
    """Derive the key of sealed predictions from a secret.

    Args:
        secret: VITALFUSE_EVIDENCE_KEY, or the key of the pseudonyms.

    Returns:
        32 bytes.
    """
    return hmac.digest(secret.encode(), b"vitalfuse sealed predictions 1", hashlib.sha256)


def key_digest(key: bytes | None) -> str:
    """Return what stands for a key in a cache key: results that are sealed with one key are of no use with another.

    Args:
        key: From ``evidence_key``.

    Returns:
        Twelve hexadecimal digits, which do not lead back to the key; empty without a key.
    """
    return hmac.digest(key, b"vitalfuse cache 1", hashlib.sha256).hex()[:_DIGEST_LENGTH] if key else ""
