"""A proxy that loses answers: the server has done as asked, and the client never hears of it."""

from __future__ import annotations

import http.client
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_ONE_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


class LossyProxy:
    """Forwards to a server on loopback; of the answers to paths that match, it loses the first, the third and so on.

    Args:
        port: Port of the server.
        lost: Regular expression of the paths.
    """

    def __init__(self, port: int, lost: str) -> None:
        self.lost: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        self._port = port
        self._pattern = re.compile(lost)
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())

    @property
    def uri(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def _loses(self, method: str, path: str) -> bool:
        found = self._pattern.search(path)
        with self._lock:
            if method != "POST" or found is None:
                return False
            self._asked[found.group()] += 1
            loses = self._asked[found.group()] % 2 == 1
            self.lost[found.group()] += loses
            return loses

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                upstream = http.client.HTTPConnection("127.0.0.1", proxy._port, timeout=60)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
                try:
                    upstream.request(self.command, self.path, body, headers)
                    answer = upstream.getresponse()
                    content = answer.read()
                except (OSError, http.client.HTTPException):
                    self.close_connection = True
                    return
                finally:
                    upstream.close()
                if answer.status < 400 and proxy._loses(self.command, self.path):
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in _ONE_HOP:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _forward  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        return Handler

    @contextmanager
    def serve(self) -> Iterator[LossyProxy]:
        """Answer in threads of its own until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()
