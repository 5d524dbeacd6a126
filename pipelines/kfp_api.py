"""The REST API of a Kubeflow Pipelines server, with time limits, bounded retries and errors that a user can act on."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import kfp_server_api as server
import urllib3
from urllib3 import exceptions as http

from components.common.uris import holds_credentials, without_passwords
from data_schemas.errors import InputError
from pipelines.errors import ServerError

# Seconds. A busy server answers late; one that isn't there doesn't answer at all.
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
# Waits before a call is repeated: this, then twice, then four times as long.
REPEAT_SECONDS = 0.5
_REPEATED_STATUS = (408, 429, 500, 502, 503, 504)
# A busy server's words, not a refusal: the same call may be taken later.
_BUSY_STATUS = (408, 429)
_MESSAGE_LIMIT = 300


class RefusedError(InputError):
    """The server took the call and refused it.

    Args:
        status: HTTP status, from 400 to 499; not 408 and 429, which a busy server gives.
        message: What the server said.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"the KFP server refused ({status}: {message})")
        self.status = status
        self.message = message


@dataclass(frozen=True)
class Connection:
    """How to reach a server.

    Attributes:
        host: Address of the API, such as ``https://kubeflow.example.org/pipeline``.
        namespace: Kubernetes namespace; None where the server has a single user.
        token: Bearer token, or None.
        ca_cert: File with the certificates to trust, in place of the usual ones.
        ui_host: Address of the UI, for links; None: the host.
        answer_seconds: How long to wait for an answer.
        read_token: Returns the token as it is now, where it changes in time; asked before each call.
    """

    host: str
    namespace: str | None = None
    token: str | None = field(default=None, repr=False)
    ca_cert: Path | None = None
    ui_host: str | None = None
    answer_seconds: float = ANSWER_SECONDS
    read_token: Callable[[], str | None] | None = field(default=None, repr=False)


class KfpApi:
    """The services of one server.

    Args:
        connection: How to reach it.

    Raises:
        InputError: The host is no http address, or there is no such certificate file.
    """

    def __init__(self, connection: Connection) -> None:
        if not connection.host.startswith(("http://", "https://")):
            raise InputError(
                f"{connection.host!r} is no address",
                field="--host",
                remedy="Begin it with https:// or http://, such as https://kubeflow.example.org/pipeline",
            )
        if holds_credentials(connection.host):
            # Addresses are printed, and tagged in MLflow.
            raise InputError(
                f"{without_passwords(connection.host)} was given with a user or a password",
                field="--host",
                remedy="Leave them out; give a token in KF_PIPELINES_TOKEN, or as a file with --token-file",
            )
        if connection.ca_cert is not None and not connection.ca_cert.is_file():
            raise InputError("there is no such file", file=str(connection.ca_cert), field="--ca-cert")
        self.connection = connection
        self.host = connection.host.rstrip("/")
        self.client = _Client(_configuration(connection, self.host), connection)
        self._once = _Client(_configuration(connection, self.host, repeats=0), connection)
        self.experiments = server.ExperimentServiceApi(self.client)
        self.pipelines = server.PipelineServiceApi(self.client)
        self.uploads = server.PipelineUploadServiceApi(self.client)
        self.runs = server.RunServiceApi(self.client)
        self.recurring_runs = server.RecurringRunServiceApi(self.client)
        self.health = server.HealthzServiceApi(self.client)

    def check(self) -> None:
        """Make sure that a KFP server answers, and that it is told the namespace where it needs one.

        Raises:
            InputError: Nothing answers, something else does, or the namespace is missing.
            ServerError: The server fails.
        """
        health = self.health.healthz_service_get_healthz()
        if health.multi_user and not self.connection.namespace:
            raise InputError(
                "this KFP server has several users",
                field="--namespace",
                remedy="Name your Kubernetes namespace",
            )

    def get(self, path: str, query: dict[str, str] | None = None, *, repeat: bool = True) -> str:
        """Read what the generated client has no method for.

        Args:
            path: Path below the host.
            query: Query parameters.
            repeat: Whether to repeat the call where the server fails.

        Returns:
            The body.

        Raises:
            InputError: As for every call.
            ServerError: As for every call.
        """
        headers = {"Accept": "application/json, text/plain"}
        if key := self.client.configuration.get_api_key_with_prefix("authorization"):
            headers["Authorization"] = key
        client = self.client if repeat else self._once
        parameters = list((query or {}).items())
        response = client.request("GET", f"{self.host}{path}", query_params=parameters, headers=headers)
        return response.data.decode("utf-8", errors="replace")

    def run_url(self, run_id: str) -> str:
        """Return the address of a run in the UI.

        Args:
            run_id: The run.
        """
        return f"{(self.connection.ui_host or self.host).rstrip('/')}/#/runs/details/{run_id}"


class _Client(server.ApiClient):
    """The generated client, with a time limit for every call, and errors told in one line."""

    def __init__(self, configuration: server.Configuration, connection: Connection) -> None:
        super().__init__(configuration)
        self._connection = connection
        self._answered = False

    def request(self, method: str, url: str, **arguments: Any) -> Any:
        arguments["_request_timeout"] = arguments.get("_request_timeout") or (
            CONNECT_SECONDS,
            self._connection.answer_seconds,
        )
        try:
            response = super().request(method, url, **arguments)
        except server.ApiException as error:
            raise _from_status(error, self._connection) from error
        except http.HTTPError as error:
            raise _from_transport(error, self._connection) from error
        if _is_page(response.getheader("content-type")):
            # A login page comes with status 200.
            if self._answered:
                raise InputError(
                    f"{self._connection.host} asks to log in: the session is over",
                    field="--token",
                    remedy="Give a valid token in KF_PIPELINES_TOKEN, or as a file with --token-file",
                )
            raise _web_page(self._connection)
        self._answered = True
        return response


def _is_page(content_type: str | None) -> bool:
    return "html" in (content_type or "")


def _web_page(connection: Connection) -> InputError:
    return InputError(
        f"{connection.host} answers with a web page, not with the KFP API",
        field="--host",
        remedy="Give the API's address, such as https://kubeflow.example.org/pipeline, and a token where the server "
        "wants one (KF_PIPELINES_TOKEN)",
    )


def _configuration(connection: Connection, host: str, repeats: int = 3) -> server.Configuration:
    configuration = server.Configuration(host=host)
    if connection.token:
        configuration.api_key["authorization"] = connection.token
        configuration.api_key_prefix["authorization"] = "Bearer"
        if connection.read_token is not None:
            configuration.refresh_api_key_hook = partial(_refresh_token, connection.read_token)
    if connection.ca_cert is not None:
        configuration.ssl_ca_cert = str(connection.ca_cert)
    # urllib3 repeats only what may be repeated: calls that never arrived, and GET and DELETE.
    configuration.retries = urllib3.Retry(
        total=repeats,
        connect=min(2, repeats),
        read=min(1, repeats),
        status_forcelist=_REPEATED_STATUS,
        backoff_factor=REPEAT_SECONDS,
        raise_on_status=False,
        respect_retry_after_header=False,
    )
    return configuration


def _refresh_token(read: Callable[[], str | None], configuration: server.Configuration) -> None:
    # Until it can be read again, the last one may do.
    with suppress(InputError):
        configuration.api_key["authorization"] = read() or configuration.api_key["authorization"]


def _from_status(error: server.ApiException, connection: Connection) -> Exception:
    status, message = error.status or 0, _message(error)
    if status == 401:
        problem = "does not accept the token" if connection.token else "wants a token"
        return InputError(
            f"the KFP server {problem} (401)",
            field="--token",
            remedy="Give a valid one in KF_PIPELINES_TOKEN, or as a file with --token-file",
        )
    if status == 403:
        return InputError(
            f"the KFP server does not allow this (403: {message})",
            field="--token",
            remedy=f"Ask for the right in namespace {connection.namespace or 'of the server'}, or use another token",
        )
    # Proxies tell in HTML of other things as well.
    if status in (404, 405) and _is_page((error.headers or {}).get("content-type")):
        return _web_page(connection)
    if 400 <= status < 500 and status not in _BUSY_STATUS:
        return RefusedError(status, message)
    return ServerError(f"the KFP server at {connection.host} failed ({status}: {message}). Try again later")


def _message(error: server.ApiException) -> str:
    """Return the first line of what the server said, in whichever of its forms."""
    body = error.body.decode("utf-8", errors="replace") if isinstance(error.body, bytes) else error.body or ""
    try:
        content = json.loads(body)
    except ValueError:
        content = {}
    text = body
    if isinstance(content, dict):
        text = content.get("message") or content.get("error") or content.get("error_message") or body
    lines = str(text).strip().splitlines() or [str(error.reason)]
    return lines[0][:_MESSAGE_LIMIT]


def _from_transport(error: http.HTTPError, connection: Connection) -> Exception:
    cause = getattr(error, "reason", None) or error
    host = connection.host
    if isinstance(cause, http.LocationValueError):
        return InputError(
            f"{host!r} is no address ({cause})",
            field="--host",
            remedy="Correct it; it looks like https://kubeflow.example.org/pipeline",
        )
    if isinstance(cause, http.SSLError) and "WRONG_VERSION_NUMBER" in str(cause):
        return InputError(f"{host} does not speak TLS", field="--host", remedy="Begin it with http://, or correct it")
    if isinstance(cause, http.SSLError):
        return InputError(
            f"the certificate of {host} is not trusted ({cause})",
            field="--ca-cert",
            remedy="Name the file with the certificate of its authority",
        )
    if isinstance(cause, http.NameResolutionError):
        return InputError(f"there is no host of the name in {host}", field="--host", remedy="Correct it")
    if isinstance(cause, http.NewConnectionError | http.ConnectTimeoutError):
        return InputError(
            f"nothing answers at {host}",
            field="--host",
            remedy="Correct it, or open the way there (kubectl port-forward, VPN)",
        )
    if isinstance(cause, http.ReadTimeoutError):
        return ServerError(f"the KFP server at {host} did not answer within {connection.answer_seconds:.0f} s")
    return ServerError(f"the connection to the KFP server at {host} broke ({cause})")
