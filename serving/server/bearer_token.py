"""Where the bearer token comes from."""

from __future__ import annotations

import os

from data_schemas.errors import InputError
from serving.settings import ServeSettings


def read_token(settings: ServeSettings) -> str | None:
    """Return the bearer token.

    Args:
        settings: Section ``serve``.

    Returns:
        The token, or None where none is set.

    Raises:
        InputError: The file can't be read, or the token is shorter than 16 characters.
    """
    if settings.token_file:
        try:
            token = settings.token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                "the file with the token can't be read", file=str(settings.token_file), field="serve.token_file"
            ) from error
        source = str(settings.token_file)
    else:
        token, source = os.environ.get(settings.token_environment, "").strip(), settings.token_environment
        if not token:
            return None
    if len(token) < 16:
        raise InputError(
            f"the token in {source} is shorter than 16 characters",
            remedy="Set it to the output of `openssl rand -hex 32`",
        )
    return token
