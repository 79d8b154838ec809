"""A small Kubernetes API over HTTP, for tests that give flargo nothing but a kubeconfig, as users do."""

import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

Object = dict[str, Any]
NAMESPACE = "lab"
WORKFLOWS = f"/apis/argoproj.io/v1alpha1/namespaces/{NAMESPACE}/workflows"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"
EVENTS = f"/api/v1/namespaces/{NAMESPACE}/events"
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
ARCHIVE = "/api/v1/archived-workflows"
"""The archive of an Argo Server, which this API is as well: Workflows by their uids."""
COLLECTIONS = {
    WORKFLOWS: ("argoproj.io/v1alpha1", "Workflow"),
    PODS: ("v1", "Pod"),
    SECRETS: ("v1", "Secret"),
    EVENTS: ("v1", "Event"),
    LEASES: ("coordination.k8s.io/v1", "Lease"),
    ARCHIVE: ("argoproj.io/v1alpha1", "Workflow"),
}
"""The version and kind of each collection's objects."""


_PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+/[^/]+))(?:/namespaces/[^/]+)?"
    r"/(?P<plural>[a-z]+)(?P<name>/[^/]+)?(?P<subresource>/[a-z]+)?"
)
_KINDS = {
    "workflows": "Workflow",
    "pods": "Pod",
    "secrets": "Secret",
    "events": "Event",
    "leases": "Lease",
    "configmaps": "ConfigMap",
    "selfsubjectreviews": "SelfSubjectReview",
}


def as_kubernetes(method: str, path: str, content: Object) -> Object:
    """Return the content of a successful answer as the API server sends it at a path: with version and kind."""
    path = path.partition("?")[0]
    if path.endswith("/version"):
        return {"gitVersion": "v1.34.0", **content}
    match = _PATH.search(path)
    assert match is not None, path
    if match["subresource"] == "/eviction":
        return {"kind": "Status", "apiVersion": "v1", "status": "Success"}
    head: Object = {"apiVersion": match["core"] or match["group"], "kind": _KINDS[match["plural"]]}
    if method == "GET" and match["name"] is None:
        head |= {"kind": f"{head['kind']}List", "items": []}
    return {**head, **content}


def merge_patch(item: Object, patch: Object) -> Object:
    """Return an object after a JSON merge patch."""
    patched = {**item}
    for key, value in patch.items():
        if isinstance(value, dict):
            old = patched.get(key)
            patched[key] = merge_patch(old if isinstance(old, dict) else {}, value)
        elif value is None:
            patched.pop(key, None)
        else:
            patched[key] = value
    return patched


RawAnswer = tuple[int, bytes] | tuple[int, bytes, str, str]
"""An HTTP status and a body; and the content type and the location of a redirect, each empty if there is none."""


def status(code: int, reason: str = "", message: str = "") -> RawAnswer:
    """Return an error response of the API server."""
    document = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}
    return code, json.dumps({key: value for key, value in document.items() if value}).encode()


class KubernetesApi(ThreadingHTTPServer):
    """Stores the objects that clients send, and streams each change to the clients that watch.

    Selectors and versions of requests are ignored: every list and every watch has all objects of its collection. Only
    a PUT over another version than the present one is a conflict.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        """Listen on a free port of this machine, and write a kubeconfig into the folder."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, Object] = {}
        """All objects by their paths."""
        self.log = b""
        """The log of every pod."""
        self.refusals: dict[str, int] = {}
        """HTTP statuses by method: each write with one of these methods is refused with its status."""
        self.answer_instead: Callable[[str, str], RawAnswer | None] = lambda *_: None
        """Returns an answer that replaces the server's own, for a method and a path: a gateway's, for example."""
        self.clock_skew = 0.0
        """Seconds by which the server's clock is ahead."""
        self.on_write: Callable[[str, Object], None] = lambda *_: None
        """Called after each request that changes an object, with its method and the object."""
        self.writes: list[tuple[str, str, Object]] = []
        """The method, path and body of each request that changes an object."""
        self.is_over = False
        self.changes: list[tuple[str, str, Object]] = []
        """The collection, kind of event and object of each change."""
        self.condition = threading.Condition(threading.RLock())
        self.kubeconfig = folder / "kubeconfig"
        cluster = {"server": f"http://127.0.0.1:{self.server_port}"}
        context = {"cluster": "c", "user": "u", "namespace": NAMESPACE}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": "a-token"}}],
            "contexts": [{"name": "one", "context": context}],
            "current-context": "one",
        }
        self.kubeconfig.write_text(yaml.safe_dump(document))

    def handle_error(self, *_: Any) -> None:
        """Stay silent if a client has closed its connection early."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*_)

    def put(self, collection: str, item: Object) -> Object:
        """Store an object under its name, with a new version."""
        with self.condition:
            path = f"{collection}/{item['metadata']['name']}"
            kind = "MODIFIED" if path in self.objects else "ADDED"
            meta = {"uid": f"uid-{len(self.changes)}", **item["metadata"]}
            api_version, name = COLLECTIONS[collection]
            stored = {"apiVersion": api_version, "kind": name, **item}
            stored["metadata"] = {**meta, "resourceVersion": str(len(self.changes) + 1)}
            self.objects[path] = stored
            self._publish(collection, kind, stored)
            return stored

    def replace(self, path: str, item: Object) -> Object:
        """Store an object in place of another, over the version that it names, if any."""
        with self.condition:
            version = item["metadata"].get("resourceVersion")
            if version is not None and version != self.objects[path]["metadata"]["resourceVersion"]:
                raise _ModifiedError
            return self.put(path.rpartition("/")[0], item)

    def remove(self, path: str) -> Object:
        """Delete an object."""
        with self.condition:
            item = self.objects.pop(path)
            self._publish(path.rpartition("/")[0], "DELETED", item)
            return item

    def items(self, collection: str) -> list[Object]:
        """Return all objects of a collection."""
        with self.condition:
            return [item for path, item in self.objects.items() if path.rpartition("/")[0] == collection]

    def events(self, collection: str) -> Iterator[Object]:
        """Yield the changes of a collection as a watch does, all past ones first."""
        sent = 0
        while not self.is_over:
            with self.condition:
                if len(self.changes) == sent:
                    self.condition.wait(timeout=1.0)
                new, sent = self.changes[sent:], len(self.changes)
            yield from ({"type": kind, "object": item} for path, kind, item in new if path == collection)

    def _publish(self, collection: str, kind: str, item: Object) -> None:
        self.changes.append((collection, kind, item))
        self.condition.notify_all()


class _ModifiedError(Exception):
    """The object is another version than the one that a request names."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: KubernetesApi

    def do_GET(self) -> None:
        path, query = self._target()
        answer = self.server.answer_instead("GET", path)
        if answer is not None:
            self._answer(*answer)
            return
        if query.get("watch") == "true":
            self._stream(path)
        elif path.endswith("/log"):
            self._answer(200, self.server.log, "text/plain")
        elif path in self.server.objects:
            self._send(200, self.server.objects[path])
        elif path in COLLECTIONS:
            version = str(len(self.server.changes))
            api_version, kind = COLLECTIONS[path]
            head = {"apiVersion": api_version, "kind": f"{kind}List", "metadata": {"resourceVersion": version}}
            self._send(200, {**head, "items": self.server.items(path)})
        elif path == "/version":
            self._send(200, {"gitVersion": "v1.34.0"})
        else:
            self._answer(*_MISSING)

    def do_POST(self) -> None:
        self._write(lambda path, body: self.server.put(path, body) if path in COLLECTIONS else _allow(body))

    def do_PUT(self) -> None:
        self._write(self.server.replace)

    def do_PATCH(self) -> None:
        self._write(
            lambda path, body: self.server.put(path.rpartition("/")[0], merge_patch(self.server.objects[path], body))
        )

    def do_DELETE(self) -> None:
        self._write(lambda path, _: self.server.remove(path))

    def log_message(self, *_: Any) -> None:
        """Stay silent."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        """Return the time by the server's own clock."""
        return formatdate((time() if timestamp is None else timestamp) + self.server.clock_skew, usegmt=True)

    def _target(self) -> tuple[str, dict[str, str]]:
        parsed = urlsplit(self.path)
        return parsed.path, {key: values[0] for key, values in parse_qs(parsed.query).items()}

    def _write(self, change: Callable[[str, Object], Object]) -> None:
        path, _ = self._target()
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        answer = self.server.answer_instead(self.command, path)
        if answer is None and self.command in self.server.refusals:
            code = self.server.refusals[self.command]
            answer = _MISSING if code == HTTPStatus.NOT_FOUND else status(code, "Refused", "not allowed")
        if answer is not None:
            self._answer(*answer)
            return
        self.server.writes.append((self.command, path, body))
        try:
            item = change(path, body)
        except KeyError:
            self._answer(*_MISSING)
            return
        except _ModifiedError:
            self._answer(*status(409, "Conflict", "the object has been modified; please apply your changes"))
            return
        self._send(201 if self.command == "POST" else 200, item)
        self.server.on_write(self.command, item)

    def _send(self, code: int, document: Object) -> None:
        self._answer(code, json.dumps(document).encode())

    def _answer(self, code: int, content: bytes, content_type: str = "application/json", location: str = "") -> None:
        self.send_response(code)
        for name, value in (("Content-Type", content_type), ("Location", location)):
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, path: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with suppress(OSError):
            for event in self.server.events(path):
                line = json.dumps(event).encode() + b"\n"
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.write(b"0\r\n\r\n")


_MISSING = status(404, "NotFound", "not there")


def _allow(body: Object) -> Object:
    """Answer an access review: everything is allowed."""
    return {**body, "status": {"allowed": True}}


@contextmanager
def kubernetes_api(folder: Path) -> Iterator[KubernetesApi]:
    """Serve an API until the end of the ``with``."""
    server = KubernetesApi(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        with server.condition:
            server.is_over = True
            server.condition.notify_all()
        server.shutdown()
        thread.join()
        server.server_close()
