"""Errors of S3, told in one line: what the user can mend, and what may go better when it is tried again."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from data_schemas.errors import InputError, StoreError

# Refusals that tell to come back later, though S3 sends some of them with a status of 4xx.
_LATER = {
    "BandwidthLimitExceeded",
    "OperationAborted",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
}
_LATER_STATUS = {408, 429}
_UNKNOWN_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}
_NO_TRUST = ("CERTIFICATE_VERIFY_FAILED", "WRONG_VERSION_NUMBER")


@contextmanager
def s3_errors(location: str, problem: str, remedy: str, *also: type[Exception]) -> Iterator[None]:
    """Tell errors of S3 in one line that names the location, S3's word for the cause, and what to do.

    Args:
        location: ``s3://bucket/prefix``.
        problem: What could not be done, such as "cannot be listed".
        remedy: What the user can do where the cause is theirs to mend.
        *also: Further errors that can only be S3's in the block.

    Yields:
        Nothing.

    Raises:
        InputError: S3 refused it (4xx), or credentials, settings or the endpoint's name are wrong.
        StoreError: The store failed, is busy, or the connection broke.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    told_here: tuple[type[Exception], ...] = (BotoCoreError, ClientError, Boto3Error, ResponseParserError, *also)
    try:
        yield
    except told_here as error:
        origin = next((item for item in _chain(error) if isinstance(item, BotoCoreError | ClientError)), error)
        told = f"{problem} ({_cause(origin)})"
        if _can_be_mended(origin):
            raise InputError(told, file=location, remedy=remedy) from error
        raise StoreError(
            f"{location}: {told}. Not the input is at fault, but the store or the way to it: look there, and try again"
        ) from error


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and those that led to it."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = getattr(found, "last_exception", None) or found.__cause__ or found.__context__


def _cause(error: BaseException) -> str:
    """Return S3's own word for a refusal, such as NoSuchBucket, else the kind of error."""
    response = getattr(error, "response", None) or {}
    return response.get("Error", {}).get("Code") or type(error).__name__


def _can_be_mended(error: BaseException) -> bool:
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return 300 <= status < 500 and status not in _LATER_STATUS and _cause(error) not in _LATER
    if isinstance(error, exceptions.EndpointConnectionError):
        # A name server that is out of reach answers EAI_AGAIN, which may pass.
        return any(isinstance(item, socket.gaierror) and item.errno in _UNKNOWN_NAME for item in _chain(error))
    if isinstance(error, exceptions.SSLError):
        return any(word in str(error) for word in _NO_TRUST)
    # Credentials, names and settings that botocore refuses before it asks the server.
    return isinstance(
        error,
        (
            ValueError,
            exceptions.NoCredentialsError,
            exceptions.PartialCredentialsError,
            exceptions.SSOError,
            exceptions.ProfileNotFound,
            exceptions.ConfigNotFound,
            exceptions.ConfigParseError,
            exceptions.InvalidConfigError,
            exceptions.InvalidProxiesConfigError,
            exceptions.InvalidRetryConfigurationError,
            exceptions.NoRegionError,
            exceptions.ValidationError,
            exceptions.ParamValidationError,
            exceptions.EndpointProviderError,
        ),
    )
