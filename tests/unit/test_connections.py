"""Credentials and configurations that hang, expire, move or vanish, with real servers, kubeconfigs and plugins."""

import base64
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from flargo.cluster import connections
from flargo.cluster.access import Access
from flargo.cluster.api import Api, Kind
from flargo.cluster.client_config import ConfigError, config_loader
from flargo.cluster.connections import Connections, LoadError
from flargo.cluster.errors import ApiError
from flargo.cluster.meaning import Meaning
from flargo.embedded import tls
from tests.harness.kubernetes_api import status

PLUGIN_VERSION = "client.authentication.k8s.io/v1"
WAIT = 0.5
"""Seconds that a request of these tests waits for a configuration."""
PROMPT = 5.0
"""Seconds within which a request fails or is answered, on a busy machine. A plugin that hangs does so for minutes."""


class Server(ThreadingHTTPServer):
    """An API server with one pod, over HTTPS with a certificate of its own, or over HTTP."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, *, port: int = 0, folder: Path | None = None) -> None:
        """Listen; with a folder, over HTTPS."""
        super().__init__(("127.0.0.1", port), _Handler)
        self.valid_tokens: set[str] | None = None
        self.tokens: list[str] = []
        """The token of each request."""
        self.certificate = b""
        if folder is not None:
            self.certificate, key = tls.create_certificate()
            self.socket = tls.server_context(self.certificate, key, folder).wrap_socket(self.socket, server_side=True)

    @property
    def cluster(self) -> dict[str, str]:
        """The server as a kubeconfig's cluster."""
        if not self.certificate:
            return {"server": f"http://127.0.0.1:{self.server_port}"}
        data = base64.b64encode(self.certificate).decode()
        return {"server": f"https://127.0.0.1:{self.server_port}", "certificate-authority-data": data}

    def handle_error(self, *_: Any) -> None:
        """Stay silent about clients that do not trust the certificate."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"  # no connection is kept, so each request is connected by the current certificates
    server: Server

    def do_GET(self) -> None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.server.tokens.append(token)
        valid = self.server.valid_tokens
        is_valid = valid is None or token in valid
        content = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"}}
        body = json.dumps(content).encode() if is_valid else status(401, "Unauthorized")[1]
        self.send_response(200 if is_valid else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Stay silent."""


@contextmanager
def serve(**arguments: Any) -> Iterator[Server]:
    """Run a server until the end of the ``with``."""
    with Server(**arguments) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server
        with suppress(OSError):
            server.shutdown()
        thread.join(5)


def write_kubeconfig(file: Path, cluster: dict[str, str], user: dict[str, Any]) -> Path:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    file.write_text(yaml.safe_dump(document))
    return file


class Plugin:
    """A credential plugin: a shell script whose runs are counted."""

    def __init__(self, folder: Path) -> None:
        self._runs = folder / "runs"
        self._runs.touch()
        self._script = folder / "plugin"

    @property
    def runs(self) -> int:
        """The number of times that it was started."""
        return len(self.pids)

    @property
    def pids(self) -> list[str]:
        """The process of each run."""
        return self._runs.read_text().splitlines()

    def user(self) -> dict[str, Any]:
        """Return the plugin as a kubeconfig's user."""
        command = ["-c", f". {self._script}"]
        return {
            "exec": {"apiVersion": PLUGIN_VERSION, "command": "sh", "args": command, "interactiveMode": "Never"},
        }

    def hang(self) -> None:
        """Take minutes from now on."""
        self._write("exec sleep 600")

    def print_token(self, token: str, lifetime: timedelta = timedelta(hours=1), seconds: float = 0.0) -> None:
        """Print a token from now on, after some seconds."""
        status = {"token": token, "expirationTimestamp": (datetime.now(UTC) + lifetime).strftime("%Y-%m-%dT%H:%M:%SZ")}
        credential = {"apiVersion": PLUGIN_VERSION, "kind": "ExecCredential", "status": status}
        self._write(f"sleep {seconds}; echo '{json.dumps(credential)}'")

    def _write(self, script: str) -> None:
        new = self._script.with_suffix(".new")
        new.write_text(f"echo $$ >> {self._runs}\n{script}\n")
        new.rename(self._script)


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    return Plugin(tmp_path)


@pytest.fixture(autouse=True)
def _end_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a plugin that hangs be killed soon after its test."""
    monkeypatch.setattr("flargo.cluster.exec_plugin.TIMEOUT", 8.0)


def client(file: Path) -> Api:
    return Api(config_loader(str(file)), "ns", max_wait=WAIT)


def seconds_of(call: Callable[[], object]) -> float:
    start = time.monotonic()
    call()
    return time.monotonic() - start


def failed_get(api: Api) -> ApiError:
    with pytest.raises(ApiError) as error:
        api.get(Kind.POD, "p")
    return error.value


def get_until(api: Api, is_answered: Callable[[], bool], within: float = 10.0) -> None:
    """Request the pod again and again until the condition holds."""
    deadline = time.monotonic() + within
    while not is_answered():
        assert time.monotonic() < deadline, "not within the limit"
        with suppress(ApiError):
            api.get(Kind.POD, "p")
        time.sleep(0.05)


# --- credentials that take long


def test_a_hanging_plugin_fails_requests_soon(tmp_path: Path, plugin: Plugin) -> None:
    """All threads wait for one run of the plugin, and a stated time at most."""
    plugin.hang()
    with serve(folder=tmp_path) as server:
        api = client(write_kubeconfig(tmp_path / "config", server.cluster, plugin.user()))
        errors: list[ApiError] = []
        threads = [threading.Thread(target=lambda: errors.append(failed_get(api)), daemon=True) for _ in range(8)]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PROMPT)
    assert len(errors) == 8
    assert time.monotonic() - start < PROMPT
    assert {error.meaning for error in errors} == {Meaning.UNANSWERED}
    assert plugin.runs == 1


def test_a_hanging_plugin_ends_with_its_process(tmp_path: Path, plugin: Plugin) -> None:
    plugin.hang()
    file = write_kubeconfig(tmp_path / "config", {"server": "https://127.0.0.1:1"}, plugin.user())
    program = (
        "from flargo.cluster.api import Api, Kind\n"
        "from flargo.cluster.client_config import config_loader\n"
        f"try: Api(config_loader({str(file)!r}), 'ns', max_wait=2).get(Kind.POD, 'p')\n"
        "except Exception as error: print(error)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert "still being loaded" in result.stdout
    pid = int(plugin.pids[-1])
    deadline = time.monotonic() + PROMPT
    while Path(f"/proc/{pid}").exists() and "zombie" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_slow_plugin_serves_later_requests(tmp_path: Path, plugin: Plugin) -> None:
    """A request that gives up waiting does not stop the plugin."""
    plugin.print_token("slow", seconds=2 * WAIT)
    with serve(folder=tmp_path) as server:
        api = client(write_kubeconfig(tmp_path / "config", server.cluster, plugin.user()))
        assert "still being loaded" in str(failed_get(api))
        get_until(api, lambda: "slow" in server.tokens)
    assert plugin.runs == 1


def test_a_hanging_renewal_blocks_no_request(tmp_path: Path, plugin: Plugin) -> None:
    """The credentials expire soon, so they are renewed; they are still valid, so they are used meanwhile."""
    plugin.print_token("old", lifetime=timedelta(minutes=2))
    with serve(folder=tmp_path) as server:
        api = client(write_kubeconfig(tmp_path / "config", server.cluster, plugin.user()))
        get_until(api, lambda: "old" in server.tokens)
        plugin.hang()
        durations: list[float] = []

        def get() -> None:
            durations.append(seconds_of(lambda: api.get(Kind.POD, "p")))

        threads = [threading.Thread(target=get, daemon=True) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PROMPT)
    assert len(durations) == 8
    assert max(durations) < PROMPT
    assert set(server.tokens) == {"old"}
    assert plugin.runs <= 2


def test_expiring_credentials_are_renewed_once(tmp_path: Path, plugin: Plugin) -> None:
    plugin.print_token("old", lifetime=timedelta(minutes=2))
    with serve(folder=tmp_path) as server:
        api = client(write_kubeconfig(tmp_path / "config", server.cluster, plugin.user()))
        get_until(api, lambda: "old" in server.tokens)
        plugin.print_token("new")
        get_until(api, lambda: "new" in server.tokens)
        for _ in range(20):
            api.get(Kind.POD, "p")
    assert server.tokens[-20:] == ["new"] * 20
    assert plugin.runs <= 3


def test_short_lived_credentials_cause_no_loop(tmp_path: Path, plugin: Plugin) -> None:
    """A token that lives for less than the time in which it counts as expiring is not renewed for each request."""
    plugin.print_token("short", lifetime=timedelta(seconds=90))
    with serve(folder=tmp_path) as server:
        api = client(write_kubeconfig(tmp_path / "config", server.cluster, plugin.user()))
        for _ in range(50):
            api.get(Kind.POD, "p")
    assert plugin.runs <= 2


def test_a_command_uses_its_credentials_up(tmp_path: Path, plugin: Plugin) -> None:
    """Its plugin may ask a person, who was asked again up to five minutes early, every half minute."""
    plugin.print_token("short", lifetime=timedelta(seconds=90))
    with serve(folder=tmp_path) as server:
        file = write_kubeconfig(tmp_path / "config", server.cluster, plugin.user())
        api = Api(config_loader(str(file)), "ns", max_wait=None)
        for _ in range(5):
            api.get(Kind.POD, "p")
    assert plugin.runs == 1


def test_rejected_credentials_cause_no_loop(tmp_path: Path, plugin: Plugin) -> None:
    plugin.print_token("wrong")
    with serve(folder=tmp_path) as server:
        server.valid_tokens = set()
        api = client(write_kubeconfig(tmp_path / "config", server.cluster, plugin.user()))
        errors = [failed_get(api) for _ in range(20)]
    assert {error.meaning for error in errors} == {Meaning.UNAUTHENTICATED}
    assert plugin.runs <= connections.MAX_LOADS


def test_a_renewal_that_hangs_leaves_a_401(tmp_path: Path, plugin: Plugin) -> None:
    plugin.print_token("old")
    with serve(folder=tmp_path) as server:
        api = client(write_kubeconfig(tmp_path / "config", server.cluster, plugin.user()))
        api.get(Kind.POD, "p")
        plugin.hang()
        server.valid_tokens = {"new"}
        assert seconds_of(lambda: failed_get(api)) < PROMPT
        server.valid_tokens = {"old"}
        assert seconds_of(lambda: api.get(Kind.POD, "p")) < PROMPT


# --- servers that move


USER = {"token": "t"}


def test_a_server_that_moved_is_found(tmp_path: Path) -> None:
    """Its address has changed, and somebody has rewritten the kubeconfig."""
    with serve(folder=tmp_path) as first:
        file = write_kubeconfig(tmp_path / "config", first.cluster, USER)
        api = client(file)
        api.get(Kind.POD, "p")
    with serve(folder=tmp_path) as second:
        write_kubeconfig(file, second.cluster, USER)
        get_until(api, lambda: bool(second.tokens))


def test_a_new_authority_is_trusted(tmp_path: Path) -> None:
    """The server at the same address has a certificate of another authority."""
    with serve(folder=tmp_path) as first:
        file = write_kubeconfig(tmp_path / "config", first.cluster, USER)
        api = client(file)
        api.get(Kind.POD, "p")
        port = first.server_port
    with serve(folder=tmp_path, port=port) as second:
        assert "certificate" in str(failed_get(api))
        write_kubeconfig(file, second.cluster, USER)
        get_until(api, lambda: bool(second.tokens))


def test_certificates_stay_in_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other programs remove old files from the temporary folder, and a connection must not depend on them."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    certificate, key = tls.create_certificate()
    user = {"client-certificate-data": certificate, "client-key-data": key}
    encoded = {name: base64.b64encode(content).decode() for name, content in user.items()}
    with serve(folder=tmp_path) as server:
        api = client(write_kubeconfig(tmp_path / "config", server.cluster, encoded))
        api.get(Kind.POD, "p")
        assert [*folder.iterdir()] == []
        api.get(Kind.POD, "p")


def test_the_old_connection_is_used_until_a_new_one_exists(tmp_path: Path) -> None:
    """A kubeconfig that cannot be read is no reason to forget the last one that could."""
    with serve() as server:
        file = write_kubeconfig(tmp_path / "config", server.cluster, USER)
        api = client(file)
        api.get(Kind.POD, "p")
        port = server.server_port
    file.write_text("clusters: [")
    for _ in range(10):
        failed_get(api)
    with serve(port=port) as server:
        get_until(api, lambda: bool(server.tokens))


def test_a_silent_server_causes_no_loop(tmp_path: Path, plugin: Plugin) -> None:
    plugin.print_token("t")
    with serve(folder=tmp_path) as server:
        api = client(write_kubeconfig(tmp_path / "config", server.cluster, plugin.user()))
        api.get(Kind.POD, "p")
    for _ in range(100):
        failed_get(api)
    time.sleep(0.5)
    assert plugin.runs == 2


def refuse(*_: Any, **__: Any) -> None:
    raise ConnectionRefusedError


def test_single_failures_load_nothing(tmp_path: Path, plugin: Plugin) -> None:
    plugin.print_token("t")
    with serve(folder=tmp_path) as server:
        api = client(write_kubeconfig(tmp_path / "config", server.cluster, plugin.user()))
        for _ in range(connections.SILENT_REQUESTS * 3):
            api.get(Kind.POD, "p")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("urllib3.PoolManager.request", refuse)
                failed_get(api)
    assert plugin.runs == 1


# --- loads that never end


class Loader:
    """A loader that blocks until it is released, on a clock that the test sets."""

    def __init__(self, blocks_at: int = 1) -> None:
        self.now = 0.0
        self.calls = 0
        self.blocks_at = blocks_at
        """The number of the call that blocks."""
        self.go_on = threading.Event()

    def load(self) -> Any:
        self.calls += 1
        number = self.calls
        if number == self.blocks_at:
            self.go_on.wait(PROMPT)
        return Access(f"http://127.0.0.1:{number}")

    def connections(self) -> Connections:
        return Connections(self.load, lambda _: None, max_wait=0.05, clock=lambda: self.now)


def test_a_load_that_never_ends_is_given_up() -> None:
    """What it returns later is not used, since something newer may be in use by then."""
    loader = Loader()
    holder = loader.connections()
    for loader.now in (0.0, 80.0):
        with pytest.raises(LoadError, match="still being loaded"):
            holder.current()
    assert loader.calls == 1
    loader.now = 100.0
    newer = holder.current()
    loader.go_on.set()
    time.sleep(0.1)
    assert holder.current() is newer
    assert loader.calls == 2


def test_a_renewal_that_never_ends_is_given_up() -> None:
    loader = Loader(blocks_at=2)
    holder = loader.connections()
    first = holder.current()
    for loader.now in (1.0, 2.0, 3.0, 80.0, 100.0):
        holder.on_no_answer()
    deadline = time.monotonic() + PROMPT
    while holder.current() is first:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    loader.go_on.set()
    assert loader.calls == 3


def test_a_thread_that_cannot_start_is_a_load_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    loader = Loader()
    loader.go_on.set()
    holder = loader.connections()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse_start)
        with pytest.raises(LoadError, match="RuntimeError"):
            holder.current()
    assert holder.current() is holder.current()


def test_an_interrupted_command_leaves_no_load_behind() -> None:
    """A command loads on its own thread, and Ctrl-C ends that."""
    results: list[Any] = [KeyboardInterrupt(), Access("http://127.0.0.1:1")]

    def load() -> Any:
        result = results.pop(0)
        if isinstance(result, BaseException):
            raise result
        return result

    holder = Connections(load, lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        holder.current()
    assert holder.current() is holder.current()


def test_failed_loads_cause_no_loop() -> None:
    calls: list[int] = []

    def fail() -> Any:
        calls.append(1)
        raise ConfigError("the kubeconfig", "it is not there")

    holder = Connections(fail, lambda _: None, max_wait=1.0)
    for _ in range(20):
        with pytest.raises(LoadError, match="it is not there"):
            holder.current()
    assert len(calls) == connections.MAX_LOADS


@given(st.lists(st.tuples(st.floats(0, 20), st.sampled_from(["answer", "no answer", "rejected", "request"]))))
def test_loads_are_limited_in_any_order(inputs: list[tuple[float, str]]) -> None:
    """Whatever happens, in any window no more loads begin than the limit says, and a connection is never lost."""
    now = [0.0]
    starts: list[float] = []

    def load() -> Any:
        starts.append(now[0])
        return Access("http://127.0.0.1:1")

    holder = Connections(load, lambda _: None, clock=lambda: now[0])
    connection = holder.current()
    for seconds, what in inputs:
        now[0] += seconds
        match what:
            case "answer":
                holder.on_answer()
            case "no answer":
                holder.on_no_answer()
            case "rejected":
                connection = holder.replace(connection) or connection
            case _:
                connection = holder.current()
    for start in starts:
        assert sum(start <= each < start + connections.LOAD_WINDOW_SECONDS for each in starts) <= connections.MAX_LOADS
