"""Faults to order: errors, slow answers, pages that are no API."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field

from flask import Request, Response


@dataclass
class Fault:
    """What to do with the calls that it is for.

    Attributes:
        method: HTTP method.
        path: Regular expression for the whole path.
        status: HTTP status to answer; 0: as usual, after the delay.
        times: How many calls it is for; None: all.
        delay: Seconds before the answer.
        body: What to answer.
        content_type: Of the body.
        after: Whether the call is carried out before the fault's answer.
    """

    method: str
    path: str
    status: int = 0
    times: int | None = None
    delay: float = 0.0
    body: str = '{"code": 13, "message": "injected", "details": []}'
    content_type: str = "application/json"
    after: bool = False


@dataclass
class Faults:
    """The ordered faults, and the calls that have come in."""

    ordered: list[Fault] = field(default_factory=list)
    calls: list[tuple[str, str]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def order(self, method: str, path: str, **arguments: object) -> None:
        """Order a fault."""
        self.ordered.append(Fault(method, path, **arguments))  # type: ignore[arg-type]

    def count(self, method: str, path: str) -> int:
        """Return how many calls have come in."""
        return sum(called == method and re.fullmatch(path, where) is not None for called, where in self.calls)

    def take(self, request: Request) -> Fault | None:
        """Note a call, and return the fault that is for it."""
        with self._lock:
            self.calls.append((request.method, request.path))
            for fault in self.ordered:
                if fault.method != request.method or not re.fullmatch(fault.path, request.path) or fault.times == 0:
                    continue
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None


def answer(fault: Fault) -> Response | None:
    """Wait, and return the fault's answer; None: go on as usual."""
    if fault.delay:
        time.sleep(fault.delay)
    return Response(fault.body, fault.status, content_type=fault.content_type) if fault.status else None
