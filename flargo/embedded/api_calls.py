"""Parses HTTP requests into API calls: resource, verb, name and body.

The table ``RESOURCES`` says what the engine serves; anything else is refused with 501.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import unquote

from aiohttp import web

from flargo.embedded import schema
from flargo.embedded.model import Object
from flargo.embedded.store import Key, RefusedError, Selector, validate


class Resource(NamedTuple):
    """A resource that the engine serves."""

    group: str
    """API group and version, as in ``apiVersion``."""
    kind: str
    verbs: frozenset[str]


_ALL_VERBS = frozenset({"create", "get", "list", "watch", "patch", "update", "delete"})
RESOURCES = {
    "workflows": Resource("argoproj.io/v1alpha1", "Workflow", _ALL_VERBS),
    "pods": Resource("v1", "Pod", frozenset({"get", "list", "watch", "delete"})),
    "secrets": Resource("v1", "Secret", _ALL_VERBS),
    "events": Resource("v1", "Event", frozenset({"create", "get", "list", "watch"})),
    "configmaps": Resource("v1", "ConfigMap", frozenset({"create", "get", "list", "delete"})),
    "serviceaccounts": Resource("v1", "ServiceAccount", frozenset({"create", "get", "list", "delete"})),
    "leases": Resource("coordination.k8s.io/v1", "Lease", _ALL_VERBS),
    "resourcequotas": Resource("v1", "ResourceQuota", frozenset({"create", "get", "list", "delete"})),
}
_GROUPS = ("argoproj.io/v1alpha1", "coordination.k8s.io/v1")
SUBRESOURCES = {("pods", "log"): "get", ("pods", "eviction"): "create", ("serviceaccounts", "token"): "create"}
_METHODS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
ACCESS_REVIEW_PATH = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
VERSION = {"major": "1", "minor": "34", "gitVersion": "v1.34.4-flargo.embedded", "platform": "python"}


@dataclass(frozen=True, slots=True)
class ApiCall:
    """A request for a resource, in Kubernetes' terms."""

    request: web.Request
    verb: str
    resource: str
    namespace: str
    name: str
    subresource: str
    body: Any

    @property
    def key(self) -> Key:
        """The object that the call names."""
        return Key(self.resource, self.namespace, self.name)

    @property
    def is_dry_run(self) -> bool:
        """True if nothing is to be stored."""
        body_option = delete_options(self).get("dryRun") if self.verb == "delete" else None
        return "All" in self.request.query.getall("dryRun", []) or "All" in (body_option or [])

    @property
    def selector(self) -> Selector:
        """The label and field selectors of the query."""
        return Selector(self.request.query.get("labelSelector", ""), self.request.query.get("fieldSelector", ""))


def discovery(path: str) -> Object | None:
    """Return the discovery document at a path, which lists what the engine serves; None if there is none."""
    match path.rstrip("/"):
        case "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        case "/apis":
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_api_group(each) for each in _GROUPS]}
        case "/api/v1":
            return _resource_list("v1")
        case group_path if (group_version := group_path.removeprefix("/apis/")) in _GROUPS:
            return _resource_list(group_version)
    return None


def _api_group(group_version: str) -> Object:
    group, _, version = group_version.partition("/")
    row = {"groupVersion": group_version, "version": version}
    return {"name": group, "versions": [row], "preferredVersion": row}


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


async def parse_call(request: web.Request) -> ApiCall:
    """Parse a request.

    The path is split before it is decoded, so that an encoded slash in a name does not begin another path segment.

    Raises:
        RefusedError: 501 if the table does not have the request; 400 if a path segment cannot be a name.
    """
    path = request.rel_url.raw_path
    head, _, tail = path.strip("/").partition("/namespaces/")
    if tail:
        segments = map(_decode_segment, tail.split("/"))
        namespace, resource, name, subresource, *rest = [*segments, "", "", "", ""][:5]
    else:
        head, _, resource = head.rpartition("/")
        namespace, name, subresource, rest = "", "", "", [""]
    row = RESOURCES.get(resource)
    verb = _METHODS.get(request.method) or ("get" if name else "list")
    if verb == "list" and request.query.get("watch") in {"1", "true"}:
        verb = "watch"
    if subresource:
        is_in_table = SUBRESOURCES.get((resource, subresource)) == verb
    else:
        is_in_table = row is not None and verb in row.verbs
    is_in_table = is_in_table and request.method in {*_METHODS, "GET"}
    if verb in {"patch", "update", "delete"}:
        has_wrong_path = not name
    else:
        has_wrong_path = verb == "create" and bool(name) and not subresource
    expected_head = "" if row is None else f"api/{row.group}" if row.group == "v1" else f"apis/{row.group}"
    lacks_namespace = verb == "create" and not namespace
    if not is_in_table or has_wrong_path or any(rest) or head != expected_head or lacks_namespace:
        raise not_implemented(f"{request.method} {path}")
    return ApiCall(request, verb, resource, namespace, name, subresource, await _parse_body(request))


def _decode_segment(segment: str) -> str:
    try:
        name = unquote(segment, errors="strict")
        problem = schema.path_segment_problem(name)
    except UnicodeDecodeError:
        name, problem = "", "may contain UTF-8 only"
    if problem:
        raise bad_request(f'Name parameter invalid: "{name}": {problem}')
    return name


async def _parse_body(request: web.Request) -> Any:
    raw = await request.read()
    if raw and "Content-Type" in request.headers and "json" not in request.content_type:
        message = f"the body is {request.content_type}; only JSON is served"
        raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    try:
        return schema.decode_json(raw) if raw else None
    except ValueError as error:
        raise bad_request(f"the body of the request: {error}") from None


def access_review(body: bytes) -> Object:
    """Answer a SelfSubjectAccessReview: access to every resource in the table is allowed, because there are no roles.

    The argo command sends one before anything else, in protobuf, where a string is its length and its bytes.
    """
    names = (name.encode() for name in RESOURCES)
    is_allowed = any(bytes([len(name)]) + name in body or b'"%s"' % name in body for name in names)
    kind = {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1"}
    return {**kind, "spec": {}, "status": {"allowed": is_allowed}}


def not_implemented(request: str) -> RefusedError:
    """Return the error for a request that the engine does not serve (501)."""
    return RefusedError(HTTPStatus.NOT_IMPLEMENTED, "NotImplemented", f"flargo.embedded does not serve: {request}")


def bad_request(message: str) -> RefusedError:
    """Return the error for a request with invalid content (400)."""
    return RefusedError(HTTPStatus.BAD_REQUEST, "BadRequest", message)


def query_number(query: Mapping[str, str], name: str, default: int) -> int:
    """Parse a parameter of a query that is a whole number and not negative.

    Raises:
        RefusedError: 400, the value is something else.
    """
    value = query.get(name) or ""
    if value and not re.fullmatch("[0-9]{1,18}", value):
        raise bad_request(f"{name}: Invalid value: must be a whole number greater than or equal to 0")
    return int(value) if value else default


def parse_object(call: ApiCall) -> Object:
    """Return the object in the body of a call.

    Raises:
        RefusedError: its kind or namespace is not that of the path, or it does not have the shape of its kind.
    """
    item, resource = body_object(call), RESOURCES[call.resource]
    for name, value in (("kind", resource.kind), ("apiVersion", resource.group)):
        if item.get(name, value) != value:
            raise bad_request(f"{name} of the object in the body is not {value!r}")
    validate(call.resource, item)
    namespace = (item.get("metadata") or {}).get("namespace")
    if namespace not in {None, "", call.namespace}:
        message = f"the namespace of the provided object does not match the namespace sent on the request: {namespace}"
        raise bad_request(message)
    return {"apiVersion": resource.group, "kind": resource.kind, **item}


def delete_options(call: ApiCall) -> Object:
    """Return the DeleteOptions of the body, or those of the query if there is no body.

    Raises:
        RefusedError: 400, they are invalid.
    """
    if call.body is None or call.body == {}:
        grace = query_number(call.request.query, "gracePeriodSeconds", -1)
        return {} if grace < 0 else {"gracePeriodSeconds": grace}
    return validate_delete_options(call.body)


def validate_delete_options(value: Any) -> Object:
    """Check that a value is a DeleteOptions object, and return it.

    Raises:
        RefusedError: 400, the value is not valid.
    """
    if problem := schema.delete_options_problem(value):
        raise bad_request(f"DeleteOptions: {problem}")
    return value if isinstance(value, dict) else {}


def body_object(call: ApiCall) -> Object:
    """Return the body of a call, without null entries.

    Raises:
        RefusedError: 400, the body is not a JSON object.
    """
    if not isinstance(call.body, dict):
        raise bad_request(f"the body of the request must be an object of kind {RESOURCES[call.resource].kind}")
    body: Object = schema.without_nulls(call.body)
    return body
