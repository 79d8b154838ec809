"""What is asked: the table of resources and verbs, and requests in Kubernetes' words. What is not in it answers 501."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import unquote

from aiohttp import web

from flargo.embedded import schema
from flargo.embedded.model import Object
from flargo.embedded.store import Key, RefusedError, Selector, check


class Resource(NamedTuple):
    """One row of the table."""

    group: str
    kind: str
    verbs: frozenset[str]


_ALL = frozenset({"create", "get", "list", "watch", "patch", "update", "delete"})
RESOURCES = {
    "workflows": Resource("argoproj.io/v1alpha1", "Workflow", _ALL),
    "pods": Resource("v1", "Pod", frozenset({"get", "list", "watch", "delete"})),
    "secrets": Resource("v1", "Secret", _ALL),
    "events": Resource("v1", "Event", frozenset({"get", "list", "watch"})),
    "serviceaccounts": Resource("v1", "ServiceAccount", frozenset({"create", "get", "list", "delete"})),
    "resourcequotas": Resource("v1", "ResourceQuota", frozenset({"create", "get", "list", "delete"})),
}
SUBRESOURCES = {("pods", "log"): "get", ("pods", "eviction"): "create", ("serviceaccounts", "token"): "create"}
_METHODS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
ACCESS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
VERSION = {"major": "1", "minor": "34", "gitVersion": "v1.34.4-flargo.embedded", "platform": "python"}


@dataclass(frozen=True, slots=True)
class Call:
    """A request in Kubernetes' words."""

    request: web.Request
    verb: str
    resource: str
    namespace: str
    name: str
    sub: str
    body: Any

    @property
    def key(self) -> Key:
        """The object that it is about."""
        return Key(self.resource, self.namespace, self.name)

    @property
    def dry(self) -> bool:
        """Whether nothing is to be stored."""
        of_body = options(self).get("dryRun") if self.verb == "delete" else None
        return "All" in self.request.query.getall("dryRun", []) or "All" in (of_body or [])

    @property
    def selector(self) -> Selector:
        """What is selected."""
        return Selector(self.request.query.get("labelSelector", ""), self.request.query.get("fieldSelector", ""))


def discovery(path: str) -> Object | None:
    """What clients ask for to find out what is served."""
    group, _, version = "argoproj.io/v1alpha1".partition("/")
    of_group = {"groupVersion": f"{group}/{version}", "version": version}
    match path.rstrip("/"):
        case "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        case "/apis":
            row = {"name": group, "versions": [of_group], "preferredVersion": of_group}
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [row]}
        case "/api/v1":
            return _resource_list("v1")
        case "/apis/argoproj.io/v1alpha1":
            return _resource_list(f"{group}/{version}")
    return None


def _resource_list(group: str) -> Object:
    rows = [
        {
            "name": name,
            "singularName": resource.kind.lower(),
            "namespaced": True,
            "kind": resource.kind,
            "verbs": sorted(resource.verbs),
        }
        for name, resource in RESOURCES.items()
        if resource.group == group
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": rows}


async def parsed(request: web.Request) -> Call:
    """What a request asks for.

    The path is taken apart before it is decoded, so an encoded slash in a name makes no part of its own.

    Raises:
        RefusedError: 501, where it is not in the table; 400, where a part of the path cannot be a name.
    """
    path = request.rel_url.raw_path
    head, _, tail_ = path.strip("/").partition("/namespaces/")
    if tail_:
        namespace, resource, name, sub, *rest = [*map(_decoded, tail_.split("/")), "", "", "", ""][:5]
    else:
        head, _, resource = head.rpartition("/")
        namespace, name, sub, rest = "", "", "", [""]
    row = RESOURCES.get(resource)
    verb = _METHODS.get(request.method) or ("get" if name else "list")
    if verb == "list" and request.query.get("watch") in {"1", "true"}:
        verb = "watch"
    served = SUBRESOURCES.get((resource, sub)) == verb if sub else row is not None and verb in row.verbs
    collection = not name if verb in {"patch", "update", "delete"} else verb == "create" and bool(name) and not sub
    served = served and request.method in {*_METHODS, "GET"}
    head_wanted = "" if row is None else f"api/{row.group}" if row.group == "v1" else f"apis/{row.group}"
    if not served or collection or any(rest) or head != head_wanted or (verb == "create" and not namespace):
        raise unserved(f"{request.method} {path}")
    return Call(request, verb, resource, namespace, name, sub, await _body(request))


def _decoded(segment: str) -> str:
    """A part of a URL's path."""
    try:
        name = unquote(segment, errors="strict")
        why = schema.problem_of_segment(name)
    except UnicodeDecodeError:
        name, why = "", "may contain UTF-8 only"
    if why:
        raise bad_request(f'Name parameter invalid: "{name}": {why}')
    return name


async def _body(request: web.Request) -> Any:
    raw = await request.read()
    if raw and "Content-Type" in request.headers and "json" not in request.content_type:
        words_of = f"the body is {request.content_type}; only JSON is served"
        raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", words_of)
    try:
        return schema.decoded(raw) if raw else None
    except ValueError as error:
        raise bad_request(f"the body of the request: {error}") from None


def access(review: bytes) -> Object:
    """Whether who asks may touch a resource: there are no roles, so it is whether it is served.

    argo asks before anything else, in protobuf, where a string is its length and its bytes.
    """
    names = (name.encode() for name in RESOURCES)
    allowed = any(bytes([len(name)]) + name in review or b'"%s"' % name in review for name in names)
    kind = {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1"}
    return {**kind, "spec": {}, "status": {"allowed": allowed}}


def unserved(what: str) -> RefusedError:
    """Refuse with 501, loudly."""
    return RefusedError(HTTPStatus.NOT_IMPLEMENTED, "NotImplemented", f"flargo.embedded does not serve: {what}")


def bad_request(message: str) -> RefusedError:
    """Refuse with 400."""
    return RefusedError(HTTPStatus.BAD_REQUEST, "BadRequest", message)


def number(query: Mapping[str, str], name: str, default: int) -> int:
    """A whole number, not negative, of a query.

    Raises:
        RefusedError: 400, it is something else.
    """
    value = query.get(name) or ""
    if value and not re.fullmatch("[0-9]{1,18}", value):
        raise bad_request(f"{name}: Invalid value: must be a whole number greater than or equal to 0")
    return int(value) if value else default


def typed(call: Call) -> Object:
    """The object of a request, which has to be of the kind and in the namespace that the path names.

    Raises:
        RefusedError: it is not, or has not the shape of its kind.
    """
    item, resource = body_object(call), RESOURCES[call.resource]
    for name, wanted in (("kind", resource.kind), ("apiVersion", resource.group)):
        if item.get(name, wanted) != wanted:
            raise bad_request(f"{name} of the object in the body is not {wanted!r}")
    check(call.resource, item)
    namespace = (item.get("metadata") or {}).get("namespace")
    if namespace not in {None, "", call.namespace}:
        message = f"the namespace of the provided object does not match the namespace sent on the request: {namespace}"
        raise bad_request(message)
    return {"apiVersion": resource.group, "kind": resource.kind, **item}


def options(call: Call) -> Object:
    """DeleteOptions: those of the body, or, where it has none, of the query.

    Raises:
        RefusedError: 400, they are something else.
    """
    if call.body is None or call.body == {}:
        grace = number(call.request.query, "gracePeriodSeconds", -1)
        return {} if grace < 0 else {"gracePeriodSeconds": grace}
    return checked_options(call.body)


def checked_options(value: Any) -> Object:
    """DeleteOptions.

    Raises:
        RefusedError: 400, they are something else.
    """
    if found := schema.problem_of_options(value):
        raise bad_request(f"DeleteOptions: {found}")
    return as_object(value)


def body_object(call: Call) -> Object:
    """The body, which has to be a JSON object.

    Raises:
        RefusedError: 400, it is not.
    """
    if not isinstance(call.body, dict):
        raise bad_request(f"the body of the request must be an object of kind {RESOURCES[call.resource].kind}")
    body: Object = schema.cleaned(call.body)
    return body


def as_object(value: Any) -> Object:
    """A JSON object, or an empty one in the place of anything else."""
    return value if isinstance(value, dict) else {}
