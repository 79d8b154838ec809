"""No request leaves with another path than the intended one, whatever names, uids and annotations say.

The clients are found by walking flargo's modules, so a new client or verb is covered or fails here. A real HTTP
server on the loopback device sees what the HTTP libraries make of each request.
"""

import ast
import importlib
import inspect
import json
import pkgutil
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import flargo
from flargo.cluster import target
from flargo.cluster.access import Access
from flargo.cluster.api import Api, Kind
from flargo.cluster.argo_archive import Archive
from flargo.cluster.connection import Connection
from flargo.cluster.connections import Connections
from flargo.cluster.errors import ApiError, ArchiveError
from flargo.cluster.survey import Survey
from flargo.cluster.transport import Transport
from flargo.control.inputs import Listed, TimePassed
from flargo.control.perform import Performer
from flargo.control.reconciler import Reconciler
from flargo.status import fields
from flargo.terms import Object, Uid
from flargo.tools.cli import sweep
from flargo.tools.jobs.site_job import site_jobs
from flargo.tools.jobs.sweepable import find_sweepable
from tests.harness.kubernetes_api import as_kubernetes

NAMESPACE = "ns"
AT = datetime(2026, 1, 1, tzinfo=UTC)
_VALID_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
"""A copy of Kubernetes' rule, so that the tests do not depend on flargo's."""
_UID = re.compile(r"[A-Za-z0-9][-A-Za-z0-9]*")
_SAFE = re.compile(r"[a-zA-Z0-9./-]+")
"""Paths without anything that an HTTP library, a proxy or the API server could decode or resolve."""
CLIENTS = {Api, Survey, Archive}
"""The classes with methods that send requests."""
SENDS_NOTHING_ITSELF = {Connection, Connections, Transport}
"""The classes of these modules that send only to a Target of their caller."""

HOSTILE_NAMES = [
    "",
    ".",
    "..",
    "/",
    "../x",
    "a/../../secrets/b",
    "/../../../prod/secrets/database-password",
    "/../../../../namespaces/prod",
    "%2e%2e/secrets/x",
    "..%2fsecrets%2fx",
    "a%2F..%2F..%2Fb",
    "a?x=y",
    "a#b",
    "a;b",
    "a\\..\\b",
    "a\n",
    "\r\nDELETE /api/v1/namespaces/prod HTTP/1.1",
    "a b",
    "a\x00",
    "²",
    "\uff41",
    "A",
    "-a",
    "a-",
    "a..b",
    "x" * 254,
    "http://elsewhere.example/",
    "//elsewhere.example/",
    "@elsewhere.example",
]
names = st.one_of(
    st.sampled_from(HOSTILE_NAMES),
    st.from_regex(_VALID_NAME, fullmatch=True),
    st.text(max_size=30),
    st.lists(st.sampled_from(["..", ".", "a", "%2e", "%2F", "/", "?", "#", "secrets", ";", "\\"]), max_size=8).map(
        "".join
    ),
)


@dataclass
class ServerLog:
    """The requests that the server got: methods and request targets, as they were on the wire."""

    requests: list[tuple[str, str]] = field(default_factory=list)
    deletes: list[Object] = field(default_factory=list)
    """The bodies of the deletes."""
    answer: bytes = b'{"metadata": {"uid": "u1"}, "items": []}'


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, ServerLog]]:
    """Run a server that answers every request; yield its address and its log."""
    server_log = ServerLog()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.command == "DELETE":
                server_log.deletes.append(json.loads(body))
            server_log.requests.append((self.command, self.requestline.split(" ", 1)[1].rpartition(" ")[0]))
            content = server_log.answer
            if "/archived-workflows" not in self.path:
                answered = as_kubernetes(self.command, self.path, json.loads(content))
                content = json.dumps(answered).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain" if "/log?" in self.path else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}", server_log
        listening.shutdown()


HTTP = re.compile(
    r"urllib3|requests|http\.client|urllib\.request|aiohttp|socket|hera\.workflows\.service|kubernetes(\..*)?"
)
SENDERS = {
    "flargo.cluster.api",
    "flargo.cluster.argo_archive",
    "flargo.cluster.connection",
    "flargo.cluster.pool",
    "flargo.cluster.transport",
}
"""The modules that use an HTTP library."""
_WAYS = {"flargo.cluster.connection.Connection", "flargo.cluster.transport.Transport"}
NO_SENDERS = {
    "flargo.cluster.bodies": "reads responses",
    "flargo.cluster.error_text": "names exceptions",
    "flargo.flare.receiver": "sends to one URL of the site's, whole as it is",
    "flargo.tools.demo.federation": "finds free ports",
    "flargo.tools.demo.run": "finds free ports",
    "flargo.metrics_server": "listens",
}


def imports_of(module: str) -> set[str]:
    """Return everything that a module imports, including imports in its functions."""
    imports = set()
    for node in ast.walk(ast.parse(inspect.getsource(importlib.import_module(module)))):
        if isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imports |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return imports


def test_every_client_is_covered() -> None:
    names = [module.name for module in pkgutil.walk_packages(flargo.__path__, "flargo.")]
    names = [name for name in names if not name.startswith("flargo.embedded") and not name.endswith("__main__")]
    of_http = {name for name in names if any(HTTP.fullmatch(each) for each in imports_of(name))}
    assert of_http - {*NO_SENDERS} == SENDERS, "an HTTP library in a new place: are its paths Targets?"
    by_connection = {name for name in names if _WAYS & imports_of(name)}
    classes = {
        each
        for name in SENDERS | by_connection
        for _, each in inspect.getmembers(importlib.import_module(name), inspect.isclass)
        if each.__module__ == name and not each.__name__.startswith("_") and not issubclass(each, Exception | Enum)
        if not is_dataclass(each)
    }
    assert classes - SENDS_NOTHING_ITSELF == CLIENTS


def client(kind: type, host: str) -> Any:
    access = Access(host)
    if kind is Api:
        return Api(lambda: access, NAMESPACE)
    return Survey(lambda: access) if kind is Survey else Archive(host, NAMESPACE)


def argument(parameter: inspect.Parameter, draw: Callable[[st.SearchStrategy[Any]], Any]) -> Any:
    """Return an argument for a verb's parameter; every string in it is hostile."""
    text = draw(names)
    strategies: dict[str, Callable[[], Any]] = {
        "kind": lambda: draw(st.sampled_from(Kind)),
        "item": lambda: {"metadata": {"name": text}},
        "patch": lambda: {"metadata": {"uid": text}},
        "body": lambda: {"kind": text},
        "uid": lambda: Uid(text),
        "build_target": lambda: partial(
            target.resource,
            draw(st.sampled_from(["api/v1", "apis/argoproj.io/v1alpha1", text])),
            draw(st.sampled_from(["configmaps", "secrets", text])),
            namespace=draw(st.sampled_from([NAMESPACE, text])),
            name=draw(st.sampled_from([None, text])),
            subresource=draw(st.sampled_from(["", text])),
            query={"labelSelector": text},
        ),
        "trim": lambda: None,
        "grace": lambda: 3,
        "seconds": lambda: 1,
        "silence": lambda: 2.0,
        "lines": lambda: 5,
        "max_bytes": lambda: 50,
        "follow": lambda: False,
    }
    return strategies[parameter.name]() if parameter.name in strategies else text


def verbs(kind: type) -> list[str]:
    return [name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")]


@pytest.mark.parametrize(
    ("kind", "verb"),
    [pytest.param(kind, verb, id=f"{kind.__name__}.{verb}") for kind in (Api, Survey, Archive) for verb in verbs(kind)],
)
@pytest.mark.parametrize("prefix", ["", "/k8s/clusters/c-m-1"])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_verb_sends_to_the_intended_path(
    server: tuple[str, ServerLog], kind: type, verb: str, prefix: str, data: Any
) -> None:
    address, server_log = server
    server_log.requests.clear()
    server_log.deletes.clear()
    sending = client(kind, f"{address}{prefix}")
    method = getattr(sending, verb)
    parameters = inspect.signature(method).parameters.values()
    arguments = {parameter.name: argument(parameter, data.draw) for parameter in parameters}
    with suppress(ApiError, ArchiveError):
        result = method(**arguments)
        if inspect.isgenerator(result):
            list(result)
    for options in server_log.deletes:
        assert options["preconditions"]["uid"] == arguments["uid"]
        assert _UID.fullmatch(options["preconditions"]["uid"])
    for _, path_sent in server_log.requests:
        path = path_sent.partition("?")[0]
        assert path in {f"{prefix}{intended}" for intended in intended_paths(kind, arguments)}, (verb, arguments)
        assert _SAFE.fullmatch(path)
        assert not {"", ".", ".."} & {*path.split("/")[1:]}


def intended_paths(kind: type, arguments: dict[str, Any]) -> set[str]:
    """Return the paths that a verb may request: its arguments joined unchanged."""
    if kind is Archive:
        return {f"/api/v1/archived-workflows{tail}" for tail in ("", "/none", f"/{arguments.get('uid')}")}
    if kind is Survey:
        build_target = arguments["build_target"]
        parts = build_target.keywords
        path = f"/{build_target.args[0]}/namespaces/{parts['namespace']}/{build_target.args[1]}"
        return {path + "".join(f"/{part}" for part in (parts["name"], parts["subresource"]) if part)}
    if "kind" not in arguments and "pod" not in arguments:
        return {"/version"}
    group_version, plural = arguments.get("kind", Kind.POD).value
    name = arguments.get("name", arguments.get("pod"))
    collection = f"/{group_version}/namespaces/{NAMESPACE}/{plural}"
    object_paths = {
        f"{collection}/{each}" for each in (name, fields.value(arguments.get("item"), "metadata", "name")) if each
    }
    if "pod" in arguments:
        return {f"{each}/{subresource}" for each in object_paths for subresource in ("log", "eviction")}
    return object_paths if name is not None else {*object_paths, collection}


def test_valid_names_are_sent(server: tuple[str, ServerLog]) -> None:
    address, server_log = server
    server_log.requests.clear()
    api, survey = client(Api, f"{address}/k8s/clusters/c-m-1"), client(Survey, address)
    api.delete(Kind.SECRET, "a.b-c", Uid("u1"))
    api.log("p", "main", 5, 50, 2.0)
    survey.get(partial(target.resource, "api/v1", "secrets", namespace="other", name="x"))
    assert [method for method, _ in server_log.requests] == ["DELETE", "GET", "GET"]
    assert [path_sent.partition("?")[0] for _, path_sent in server_log.requests] == [
        "/k8s/clusters/c-m-1/api/v1/namespaces/ns/secrets/a.b-c",
        "/k8s/clusters/c-m-1/api/v1/namespaces/ns/pods/p/log",
        "/api/v1/namespaces/other/secrets/x",
    ]


@pytest.mark.parametrize(
    "host", ["http://127.0.0.1:{port}/a/../..", "http://user@127.0.0.1:{port}", "http://127.0.0.1:{port}#x"]
)
def test_an_ambiguous_url_is_not_sent(server: tuple[str, ServerLog], host: str) -> None:
    """The HTTP library would send the request to another path."""
    address, server_log = server
    server_log.requests.clear()
    api = client(Api, host.format(port=address.rpartition(":")[2]))
    with suppress(ApiError):
        api.get(Kind.POD, "p")
    assert all(path_sent == "/api/v1/namespaces/ns/pods/p" for _, path_sent in server_log.requests)


# --- what is read back from the cluster


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), names),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=8,
)
texts_or_more = st.one_of(names, json_values)


@st.composite
def hostile_workflows(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Object:
    """Draw a Workflow with flargo's labels and hostile values that has been completed for long."""
    finished = draw(st.sampled_from(["2020-01-01T00:00:00Z", "2020-01-01T00:00:00Z", texts_or_more]))
    return {
        "metadata": {
            "name": draw(st.sampled_from(["job-site", "job-site", "other"])),
            "uid": draw(st.sampled_from(["uid-1", "uid-2"])),
            "resourceVersion": draw(texts_or_more),
            "creationTimestamp": "2020-01-01T00:00:00Z",
            "labels": {
                "app.kubernetes.io/managed-by": "flargo",
                "flargo.dev/parent": draw(st.one_of(st.just("another-run"), names)),
                "flargo.dev/job-id": draw(texts_or_more),
                "flargo.dev/site": draw(texts_or_more),
            },
            "annotations": {
                "flargo.dev/attempt": draw(texts_or_more),
                "flargo.dev/job-name": draw(texts_or_more),
                "flargo.dev/ending": draw(texts_or_more),
                "flargo.dev/ending-detail": draw(texts_or_more),
            },
        },
        "spec": {"suspend": draw(json_values), "shutdown": draw(texts_or_more)},
        "status": {
            "phase": draw(st.sampled_from(["Succeeded", "Failed", "Running", "", texts_or_more])),
            "finishedAt": finished if isinstance(finished, str) else draw(finished),
            "message": draw(texts_or_more),
            "nodes": draw(st.one_of(json_values, st.dictionaries(names, json_values, max_size=2))),
        },
    }


def delete_paths(server_log: ServerLog) -> list[str]:
    return [path_sent for method, path_sent in server_log.requests if method == "DELETE"]


def is_its_own(path: str, workflow: Object) -> bool:
    """Return whether a DELETE's path is that of the Workflow itself, or of its credentials Secret."""
    name = workflow["metadata"]["name"]
    own = f"/apis/argoproj.io/v1alpha1/namespaces/ns/workflows/{name}"
    secret = re.fullmatch(rf"/api/v1/namespaces/ns/secrets/nvflare-cred-{name}-[a-z0-9]{{1,20}}", path)
    return path == own or secret is not None


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(workflow=hostile_workflows())
def test_a_forged_orphan_deletes_nothing_else(server: tuple[str, ServerLog], workflow: Object) -> None:
    """A parent that finds a Workflow with hostile values deletes only that Workflow and its own Secret."""
    address, server_log = server
    server_log.requests.clear()
    owner = {"kind": "Workflow", "name": workflow["metadata"]["name"], "uid": workflow["metadata"]["uid"]}
    meta = {"uid": "s1", "labels": {"app.kubernetes.io/managed-by": "flargo"}, "ownerReferences": [owner]}
    server_log.answer = json.dumps({"metadata": meta, "items": []}).encode()
    performer = Performer(client(Api, address))
    reconciler = Reconciler(lambda _: False, 0.0, epoch="this-run", grace=3)
    commands = list(reconciler.handle(Listed(Kind.WORKFLOW, (workflow,)), 0.0).commands)
    commands += reconciler.handle(Listed(Kind.POD, ()), 0.0).commands
    commands += reconciler.handle(TimePassed(), 100.0).commands
    for command in commands:
        performer.perform(command)
    assert all(is_its_own(path, workflow) for path in delete_paths(server_log)), server_log.requests


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(workflow=hostile_workflows())
def test_sweep_of_a_forged_workflow_is_limited(server: tuple[str, ServerLog], workflow: Object) -> None:
    """A sweep that finds a Workflow with hostile values deletes only that Workflow and its own Secret."""
    address, server_log = server
    server_log.requests.clear()
    owner = {"kind": "Workflow", "name": workflow["metadata"]["name"], "uid": workflow["metadata"]["uid"]}
    meta = {"uid": "s1", "labels": {"app.kubernetes.io/managed-by": "flargo"}, "ownerReferences": [owner]}
    server_log.answer = json.dumps({"metadata": meta, "items": []}).encode()
    api = client(Api, address)
    for entry in sweep._existing(api, find_sweepable(site_jobs([workflow], []), [], AT, None)):
        sweep._delete(api, *entry)
    assert all(is_its_own(path, workflow) for path in delete_paths(server_log)), server_log.requests


@pytest.mark.parametrize(
    "metadata",
    [
        {"uid": "s1"},
        {"uid": "s1", "labels": {"app.kubernetes.io/managed-by": "flargo"}},
        {"uid": "s1", "ownerReferences": [{"kind": "Workflow", "name": "job-site", "uid": "uid-1"}]},
        {
            "uid": "s1",
            "labels": {"app.kubernetes.io/managed-by": "flargo"},
            "ownerReferences": [{"kind": "Workflow", "name": "job-site", "uid": "another"}],
        },
    ],
    ids=["of nobody", "without owner", "without label", "of an earlier Workflow"],
)
def test_a_secret_of_uncertain_owner_is_kept(server: tuple[str, ServerLog], metadata: Object) -> None:
    address, server_log = server
    server_log.requests.clear()
    server_log.answer = json.dumps({"metadata": metadata}).encode()
    workflow = {
        "metadata": {
            "name": "job-site",
            "uid": "uid-1",
            "labels": {"flargo.dev/parent": "another-run"},
            "annotations": {"flargo.dev/attempt": "abc"},
            "creationTimestamp": "2020-01-01T00:00:00Z",
        },
        "status": {"phase": "Failed", "finishedAt": "2020-01-01T00:00:00Z"},
    }
    api = client(Api, address)
    reconciler = Reconciler(lambda _: False, 0.0, epoch="this-run", grace=3)
    commands = [
        *reconciler.handle(Listed(Kind.WORKFLOW, (workflow,)), 0.0).commands,
        *reconciler.handle(Listed(Kind.POD, ()), 0.0).commands,
    ]
    performer = Performer(api)
    for command in commands:
        performer.perform(command)
    assert sweep._existing(api, find_sweepable(site_jobs([workflow], []), [], AT, None)) == []
    assert ("GET", "/api/v1/namespaces/ns/secrets/nvflare-cred-job-site-abc") in server_log.requests
    assert delete_paths(server_log) == []


@pytest.mark.parametrize("segment", ["a/b", "..?x", "#", "%2e", " ", "\u00e9", "a\r\nb"])
def test_path_segments_are_escaped(segment: str) -> None:
    url = target.Target(("api", segment, "x"), (("labelSelector", f"a={segment}&b=c"),)).url
    assert re.fullmatch(r"/api/[A-Za-z0-9._~%-]+/x\?labelSelector=[A-Za-z0-9._~%+-]+", url)
    assert unquote(url.partition("?")[0]) == f"/api/{segment}/x"
