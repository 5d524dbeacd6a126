"""Addresses that may hold a user and a password."""

from __future__ import annotations

import re

_USER = re.compile(r"://[^/\s]*@")


def without_passwords(text: str) -> str:
    """Cut user and password out of every URI in a text.

    Args:
        text: Any text.

    Returns:
        The text, with URIs that name the host alone.
    """
    return _USER.sub("://", text)


def names_user(text: str) -> bool:
    """Return whether a URI in a text holds a user, with or without a password.

    Args:
        text: Any text.
    """
    return _USER.search(text) is not None
