"""The slice of the Kubernetes API that is served, verb by verb (the table is in ``calls.py``).

Errors are Kubernetes' Status objects. Everything but ``/version`` asks for a token.
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
    ACCESS,
    RESOURCES,
    VERSION,
    Call,
    access,
    bad_request,
    body_object,
    checked_options,
    discovery,
    number,
    options,
    parsed,
    typed,
    unserved,
)
from flargo.embedded.cluster import Cluster, cause
from flargo.embedded.log_stream import Part, tail
from flargo.embedded.model import Object
from flargo.embedded.pod_manifest import MAIN
from flargo.embedded.store import Change, RefusedError, Store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


_log = logging.getLogger(__name__)
_VERSION_LENGTH = 19
"""Digits of a resourceVersion, and one more."""
_MERGE = "application/merge-patch+json"
_TOKEN_SECRET = "kubernetes.io/service-account-token"  # noqa: S105  (a type's name)


@dataclass
class Routes:
    """The application's handlers. ``tokens`` are those that may come in."""

    cluster: Cluster
    bookmark: float
    tokens: set[str] = field(default_factory=lambda: {secrets.token_urlsafe(32)})

    def __post_init__(self) -> None:
        self._news = asyncio.Event()
        self._ending = False
        self.store.listeners.append(self._heard)
        self._verbs: dict[str, Callable[[Call], Awaitable[web.StreamResponse]]] = {
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
        """The cluster's objects."""
        return self.cluster.store

    def application(self) -> web.Application:
        """The aiohttp application."""
        made = web.Application(client_max_size=16 * 2**20)
        made.router.add_route("*", r"/{path:[\s\S]*}", self._serve)
        return made

    def end(self) -> None:
        """End all watches."""
        self._ending = True
        self._news.set()

    def _heard(self, _: Change) -> None:
        # Whoever waits has this very event; who comes later waits for the next.
        self._news.set()
        self._news = asyncio.Event()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except ConnectionResetError:
            return web.Response()  # who asked has gone
        except RefusedError as refusal:
            return web.json_response(refusal.status, status=int(refusal.code))
        except web.HTTPException as error:  # of aiohttp's own, for a body that is too large
            return _failed(HTTPStatus(error.status), HTTPStatus(error.status).phrase)
        except Exception as error:  # noqa: BLE001  (whatever a client sends, it is answered)
            _log.error("a request could not be answered: %s", cause(error))
            return _failed(HTTPStatus.INTERNAL_SERVER_ERROR, "the request could not be answered")

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.rel_url.raw_path
        if path == "/version":
            return web.json_response(VERSION)
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or token not in self.tokens:
            raise RefusedError(HTTPStatus.UNAUTHORIZED, "Unauthorized", "Unauthorized")
        if self.cluster.problem is not None:
            words_of = f"flargo.embedded has failed: {cause(self.cluster.problem)}"
            raise RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, "InternalError", words_of)
        found = discovery(path)
        if found is not None:
            return web.json_response(found)
        if request.method == "POST" and path == ACCESS:
            return _answer(access(await request.read()), HTTPStatus.CREATED)
        call = await parsed(request)
        return await self._verbs[f"{call.resource}/{call.sub}" if call.sub else call.verb](call)

    # --- verbs

    async def _create(self, call: Call) -> web.StreamResponse:
        item = typed(call)
        self._admit(call, item)
        if call.resource == "secrets":
            item = self._filled(item)
        if call.resource == "resourcequotas":
            item["status"] = {"hard": (item.get("spec") or {}).get("hard") or {}, "used": {}}
        return _answer(self.store.create(call.resource, call.namespace, item, dry=call.dry), HTTPStatus.CREATED)

    def _admit(self, call: Call, item: Object) -> None:
        """Refuse what a policy (which says Invalid) or a quota has something against."""
        group = RESOURCES[call.resource].group.rpartition("/")[0]
        named = f"{call.resource}.{group}" if group else call.resource
        name = (item.get("metadata") or {}).get("name", "")
        if why := self.cluster.denial(call.resource, item):
            said = messages.OBJECT_FORBIDDEN.format(named, name, why)
            raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid", said)
        if why := self.cluster.over_quota(call.resource, call.namespace):
            raise RefusedError(HTTPStatus.FORBIDDEN, "Forbidden", messages.OBJECT_FORBIDDEN.format(named, name, why))

    async def _get(self, call: Call) -> web.StreamResponse:
        return _answer(self.store.get(call.key))

    async def _list(self, call: Call) -> web.StreamResponse:
        query = call.request.query
        seen = self.store.select(call.resource, call.namespace, call.selector)
        items = [row.item for row in seen]
        version, after = str(self.store.version), ""
        if query.get("continue"):
            version, after = _continued(query["continue"])
            self.store.since(int(version), call.resource)
        items = [item for item in items if _place(item) > after]
        limit = number(query, "limit", 0)
        meta: Object = {"resourceVersion": version}
        if limit and len(items) > limit:
            rest = json.dumps([version, _place(items[limit - 1])]).encode()
            meta |= {"continue": base64.urlsafe_b64encode(rest).decode(), "remainingItemCount": len(items) - limit}
            items = items[:limit]
        resource = RESOURCES[call.resource]
        return _answer({"kind": f"{resource.kind}List", "apiVersion": resource.group, "metadata": meta, "items": items})

    async def _patch(self, call: Call) -> web.StreamResponse:
        if call.request.content_type != _MERGE:
            raise unserved(f"patch as {call.request.content_type}")
        if not isinstance(call.body, dict):
            raise bad_request("the body of a merge patch must be an object")
        return _answer(self.store.merge(call.key, call.body, dry=call.dry))

    async def _update(self, call: Call) -> web.StreamResponse:
        item = typed(call)
        if item.get("metadata", {}).get("name") != call.name:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "BadRequest", "the name of the object does not match the URL's")
        return _answer(self.store.replace(call.key, self._filled(item), dry=call.dry))

    async def _delete(self, call: Call) -> web.StreamResponse:
        said = options(call)
        if call.resource == "workflows" and said.get("propagationPolicy") == "Orphan":
            raise unserved("deletion that orphans")
        item = self.store.delete(call.key, said, dry=call.dry)
        if call.resource == "pods":
            return _answer(item)
        details = {"name": call.name, "kind": call.resource, "uid": item["metadata"]["uid"]}
        return _answer({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})

    async def _watch(self, call: Call) -> web.StreamResponse:
        query, selects = call.request.query, call.selector
        loop = asyncio.get_running_loop()
        # All of the query before the answer begins: it cannot be refused afterwards.
        end = loop.time() + number(query, "timeoutSeconds", 1800)
        since = number(query, "resourceVersion", 0)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(call.request)
        version = since or self.store.version
        first = [] if since else self.store.select(call.resource, call.namespace, selects)
        lines = [{"type": "ADDED", "object": seen.item} for seen in first]
        bookmarks = query.get("allowWatchBookmarks") in {"1", "true"}
        bookmark_at = loop.time() + self.bookmark
        while True:
            news = self._news
            try:
                changes = self.store.since(version, call.resource, call.namespace)
            except RefusedError as gone:
                await _write(response, [{"type": "ERROR", "object": gone.status}])
                return response
            version = self.store.version
            lines += [event for change in changes if (event := change.event(selects))]
            over = self._ending or loop.time() >= end
            if bookmarks and (over or loop.time() >= bookmark_at):
                lines.append({"type": "BOOKMARK", "object": _bookmark(call, version)})
                bookmark_at = loop.time() + self.bookmark
            await _write(response, lines)
            lines = []
            if over:
                return response
            await _wait(news, min(end, bookmark_at) - loop.time())

    # --- subresources

    async def _log(self, call: Call) -> web.StreamResponse:
        query = call.request.query
        pod = self.store.get(call.key)
        name = query.get("container") or MAIN
        if name not in {row["name"] for kind in ("containers", "initContainers") for row in pod["spec"][kind]}:
            words_of = f"container {name} is not valid for pod {call.name}"
            raise RefusedError(HTTPStatus.BAD_REQUEST, "BadRequest", words_of)
        state = kubelet.state(pod, name)
        if not {"running", "terminated"} & set(state):
            why = (state.get("waiting") or {}).get("reason", "ContainerCreating")
            said = messages.WAITING_TO_START.format(name, call.name, why)
            raise RefusedError(HTTPStatus.BAD_REQUEST, "BadRequest", said)
        part = Part.of(query)
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(call.request)
        if name != MAIN:
            return response

        def ended() -> bool:
            seen = self.store.seen(call.key)
            now = kubelet.state(seen.item, name) if seen else {}
            return self._ending or "running" not in now

        await tail(response, self.cluster.log(pod), part, ended, self.cluster.times)
        return response

    async def _evict(self, call: Call) -> web.StreamResponse:
        self.cluster.evict(call.key, checked_options(body_object(call).get("deleteOptions", {})))
        return _answer({"kind": "Status", "apiVersion": "v1", "status": "Success"}, HTTPStatus.CREATED)

    async def _token(self, call: Call) -> web.StreamResponse:
        if call.name not in self.cluster.settings.accounts:
            self.store.get(call.key)
        review = body_object(call)
        made = secrets.token_urlsafe(32)
        self.tokens.add(made)
        return _answer({**review, "status": {"token": made}}, HTTPStatus.CREATED)

    def _filled(self, item: Object) -> Object:
        """A Secret as it is stored: with stringData in data, and an account's token where it is to hold one."""
        plain = item.pop("stringData", None) or {}
        if item.get("type") == _TOKEN_SECRET:
            plain = {"token": secrets.token_urlsafe(32), **plain}
        coded = {key: base64.b64encode(value.encode()).decode() for key, value in plain.items()}
        return {**item, "data": {**(item.get("data") or {}), **coded}} if coded else item


def _failed(code: HTTPStatus, message: str) -> web.Response:
    refusal = RefusedError(code, code.phrase.replace(" ", ""), message)
    return web.json_response(refusal.status, status=int(code))


def _continued(token: str) -> tuple[str, str]:
    """The version of a list's first page, and the last object of the page before."""
    try:
        version, after = schema.decoded(base64.urlsafe_b64decode(token))
        if isinstance(after, str) and version.isascii() and version.isdigit() and len(version) < _VERSION_LENGTH:
            return version, after
    except (binascii.Error, ValueError, TypeError, AttributeError):
        pass
    raise bad_request("continue key is not valid")


def _place(item: Object) -> str:
    return f"{item['metadata']['namespace']}/{item['metadata']['name']}"


def _bookmark(call: Call, version: int) -> Object:
    resource = RESOURCES[call.resource]
    return {"kind": resource.kind, "apiVersion": resource.group, "metadata": {"resourceVersion": str(version)}}


def _answer(item: Object, code: HTTPStatus = HTTPStatus.OK) -> web.Response:
    return web.json_response(item, status=int(code))


async def _write(response: web.StreamResponse, lines: list[Object]) -> None:
    if lines:
        await response.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))


async def _wait(news: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(news.wait(), max(seconds, 0.0))
    except TimeoutError:
        return
