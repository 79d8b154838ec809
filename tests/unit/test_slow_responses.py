"""A request ends in time, however slowly its response comes."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from flargo.cluster import api, transport
from flargo.cluster.access import Access
from flargo.cluster.api import Api, Kind
from flargo.cluster.errors import ApiError
from flargo.cluster.meaning import NO_CONTACT


@pytest.fixture(params=["chunked", "with a length"])
def trickling_api(request: pytest.FixtureRequest) -> Iterator[Api]:
    """A client of a server that sends a byte of its response every 50 ms, and never comes to the end."""
    is_chunked, ended = request.param == "chunked", threading.Event()
    framing = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: 100000"

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n" + framing + b"\r\n\r\n")
            while not ended.wait(0.05):
                connection.sendall(b"1\r\n \r\n" if is_chunked else b" ")

    def load() -> Access:
        return Access(f"http://127.0.0.1:{listener.getsockname()[1]}")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield Api(load, "flare")
        ended.set()


def test_request_whose_response_trickles_ends(trickling_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """On 5b90c11 it did not end: each byte came before the limit of a silence."""
    monkeypatch.setattr(transport, "MAX_REQUEST_SECONDS", 0.3)
    with pytest.raises(ApiError, match="did not arrive in time") as error:
        trickling_api.get(Kind.WORKFLOW, "w")
    assert error.value.meaning in NO_CONTACT


def test_log_that_trickles_ends(trickling_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "MAX_REQUEST_SECONDS", 0.3)
    with pytest.raises(ApiError, match="did not arrive in time"):
        trickling_api.log("p", "main", 10, 1000, 5.0)
