"""Addresses that may hold a user and a password."""

from __future__ import annotations

import re

# A slash in a password ends the host's part for HTTP; for databases it does not.
_USER = re.compile(r"://[^/\s]*@|(?<!http)(?<!https)://[^:/\s]*:[^@\s]*@")
# Drivers of databases take user and password as parameters of the URI too.
_PARAMETER = re.compile(
    r"(?<=[?&])((?:user|\w*pass|\w*passwd|\w*password|\w*token|\w*secret)=)[^&#\s'\"]+", re.IGNORECASE
)


def without_passwords(text: str) -> str:
    """Cut user and password out of every URI in a text.

    Args:
        text: Any text.

    Returns:
        The text, with URIs that name the host alone; parameters that hold a user or a password are left empty.
    """
    return _PARAMETER.sub(r"\1", _USER.sub("://", text))


def holds_credentials(text: str) -> bool:
    """Return whether a URI in a text holds a user, a password or a token.

    Args:
        text: Any text.
    """
    return without_passwords(text) != text
