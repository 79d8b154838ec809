"""Client of the Kubernetes API for one namespace: one method per verb, plain dicts, one error type, bounded requests.

The ``kubernetes`` client's typed models are not used: they reject values that a pod template may hold (a GPU count as
a number, for example) and take a second to import.
"""

import copy
import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from enum import Enum
from functools import partial
from http import HTTPStatus

import urllib3

from flargo.cluster import target as targets
from flargo.cluster.bodies import CHUNK_BYTES, LogPiece, chunks_until, event_lines, last_bytes, log_pieces
from flargo.cluster.client_config import LoadConfig
from flargo.cluster.connection import CredentialCallback
from flargo.cluster.connections import MAX_WAIT_SECONDS
from flargo.cluster.error_text import OwnError, describe
from flargo.cluster.errors import ApiError
from flargo.cluster.foreign_answer import is_event
from flargo.cluster.http_request import MAX_REQUEST_SECONDS, READ_TIMEOUT, Request
from flargo.cluster.meaning import Meaning
from flargo.cluster.target import InvalidTargetError
from flargo.cluster.transport import Reply, Transport
from flargo.parsing import http_date, is_uid, load_json
from flargo.terms import ARGO_API_VERSION, LEASE_API_VERSION, Object, Uid

PAGE_SIZE = 100
"""Objects in one page of a list. Parsing a page blocks all other threads, and the whole page is held in memory."""
MAX_PAGES = 10_000
"""Pages of one list: a million objects. It stops the loop if a server always names another page."""
ALL_NAMESPACES = ""
"""The namespace of a client that lists and watches in all namespaces, as Kubernetes' own clients name it."""
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
_MERGE_PATCH = "application/merge-patch+json"


class Kind(Enum):
    """The kinds that flargo reads and writes. The value is the API path of the group and version, and the plural."""

    WORKFLOW = (f"apis/{ARGO_API_VERSION}", "workflows")
    POD = ("api/v1", "pods")
    SECRET = ("api/v1", "secrets")
    EVENT = ("api/v1", "events")
    LEASE = (f"apis/{LEASE_API_VERSION}", "leases")


RequestCallback = Callable[[str, Kind, int, float], None]
"""Called after each request with its verb, its kind, the HTTP status (0: no response) and the seconds until that status
was known. The body of a stream or a long response is read after that."""


class Api:
    """Client of one namespace of a Kubernetes API server, or of all of them. Safe to use from many threads.

    Every method raises ApiError, and nothing else, if the server refuses the request or does not respond.
    """

    def __init__(
        self,
        load: LoadConfig,
        namespace: str,
        on_request: RequestCallback = lambda *_: None,
        on_credential: CredentialCallback = lambda _: None,
        max_wait: float | None = MAX_WAIT_SECONDS,
    ) -> None:
        """Store the arguments; the connection is opened by the first request.

        Args:
            load: reads the configuration with its credentials; called as ``flargo.cluster.connections`` says.
            namespace: the namespace of all requests. In ALL_NAMESPACES objects can be listed and watched, but not read
                or changed by their names.
            on_request: called after each request.
            on_credential: called with each credential before it is sent.
            max_wait: seconds that a request waits for the configuration; None: for as long as it takes.
        """
        self._transport = Transport(load, on_credential, max_wait)
        self._on_request = on_request
        self.namespace = namespace

    @property
    def server(self) -> str:
        """The URL of the API server. Raises LoadError if no configuration can be loaded."""
        return self._transport.server

    def in_namespace(self, namespace: str) -> "Api":
        """Return a client of another namespace that shares this one's connections."""
        other = copy.copy(self)
        other.namespace = namespace
        return other

    def create(self, kind: Kind, item: Object) -> Object:
        """Create an object; return it as the server stored it."""
        request = self._request("create", kind, label=item["metadata"]["name"])
        return self._read(kind, replace(request, method="POST", body=item))

    def get(self, kind: Kind, name: str) -> Object:
        """Read one object by its name."""
        return self._read(kind, self._request("get", kind, name))

    def get_with_time(self, kind: Kind, name: str) -> tuple[Object, datetime | None]:
        """Read one object; return it with the API server's clock in whole seconds, None if the response has no time."""
        request = self._request("get", kind, name)
        item, date = self._transport.read(request, partial(self._on_request, request.verb, kind))
        return item, http_date(date)

    def list(
        self, kind: Kind, labels: str = "", fields: str = "", trim: Callable[[Object], Object] | None = None
    ) -> tuple[list[Object], str]:
        """List all matching objects, page by page; return them and the resourceVersion to watch from.

        Args:
            kind: the kind to list.
            labels: a label selector.
            fields: a field selector.
            trim: reduces each object to the part that is kept, so that only one page is ever held whole.
        """
        items: list[Object] = []
        query = {"labelSelector": labels, "fieldSelector": fields, "limit": str(PAGE_SIZE)}
        for _ in range(MAX_PAGES):
            page = self._read(kind, self._request("list", kind, label=labels or fields, query=query))
            page_items, meta = page.get("items"), page.get("metadata")
            objects = [item for item in (page_items if isinstance(page_items, list) else ()) if isinstance(item, dict)]
            items += map(trim, objects) if trim is not None else objects
            meta = meta if isinstance(meta, dict) else {}
            if not meta.get("continue"):
                return items, str(meta.get("resourceVersion", ""))
            query = {**query, "continue": str(meta["continue"])}
        raise ApiError("list", kind.value[1], 0, message=f"the list has more than {MAX_PAGES} pages")

    def merge(self, kind: Kind, name: str, patch: Object) -> Object:
        """Apply a JSON merge patch to an object; return the patched object."""
        request = self._request("patch", kind, name)
        return self._read(kind, replace(request, method="PATCH", body=patch, content_type=_MERGE_PATCH))

    def replace(self, kind: Kind, item: Object) -> Object:
        """Replace a whole object (PUT); return it as the server stored it."""
        request = self._request("update", kind, item["metadata"]["name"])
        return self._read(kind, replace(request, method="PUT", body=item))

    def delete(self, kind: Kind, name: str, uid: Uid, grace: int | None = None) -> None:
        """Delete the object that has this name and this uid.

        Args:
            kind: the object's kind.
            name: the object's name.
            uid: a precondition, so that a newer object of the same name is not deleted.
            grace: the grace period in seconds; None: the object's own.
        """
        # The grace period is in the body: the server ignores one in the query if the request has a body.
        body: Object = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": _precondition("delete", f"{kind.value[1]} {name}", uid),
        }
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        self._read(kind, replace(self._request("delete", kind, name), method="DELETE", body=body))

    def evict(self, pod: str, uid: Uid) -> None:
        """Evict the pod that has this name and this uid, as `kubectl drain` does for each pod of a node.

        Unlike a deletion, an eviction is refused (429) if a PodDisruptionBudget does not allow it.
        """
        what = f"pods/eviction {pod}"
        request = replace(self._request("create", Kind.POD, pod, subresource="eviction"), method="POST", what=what)
        body: Object = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": self.namespace},
            "deleteOptions": {"preconditions": _precondition("create", what, uid)},
        }
        self._read(Kind.POD, replace(request, body=body))

    def watch(self, kind: Kind, labels: str, version: str, seconds: int, silence: float) -> Iterator[Object]:
        """Watch for changes after a resourceVersion; yield events with ``type`` and ``object``, bookmarks included.

        Args:
            kind: the kind to watch.
            labels: a label selector.
            version: the resourceVersion to start from.
            seconds: the server ends the stream after this time, which is no error.
            silence: seconds without a byte after which the connection counts as dead.
        """
        query = {
            "labelSelector": labels,
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
            "watch": "true",
            "allowWatchBookmarks": "true",
        }
        request = replace(self._request("watch", kind, label=labels, query=query), read_timeout=silence)
        reply = self._stream(kind, request)
        with closing(reply.response) as response:
            try:
                for line in event_lines(response):
                    event = load_json(line)
                    if not is_event(request, event):
                        raise self._transport.on_foreign(reply.foreign_error())
                    yield event
            except json.JSONDecodeError as error:
                raise self._transport.on_foreign(reply.foreign_error()) from error
            except (urllib3.exceptions.HTTPError, OSError, ValueError, RecursionError) as error:
                raise ApiError("watch", kind.value[1], 0, message=describe(error)) from error
            finally:
                # The pool cannot reuse a connection whose response is only half read.
                response.close()

    def log(self, pod: str, container: str, lines: int, max_bytes: int, silence: float) -> str:
        """Return the end of a container's log.

        If bytes had to be left out, the text begins with a whole line, provided that it has a line end at all.

        Args:
            pod: the pod's name.
            container: the container's name.
            lines: the number of lines at most.
            max_bytes: the number of bytes at most.
            silence: seconds without a byte after which reading fails.
        """
        # The server counts limitBytes from the first of these lines, but the last ones are wanted.
        query = {"container": container, "tailLines": str(lines), "limitBytes": str(16 * max_bytes)}
        deadline = time.monotonic() + MAX_REQUEST_SECONDS
        with closing(self._stream(Kind.POD, self._log_request(pod, query, silence)).response) as response:
            try:
                return last_bytes(chunks_until(response, deadline), max_bytes).decode(errors="replace")
            except (urllib3.exceptions.HTTPError, OSError, OwnError) as error:
                raise ApiError("log", pod, 0, message=describe(error)) from error

    def log_lines(
        self,
        pod: str,
        container: str,
        *,
        follow: bool,
        since: str = "",
        tail: int | None = None,
        silence: float = READ_TIMEOUT,
    ) -> Iterator[LogPiece]:
        """Yield a container's log line by line, each line with its timestamp in front.

        A line of more than ``MAX_PIECE_BYTES`` is split into pieces, at the same places whenever it is read from its
        beginning. If the connection breaks, the unfinished line or piece is dropped; a last line without a line end is
        yielded.

        Args:
            pod: the pod's name.
            container: the container's name.
            follow: continue for as long as the container runs.
            since: start time in RFC 3339; the server honours whole seconds only.
            tail: how many lines from the end to begin with; None: all. The node counts a line of more than 16 KiB as
                several.
            silence: seconds without a byte after which the connection counts as dead. With ``follow`` this ends the
                iteration without an error, since the program may have nothing to write.
        """
        query = {
            "container": container,
            "timestamps": "true",
            "follow": "true" if follow else "",
            "sinceTime": since,
            "tailLines": str(tail) if tail is not None else "",
        }
        with closing(self._stream(Kind.POD, self._log_request(pod, query, silence)).response) as response:
            try:
                yield from log_pieces(response.stream(CHUNK_BYTES, decode_content=True))
            except urllib3.exceptions.ReadTimeoutError as error:
                if not follow:
                    raise ApiError("log", pod, 0, message=describe(error)) from error
                return
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise ApiError("log", pod, 0, message=describe(error)) from error
            finally:
                response.close()

    def metadata(self, kind: Kind, name: str) -> Object:
        """Read only an object's metadata, so that the content of a Secret never leaves the cluster."""
        meta = self._read(kind, replace(self._request("get", kind, name), accept=_METADATA)).get("metadata")
        return meta if isinstance(meta, dict) else {}

    def time(self) -> datetime:
        """Return the API server's clock, in whole seconds. Creation timestamps of objects are written by it."""
        _, date = self._transport.read(Request("get", "version", "GET", targets.version()))
        moment = http_date(date)
        if moment is None:
            raise ApiError("get", "version", 0, message="the response has no usable Date header")
        return moment

    def _log_request(self, pod: str, query: dict[str, str], silence: float) -> Request:
        return replace(self._request("log", Kind.POD, pod, subresource="log", query=query), read_timeout=silence)

    def _request(
        self,
        verb: str,
        kind: Kind,
        name: str | None = None,
        *,
        label: str = "",
        subresource: str = "",
        query: dict[str, str] | None = None,
    ) -> Request:
        """Return a GET request for an object, or for a collection that messages name by a label."""
        group_version, plural = kind.value
        is_collection_of_all = self.namespace == ALL_NAMESPACES and name is None and verb in {"list", "watch"}
        namespace = None if is_collection_of_all else self.namespace
        try:
            target = targets.resource(
                group_version, plural, namespace=namespace, name=name, subresource=subresource, query=query
            )
        except InvalidTargetError as error:
            raise _invalid_target(verb, plural, str(error)) from None
        return Request(verb, f"{plural} {label if name is None else name}".strip(), "GET", target)

    def _read(self, kind: Kind, request: Request) -> Object:
        return self._transport.read(request, partial(self._on_request, request.verb, kind))[0]

    def _stream(self, kind: Kind, request: Request) -> Reply:
        return self._transport.stream(request, partial(self._on_request, request.verb, kind))


def _precondition(verb: str, what: str, uid: Uid) -> Object:
    """Return the precondition of a deletion, so that only the object with this uid is deleted."""
    if not is_uid(uid):
        raise _invalid_target(verb, what, "no usable uid: another object of that name could be deleted")
    return {"uid": uid}


def _invalid_target(verb: str, what: str, message: str) -> ApiError:
    """Return the error of a request that is not sent."""
    own_meaning = Meaning.INVALID_TARGET
    return ApiError(verb, what, HTTPStatus.BAD_REQUEST, "InvalidTarget", message, own_meaning=own_meaning)
