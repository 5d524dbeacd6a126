from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from botocore.awsrequest import AWSResponse
from moto.core.botocore_stubber import BotocoreStubber


class _Body(io.BytesIO):
    def stream(self):
        yield self.read()


@pytest.fixture
def s3_answers(monkeypatch) -> Callable[..., None]:
    """Let moto's S3 answer every request with an error, from now or after some more requests; nobody tries again."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    usual = BotocoreStubber.__call__

    def answer(status: int, code: str, *, after: int = 0) -> None:
        left = after

        def call(self, event_name, request, **options):
            nonlocal left
            left -= 1
            if left >= 0:
                return usual(self, event_name, request, **options)
            text = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            # HTTP has no body here, so that S3's own word is lost.
            body = _Body(b"" if request.method == "HEAD" else text)
            return AWSResponse(request.url, status, {"Content-Type": "application/xml"}, body)

        monkeypatch.setattr(BotocoreStubber, "__call__", call)

    return answer
