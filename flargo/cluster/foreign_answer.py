"""Tells an answer of the API server from one of something else at its address, and describes the latter. Pure.

A login page, a captive portal, a web firewall, a gateway whose backend is down, or another service may answer there,
with any status and any body. What the API server itself sends is known for each path: an object or a list of the path's
own version and kind, a Status for an error. Nothing may be concluded from any other answer.

A description has the server, the status and the content type, and never a part of the body or of a URL's path or query:
a login page holds tokens.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

from flargo.cluster.errors import ApiError, status_text
from flargo.cluster.http_request import JSON_CONTENT_TYPE, Request
from flargo.cluster.meaning import Meaning
from flargo.cluster.target import Target

_LOG_CONTENT_TYPE = "text/plain"
"""The content type of every log (kubernetes, pkg/registry/core/pod/rest/log.go)."""
_METADATA_VERSION, _METADATA_KIND = "meta.k8s.io/v1", "PartialObjectMetadata"
_EVENT_TYPES = frozenset({"ADDED", "MODIFIED", "DELETED", "BOOKMARK"})
_PLAIN_PAGES: Final[Mapping[tuple[int, bytes], Meaning]] = {
    (404, b"404 page not found"): Meaning.NOT_SERVED,
    (429, b"Too many requests, please try again later"): Meaning.TOO_MANY_REQUESTS,
    (429, b"The apiserver is shutting down, please try again later"): Meaning.TOO_MANY_REQUESTS,
    (429, b"The apiserver hasn't been fully initialized, please try again later"): Meaning.TOO_MANY_REQUESTS,
}
"""The errors that the API server sends as plain text (k8s.io/apiserver: pkg/server/mux, pkg/server/filters), without a
full stop at the end, which some versions add."""
_MEDIA_TYPE = re.compile(r"[a-z0-9.+-]{1,40}/[a-z0-9.+-]{1,60}")
_HOST = re.compile(r"[a-z0-9.:\[\]-]{1,253}")
_CAUSES = (
    "a login page, a gateway or another service may answer in its place; check the kubeconfig's server, the proxy and "
    "the network"
)
_NOT_SERVED = (
    "nothing is served at this path; a gateway in front of the API server may have answered, or an API is missing "
    "(is Argo Workflows installed?)"
)


@dataclass(frozen=True, slots=True)
class Head:
    """What may be shown of a response."""

    server: str
    """The server's URL."""
    status: int
    content_type: str = ""
    location: str = ""
    """Where a redirect leads; only its host is shown."""

    @property
    def media_type(self) -> str:
        """The content type without its parameters, in lower case."""
        return self.content_type.partition(";")[0].strip().lower()


def is_status(content: Any) -> bool:
    """Return whether content is the object with which the API server tells an error, or a success without an object."""
    return isinstance(content, dict) and content.get("kind") == "Status"


def with_kind(status: int, content: Any) -> Any:
    """Return the content of an error, with the kind that it lacks if the API server has not answered in time.

    Its timeout filter sends a Status without one (k8s.io/apiserver: pkg/server/filters/timeout.go).
    """
    marks = ("status", "reason", "code")
    is_timeout = status == HTTPStatus.GATEWAY_TIMEOUT and isinstance(content, dict) and "kind" not in content
    if is_timeout and tuple(map(content.get, marks)) == ("Failure", "Timeout", status):
        return {**content, "kind": "Status"}
    return content


def is_answer(request: Request, content: Any) -> bool:
    """Return whether the content of a successful response answers a request as the API server does."""
    target = request.target
    if not isinstance(content, dict):
        return False
    if not target.plural:
        # API discovery, or the server's version.
        return content.get("groupVersion") == target.api_version if target.api_version else _is_version(content)
    if request.method == "GET" and target.is_collection:
        items = content.get("items")
        is_list = "items" in content and (items is None or isinstance(items, list))
        return is_list and _has_kind(content, target, suffix="List")
    is_success = is_status(content) and content.get("status") == "Success"
    if target.subresource == "eviction":
        return is_success
    if request.method == "DELETE":
        return is_success or _has_kind(content, target)
    is_metadata = (content.get("apiVersion"), content.get("kind")) == (_METADATA_VERSION, _METADATA_KIND)
    return _has_kind(content, target) or (is_metadata and request.accept != JSON_CONTENT_TYPE)


def is_event(request: Request, content: Any) -> bool:
    """Return whether a line of a watch is an event of it, or its error."""
    item = content.get("object") if isinstance(content, dict) else None
    if not isinstance(item, dict):
        return False
    return is_status(item) if content.get("type") == "ERROR" else _is_change(content, item, request.target)


def is_stream(request: Request, head: Head, content_length: str) -> bool:
    """Return whether the headers of a response are those of a log or a watch. An idle watch has no body for long."""
    if request.target.subresource == "log":
        return head.media_type == _LOG_CONTENT_TYPE
    return head.media_type == JSON_CONTENT_TYPE and content_length != "0"


def foreign_error(request: Request, head: Head, body: bytes = b"", retry_after: float | None = None) -> ApiError:
    """Return the error for a response that is no answer of the API server.

    Args:
        request: the request that was answered.
        head: what may be shown of the response.
        body: the body, or its beginning; it is not part of the error.
        retry_after: the seconds of a Retry-After header, if there was one.
    """
    pages = _PLAIN_PAGES if head.media_type == "text/plain" else {}
    meaning = pages.get((head.status, body.strip().rstrip(b".")), Meaning.AWAY)
    answer = ", ".join(filter(None, (status_text(head.status, ""), _shown_type(head.media_type), _shown_host(head))))
    if meaning is Meaning.NOT_SERVED:
        message = f"{head.server} answers {answer}: {_NOT_SERVED}"
    elif meaning is Meaning.TOO_MANY_REQUESTS:
        message = "the API server has too much to do, or is starting or shutting down"
    else:
        message = f"{head.server} does not answer as Kubernetes does ({answer}): {_hint(head)}{_CAUSES}"
    return ApiError(request.verb, request.what, head.status, "", message, retry_after, meaning)


def _hint(head: Head) -> str:
    # How a server of https answers http (Go's net/http).
    if head.server.startswith("http:") and head.status == HTTPStatus.BAD_REQUEST:
        return "it may expect https; "
    is_login = head.status == HTTPStatus.UNAUTHORIZED
    return "the credentials may have expired at a proxy such as Rancher: log in again; " if is_login else ""


def _shown_type(media_type: str) -> str:
    if not media_type:
        return "no content type"
    return media_type if _MEDIA_TYPE.fullmatch(media_type) else "an invalid content type"


def _shown_host(head: Head) -> str:
    """Return where a redirect leads, without the path and the query, which may hold a token."""
    if not HTTPStatus.MULTIPLE_CHOICES <= head.status < HTTPStatus.BAD_REQUEST:
        return ""
    try:
        host = (urlsplit(head.location).netloc.rpartition("@")[2]).lower()
    except ValueError:
        host = ""
    return f"a redirect to {host}" if _HOST.fullmatch(host) else "a redirect"


def _is_version(content: dict[str, Any]) -> bool:
    return isinstance(content.get("gitVersion"), str)


def _is_change(event: dict[str, Any], item: dict[str, Any], target: Target) -> bool:
    return event.get("type") in _EVENT_TYPES and _has_kind(item, target) and isinstance(item.get("metadata"), dict)


def _has_kind(content: dict[str, Any], target: Target, suffix: str = "") -> bool:
    """Return whether an object is of the version and kind of a path: a Pod, of ``v1``, at ``pods``."""
    kind = content.get("kind")
    if content.get("apiVersion") != target.api_version or not isinstance(kind, str) or not kind.endswith(suffix):
        return False
    singular = kind.removesuffix(suffix).lower()
    return target.plural in {f"{singular}s", f"{singular}es", f"{singular[:-1]}ies"}
