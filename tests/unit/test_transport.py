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
from kubernetes.client.configuration import Configuration

import flargo
from flargo.cluster import target
from flargo.cluster.api import Api, Connection, Kind
from flargo.cluster.argo_archive import Archive
from flargo.cluster.errors import ApiError, ArchiveError
from flargo.cluster.survey import Survey
from flargo.control.loop import Loop
from flargo.control.reconciler import Reconciler
from flargo.status import fields
from flargo.terms import Object, Uid
from flargo.tools.cli import sweep
from flargo.tools.jobs.site_job import site_jobs
from flargo.tools.jobs.sweepable import find_sweepable

NAMESPACE = "ns"
AT = datetime(2026, 1, 1, tzinfo=UTC)
_VALID_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
"""The tests' own copy of Kubernetes' rule."""
_UID = re.compile(r"[A-Za-z0-9][-A-Za-z0-9]*")
_SAFE = re.compile(r"[a-zA-Z0-9./-]+")
"""Nothing that an HTTP library, a proxy or the API server could decode or resolve."""
CLIENTS = {Api, Survey, Archive}
"""All classes that send requests by a verb of their own."""
SENDS_NOTHING_ITSELF = {Connection}
"""It takes a Target."""

HOSTILE = [
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
    st.sampled_from(HOSTILE),
    st.from_regex(_VALID_NAME, fullmatch=True),
    st.text(max_size=30),
    st.lists(st.sampled_from(["..", ".", "a", "%2e", "%2F", "/", "?", "#", "secrets", ";", "\\"]), max_size=8).map(
        "".join
    ),
)


@dataclass
class Seen:
    """What the server was asked: methods and request targets, as they stood on the wire."""

    requests: list[tuple[str, str]] = field(default_factory=list)
    deletes: list[Object] = field(default_factory=list)
    """The bodies of the deletes."""
    answer: bytes = b'{"metadata": {"uid": "u1"}, "items": []}'


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Seen]]:
    """The address of a server that answers everything, and what it was asked."""
    seen = Seen()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.command == "DELETE":
                seen.deletes.append(json.loads(body))
            seen.requests.append((self.command, self.requestline.split(" ", 1)[1].rpartition(" ")[0]))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(seen.answer)))
            self.end_headers()
            self.wfile.write(seen.answer)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}", seen
        listening.shutdown()


HTTP = re.compile(
    r"urllib3|requests|http\.client|urllib\.request|aiohttp|socket|hera\.workflows\.service|kubernetes(\..*)?"
)
SENDERS = {"flargo.cluster.api", "flargo.cluster.argo_archive", "flargo.cluster.survey"}
"""The modules that hand requests to an HTTP library."""
NO_SENDERS = {
    "flargo.cluster.error_text": "names exceptions",
    "flargo.cluster.client_config": "reads configurations",
    "flargo.tools.demo.federation": "finds free ports",
    "flargo.tools.demo.run": "finds free ports",
    "flargo.cluster.exec_plugin": "runs credential plugins",
    "flargo.metrics_server": "listens",
}


def imports_of(module: str) -> set[str]:
    """Everything that a module's source imports, also in its functions."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(importlib.import_module(module)))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_every_client_is_known_here() -> None:
    names = [module.name for module in pkgutil.walk_packages(flargo.__path__, "flargo.")]
    names = [name for name in names if not name.startswith("flargo.embedded") and not name.endswith("__main__")]
    of_http = {name for name in names if any(HTTP.fullmatch(each) for each in imports_of(name))}
    assert of_http - {*NO_SENDERS} == SENDERS, "an HTTP library in a new place: are its paths Targets?"
    by_connection = {name for name in names if "flargo.cluster.api.Connection" in imports_of(name)}
    classes = {
        each
        for name in SENDERS | by_connection
        for _, each in inspect.getmembers(importlib.import_module(name), inspect.isclass)
        if each.__module__ == name and not each.__name__.startswith("_") and not issubclass(each, Exception | Enum)
        if not is_dataclass(each)
    }
    assert classes - SENDS_NOTHING_ITSELF == CLIENTS


def client(kind: type, host: str) -> Any:
    configuration = Configuration(host=host)
    if kind is Api:
        return Api(lambda: configuration, NAMESPACE)
    return Survey(lambda: configuration) if kind is Survey else Archive(host, NAMESPACE)


def argument(parameter: inspect.Parameter, draw: Callable[[st.SearchStrategy[Any]], Any]) -> Any:
    """An argument for a verb's parameter, hostile wherever it is a text."""
    text = draw(names)
    made: dict[str, Callable[[], Any]] = {
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
    return made[parameter.name]() if parameter.name in made else text


def verbs(kind: type) -> list[str]:
    return [name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")]


@pytest.mark.parametrize(
    ("kind", "verb"),
    [pytest.param(kind, verb, id=f"{kind.__name__}.{verb}") for kind in (Api, Survey, Archive) for verb in verbs(kind)],
)
@pytest.mark.parametrize("prefix", ["", "/k8s/clusters/c-m-1"])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_verb_sends_to_another_path(server: tuple[str, Seen], kind: type, verb: str, prefix: str, data: Any) -> None:
    address, seen = server
    seen.requests.clear()
    seen.deletes.clear()
    sending = client(kind, f"{address}{prefix}")
    called = getattr(sending, verb)
    parameters = inspect.signature(called).parameters.values()
    given_arguments = {parameter.name: argument(parameter, data.draw) for parameter in parameters}
    with suppress(ApiError, ArchiveError):
        result = called(**given_arguments)
        if inspect.isgenerator(result):
            list(result)
    for options in seen.deletes:
        assert options["preconditions"]["uid"] == given_arguments["uid"]
        assert _UID.fullmatch(options["preconditions"]["uid"])
    for _, sent in seen.requests:
        path = sent.partition("?")[0]
        assert path in {f"{prefix}{meant}" for meant in meant_paths(kind, given_arguments)}, (verb, given_arguments)
        assert _SAFE.fullmatch(path)
        assert not {"", ".", ".."} & {*path.split("/")[1:]}


def meant_paths(kind: type, arguments: dict[str, Any]) -> set[str]:
    """What a verb may ask for: the arguments as they are, put one after another."""
    if kind is Archive:
        return {f"/api/v1/archived-workflows{tail}" for tail in ("", "/none", f"/{arguments.get('uid')}")}
    if kind is Survey:
        called = arguments["build_target"]
        parts = called.keywords
        path = f"/{called.args[0]}/namespaces/{parts['namespace']}/{called.args[1]}"
        return {path + "".join(f"/{part}" for part in (parts["name"], parts["subresource"]) if part)}
    if "kind" not in arguments and "pod" not in arguments:
        return {"/version"}
    group_version, plural = arguments.get("kind", Kind.POD).value
    name = arguments.get("name", arguments.get("pod"))
    collection = f"/{group_version}/namespaces/{NAMESPACE}/{plural}"
    named = {f"{collection}/{each}" for each in (name, fields.value(arguments.get("item"), "metadata", "name")) if each}
    if "pod" in arguments:
        return {f"{each}/log" for each in named}
    return named if name is not None else {*named, collection}


def test_a_verb_with_a_valid_name_sends(server: tuple[str, Seen]) -> None:
    address, seen = server
    seen.requests.clear()
    api, survey = client(Api, f"{address}/k8s/clusters/c-m-1"), client(Survey, address)
    api.delete(Kind.SECRET, "a.b-c", Uid("u1"))
    api.log("p", "main", 5, 50, 2.0)
    survey.get(partial(target.resource, "api/v1", "secrets", namespace="other", name="x"))
    assert [method for method, _ in seen.requests] == ["DELETE", "GET", "GET"]
    assert [sent.partition("?")[0] for _, sent in seen.requests] == [
        "/k8s/clusters/c-m-1/api/v1/namespaces/ns/secrets/a.b-c",
        "/k8s/clusters/c-m-1/api/v1/namespaces/ns/pods/p/log",
        "/api/v1/namespaces/other/secrets/x",
    ]


@pytest.mark.parametrize(
    "host", ["http://127.0.0.1:{port}/a/../..", "http://user@127.0.0.1:{port}", "http://127.0.0.1:{port}#x"]
)
def test_a_url_that_the_http_library_reads_otherwise_is_not_sent(server: tuple[str, Seen], host: str) -> None:
    address, seen = server
    seen.requests.clear()
    api = client(Api, host.format(port=address.rpartition(":")[2]))
    with suppress(ApiError):
        api.get(Kind.POD, "p")
    assert all(sent == "/api/v1/namespaces/ns/pods/p" for _, sent in seen.requests)


# --- what is read back from the cluster


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), names),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=8,
)
texts_or_more = st.one_of(names, json_values)


@st.composite
def hostile_workflows(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Object:
    """A Workflow with flargo's labels, of which somebody has written every value; long over."""
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


def delete_paths(seen: Seen) -> list[str]:
    return [sent for method, sent in seen.requests if method == "DELETE"]


def is_its_own(path: str, workflow: Object) -> bool:
    """Whether a DELETE hits nothing but the Workflow itself, or its credentials Secret by a valid name."""
    name = workflow["metadata"]["name"]
    own = f"/apis/argoproj.io/v1alpha1/namespaces/ns/workflows/{name}"
    secret = re.fullmatch(rf"/api/v1/namespaces/ns/secrets/nvflare-cred-{name}-[a-z0-9]{{1,20}}", path)
    return path == own or secret is not None


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(workflow=hostile_workflows())
def test_an_orphan_that_somebody_wrote_makes_a_parent_touch_nothing_else(
    server: tuple[str, Seen], workflow: Object
) -> None:
    address, seen = server
    seen.requests.clear()
    owner = {"kind": "Workflow", "name": workflow["metadata"]["name"], "uid": workflow["metadata"]["uid"]}
    meta = {"uid": "s1", "labels": {"app.kubernetes.io/managed-by": "flargo"}, "ownerReferences": [owner]}
    seen.answer = json.dumps({"metadata": meta, "items": []}).encode()
    loop = Loop(client(Api, address), "x=y", "this-run", 3)
    engine = Reconciler(lambda _: False, 0.0, epoch="this-run", grace=3)
    orders = list(engine.on_listed(Kind.WORKFLOW, [workflow], 0.0).commands)
    orders += engine.on_listed(Kind.POD, [], 0.0).commands
    orders += engine.tick(100.0).commands
    for order in orders:
        loop._perform(order)
    assert all(is_its_own(path, workflow) for path in delete_paths(seen)), seen.requests


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(workflow=hostile_workflows())
def test_a_sweep_of_what_somebody_wrote_touches_nothing_else(server: tuple[str, Seen], workflow: Object) -> None:
    address, seen = server
    seen.requests.clear()
    owner = {"kind": "Workflow", "name": workflow["metadata"]["name"], "uid": workflow["metadata"]["uid"]}
    meta = {"uid": "s1", "labels": {"app.kubernetes.io/managed-by": "flargo"}, "ownerReferences": [owner]}
    seen.answer = json.dumps({"metadata": meta, "items": []}).encode()
    api = client(Api, address)
    for found in sweep._existing(api, find_sweepable(site_jobs([workflow], []), [], AT, None)):
        sweep._delete(api, *found)
    assert all(is_its_own(path, workflow) for path in delete_paths(seen)), seen.requests


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
def test_a_secret_that_is_not_surely_the_jobs_is_left_alone(server: tuple[str, Seen], metadata: Object) -> None:
    address, seen = server
    seen.requests.clear()
    seen.answer = json.dumps({"metadata": metadata}).encode()
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
    engine = Reconciler(lambda _: False, 0.0, epoch="this-run", grace=3)
    orders = [*engine.on_listed(Kind.WORKFLOW, [workflow], 0.0).commands, *engine.on_listed(Kind.POD, [], 0.0).commands]
    loop = Loop(api, "x=y", "this-run", 3)
    for order in orders:
        loop._perform(order)
    assert sweep._existing(api, find_sweepable(site_jobs([workflow], []), [], AT, None)) == []
    assert ("GET", "/api/v1/namespaces/ns/secrets/nvflare-cred-job-site-abc") in seen.requests
    assert delete_paths(seen) == []


@pytest.mark.parametrize("segment", ["a/b", "..?x", "#", "%2e", " ", "\u00e9", "a\r\nb"])
def test_whatever_a_segment_holds_stays_in_that_segment(segment: str) -> None:
    url = target.Target(("api", segment, "x"), (("labelSelector", f"a={segment}&b=c"),)).url
    assert re.fullmatch(r"/api/[A-Za-z0-9._~%-]+/x\?labelSelector=[A-Za-z0-9._~%+-]+", url)
    assert unquote(url.partition("?")[0]) == f"/api/{segment}/x"
