"""Serves the engine's part of the Kubernetes API, verb by verb. The table of resources is in ``api_calls.py``.

Errors are Kubernetes' Status objects. Every path but ``/version`` needs a token.
"""

import asyncio
import base64
import binascii
import json
import logging
import secrets
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import web

from flargo.embedded import kubelet, messages, schema
from flargo.embedded.api_calls import (
    ACCESS_REVIEW_PATH,
    RESOURCES,
    VERSION,
    ApiCall,
    access_review,
    bad_request,
    body_object,
    delete_options,
    discovery,
    not_implemented,
    parse_call,
    parse_object,
    query_number,
    validate_delete_options,
)
from flargo.embedded.cluster import Cluster, error_summary
from flargo.embedded.log_stream import LogOptions, send_log
from flargo.embedded.model import Object
from flargo.embedded.pod_manifest import MAIN
from flargo.embedded.store import Change, RefusedError, Store, merge_patch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


_log = logging.getLogger(__name__)
_MAX_VERSION_DIGITS = 18
"""The longest resourceVersion in a continue token; it fits into 64 bits."""
_MERGE_PATCH = "application/merge-patch+json"
_TOKEN_SECRET = "kubernetes.io/service-account-token"  # noqa: S105  (a type's name)


@dataclass
class Routes:
    """The HTTP handlers of one engine."""

    cluster: Cluster
    bookmark: float
    """Seconds between two bookmarks of a watch."""
    tokens: set[str] = field(default_factory=lambda: {secrets.token_urlsafe(32)})
    """Tokens that are accepted: the administrator's, and those of service accounts."""

    def __post_init__(self) -> None:
        self._next_change = asyncio.Event()
        self._is_stopping = False
        self.store.listeners.append(self._on_change)
        self._verbs: dict[str, Callable[[ApiCall], Awaitable[web.StreamResponse]]] = {
            "create": self._create,
            "get": self._get,
            "list": self._list,
            "watch": self._watch,
            "patch": self._patch,
            "update": self._update,
            "delete": self._delete,
            "pods/log": self._log,
            "pods/eviction": self._evict,
            "serviceaccounts/token": self._token,
        }

    @property
    def store(self) -> Store:
        """The store with the cluster's objects."""
        return self.cluster.store

    def build_application(self) -> web.Application:
        """Return an aiohttp application that serves every path."""
        application = web.Application(client_max_size=16 * 2**20)
        application.router.add_route("*", r"/{path:[\s\S]*}", self._serve)
        return application

    def stop_watches(self) -> None:
        """End all watches and logs that are followed."""
        self._is_stopping = True
        self._next_change.set()

    def _on_change(self, _: Change) -> None:
        # Watches that wait now hold this event; later ones wait for the next event.
        self._next_change.set()
        self._next_change = asyncio.Event()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._dispatch(request)
        except ConnectionResetError:
            return web.Response()  # the client has disconnected
        except RefusedError as error:
            return web.json_response(error.status, status=int(error.code))
        except web.HTTPException as error:  # aiohttp raises it for a body that is too large
            return _failure_response(HTTPStatus(error.status), HTTPStatus(error.status).phrase)
        except Exception as error:  # noqa: BLE001  (every request gets an answer)
            _log.error("Request failed with an internal error (%s)", error_summary(error))
            return _failure_response(HTTPStatus.INTERNAL_SERVER_ERROR, "the request failed with an internal error")

    async def _dispatch(self, request: web.Request) -> web.StreamResponse:
        path = request.rel_url.raw_path
        if path == "/version":
            return web.json_response(VERSION)
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or token not in self.tokens:
            raise RefusedError(HTTPStatus.UNAUTHORIZED, "Unauthorized", "Unauthorized")
        if self.cluster.failure is not None:
            message = f"flargo.embedded has failed: {error_summary(self.cluster.failure)}"
            raise RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, "InternalError", message)
        document = discovery(path)
        if document is not None:
            return web.json_response(document)
        if request.method == "POST" and path == ACCESS_REVIEW_PATH:
            return _json_response(access_review(await request.read()), HTTPStatus.CREATED)
        call = await parse_call(request)
        return await self._verbs[f"{call.resource}/{call.subresource}" if call.subresource else call.verb](call)

    # --- verbs

    async def _create(self, call: ApiCall) -> web.StreamResponse:
        item = parse_object(call)
        self._admit(call, item)
        if call.resource == "secrets":
            item = self._with_secret_data(item)
        if call.resource == "resourcequotas":
            item["status"] = {"hard": (item.get("spec") or {}).get("hard") or {}, "used": {}}
        created = self.store.create(call.resource, call.namespace, item, dry_run=call.is_dry_run)
        return _json_response(created, HTTPStatus.CREATED)

    def _admit(self, call: ApiCall, item: Object) -> None:
        """Refuse an object that a policy or a quota denies; for a policy, Kubernetes' reason is Invalid."""
        self._apply_policies(call, item)
        if denial := self.cluster.quota_denial(call.resource, call.namespace):
            name = (item.get("metadata") or {}).get("name", "")
            message = messages.OBJECT_FORBIDDEN.format(_qualified_resource(call), name, denial)
            raise RefusedError(HTTPStatus.FORBIDDEN, "Forbidden", message)

    def _apply_policies(self, call: ApiCall, item: Object, operation: str = "CREATE") -> None:
        """Refuse an object that an admission policy denies; Kubernetes' reason is Invalid."""
        if denial := self.cluster.policy_denial(call.resource, item, operation):
            name = (item.get("metadata") or {}).get("name", "")
            message = messages.OBJECT_FORBIDDEN.format(_qualified_resource(call), name, denial)
            raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid", message)

    async def _get(self, call: ApiCall) -> web.StreamResponse:
        return _json_response(self.store.get(call.key))

    async def _list(self, call: ApiCall) -> web.StreamResponse:
        query = call.request.query
        items = [entry.item for entry in self.store.select(call.resource, call.namespace, call.selector)]
        version, after = str(self.store.version), ""
        if query.get("continue"):
            version, after = _parse_continue(query["continue"])
            self.store.changes_since(int(version), call.resource)  # 410 if it has expired
        items = [item for item in items if _sort_key(item) > after]
        limit = query_number(query, "limit", 0)
        meta: Object = {"resourceVersion": version}
        if limit and len(items) > limit:
            token = json.dumps([version, _sort_key(items[limit - 1])]).encode()
            meta |= {"continue": base64.urlsafe_b64encode(token).decode(), "remainingItemCount": len(items) - limit}
            items = items[:limit]
        resource = RESOURCES[call.resource]
        kind = {"kind": f"{resource.kind}List", "apiVersion": resource.group}
        return _json_response({**kind, "metadata": meta, "items": items})

    async def _patch(self, call: ApiCall) -> web.StreamResponse:
        if call.request.content_type != _MERGE_PATCH:
            raise not_implemented(f"patch as {call.request.content_type}")
        if not isinstance(call.body, dict):
            raise bad_request("the body of a merge patch must be an object")
        if self.cluster.policies:
            self._apply_policies(call, merge_patch(self.store.get(call.key), call.body), "UPDATE")
        return _json_response(self.store.merge(call.key, call.body, dry_run=call.is_dry_run))

    async def _update(self, call: ApiCall) -> web.StreamResponse:
        item = parse_object(call)
        if item.get("metadata", {}).get("name") != call.name:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "BadRequest", "the name of the object does not match the URL's")
        return _json_response(self.store.replace(call.key, self._with_secret_data(item), dry_run=call.is_dry_run))

    async def _delete(self, call: ApiCall) -> web.StreamResponse:
        options = delete_options(call)
        if call.resource == "workflows" and options.get("propagationPolicy") == "Orphan" and not call.is_dry_run:
            self.cluster.orphan(call.key)
        item = self.store.delete(call.key, options, dry_run=call.is_dry_run)
        if call.resource == "pods":
            return _json_response(item)
        details = {"name": call.name, "kind": call.resource, "uid": item["metadata"]["uid"]}
        success = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        return _json_response({**success, "details": details})

    async def _watch(self, call: ApiCall) -> web.StreamResponse:
        query, selector = call.request.query, call.selector
        loop = asyncio.get_running_loop()
        # The whole query is parsed before the response begins, because the request cannot be refused afterwards.
        end = loop.time() + query_number(query, "timeoutSeconds", 1800)
        since = query_number(query, "resourceVersion", 0)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(call.request)
        version = since or self.store.version
        existing = [] if since else self.store.select(call.resource, call.namespace, selector)
        events = [{"type": "ADDED", "object": entry.item} for entry in existing]
        bookmarks = query.get("allowWatchBookmarks") in {"1", "true"}
        bookmark_at = loop.time() + self.bookmark
        while True:
            next_change = self._next_change
            try:
                changes = self.store.changes_since(version, call.resource, call.namespace)
            except RefusedError as error:
                await _write_events(response, [{"type": "ERROR", "object": error.status}])
                return response
            version = self.store.version
            events += [event for change in changes if (event := change.event(selector))]
            is_over = self._is_stopping or loop.time() >= end
            if bookmarks and (is_over or loop.time() >= bookmark_at):
                events.append({"type": "BOOKMARK", "object": _bookmark(call, version)})
                bookmark_at = loop.time() + self.bookmark
            await _write_events(response, events)
            events = []
            if is_over:
                return response
            await _wait(next_change, min(end, bookmark_at) - loop.time())

    # --- subresources

    async def _log(self, call: ApiCall) -> web.StreamResponse:
        query = call.request.query
        pod = self.store.get(call.key)
        name = query.get("container") or MAIN
        if name not in {row["name"] for kind in ("containers", "initContainers") for row in pod["spec"][kind]}:
            raise bad_request(f"container {name} is not valid for pod {call.name}")
        state = kubelet.container_state(pod, name)
        if not {"running", "terminated"} & set(state):
            reason = (state.get("waiting") or {}).get("reason", "ContainerCreating")
            raise bad_request(messages.WAITING_TO_START.format(name, call.name, reason))
        options = LogOptions.from_query(query)
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(call.request)
        if name != MAIN:
            return response

        def has_ended() -> bool:
            entry = self.store.find(call.key)
            state = kubelet.container_state(entry.item, name) if entry else {}
            return self._is_stopping or "running" not in state

        await send_log(response, self.cluster.log_file(pod), options, has_ended, self.cluster.line_times)
        return response

    async def _evict(self, call: ApiCall) -> web.StreamResponse:
        self.cluster.evict(call.key, validate_delete_options(body_object(call).get("deleteOptions", {})))
        return _json_response({"kind": "Status", "apiVersion": "v1", "status": "Success"}, HTTPStatus.CREATED)

    async def _token(self, call: ApiCall) -> web.StreamResponse:
        if call.name not in self.cluster.settings.accounts:
            self.store.get(call.key)
        review = body_object(call)
        token = secrets.token_urlsafe(32)
        self.tokens.add(token)
        return _json_response({**review, "status": {"token": token}}, HTTPStatus.CREATED)

    def _with_secret_data(self, item: Object) -> Object:
        """Return a Secret as it is stored: stringData is moved into data, and a token is added to a token Secret."""
        plain = item.pop("stringData", None) or {}
        if item.get("type") == _TOKEN_SECRET:
            plain = {"token": secrets.token_urlsafe(32), **plain}
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in plain.items()}
        return {**item, "data": {**(item.get("data") or {}), **encoded}} if encoded else item


def _failure_response(code: HTTPStatus, message: str) -> web.Response:
    error = RefusedError(code, code.phrase.replace(" ", ""), message)
    return web.json_response(error.status, status=int(code))


def _qualified_resource(call: ApiCall) -> str:
    """Return a resource with its API group, as messages name it."""
    group = RESOURCES[call.resource].group.rpartition("/")[0]
    return f"{call.resource}.{group}" if group else call.resource


def _parse_continue(token: str) -> tuple[str, str]:
    """Parse a continue token: the version of the list's first page, and the last object of the previous page."""
    try:
        version, after = schema.decode_json(base64.urlsafe_b64decode(token))
        if isinstance(after, str) and version.isascii() and version.isdigit() and len(version) <= _MAX_VERSION_DIGITS:
            return version, after
    except (binascii.Error, ValueError, TypeError, AttributeError):
        pass
    raise bad_request("continue key is not valid")


def _sort_key(item: Object) -> str:
    return f"{item['metadata']['namespace']}/{item['metadata']['name']}"


def _bookmark(call: ApiCall, version: int) -> Object:
    resource = RESOURCES[call.resource]
    return {"kind": resource.kind, "apiVersion": resource.group, "metadata": {"resourceVersion": str(version)}}


def _json_response(item: Object, code: HTTPStatus = HTTPStatus.OK) -> web.Response:
    return web.json_response(item, status=int(code))


async def _write_events(response: web.StreamResponse, events: list[Object]) -> None:
    if events:
        await response.write(b"".join(json.dumps(event).encode() + b"\n" for event in events))


async def _wait(next_change: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(next_change.wait(), max(seconds, 0.0))
    except TimeoutError:
        return
