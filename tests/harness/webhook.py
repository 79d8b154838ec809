"""A receiver of notifications on this machine, which records what it gets and answers as a test tells it."""

import json
import ssl
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

from tests.harness.cluster import eventually

ARRIVAL_SECONDS = 10.0
"""The limit within which a notification arrives."""


class Post(NamedTuple):
    """A POST that a webhook has got."""

    path: str
    headers: dict[str, str]
    content: Any
    """The JSON document."""


class Webhook:
    """Records POSTs, until the end of its ``with``."""

    def __init__(
        self, *statuses: int, headers: dict[str, str] | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        """Listen at a free port.

        Args:
            statuses: the statuses of the first answers; each later one is 204.
            headers: headers of every answer.
            tls: the server's side of TLS; None: plain HTTP.
        """
        self.posts: list[Post] = []
        self._statuses, self._headers = deque(statuses), headers or {}
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                webhook.posts.append(Post(self.path, dict(self.headers), json.loads(body)))
                webhook.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client may close early
        scheme = "http"
        if tls is not None:
            scheme, self._server.socket = "https", tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}/flargo"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        handler.send_response(self._statuses.popleft() if self._statuses else 204)
        for name, value in self._headers.items():
            handler.send_header(name, value)
        with suppress(OSError):
            handler.end_headers()

    def wait_for_posts(self, count: int) -> Sequence[Post]:
        """Wait until so many POSTs have arrived; return them."""
        eventually(lambda: len(self.posts) >= count, ARRIVAL_SECONDS, f"{count} POSTs arrive at the receiver")
        return self.posts

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
