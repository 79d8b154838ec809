"""Jobs that are no longer on the cluster, read from Argo's archive, and everything that may answer in its place."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
import responses
from click.testing import Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flargo.cluster import argo_archive as transport
from flargo.cluster.api import PAGE_SIZE, Api, Kind
from flargo.cluster.argo_archive import Archive
from flargo.cluster.errors import ArchiveError, ArchiveProblem
from flargo.terms import Object
from flargo.tools.cli import jobs, why
from flargo.tools.jobs.site_job import trim
from tests.harness import command_line
from tests.harness.fake_api import RecordingApi
from tests.harness.objects import CREATED, job_workflow, pod, terminated_state

SERVER = "https://argo.example:2746"
LIST, GET = f"{SERVER}/api/v1/archived-workflows", f"{SERVER}/api/v1/archived-workflows/w9"
UNKNOWN = f"{SERVER}/api/v1/archived-workflows/none"
TOKEN = "t0psecret"
PAGE_OF_A_LOGIN = "<!doctype html><title>Log in</title>"


def archived_workflow(code: int = 3, uid: str = "w9", **more: Any) -> Object:
    """Return a Workflow as the archive stores it, which is no longer on the cluster."""
    step = {
        "id": "job-gone",
        "name": "job-gone",
        "displayName": "job-gone",
        "type": "Pod",
        "phase": "Failed",
        "startedAt": CREATED,
        "finishedAt": "2026-01-01T00:00:40Z",
        "message": f"main: Error (exit code {code})",
        "outputs": {"exitCode": str(code)},
        "hostNodeName": "n1",
        "progress": "0/1",
    }
    status = {"phase": "Failed", "finishedAt": "2026-01-01T00:00:42Z", "message": step["message"]}
    workflow = job_workflow("job-gone", "22222222-bbbb", uid=uid, **{**status, "nodes": {"job-gone": step}, **more})
    workflow["metadata"]["labels"]["app.kubernetes.io/managed-by"] = "flargo"
    limits = {"nvidia.com/gpu": "2"}
    template = {"name": "job", "container": {"name": "", "image": "x", "resources": {"limits": limits}}}
    workflow["spec"] |= {"entrypoint": "job", "arguments": {}, "templates": [template]}
    return workflow


def outline(whole: Object) -> Object:
    """Return the part of a Workflow that a list has (Argo 3.7, persist/sqldb/workflow_archive.go)."""
    status = {key: whole["status"].get(key) for key in ("phase", "startedAt", "finishedAt", "message")}
    return {"metadata": whole["metadata"], "spec": {"arguments": {}}, "status": status}


def answer(*items: Object, after: str = "") -> Object:
    return {"metadata": {"continue": after} if after else {}, "items": [outline(item) for item in items] or None}


@pytest.fixture
def net() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        mock.get(UNKNOWN, status=404, json={"code": 5, "message": "not found"})
        yield mock


@pytest.fixture
def archive() -> Archive:
    return Archive(SERVER, "flare", f"Bearer {TOKEN}")


def query(call: Any) -> dict[str, list[str]]:
    return parse_qs(urlsplit(call.request.url).query)


# Requests


def test_list_request_has_namespace_label_and_token(net: responses.RequestsMock, archive: Archive) -> None:
    net.get(LIST, json=answer(archived_workflow()))
    (item,) = archive.list("flargo.dev/site=site-1")
    assert item["metadata"]["name"] == "job-gone"
    (call,) = net.calls
    assert query(call) == {
        "listOptions.labelSelector": ["flargo.dev/site=site-1"],
        "listOptions.limit": [str(PAGE_SIZE)],
        "namespace": ["flare"],
    }
    assert call.request.headers["Authorization"] == f"Bearer {TOKEN}"
    assert vars(call.request)["req_kwargs"]["timeout"] == (5.0, 30.0)


def test_the_servers_base_path_is_kept(net: responses.RequestsMock) -> None:
    for path in ("/argo", "/argo/"):
        net.get(f"{SERVER}/argo/api/v1/archived-workflows", json=answer(archived_workflow()))
        assert Archive(f"{SERVER}{path}", "flare").list("a=b")
    assert "Authorization" not in net.calls[-1].request.headers, "where no token was named, none is sent"


def test_netrc_does_not_replace_the_token(
    net: responses.RequestsMock, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine argo.example login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    net.get(LIST, json=answer(archived_workflow()))
    archive.list("a=b")
    assert net.calls[0].request.headers["Authorization"] == f"Bearer {TOKEN}"


def test_a_ca_file_replaces_the_default_certificates(
    net: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    net.get(LIST, json=answer(archived_workflow()))
    for ca in ("/etc/ca.pem", None):
        Archive(SERVER, "flare", ca=ca).list("a=b")
    assert [vars(call.request)["req_kwargs"]["verify"] for call in net.calls] == ["/etc/ca.pem", True]


def test_all_pages_are_read_without_duplicates(net: responses.RequestsMock, archive: Archive) -> None:
    pages = [
        answer(archived_workflow(uid="a"), archived_workflow(uid="b"), after="2"),
        answer(archived_workflow(uid="b"), archived_workflow(uid="c"), after="4"),
    ]
    at_once = answer(*(archived_workflow(uid=uid) for uid in "dabc"))
    for page in (*pages, answer(), at_once):
        net.get(LIST, json=page)
    assert [item["metadata"]["uid"] for item in archive.list("a=b")] == ["d", "a", "b", "c"]
    assert [query(call).get("listOptions.continue") for call in net.calls] == [None, ["2"], ["4"], None]
    assert query(net.calls[-1])["listOptions.limit"] == ["0"]


@given(st.data())
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_workflow_is_left_out_between_pages(archive: Archive, data: st.DataObject) -> None:
    """Of Workflows that started in one second, Argo's database returns those of a page in an order of its own."""
    uids = [f"u{number}" for number in range(data.draw(st.integers(1, 8)))]

    def respond(request: Any) -> tuple[int, dict[str, str], str]:
        asked = query(SimpleNamespace(request=request))
        start, limit = int(asked.get("listOptions.continue", ["0"])[0]), int(asked["listOptions.limit"][0]) and 3
        shown = data.draw(st.permutations(uids))[start : start + limit if limit else None]
        after = str(start + limit) if limit and start + limit < len(uids) else ""
        return 200, {}, json.dumps(answer(*(archived_workflow(uid=uid) for uid in shown), after=after))

    with responses.RequestsMock() as net:
        net.add_callback("GET", LIST, respond)
        assert sorted(item["metadata"]["uid"] for item in archive.list("a=b")) == uids


@pytest.mark.parametrize(
    "at_once",
    [
        {"body": b"[" * 100_000},
        {"body": requests.exceptions.ReadTimeout()},
        {"status": 429, "json": {"code": 8, "message": "grpc: received message larger than max"}},
        {"status": 504, "body": "<html>"},
    ],
    ids=["not json", "timeout", "grpc limit", "gateway timeout"],
)
def test_a_list_that_is_too_large_at_once_is_read_by_pages(
    net: responses.RequestsMock, archive: Archive, at_once: dict[str, Any]
) -> None:
    pages = [answer(archived_workflow(uid="a"), after="1"), answer(archived_workflow(uid="a"))]
    for page in pages:
        net.get(LIST, json=page)
    net.get(LIST, **at_once)
    assert [item["metadata"]["uid"] for item in archive.list("a=b")] == ["a"]


def test_a_repeated_page_is_an_error(net: responses.RequestsMock, archive: Archive) -> None:
    net.get(LIST, json=answer(archived_workflow(), after="1"))
    with pytest.raises(ArchiveError) as raised:
        archive.list("a=b")
    assert (raised.value.problem, len(net.calls)) == (ArchiveProblem.INVALID_ANSWER, 2)


def test_endless_pages_are_an_error(
    net: responses.RequestsMock, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "MAX_PAGES", 5, raising=False)

    def page(_: Any) -> tuple[int, dict[str, str], str]:
        assert len(net.calls) < 50, "it is asked for ever"
        return 200, {}, json.dumps(answer(archived_workflow(), after=f"page-{len(net.calls)}"))

    net.add_callback("GET", LIST, page)
    with pytest.raises(ArchiveError, match="more than 5 pages") as raised:
        archive.list("a=b")
    assert (raised.value.problem, len(net.calls)) == (ArchiveProblem.INVALID_ANSWER, 5)


class Serves(BaseHTTPRequestHandler):
    """An Argo Server that sends an endless body, until its client closes the connection."""

    status, chunk, pause, location = 200, b" " * 65_536, 0.0, ""
    sent = 0

    def do_GET(self) -> None:
        self.send_response(self.status)
        if self.location:
            self.send_header("Location", self.location)
        self.end_headers()
        try:
            while self.sent < 400 * 2**20:
                self.wfile.write(self.chunk)
                type(self).sent += len(self.chunk)
                time.sleep(self.pause)
        except OSError:
            return

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def endless(**more: Any) -> Iterator[tuple[Archive, type[Serves]]]:
    handler = type("Handler", (Serves,), more)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield Archive(f"http://127.0.0.1:{server.server_port}", "flare"), handler
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    ("more", "problem", "max_mebibytes"),
    [
        ({}, ArchiveProblem.INVALID_ANSWER, 64),
        ({"status": 500}, ArchiveProblem.SERVER_ERROR, 1),
        ({"status": 403}, ArchiveProblem.FORBIDDEN, 1),
        ({"status": 302, "location": "/elsewhere"}, ArchiveProblem.INVALID_ANSWER, 0),
    ],
    ids=["answer", "failure", "refusal", "redirect"],
)
def test_endless_answer_is_read_to_a_limit(more: dict[str, Any], problem: ArchiveProblem, max_mebibytes: int) -> None:
    with endless(**more) as (archive, server), pytest.raises(ArchiveError) as raised:
        archive.list("a=b")
    assert raised.value.problem is problem
    assert server.sent < (max_mebibytes + 16) * 2**20, "what is on the way may be some MiB more"


@pytest.mark.parametrize(("status", "problem"), [(200, ArchiveProblem.TIMEOUT), (500, ArchiveProblem.SERVER_ERROR)])
def test_a_dripping_answer_hits_the_deadline(
    status: int, problem: ArchiveProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "MAX_BODY_SECONDS", 0.5, raising=False)
    # Of 400 bytes, so that a reader without a deadline comes to an end.
    drips = {"status": status, "chunk": b" ", "pause": 0.02, "sent": 400 * 2**20 - 400}
    start = time.monotonic()
    with endless(**drips) as (archive, _), pytest.raises(ArchiveError) as raised:
        archive.list("a=b")
    assert (raised.value.problem, time.monotonic() - start < 4) == (problem, True)


@pytest.mark.parametrize("missing_bytes", [0, 20])
def test_http_to_an_https_server_is_explained(missing_bytes: int) -> None:
    # As Go's net/http answers; the end of it is mostly lost, since it closes without reading the question.
    body = b"Client sent an HTTP request to an HTTPS server.\n"
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65_536)
                length = f"Content-Length: {len(body)}\r\n".encode() if missing_bytes else b""
                connection.sendall(
                    b"HTTP/1.0 400 Bad Request\r\n" + length + b"\r\n" + body[: len(body) - missing_bytes]
                )

        threading.Thread(target=answer, daemon=True).start()
        archive = Archive(f"http://127.0.0.1:{server.getsockname()[1]}", "flare")
        with pytest.raises(ArchiveError, match="can't be reached") as raised:
            archive.list("a=b")
    assert (raised.value.problem, raised.value.message) == (ArchiveProblem.UNREACHABLE, "it may expect https")


@pytest.mark.parametrize("body", ["[" * 5000, '{"message":' * 5000, '{"items": [' + "[" * 5000])
@pytest.mark.parametrize("status", [200, 500])
def test_an_endlessly_nested_answer_is_an_error(
    body: str, status: int, net: responses.RequestsMock, archive: Archive
) -> None:
    net.get(LIST, status=status, body=body)
    net.get(GET, status=status, body=body)
    expected = ArchiveProblem.INVALID_ANSWER if status == 200 else ArchiveProblem.SERVER_ERROR
    for question in (partial(archive.list, "a=b"), partial(archive.get, "w9")):
        with pytest.raises(ArchiveError) as raised:
            question()
        assert raised.value.problem is expected


@pytest.mark.parametrize("depth", [100, 250, 400, 600, 900])
def test_deeply_nested_workflow_raises_only_archive_errors(
    depth: int, net: responses.RequestsMock, archive: Archive
) -> None:
    whole = json.dumps(archived_workflow()).removesuffix("}")
    deep = f"{'[' * depth}1{']' * depth}"
    net.get(GET, body=f'{whole}, "spec": {{"podPriority": 1, "synchronization": {deep}, "podSpecPatch": {deep}}}}}')
    net.get(LIST, body=f'{{"metadata": {{}}, "items": [{whole}, "spec": {{"arguments": {deep}}}}}]}}')
    for question in (partial(archive.list, "a=b"), partial(archive.get, "w9")):
        with suppress(ArchiveError):
            question()


def test_a_workflow_is_read_without_losses(net: responses.RequestsMock, archive: Archive) -> None:
    whole = archived_workflow(shutdown="Terminate", suspend=False)
    net.get(GET, json=whole)
    workflow = archive.get("w9")
    assert workflow == whole
    assert workflow is not None
    assert trim(workflow) == trim(whole)


# Bad answers

INVALID_TOKEN = {"code": 16, "message": "token not valid"}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "nobody there": (
        {"body": requests.ConnectionError("refused")},
        "can't be reached: check --argo-server (",
    ),
    "unknown certificate": (
        {"body": requests.exceptions.SSLError("self-signed")},
        "can't be trusted: give its CA",
    ),
    "no answer": ({"body": requests.ReadTimeout("30 s")}, "does not answer in time: try again"),
    "cut off": ({"body": requests.exceptions.ChunkedEncodingError("short")}, "can't be reached: check"),
    "too many redirects": ({"body": requests.TooManyRedirects("30")}, "can't be reached: check"),
    "401": ({"status": 401, "json": INVALID_TOKEN}, "requires a valid token (401): give a file with a valid token"),
    "403": ({"status": 403, "json": {"message": "no"}}, "denies access (403): the token's account needs the right"),
    "404": ({"status": 404, "json": {"message": "Not Found"}}, "does not have this path (404): check --argo-server"),
    "429": ({"status": 429, "json": {"message": "slowly"}}, "refuses the request (429): see its message (slowly)"),
    "500": ({"status": 500, "json": {"message": "pq: no such table"}}, "fails (500): try again; if it persists"),
    "a proxy's 502": ({"status": 502, "body": PAGE_OF_A_LOGIN}, "fails (502)"),
    "a 503 of another form": ({"status": 503, "json": ["no"]}, "fails (503)"),
    "a page": (
        {"body": PAGE_OF_A_LOGIN},
        "does not answer like an Argo Server: check --argo-server, including the path",
    ),
    "nothing": ({"body": ""}, "does not answer like an Argo Server"),
    "half": ({"body": '{"metadata": {}, "items": ['}, "does not answer like an Argo Server"),
    "a list": ({"json": [1]}, "does not answer like an Argo Server"),
    "a number": ({"json": 1}, "does not answer like an Argo Server"),
    "another shape": ({"json": {"items": [{"metadata": 1}], "metadata": {}}}, "does not answer like an Argo Server"),
    "no metadata": ({"json": {"items": []}}, "does not answer like an Argo Server"),
    "no uid": (
        {"json": {"metadata": {}, "items": [{"metadata": {}, "spec": {}}]}},
        "does not answer like an Argo Server",
    ),
}
each_bad = pytest.mark.parametrize(("bad", "message"), BAD.values(), ids=[name.replace(" ", "-") for name in BAD])


def run(*arguments: str) -> Result:
    result = command_line.run(*arguments)
    assert TOKEN not in result.output
    return result


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """Return a function that runs a command with the archive and a cluster that has one failed job."""
    here = RecordingApi(
        (Kind.WORKFLOW, job_workflow(phase="Failed")), (Kind.POD, pod(main=terminated_state(1), phase="Failed"))
    )
    (tmp_path / "token").write_text(f"{TOKEN}\n")

    def connected(**_: str | None) -> Api:
        return here

    for module in (jobs, why):
        monkeypatch.setattr(module, "api_for", connected)
    return lambda *argv: run(*argv, "--argo-server", SERVER, "--argo-token", str(tmp_path / "token"))


@each_bad
def test_archive_problem_does_not_hide_cluster_jobs(
    bad: dict[str, Any], message: str, net: responses.RequestsMock, ask: Callable[..., Result]
) -> None:
    net.get(LIST, **bad)
    for argv in (("jobs",), ("jobs", "--json"), ("why", "11111111"), ("why", "11111111", "--json")):
        result = ask(*argv)
        assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
        assert result.stderr.startswith(f"Error: the Argo Server {SERVER} {message}")
        assert "PROGRAM_FAILED" in result.stdout
        if "--json" in argv:
            assert [row["reason"] for row in json.loads(result.stdout)] == ["PROGRAM_FAILED"]


@each_bad
def test_an_unknown_job_names_the_archives_problem(
    bad: dict[str, Any], message: str, net: responses.RequestsMock, ask: Callable[..., Result]
) -> None:
    """The job is not on the cluster, and the archive could not be read."""
    net.get(LIST, **bad)
    result = ask("why", "22222222")
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (1, "", 1)
    assert "Error: no job '22222222' is on the cluster: " in result.stderr
    assert f"the Argo Server {SERVER} {message}" in result.stderr
    assert message in json.loads(ask("why", "22222222", "--json").stdout)["error"]["message"]


@each_bad
def test_an_unreadable_workflow_is_listed_without_reason(
    bad: dict[str, Any], message: str, net: responses.RequestsMock, ask: Callable[..., Result]
) -> None:
    net.get(LIST, json=answer(archived_workflow()))
    net.get(GET, **bad)
    if bad.get("status") == 404:  # it has gone from the archive, too
        assert ask("why", "22222222").exit_code == 0
        return
    result = ask("jobs", "--json")
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert f"Error: the Argo Server {SERVER} {message}" in result.stderr
    archived = [row for row in json.loads(result.stdout) if row["archived"]]
    assert [(row["job"], row["state"], row["reason"]) for row in archived] == [("22222222-bbbb", "ENDED", None)]
    assert "could not be read from Argo's archive" in ask("why", "22222222").stdout


def test_a_failing_server_is_asked_once(net: responses.RequestsMock, ask: Callable[..., Result]) -> None:
    other = archived_workflow(uid="w8")
    other["metadata"]["labels"]["flargo.dev/job-id"] = "33333333-cccc"
    net.get(LIST, json=answer(archived_workflow(), other))
    for uid in ("w8", "w9"):
        net.get(f"{LIST}/{uid}", status=503)
    assert ask("jobs").exit_code == 1
    assert len(net.calls) == 2


def test_a_server_without_archive_is_an_error(net: responses.RequestsMock, ask: Callable[..., Result]) -> None:
    """Such a server says so only when one Workflow is requested; its list is empty."""
    net.get(LIST, json=answer())
    net.replace("GET", UNKNOWN, status=500, json={"message": "getting archived workflows not supported"})
    result = ask("jobs")
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert "keeps no archive (500): its administrator can enable the archive with persistence.archive" in result.stderr


def test_an_empty_archive_is_no_error(net: responses.RequestsMock, ask: Callable[..., Result]) -> None:
    net.get(LIST, json=answer())
    assert ask("jobs").exit_code == 0
    result = ask("why", "22222222")
    assert "no job '22222222' is on the cluster or in Argo's archive" in result.stderr


def test_another_workflow_than_requested_is_an_error(net: responses.RequestsMock, archive: Archive) -> None:
    net.get(GET, json=archived_workflow(uid="w1"))
    with pytest.raises(ArchiveError):
        archive.get("w9")


# Output of the commands


def test_an_archived_job_is_shown(net: responses.RequestsMock, ask: Callable[..., Result]) -> None:
    net.get(LIST, json=answer(archived_workflow()))
    net.get(GET, json=archived_workflow())
    rows = {row["job"]: row for row in json.loads(ask("jobs", "--json").stdout)}
    assert {job_id: row["archived"] for job_id, row in rows.items()} == {
        "11111111-aaaa": False,
        "22222222-bbbb": True,
    }
    row = rows["22222222-bbbb"]
    assert (row["reason"], row["code"], row["exit_code"]) == ("PROGRAM_FAILED", 1, 3)
    assert (row["node"], row["gpus"]) == ("n1", {"nvidia.com/gpu": "2"})
    assert (row["created"], row["ended"]) == ("2026-01-01T00:00:00+00:00", "2026-01-01T00:00:42+00:00")
    output = ask("why", "2222").stdout
    assert "site-1 (client): PROGRAM_FAILED, FLARE hears 1" in output
    assert "this is what Argo's archive keeps of it" in output


def test_why_reads_only_the_matching_workflow(net: responses.RequestsMock, ask: Callable[..., Result]) -> None:
    other = archived_workflow(uid="w8")
    other["metadata"]["labels"]["flargo.dev/job-id"] = "33333333-cccc"
    net.get(LIST, json=answer(archived_workflow(), other))
    net.get(GET, json=archived_workflow())
    assert ask("why", "job-gone").exit_code == 1, "two jobs' Workflows may have had one name"
    assert ask("why", "22222222-bbbb").exit_code == 0
    assert [call for call in net.calls if str(call.request.url).endswith("/w8")] == []


def test_the_archive_has_the_launchers_reason(net: responses.RequestsMock, ask: Callable[..., Result]) -> None:
    aborted = archived_workflow(143, shutdown="Terminate", notes={"flargo.dev/ending": "ABORTED"})
    net.get(LIST, json=answer(aborted))
    net.get(GET, json=aborted)
    (row,) = json.loads(ask("why", "22222222", "--json").stdout)
    assert (row["reason"], row["code"], row["exit_code"]) == ("ABORTED", 9, 143)


def test_cluster_and_latest_launch_take_precedence(net: responses.RequestsMock, ask: Callable[..., Result]) -> None:
    """A job on the cluster hides its archived launches, and of archived launches only the last one is shown."""
    here, first, last = job_workflow(uid="before", phase="Failed"), archived_workflow(uid="w7"), archived_workflow()
    first["metadata"]["creationTimestamp"] = "2025-01-01T00:00:00Z"
    net.get(LIST, json=answer(last, first, here))
    net.get(GET, json=last)
    rows = json.loads(ask("jobs", "--json").stdout)
    assert [(row["job"], row["archived"]) for row in rows] == [("11111111-aaaa", False), ("22222222-bbbb", True)]
    assert [call.request.url for call in net.calls][1:] == [GET]


# Options of the commands


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("abc", "Bearer abc"),
        ("Bearer abc\n", "Bearer abc"),
        ("  bearer  abc", "Bearer abc"),
        ("a.b-c_d=", "Bearer a.b-c_d="),
    ],
)
def test_the_token_may_begin_with_bearer(
    text: str, header: str, net: responses.RequestsMock, ask: Callable[..., Result], tmp_path: Path
) -> None:
    net.get(LIST, json=answer(archived_workflow()))
    net.get(GET, json=archived_workflow())
    (tmp_path / "token").write_text(text)
    assert ask("jobs").exit_code == 0
    assert {call.request.headers["Authorization"] for call in net.calls} == {header}


@pytest.mark.parametrize(
    "text", ["", "\n", f"{TOKEN} {TOKEN}", f"{TOKEN}\n{TOKEN}", f"{TOKEN}\0", f"Basic {TOKEN}", "ü"]
)
def test_an_invalid_token_file_is_refused_unseen(text: str, ask: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "token").write_text(text)
    result = ask("jobs")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"`--argo-token` is '{tmp_path / 'token'}'; expected a file with one token" in result.stderr


@pytest.mark.parametrize(
    "address",
    [
        "",
        "argo.example:2746",
        "ftp://argo",
        "https://",
        "https://a b",
        "http://a:x",
        "http://a?b",
        "http://[::1",
        "http://a:0",
    ],
)
def test_an_invalid_address_is_refused(address: str, ask: Callable[..., Result]) -> None:
    del ask
    result = run("jobs", "--argo-server", address)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "`--argo-server` is" in result.stderr


def test_an_address_with_password_is_refused_unseen(ask: Callable[..., Result]) -> None:
    del ask
    result = run("jobs", "--argo-server", f"https://me:{TOKEN}@argo.example")
    assert result.exit_code == 2


def test_useless_options_are_refused(ask: Callable[..., Result], tmp_path: Path) -> None:
    for option in ("--argo-token", "--argo-ca"):
        result = run("why", "x", option, str(tmp_path / "token"))
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.endswith(f"Error: {option} needs --argo-server.\n")
    result = ask("jobs", "--watch")
    assert result.exit_code == 2
    assert "--argo-server and --watch cannot be combined: archived jobs do not change." in result.stderr
    result = ask("jobs", "-A")
    assert result.exit_code == 2
    assert "--argo-server and --all-namespaces cannot be combined: " in result.stderr


def test_hera_is_imported_only_for_archives() -> None:
    code = "import sys, flargo.tools.cli.jobs, flargo.tools.cli.why; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {name.split(".")[0] for name in result.stdout.split()} & {"hera", "requests", "pydantic"}
