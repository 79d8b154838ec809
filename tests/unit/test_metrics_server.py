"""Tests of the metrics' HTTP server with slow clients, many clients, and a process without file descriptors."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flargo import metrics_server
from flargo.metrics_server import MAX_CONNECTIONS, MetricsServer

DEADLINE = 2.0
MAX_WAIT_SECONDS = 10.0
LARGE_BODY = b"x" * 2**26
"""A body larger than the kernel's buffers, so that a client which does not read blocks the server."""


def respond(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [LARGE_BODY if environ["PATH_INFO"] == "/big" else b"served"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MetricsServer]:
    monkeypatch.setattr(metrics_server, "MAX_REQUEST_SECONDS", DEADLINE)
    monkeypatch.setattr(metrics_server, "_DEADLINE_INTERVAL", 0.05)
    running = metrics_server.start("127.0.0.1", 0, respond)
    yield running
    running.shutdown()
    running.server_close()


def connect(server: MetricsServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.server_port), timeout=MAX_WAIT_SECONDS)


def scrape(server: MetricsServer, timeout: float = MAX_WAIT_SECONDS) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=timeout) as answer:
        return bytes(answer.read())


def is_closed(connection: socket.socket) -> bool:
    """Wait for the server to close the connection; return False if it answers instead."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def wait_until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + MAX_WAIT_SECONDS
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_slow_connections_take_sixteen_descriptors(server: MetricsServer) -> None:
    """Twenty clients that send half a request take sixteen descriptors, and none after the deadline."""
    before = descriptors()
    clients = [connect(server) for _ in range(20)]
    for client in clients:
        client.sendall(b"GET /met")
    closed_clients = [client for client in clients[MAX_CONNECTIONS:] if is_closed(client)]
    assert len(closed_clients) == 20 - MAX_CONNECTIONS
    # The client of a refused connection sees its end before the server has closed the descriptor.
    wait_until(lambda: descriptors() - before <= len(clients) + MAX_CONNECTIONS)
    assert len(server._connections) == MAX_CONNECTIONS, "the deadline has closed none yet"
    wait_until(lambda: descriptors() - before <= len(clients))
    assert scrape(server) == b"served"
    for client in clients:
        client.close()


def test_connection_beyond_limit_is_closed(server: MetricsServer) -> None:
    clients = [connect(server) for _ in range(MAX_CONNECTIONS)]
    wait_until(lambda: len(server._connections) == MAX_CONNECTIONS)
    started_at = time.monotonic()
    with connect(server) as extra_client:
        assert is_closed(extra_client)
    assert time.monotonic() - started_at < DEADLINE
    for client in clients:
        client.close()
    wait_until(lambda: not server._connections)
    assert scrape(server) == b"served"


def test_slow_sender_is_cut(server: MetricsServer) -> None:
    started_at = time.monotonic()
    with connect(server) as client, contextlib.suppress(ConnectionError):
        client.sendall(b"GET /metrics HTTP/1.0\r\nX: ")
        while time.monotonic() < started_at + MAX_WAIT_SECONDS:
            client.sendall(b"x")
            time.sleep(0.05)
    assert DEADLINE * 0.9 <= time.monotonic() - started_at < DEADLINE + 2
    wait_until(lambda: not server._connections)


def test_slow_reader_is_cut(server: MetricsServer) -> None:
    started_at = time.monotonic()
    received = 0
    with connect(server) as client:
        client.sendall(b"GET /big HTTP/1.0\r\n\r\n")
        wait_until(lambda: bool(server._connections))
        while server._connections:
            assert time.monotonic() < started_at + MAX_WAIT_SECONDS
            received += len(client.recv(1000))
            time.sleep(0.05)
    assert DEADLINE * 0.9 <= time.monotonic() - started_at < DEADLINE + 2
    assert 0 < received < len(LARGE_BODY)


def test_fast_request_is_answered(server: MetricsServer) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/big", timeout=MAX_WAIT_SECONDS) as answer:
        assert answer.read() == LARGE_BODY


def test_closing_cuts_open_connections(server: MetricsServer) -> None:
    with connect(server) as client:
        wait_until(lambda: len(server._connections) == 1)
        server.shutdown()
        server.server_close()
        assert is_closed(client)
        wait_until(lambda: not server._connections)
    server.server_close()


def test_failed_thread_start_frees_its_slot(server: MetricsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with connect(server) as client:
            assert is_closed(client)
    assert not server._connections
    assert scrape(server) == b"served"


EXHAUSTED = """
    import json, os, resource, socket, sys, time, urllib.request

    from flargo import metrics_server

    def respond(environ, start_response):
        start_response("200 OK", [])
        return [b"served"]

    server = metrics_server.start("127.0.0.1", 0, respond)
    address = ("127.0.0.1", server.server_port)
    # The client is another process, whose descriptors do not count here.
    print(server.server_port, flush=True)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    held = []
    while True:
        try:
            held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            break
    print("full", flush=True)
    sys.stdin.readline()
    used, wall = time.process_time(), time.monotonic()
    sys.stdin.readline()
    print(json.dumps([time.process_time() - used, time.monotonic() - wall]), flush=True)
    for each in held:
        os.close(each)
    print("free", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("is_spare_taken", [False, True], ids=["", "without the spare descriptor"])
def test_server_survives_descriptor_exhaustion(*, is_spare_taken: bool) -> None:
    """Connections are closed, not kept in the queue, which would keep the accepting thread in a busy loop."""
    code = textwrap.dedent(EXHAUSTED)
    if is_spare_taken:
        # Another thread has taken the spare descriptor, so no connection can be accepted to be closed.
        take_spare = 'os.close(server._spare_descriptor); server._spare_descriptor = None; os.open("/", 0)'
        code = code.replace('print("full"', f'{take_spare}\nprint("full"')
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(metrics_server.__file__).parents[1])},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def send_line() -> None:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()

        port = int(process.stdout.readline())
        assert process.stdout.readline() == "full\n"
        send_line()
        clients = [socket.create_connection(("127.0.0.1", port), timeout=MAX_WAIT_SECONDS) for _ in range(5)]
        if not is_spare_taken:
            assert all(is_closed(client) for client in clients)
        time.sleep(1.5)
        send_line()
        cpu_seconds, wall_seconds = json.loads(process.stdout.readline())
        assert wall_seconds >= 1.4
        assert cpu_seconds < 0.2, f"{cpu_seconds} s of CPU in {wall_seconds} s"
        assert process.stdout.readline() == "free\n"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=MAX_WAIT_SECONDS) as answer:
            assert answer.read() == b"served"
        for client in clients:
            client.close()
        process.kill()
