"""Notifications of outcomes: what is sent, what is not, and that nobody waits for them."""

import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Self

import pytest
import urllib3
import yaml

import flargo
from flargo.backoff import Backoff
from flargo.cluster.error_text import describe
from flargo.control.meter import Delivery
from flargo.embedded.tls import create_certificate, server_context
from flargo.flare import notifier as module
from flargo.flare import receiver
from flargo.flare.notifier import LAST_TRY_SECONDS, MAX_TRIES, MAX_WAITING, Notifier
from flargo.flare.receiver import DELIVERY_SECONDS, DeliveryError, post
from flargo.flare.report import Report
from flargo.job.settings import Receiver
from flargo.status.reasons import Reason
from flargo.status.verdict import Verdict
from flargo.terms import Role
from tests.harness.cluster import eventually
from tests.harness.paths import ROOT
from tests.harness.webhook import Webhook

OUTCOME = {"job_id": "job-1", "site": "site-1", "reason": "PROGRAM_FAILED", "code": 1}
SECONDS = 10.0
TOKEN = "t0ken-of-the-receiver"


class Sender:
    """A notifier whose results are recorded."""

    def __init__(self, send: Callable[[bytes], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.results: list[Delivery] = []
        self.notifier = Notifier(send, self.results.append, clock)

    def send(self, launch: str = "a1") -> None:
        self.notifier.send(OUTCOME, launch)

    def wait_for_results(self, count: int = 1) -> list[Delivery]:
        eventually(lambda: len(self.results) >= count, SECONDS, f"{count} notifications are dealt with")
        return self.results


def sender_to(url: str, token_file: Path | None = None) -> Sender:
    to = Receiver(url, str(token_file) if token_file is not None else None)
    return Sender(lambda body: post(to, body))


@pytest.fixture(autouse=True)
def _no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF", Backoff((0.01,)))


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    return file


class Blocked:
    """A receiver that does not answer before the test says so."""

    def __init__(self) -> None:
        self.is_called, self.may_answer = threading.Event(), threading.Event()

    def __call__(self, _: bytes) -> None:
        self.is_called.set()
        self.may_answer.wait(SECONDS)


# One POST


def test_outcome_is_posted_once_with_the_token(token_file: Path) -> None:
    with Webhook() as webhook:
        sender = sender_to(webhook.url, token_file)
        sender.send()
        assert sender.wait_for_results() == [Delivery.DELIVERED]
        sender.notifier.close(SECONDS)
        ((path, headers, content),) = webhook.posts
    assert path == "/flargo"
    assert content == {"id": "job-1/site-1/a1", **OUTCOME}
    assert (headers["Authorization"], headers["Content-Type"]) == (f"Bearer {TOKEN}", "application/json")
    assert TOKEN not in json.dumps(content)


def test_without_a_token_file_no_token_is_sent() -> None:
    with Webhook() as webhook:
        post(Receiver(webhook.url, None), b"{}")
        assert "Authorization" not in webhook.posts[0].headers


def test_a_rotated_token_is_used_at_once(token_file: Path) -> None:
    with Webhook() as webhook:
        for token in ("first-token", "Bearer second-token\r\n"):
            token_file.write_text(token)
            post(Receiver(webhook.url, str(token_file)), b"{}")
        tokens = [each.headers["Authorization"] for each in webhook.posts]
    assert tokens == ["Bearer first-token", "Bearer second-token"]


@pytest.mark.parametrize("content", ["", "\n", "two tokens", "s3cret\nX-Header: y", "s3cret-ü", "s3cret" * 10_000])
def test_nothing_is_sent_without_a_proper_token(
    content: str, token_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token_file.write_text(content)
    with Webhook() as webhook:
        sender = sender_to(webhook.url, token_file)
        sender.send()
        assert sender.wait_for_results() == [Delivery.FAILED]
        assert webhook.posts == []
    assert f"{token_file} does not hold one token in ASCII" in caplog.text
    assert "s3cret" not in caplog.text


def test_a_missing_token_file_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with Webhook() as webhook:
        sender = sender_to(webhook.url, Path("/nowhere/token"))
        sender.send()
        assert sender.wait_for_results() == [Delivery.FAILED]
        assert webhook.posts == []
    assert "No such file or directory" in caplog.text


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(status: int, token_file: Path) -> None:
    with Webhook() as other, Webhook(status, headers={"Location": other.url}) as webhook:
        with pytest.raises(DeliveryError, match=f"HTTP status {status}"):
            post(Receiver(webhook.url, str(token_file)), b"{}")
        assert other.posts == []
        assert len(webhook.posts) == 1


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with Webhook() as webhook:
        post(Receiver(webhook.url, None), b"{}")
        assert len(webhook.posts) == 1


def test_only_a_trusted_certificate_gets_the_outcome(
    tmp_path: Path, token_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    certificate, key = create_certificate()
    (tmp_path / "ca.pem").write_bytes(certificate)
    with Webhook(tls=server_context(certificate, key, tmp_path)) as webhook:
        sender = sender_to(webhook.url, token_file)
        sender.send()
        assert sender.wait_for_results() == [Delivery.FAILED]
        assert webhook.posts == []
        assert "the server's certificate is self-signed" in caplog.text
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        sender.send()
        assert sender.wait_for_results(2)[-1] is Delivery.DELIVERED


def test_a_certificate_of_another_host_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = create_certificate()
    (tmp_path / "ca.pem").write_bytes(certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    resolve = socket.getaddrinfo
    monkeypatch.setattr("socket.getaddrinfo", lambda _, *rest, **options: resolve("127.0.0.1", *rest, **options))
    with Webhook(tls=server_context(certificate, key, tmp_path)) as webhook:
        url = webhook.url.replace("127.0.0.1", "alerts.example")
        with pytest.raises(urllib3.exceptions.HTTPError) as caught:
            post(Receiver(url, None), b"{}")
        assert describe(caught.value) == "the server's certificate is for another host name"
        assert webhook.posts == []
        post(Receiver(webhook.url.replace("127.0.0.1", "localhost"), None), b"{}")


class Endless(Webhook):
    """A webhook whose answers do not end."""

    has_ended = False

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        super().answer(handler)
        try:
            while True:
                handler.wfile.write(b"x" * 65536)
        except OSError:
            self.has_ended = True


def test_an_endless_answer_is_not_read() -> None:
    with Endless(200) as webhook:
        began_at = time.monotonic()
        post(Receiver(webhook.url, None), b"{}")
        assert time.monotonic() - began_at < SECONDS / 2
        eventually(lambda: webhook.has_ended, SECONDS, "the connection is closed")


# A delivery's time limit

DRIPS = {
    "nothing": b"",
    "a status line": b"HTTP/1.1 " + b"2" * 10_000,
    "a header": b"HTTP/1.1 204 No Content\r\nX-Filler: " + b"x" * 10_000,
    "many headers": b"HTTP/1.1 204 No Content\r\n" + b"a:b\r\n" * 90,
    "answers that announce another": b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
}


class Dripping:
    """A receiver that sends one byte of its answer every 50 ms, until its client has closed the connection."""

    def __init__(self, answer: bytes, *, reads: bool = True) -> None:
        self.has_ended = threading.Event()
        self._answer, self._reads = answer, reads
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{{}}://127.0.0.1:{self._listener.getsockname()[1]}/"

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            if self._reads:
                connection.recv(65536)
            try:
                for number in range(len(self._answer)):
                    connection.sendall(self._answer[number : number + 1])
                    time.sleep(0.05)
                while connection.recv(65536):
                    pass
            except OSError:
                pass
        self.has_ended.set()


def delivery_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "flargo-notify-post"]


def expect_late(url: str) -> None:
    began_at = time.monotonic()
    with pytest.raises(DeliveryError, match=r"no answer within 0\.3 s"):
        post(Receiver(url, None), b"{}")
    assert time.monotonic() - began_at < 2


@pytest.mark.parametrize("answer", DRIPS.values(), ids=DRIPS)
def test_a_delivery_to_a_dripping_receiver_ends(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection and its thread end with it: the next try is not the second one at the same time."""
    monkeypatch.setattr(receiver, "DELIVERY_SECONDS", 0.3)
    with Dripping(answer) as dripping:
        expect_late(dripping.url.format("http"))
        assert dripping.has_ended.wait(SECONDS)
    eventually(lambda: not delivery_threads(), SECONDS, "the delivery's thread ends")


@pytest.mark.parametrize("answer", [b"", b"\x16\x03\x03\x40\x00" + b"\x02\x00\x3f\xfc" + b"\x03" * 16_000])
def test_a_delivery_ends_while_a_receiver_drips_its_handshake(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver, "DELIVERY_SECONDS", 0.3)
    with Dripping(answer, reads=False) as dripping:
        expect_late(dripping.url.format("https"))
        assert dripping.has_ended.wait(SECONDS)
    eventually(lambda: not delivery_threads(), SECONDS, "the delivery's thread ends")


def test_a_body_that_drips_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with Dripping(b"") as dripping:
        monkeypatch.setattr(receiver, "DELIVERY_SECONDS", SECONDS)
        monkeypatch.setattr(dripping, "_answer", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + b"x" * 9999)
        began_at = time.monotonic()
        post(Receiver(dripping.url.format("http"), None), b"{}")
        assert time.monotonic() - began_at < SECONDS
        assert dripping.has_ended.wait(SECONDS)


def test_a_name_that_is_resolved_too_late_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later try sends the outcome; this one would be a second copy."""
    monkeypatch.setattr(receiver, "DELIVERY_SECONDS", 0.3)
    may_resolve, resolve = threading.Event(), socket.getaddrinfo

    def resolve_late(*arguments: Any, **options: Any) -> Any:
        may_resolve.wait(SECONDS)
        return resolve(*arguments, **options)

    monkeypatch.setattr("socket.getaddrinfo", resolve_late)
    with Webhook() as webhook:
        expect_late(webhook.url)
        assert delivery_threads()
        may_resolve.set()
        eventually(lambda: not delivery_threads(), SECONDS, "the delivery's thread ends")
        assert webhook.posts == []


def test_one_receiver_delays_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its own notifier, so the other's outcomes are sent while the first one waits for an answer."""
    monkeypatch.setattr(receiver, "DELIVERY_SECONDS", SECONDS)
    with Dripping(b"") as silent, Webhook() as webhook:
        held_up, free = sender_to(silent.url.format("http")), sender_to(webhook.url)
        for _ in range(5):
            held_up.send()
            free.send()
        assert free.wait_for_results(5) == [Delivery.DELIVERED] * 5
        assert held_up.results == []
        held_up.notifier.close(0.0)


# The relay for Slack


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[tuple[str, Webhook]]:
    """The URL of the example's relay, which runs as in its container, and the webhook that stands for Slack."""
    patch = yaml.safe_load((ROOT / "deploy/notify-slack.yaml").read_text())
    (container,) = patch["spec"]["template"]["spec"]["containers"]
    assert container["command"][0] == "python"
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    with Webhook() as slack:
        (tmp_path / "url").write_text(f"{slack.url}\n")
        variables = {each["name"]: each["value"] for each in container["env"]}
        environment = {**variables, "PORT": str(port), "URL_FILE": str(tmp_path / "url")}
        argv = [sys.executable, *container["command"][1:], *container["args"]]
        with subprocess.Popen(argv, env=environment) as process:
            try:
                eventually(lambda: is_open(port), SECONDS, "the relay listens")
                yield f"http://127.0.0.1:{port}/", slack
            finally:
                process.terminate()
                assert process.wait(SECONDS) == 0, "process 1 of a container ignores a SIGTERM that it does not handle"


def is_open(port: int) -> bool:
    with closing(socket.socket()) as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_relay_posts_one_line_to_slack(relay: tuple[str, Webhook], tmp_path: Path) -> None:
    url, slack = relay
    report = Report("job-1", "R&D", Role.CLIENT, run_dir=tmp_path / "run", error_log=tmp_path / "run" / "log")
    outcome = report.publish(Verdict(Reason.PROGRAM_FAILED, 1, "exit code 3", 3), "wf")
    sender = sender_to(url)
    sender.notifier.send(outcome, "a1")
    assert sender.wait_for_results() == [Delivery.DELIVERED]
    text = "job-1 at R&amp;D: *PROGRAM_FAILED* (1). The program failed. Read the job's log."
    assert [each.content for each in slack.posts] == [{"text": text}]


def test_relay_reports_a_failure_of_slack(relay: tuple[str, Webhook], tmp_path: Path) -> None:
    url, slack = relay
    (tmp_path / "url").write_text("http://127.0.0.1:9/")
    outcome = json.dumps({**OUTCOME, "what_happened": "x", "what_to_do": "y"}).encode()
    with pytest.raises(DeliveryError, match="HTTP status 502"):
        post(Receiver(url, None), outcome)
    assert slack.posts == []


# Tries


def test_a_failing_receiver_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), Webhook(500, 429, 401) as webhook:
        sender = sender_to(webhook.url)
        sender.send()
        assert sender.wait_for_results() == [Delivery.DELIVERED]
        assert len({each.content["id"] for each in webhook.wait_for_posts(4)}) == 1
    assert caplog.messages == [
        "argo.notify: the receiver does not take outcomes: HTTP status 500; tried again",
        "argo.notify: the receiver takes outcomes again",
    ]


def test_tries_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    with Webhook(*[503] * 20) as webhook:
        sender = sender_to(webhook.url)
        sender.send()
        assert sender.wait_for_results() == [Delivery.FAILED]
        time.sleep(0.2)
        assert len(webhook.posts) == MAX_TRIES
    given_up = f"job job-1 at site-1: argo.notify: its outcome is given up (tries: {MAX_TRIES}): HTTP status 503"
    assert caplog.messages[1:] == [given_up]


def test_retry_after_is_obeyed_within_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF", Backoff((0.01,), max_retry_after=0.5))
    with Webhook(429, headers={"Retry-After": "3600"}) as webhook:
        sender = sender_to(webhook.url)
        began_at = time.monotonic()
        sender.send()
        assert sender.wait_for_results() == [Delivery.DELIVERED]
        assert 0.5 <= time.monotonic() - began_at < SECONDS


def test_one_failing_outcome_holds_up_no_other() -> None:
    bodies: list[str] = []

    def take_others(body: bytes) -> None:
        bodies.append(json.loads(body)["id"])
        if bodies[-1].endswith("bad"):
            raise OSError

    sender = Sender(take_others)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BACKOFF", Backoff((LAST_TRY_SECONDS / 2,)))
        sender.send("bad")
        sender.send("good")
        assert sender.wait_for_results() == [Delivery.DELIVERED]
    sender.notifier.close(0.0)


class SlowClock:
    """A clock on which each try takes as long as a delivery may."""

    def __init__(self) -> None:
        self.now = 0.0
        self.has_begun = threading.Event()
        self.tries: dict[str, list[float]] = {}

    def __call__(self) -> float:
        return self.now

    def post(self, body: bytes) -> None:
        self.has_begun.wait(SECONDS)
        self.tries.setdefault(json.loads(body)["id"], []).append(self.now)
        self.now += DELIVERY_SECONDS
        raise DeliveryError("no answer within 10 s")


def test_no_try_begins_late(caplog: pytest.LogCaptureFixture) -> None:
    """However many outcomes wait for a receiver that does not answer, each is given up in time."""
    clock = SlowClock()
    sender = Sender(clock.post, clock)
    for number in range(MAX_WAITING):
        sender.send(str(number))
    clock.has_begun.set()
    assert sender.wait_for_results(MAX_WAITING) == [Delivery.FAILED] * MAX_WAITING
    assert max(map(max, clock.tries.values())) <= LAST_TRY_SECONDS
    assert clock.now <= LAST_TRY_SECONDS + DELIVERY_SECONDS
    assert any(each.endswith("given up (tries: 0): others were in front of it") for each in caplog.messages)


def test_a_wait_that_is_too_long_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF", Backoff((0.01,), max_retry_after=300.0))
    monkeypatch.setattr(module, "LAST_TRY_SECONDS", 299.0)
    with Webhook(429, headers={"Retry-After": "300"}) as webhook:
        sender = sender_to(webhook.url)
        sender.send()
        assert sender.wait_for_results() == [Delivery.FAILED]
        assert len(webhook.posts) == 1


def test_the_docs_state_the_limits() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    assert f"No try begins later than {LAST_TRY_SECONDS / 60:.0f} minutes after the verdict" in text
    assert f"within {DELIVERY_SECONDS:.0f} seconds as a whole" in text


# Nobody waits


def test_a_silent_receiver_delays_nobody(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    blocked = Blocked()
    sender = Sender(blocked)
    before = set(threading.enumerate())
    began_at = time.monotonic()
    for _ in range(10):
        sender.send()
    assert time.monotonic() - began_at < 1
    (thread,) = set(threading.enumerate()) - before
    assert thread.daemon
    assert sender.results == [Delivery.DROPPED] * 7
    assert caplog.messages == ["argo.notify: 3 outcomes wait; further ones are dropped until one is taken"]
    blocked.may_answer.set()
    assert sender.wait_for_results(10)[7:] == [Delivery.DELIVERED] * 3
    sender.send()
    assert sender.wait_for_results(11)[10:] == [Delivery.DELIVERED], "there is room again"


def test_drops_are_logged_once_until_a_delivery(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 1)
    monkeypatch.setattr(module, "BACKOFF", Backoff((0.05,)))
    is_down = True

    def refuse_while_down(_: bytes) -> None:
        if is_down:
            raise OSError

    sender = Sender(refuse_while_down)

    def overflow() -> None:
        before = len(sender.results)
        sender.send()
        sender.send()
        sender.wait_for_results(before + 2)

    overflow()
    overflow()
    drops = [message for message in caplog.messages if "dropped" in message]
    assert drops == ["argo.notify: 1 outcomes wait; further ones are dropped until one is taken"]
    is_down = False
    sender.send()
    assert sender.wait_for_results(5)[-1] is Delivery.DELIVERED
    is_down = True
    overflow()
    assert len([message for message in caplog.messages if "dropped" in message]) == 2


def test_a_process_without_threads_drops_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    sender = Sender(lambda _: None)
    with monkeypatch.context() as patch:
        patch.setattr("threading.Thread.start", refuse)
        sender.send()
    assert sender.results == [Delivery.DROPPED]
    sender.send()
    assert sender.wait_for_results(2)[1:] == [Delivery.DELIVERED]


def test_shutdown_sends_what_waits() -> None:
    with Webhook() as webhook:
        sender = sender_to(webhook.url)
        for number in range(5):
            sender.send(str(number))
        sender.notifier.close(SECONDS)
        assert [each.content["id"][-1] for each in webhook.posts] == list("01234")


def test_shutdown_waits_for_a_bounded_time(caplog: pytest.LogCaptureFixture) -> None:
    blocked = Blocked()
    sender = Sender(blocked)
    sender.send()
    sender.send()
    assert blocked.is_called.wait(SECONDS)
    began_at = time.monotonic()
    sender.notifier.close(0.2)
    assert time.monotonic() - began_at < 2
    sender.notifier.close(SECONDS)
    assert time.monotonic() - began_at < 2, "FLARE may shut a launcher down twice"
    assert caplog.messages == ["argo.notify: the parent ends before 2 outcomes could be sent"]
    blocked.may_answer.set()


def test_launchers_notify_nobody_by_default() -> None:
    before = threading.enumerate()
    launcher: Any = flargo.ClientArgoJobLauncher()
    launcher._notify(OUTCOME, "a1")
    assert launcher._notifier is None
    assert threading.enumerate() == before
