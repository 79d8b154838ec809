"""The HTTP server of the metrics: slow or many clients cost it a fixed number of file descriptors, and no CPU time.

A FLARE parent shares its descriptors with this server. ``wsgiref`` by itself serves any number of connections for as
long as each sends a byte now and then, and runs in a busy loop once the process has no descriptor left to accept with.
"""

import contextlib
import errno
import logging
import os
import socket
import sys
import threading
import time
from ipaddress import ip_address
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

MAX_CONNECTIONS = 16
"""Connections that are open at once; the next one is closed at once."""
MAX_REQUEST_SECONDS = 10.0
"""Seconds from the accept of a connection until it is cut, whatever was received or sent by then."""
_DEADLINE_INTERVAL = 0.5
"""Seconds between two looks at the deadlines."""
_EXHAUSTED_PAUSE = 0.2
"""Seconds without an accept after the process had no descriptor for one."""
_OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})
_log = logging.getLogger(__name__)


class MetricsServer(ThreadingMixIn, WSGIServer):
    """Serves a WSGI application, with a thread for each connection and a deadline for each request."""

    daemon_threads = True
    request_queue_size = 2 * MAX_CONNECTIONS

    def __init__(self, address: tuple[str, int], handler: type[WSGIRequestHandler]) -> None:
        """Listen at an IP address and a port.

        Raises:
            OSError: nobody can listen there; the port is taken, for example.
        """
        self.address_family = socket.AF_INET if ip_address(address[0]).version == 4 else socket.AF_INET6  # noqa: PLR2004
        self._accepted: dict[Any, float] = {}
        """The open connections, and when each was accepted."""
        # A connection is closed and cut by different threads; in between its descriptor may be another file's.
        self._closing = threading.Lock()
        self._reserve: int | None = None
        super().__init__(address, handler)
        self._take_reserve()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection.

        Raises:
            OSError: there is none. If that is for lack of descriptors, the next connection was closed unanswered.
        """
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in _OUT_OF_DESCRIPTORS:
                self._close_next()
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether the connection is one of the few that are served."""
        del client_address
        if len(self._accepted) >= MAX_CONNECTIONS:
            return False
        self._accepted[request] = time.monotonic()
        return True

    def shutdown_request(self, request: Any) -> None:
        """Close a connection; called once for each that was accepted."""
        with self._closing:
            self._accepted.pop(request, None)
            super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut the connections whose deadline has passed; called by ``serve_forever`` after every look."""
        now = time.monotonic()
        for connection, accepted in list(self._accepted.items()):
            if now >= accepted + MAX_REQUEST_SECONDS:
                self._cut(connection)

    def server_close(self) -> None:
        """Stop to listen, and cut what is still open."""
        super().server_close()
        for connection in list(self._accepted):
            self._cut(connection)
        self._release_reserve()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log at debug level: a client that goes away, or is cut, is no fault of the parent's."""
        del request
        _log.debug("a request for metrics by %s was not answered: %s", client_address, _type_of_error())

    def _cut(self, connection: socket.socket) -> None:
        """Wake the thread that reads from a connection or writes to it; that thread closes the connection."""
        with self._closing, contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    def _close_next(self) -> None:
        """Close the next connection; while it waits in the queue, the listener is readable and a loop would spin."""
        self._release_reserve()
        try:
            connection, _ = self.socket.accept()
            connection.close()
        except OSError:
            # Another thread was quicker to take the descriptor.
            time.sleep(_EXHAUSTED_PAUSE)
        self._take_reserve()

    def _take_reserve(self) -> None:
        if self._reserve is None:
            with contextlib.suppress(OSError):
                self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _release_reserve(self) -> None:
        reserve, self._reserve = self._reserve, None
        if reserve is not None:
            os.close(reserve)


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (its name)
        """Log who asked at debug level, and not to stderr: the request is a stranger's text."""
        del format, args
        _log.debug("metrics were requested by %s", self.client_address)


def _type_of_error() -> str:
    error = sys.exception()
    return type(error).__name__


def start(host: str, port: int, application: "WSGIApplication") -> MetricsServer:
    """Serve an application at an IP address, with daemon threads.

    Raises:
        OSError: nobody can listen there.
    """
    server = make_server(host, port, application, MetricsServer, _Handler)
    run = {"poll_interval": _DEADLINE_INTERVAL}
    threading.Thread(target=server.serve_forever, kwargs=run, name="flargo-metrics", daemon=True).start()
    return server
