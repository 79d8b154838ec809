"""The HTTP server of the metrics, with limits on connections and their duration.

The server shares the file descriptors of a FLARE parent, so slow or many clients must not exhaust them. ``wsgiref`` by
itself serves any number of connections for as long as each sends a byte now and then, and runs in a busy loop once the
process has no file descriptor left to accept with.
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
"""Maximum number of open connections; a further one is closed immediately."""
MAX_REQUEST_SECONDS = 10.0
"""Maximum seconds from accepting a connection until it is cut, whatever was received or sent by then."""
_DEADLINE_INTERVAL = 0.5
"""Seconds between two checks of the deadlines."""
_EXHAUSTED_PAUSE = 0.2
"""Seconds to pause after accepting has failed for lack of file descriptors."""
_OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})
_log = logging.getLogger(__name__)


class MetricsServer(ThreadingMixIn, WSGIServer):
    """A server of a WSGI application, with a thread per connection and a deadline per request."""

    daemon_threads = True
    request_queue_size = 2 * MAX_CONNECTIONS

    def __init__(self, address: tuple[str, int], handler: type[WSGIRequestHandler]) -> None:
        """Listen at an IP address and a port.

        Raises:
            OSError: the address cannot be listened at; its port is in use, for example.
        """
        self.address_family = socket.AF_INET if ip_address(address[0]).version == 4 else socket.AF_INET6  # noqa: PLR2004
        self._connections: dict[Any, float] = {}
        """The open connections, with the time at which each was accepted."""
        # Different threads close and cut a connection; once closed, its file descriptor may belong to another file.
        self._close_lock = threading.Lock()
        self._spare_descriptor: int | None = None
        super().__init__(address, handler)
        self._open_spare_descriptor()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection.

        Raises:
            OSError: accepting failed. If it failed for lack of file descriptors, the connection was closed.
        """
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in _OUT_OF_DESCRIPTORS:
                self._close_next()
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Return whether there is room for the connection."""
        del client_address
        if len(self._connections) >= MAX_CONNECTIONS:
            return False
        self._connections[request] = time.monotonic()
        return True

    def shutdown_request(self, request: Any) -> None:
        """Close a connection; called once for each accepted one."""
        with self._close_lock:
            self._connections.pop(request, None)
            super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut the connections whose deadline has passed; called by ``serve_forever`` in each iteration."""
        now = time.monotonic()
        for connection, accepted_at in list(self._connections.items()):
            if now >= accepted_at + MAX_REQUEST_SECONDS:
                self._cut(connection)

    def server_close(self) -> None:
        """Stop listening, and cut the open connections."""
        super().server_close()
        for connection in list(self._connections):
            self._cut(connection)
        self._close_spare_descriptor()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log at debug level: a client that disconnects, or is cut, is not the parent's problem."""
        del request
        _log.debug("metrics request from %s failed: %s", client_address, type(sys.exception()).__name__)

    def _cut(self, connection: socket.socket) -> None:
        """Shut a connection down, so that the thread that reads from it or writes to it returns and closes it."""
        with self._close_lock, contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    def _close_next(self) -> None:
        """Close the waiting connection: while it waits, the listening socket is readable and the loop would spin."""
        self._close_spare_descriptor()
        try:
            connection, _ = self.socket.accept()
            connection.close()
        except OSError:
            # Another thread has used the free descriptor.
            time.sleep(_EXHAUSTED_PAUSE)
        self._open_spare_descriptor()

    def _open_spare_descriptor(self) -> None:
        if self._spare_descriptor is None:
            with contextlib.suppress(OSError):
                self._spare_descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _close_spare_descriptor(self) -> None:
        descriptor, self._spare_descriptor = self._spare_descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class's name)
        """Log the client at debug level instead of the request on stderr: the request is untrusted text."""
        del format, args
        _log.debug("metrics requested by %s", self.client_address)


def start(host: str, port: int, application: "WSGIApplication") -> MetricsServer:
    """Serve an application at an IP address, with daemon threads.

    Raises:
        OSError: the address cannot be listened at.
    """
    server = make_server(host, port, application, MetricsServer, _Handler)
    run = {"poll_interval": _DEADLINE_INTERVAL}
    threading.Thread(target=server.serve_forever, kwargs=run, name="flargo-metrics", daemon=True).start()
    return server
