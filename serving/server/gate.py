"""What every request passes before the app sees it: token, rate, size, time; and what the log says of it afterwards."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import secrets
import time
import traceback
import uuid
from pathlib import Path

from limits import parse
from limits.storage import MemoryStorage, Storage
from limits.strategies import SlidingWindowCounterRateLimiter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.server.errors import Refusal, refusal_answer
from serving.server.metrics import Metrics
from serving.settings import ServeSettings

_log = logging.getLogger("vitalfuse.serve")
# Protected by the token: whatever diagnoses, or tells of the model. Health, metrics and pages are open to all.
PROTECTED = ("/v1", "/v2", "/invocations", "/page/")
OPEN = ("/v2/health/",)
# For callers behind a gateway that takes the header Authorization for itself, as Kubeflow's does.
TOKEN_HEADER = "X-Vitalfuse-Token"
_MEGABYTE = 1_000_000
# Of this process, and of a request in it: quicker than asking the system for randomness each time.
_PROCESS, _NUMBERS = uuid.uuid4().hex[:8], itertools.count(1)


class Gate:
    """An ASGI app around the app.

    A request is received whole before the app sees it, so that size and time are bounded in one place. An error that
    nothing else has caught is answered with 500, and logged without its message, which might tell of the patient.

    Args:
        app: The app inside.
        settings: Limits.
        metrics: Told of every request.
        token: The bearer token; None lets anybody in.
        rates: Where requests are counted by address; in this process by default.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ServeSettings,
        metrics: Metrics,
        token: str | None,
        rates: Storage | None = None,
    ) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        # Digests have one length, so that comparing them tells nothing of the token's.
        self._token = hashlib.sha256(token.encode()).digest() if token else None
        self._rate = parse(settings.rate_limit) if settings.rate_limit else None
        self._limiter = SlidingWindowCounterRateLimiter(rates or MemoryStorage())
        self._most = int(settings.max_request_mb * _MEGABYTE)
        self._buffered = 0
        # Each worker has its share of what all may hold, in which one request fits.
        held = settings.max_buffered_mb * _MEGABYTE
        self._most_buffered = max(held / settings.workers, min(held, self._most))
        # Those that are received or parsed come before those that wait for the model.
        self._inside, self._most_inside = 0, 4 * settings.max_queue

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass on what is none."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})
            return
        answer = _Answer(send)
        started = time.perf_counter()
        held = 0
        self._inside += 1
        try:
            self._check(scope)
            body = await self._receive(scope, receive)
            held = len(body)
            await self._app(scope, _replay(body, receive), answer.send)
        except Refusal as refusal:
            await answer.refuse(scope, receive, refusal)
        except Exception as error:
            _log_error(error, answer.request_id)
            if answer.status is None:
                await answer.refuse(scope, receive, Refusal(500, "the server failed"))
        finally:
            self._buffered -= held
            self._inside -= 1
            self._record(scope, answer, time.perf_counter() - started)

    def _check(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        path = scope["path"]
        if not path.startswith(PROTECTED) or path.startswith(OPEN):
            return
        if self._rate is not None:
            client = scope["client"][0] if scope.get("client") else "unknown"
            if not self._limiter.hit(self._rate, client):
                reset = self._limiter.get_window_stats(self._rate, client).reset_time
                self._refused("rate")
                raise Refusal(429, "too many requests from this address", max(1, int(reset - time.time() + 1)))
        if self._token is not None and not self._is_let_in(headers, self._token):
            self._refused("token")
            raise Refusal(
                401, f"this needs the server's token, as Authorization: Bearer TOKEN or {TOKEN_HEADER}: TOKEN"
            )
        if self._inside > self._most_inside:
            self._refused("requests")
            raise Refusal(503, "the server is busy: too many requests at a time", retry_after=1)
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            raise Refusal(400, "the header Content-Length is not a number")
        if int(length) > self._most:
            self._too_large()

    @staticmethod
    def _is_let_in(headers: dict[bytes, bytes], token: bytes) -> bool:
        """Return whether one of the two headers holds the token of which this is the digest."""
        scheme, _, bearer = headers.get(b"authorization", b"").partition(b" ")
        given = [headers.get(TOKEN_HEADER.lower().encode(), b"")]
        if scheme.lower() == b"bearer":
            given.append(bearer)
        return any(secrets.compare_digest(hashlib.sha256(one.strip()).digest(), token) for one in given)

    async def _receive(self, scope: Scope, receive: Receive) -> bytes:
        """Receive a request whole, and count its bytes against what the server may hold."""
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return b""
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal(400, "the request was cut off")
                    part = message.get("body", b"")
                    size += len(part)
                    self._buffered += len(part)
                    parts.append(part)
                    if size > self._most:
                        self._too_large()
                    if self._buffered > self._most_buffered:
                        self._refused("memory")
                        raise Refusal(503, "the server is busy: too many bytes are being read", retry_after=1)
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            self._buffered -= size
            self._refused("slow")
            seconds = self._settings.body_seconds
            raise Refusal(408, f"the request was not received within {seconds:g} seconds") from None
        except Refusal:
            self._buffered -= size
            raise

    def _too_large(self) -> None:
        self._refused("size")
        limit = self._settings.max_request_mb
        raise Refusal(413, f"the request is larger than {limit:g} MB; send smaller images or fewer patients")

    def _refused(self, reason: str) -> None:
        self._metrics.refused.labels(reason).inc()

    def _record(self, scope: Scope, answer: _Answer, seconds: float) -> None:
        """Count a request and log it: by the route's own pattern, since a path may hold anything."""
        route = scope.get("route")
        endpoint = getattr(route, "path", None) or ("refused" if "endpoint" not in scope else "other")
        status = answer.status or 499
        self._metrics.requests.labels(endpoint, str(status)).inc()
        self._metrics.seconds.labels(endpoint).observe(seconds)
        _log.log(
            logging.DEBUG if endpoint.startswith("/v2/health") or endpoint == "/metrics" else logging.INFO,
            "%s %s %s %s %.1f ms",
            answer.request_id,
            scope["method"] if scope["method"] in ("GET", "POST", "HEAD", "OPTIONS") else "OTHER",
            endpoint,
            status,
            seconds * 1000,
        )


class _Answer:
    """Sends an answer, and remembers its status."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status: int | None = None
        # The caller's own would be logged, and may be a patient's number.
        self.request_id = f"{_PROCESS}-{next(_NUMBERS)}"

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", []), (b"x-request-id", self.request_id.encode())]
            if not any(name.lower() == b"cache-control" for name, _ in headers):
                headers.append((b"cache-control", b"no-store"))
            message = {**message, "headers": headers}
        await self._send(message)

    async def refuse(self, scope: Scope, receive: Receive, refusal: Refusal) -> None:
        answer = refusal_answer(refusal)
        # What was not read of the request must not be taken for the next one.
        answer.headers["Connection"] = "close"
        await answer(scope, receive, self.send)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Give the app the body once, then what comes after it: the client's leaving."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _log_error(error: Exception, request_id: str) -> None:
    """Log where an error arose and of which class it is, and nothing that it says."""
    frames = traceback.extract_tb(error.__traceback__)[-5:]
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    _log.error("%s failed: %s at %s", request_id, type(error).__name__, places)
