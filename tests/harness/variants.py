"""A proxy in front of the API server that alters answers: another time, or a part of the API that is missing."""

import contextlib
import http.server
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import yaml

from tests.harness.wire import tls_context

_NOT_FOUND = b'{"kind": "Status", "reason": "NotFound", "message": "the server could not find the requested resource"}'


@contextlib.contextmanager
def altering_proxy(
    kubeconfig: Path, output: Path, token: str, *, seconds: float = 0.0, hidden: str = ""
) -> Iterator[Path]:
    """Run the proxy until the end of the ``with``, and yield a kubeconfig that leads through it.

    Args:
        kubeconfig: names the cluster; its user is ignored.
        output: where to write the proxy's kubeconfig.
        token: the user's token in that kubeconfig.
        seconds: by how much the answers' ``Date`` is ahead.
        hidden: a prefix of the paths that are answered with 404.
    """
    cluster = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]
    context = tls_context(cluster)
    assert isinstance(context, ssl.SSLContext)
    tls: ssl.SSLContext = context

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length) if length else None
            status, content = 404, _NOT_FOUND
            if not hidden or not self.path.startswith(hidden):
                # Clients send no token over plain HTTP.
                headers = {"Authorization": f"Bearer {token}"}
                if "Content-Type" in self.headers:
                    headers["Content-Type"] = self.headers["Content-Type"]
                url = f"{cluster['server']}{self.path}"
                request = urllib.request.Request(url, body, headers, method=self.command)  # noqa: S310
                try:
                    with urllib.request.urlopen(request, context=tls) as answer:  # noqa: S310
                        status, content = answer.status, answer.read()
                except urllib.error.HTTPError as refusal:
                    status, content = refusal.code, refusal.read()
            self.send_response_only(status)
            self.send_header("Date", formatdate(time.time() + seconds, usegmt=True))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        document = {
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "c",
        }
        output.write_text(yaml.safe_dump(document))
        yield output
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
