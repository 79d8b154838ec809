"""The servers and proxies of the table, which note who asks them for what."""

import base64
import contextlib
import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.harness.kubeconfigs.certificates import HOSTS, Authority

Object = dict[str, Any]
_PODS = {"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": ["get", "list"]}
_ANSWERS: dict[str, Object] = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "v1", "resources": [_PODS]},
    "/pods": {"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []},
}
"""What kubectl asks for before it lists pods, and the list, by the ends of their paths."""


class _Server(ThreadingHTTPServer):
    """A server with a name on a free port of this machine, with TLS or without."""

    daemon_threads = True

    def __init__(self, name: str, handler: type[BaseHTTPRequestHandler], context: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.name = name
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, *_: Any) -> None:
        """Stay silent about clients that end, or do not trust the certificate."""


class ApiServer(_Server):
    """An API server that has no pods. It notes each list of pods."""

    def __init__(self, name: str, heard: list[Object], context: ssl.SSLContext | None) -> None:
        super().__init__(name, _ApiHandler, context)
        self.heard = heard


class _ApiHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ApiServer

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        answer = next((body for end, body in _ANSWERS.items() if path.endswith(end)), {})
        if path.endswith("/pods"):
            self.server.heard.append(self._request(path))
        body = json.dumps(answer).encode()
        self.send_response(200 if answer else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _request(self, path: str) -> Object:
        is_tls = isinstance(self.connection, ssl.SSLSocket)
        certificate: Any = self.connection.getpeercert() if isinstance(self.connection, ssl.SSLSocket) else None
        headers = [(name.lower(), value.encode("latin-1").decode()) for name, value in self.headers.items()]
        request = {
            "server": self.server.name,
            "path": path,
            "authorization": self.headers.get("Authorization"),
            "impersonation": sorted(f"{name}: {value}" for name, value in headers if name.startswith("impersonate-")),
            "certificate": certificate["subject"][0][0][1] if certificate else None,
            "sni": getattr(self.connection.context, "last_name", None) if is_tls else None,
            "proxy authorization": self.headers.get("Proxy-Authorization"),
        }
        return {key: value for key, value in request.items() if value}

    def log_message(self, *_: Any) -> None:
        """Stay silent."""


class Proxy(_Server):
    """A proxy of HTTP that passes everything to one of the API servers by its port, whatever its host is called."""

    def __init__(self, name: str, used: list[Object], context: ssl.SSLContext | None = None) -> None:
        super().__init__(name, _ProxyHandler, context)
        self.used = used


class _ProxyHandler(BaseHTTPRequestHandler):
    server: Proxy

    def do_CONNECT(self) -> None:
        self._note()
        with socket.create_connection(("127.0.0.1", int(self.path.rpartition(":")[2]))) as target:
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            _pump(self.connection, target)
        self.close_connection = True

    def do_GET(self) -> None:
        self._note()
        url = urlsplit(self.path)
        lines = [f"GET {url.path}{'?' + url.query if url.query else ''} HTTP/1.0"]
        lines += [f"{name}: {value}" for name, value in self.headers.items() if not name.startswith("Proxy-")]
        with socket.create_connection(("127.0.0.1", url.port or 80)) as target:
            target.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1"))
            while chunk := target.recv(65536):
                self.wfile.write(chunk)
        self.close_connection = True

    def _note(self) -> None:
        authorization = self.headers.get("Proxy-Authorization")
        self.server.used.append({"proxy": self.server.name, **({"as": authorization} if authorization else {})})

    def log_message(self, *_: Any) -> None:
        """Stay silent."""


class SocksProxy(socketserver.ThreadingTCPServer):
    """A SOCKS5 proxy, with or without user and password."""

    daemon_threads = True

    def __init__(self, used: list[Object]) -> None:
        super().__init__(("127.0.0.1", 0), _SocksHandler)
        self.used = used

    @property
    def server_port(self) -> int:
        """The port that it listens on."""
        return int(self.server_address[1])


class _SocksHandler(socketserver.StreamRequestHandler):
    server: SocksProxy

    def handle(self) -> None:
        read = self.rfile.read
        note = {"proxy": "socks"}
        methods = read(read(2)[1])
        with_password = b"\x02" in methods
        self.wfile.write(b"\x05\x02" if with_password else b"\x05\x00")
        if with_password:
            name, password = read(read(2)[1]), read(read(1)[0])
            note["as"] = f"{name.decode()}:{password.decode()}"
            self.wfile.write(b"\x01\x00")
        kind = read(4)[3]
        read({1: 4, 4: 16}.get(kind) or read(1)[0])
        port = int.from_bytes(read(2), "big")
        self.server.used.append(note)
        with socket.create_connection(("127.0.0.1", port)) as target:
            self.wfile.write(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")
            _pump(self.connection, target)


def _pump(one: socket.socket, other: socket.socket) -> None:
    """Copy the bytes of two sockets to each other until both end."""

    def copy(source: socket.socket, to: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                to.sendall(chunk)
            to.shutdown(socket.SHUT_WR)

    back = threading.Thread(target=copy, args=(other, one), daemon=True)
    back.start()
    copy(one, other)
    back.join(5)


class Servers:
    """All servers, and what they have heard."""

    def __init__(self, folder: Path) -> None:
        self.heard: list[Object] = []
        """The lists of pods that the API servers were asked for."""
        self.used: list[Object] = []
        """The uses of the proxies."""
        root = Authority("the cluster's authority")
        intermediate = Authority("an intermediate authority", root)
        users = Authority("the users' authority")
        alice, bob = users.issue("alice"), users.issue("bob")
        context = _server_context(root.issue("server", hosts=HOSTS), users, folder)
        chained = _server_context(intermediate.issue("chained", hosts=HOSTS), users, folder)
        self._servers: dict[str, Any] = {
            "main": ApiServer("main", self.heard, context),
            "other": ApiServer("other", self.heard, context),
            "chained": ApiServer("chained", self.heard, chained),
            "plain": ApiServer("plain", self.heard, None),
            "proxy": Proxy("http", self.used),
            "tlsproxy": Proxy("https", self.used, context),
            "socks": SocksProxy(self.used),
        }
        texts = {"ca": root.certificate, "intermediate": intermediate.certificate}
        texts |= {"alice": alice[0], "alicekey": alice[1], "bob": bob[0], "bobkey": bob[1]}
        self.values = {name: base64.b64encode(text.encode()).decode() for name, text in texts.items()}
        """The placeholders of rows: certificates, addresses and ports."""
        self.values |= {f"{name}pem": text for name, text in texts.items()}
        self.values |= {f"{name}pemjson": json.dumps(text) for name, text in texts.items()}
        for name, server in self._servers.items():
            scheme = "https" if name in {"main", "other", "chained"} else "http"
            self.values |= {name: f"{scheme}://127.0.0.1:{server.server_port}", f"{name}port": str(server.server_port)}

    @contextlib.contextmanager
    def running(self) -> Iterator["Servers"]:
        """Serve until the end of the ``with``."""
        for server in self._servers.values():
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield self
        for server in self._servers.values():
            server.shutdown()
            server.server_close()

    def take(self) -> Object:
        """Return the first list of pods since the last call, with the proxy that it passed; empty if there was none."""
        request = self.heard[0] if self.heard else {}
        if request and self.used:
            request = {**request, "proxy": self.used[-1]}
        self.heard.clear()
        self.used.clear()
        return request

    def without_ports(self, text: str) -> str:
        """Replace the servers' ports by their names."""
        for name, server in self._servers.items():
            text = text.replace(f":{server.server_port}", f":{name}")
        return text


def _server_context(certificate: tuple[str, str], users: Authority, folder: Path) -> ssl.SSLContext:
    """Return a TLS context for clients with and without a certificate. It notes the name that they ask for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    file = folder / "server.pem"
    file.write_text("".join(certificate))
    context.load_cert_chain(file)
    file.unlink()
    context.load_verify_locations(cadata=users.certificate)
    context.verify_mode = ssl.CERT_OPTIONAL

    def note(_: ssl.SSLSocket | ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        context.last_name = name  # type: ignore[attr-defined]

    context.sni_callback = note
    return context
