"""Runs a kubeconfig's exec credential plugin without writing any of the plugin's output to a log.

The kubernetes client writes the stderr of a failing plugin, perhaps with a token, to the root logger, and then goes on
without credentials. Here a failing plugin is an error with a text of flargo's own. The plugin's stderr goes, line by
line as it arrives, to a callback of the caller; a FLARE parent passes no callback, and the lines are dropped.
"""

import atexit
import codecs
import contextlib
import io
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from kubernetes.config.dateutil import parse_rfc3339
from kubernetes.config.exec_provider import ExecProvider
from kubernetes.config.kube_config import FileOrData, KubeConfigLoader

from flargo.cluster.error_text import OwnError, describe

TIMEOUT = 60.0
"""Seconds that a plugin may take if it is not interactive."""
MAX_OUTPUT_BYTES = 1 << 20
"""Bytes of a plugin's stdout."""
MAX_LINE_LENGTH = 4096
"""Characters of one line of stderr that are passed on at once; a longer line is split."""
MAX_LINES = 1000
"""Lines of a plugin's stderr that are passed on."""
_CHUNK_BYTES = 1 << 16
"""Bytes of one read: as much as a pipe holds."""
_POLL_SECONDS = 0.02
"""Seconds between two checks whether the plugin has exited."""
_DRAIN_SECONDS = 0.2
"""Seconds for which output is read after the plugin's exit, if another process keeps a pipe open."""
_PROMPT_SECONDS = 0.1
"""Seconds of silence after which an unfinished line is taken for a prompt."""
_KILL_SECONDS = 5.0
"""Seconds that a killed process may take to exit."""
LineCallback = Callable[[str], None]
"""Called with each line of a plugin's stderr."""


_in_own_group: "set[subprocess.Popen[bytes]]" = set()
"""The running plugins that no signal of a terminal reaches."""


@atexit.register
def _kill_running() -> None:
    """Kill the plugins that still run when this process exits: the thread that waits for them does not go on."""
    for process in list(_in_own_group):
        if process.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)


class PluginError(OwnError):
    """A credential plugin returned no credentials."""


class KubeconfigLoader(KubeConfigLoader):
    """The kubernetes client's loader of kubeconfigs, with flargo's own way to run exec plugins."""

    def __init__(self, *, on_line: LineCallback | None, **kwargs: Any) -> None:
        """Create the loader.

        Args:
            on_line: called with each line of a plugin's stderr; None: nobody reads the lines, and the plugin can't ask
                for anything.
            kwargs: the arguments of the client's KubeConfigLoader.
        """
        self._on_line = on_line
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]

    def _set_config(self, client_configuration: Any) -> None:
        """Fill in the configuration, without the hook that would renew the credentials at any request.

        The hook runs the plugin again in each thread that sends a request, for as long as the plugin takes. Instead,
        ``flargo.cluster.connections`` loads the configuration again, in time and in one thread.
        """
        super()._set_config(client_configuration)  # type: ignore[no-untyped-call]
        client_configuration.refresh_api_key_hook = None
        client_configuration.credentials_expire_at = getattr(self, "expiry", None)

    def _load_from_exec_plugin(self) -> bool | None:
        user: Any = self._user
        if "exec" not in user:
            return None
        cluster: Any = self._cluster
        base = self._get_base_path(cluster.path)  # type: ignore[no-untyped-call]
        status = _Plugin(user["exec"], base, cluster, self._on_line).run()
        if "token" in status:
            self.token = f"Bearer {status['token']}"
        elif {"clientCertificateData", "clientKeyData"} <= status.keys():
            self.cert_file = self._file(status, "clientCertificateData", base)
            self.key_file = self._file(status, "clientKeyData", base)
        else:
            raise PluginError("the credential plugin returned neither a token nor a certificate with its key")
        if "expirationTimestamp" in status:
            self.expiry = parse_rfc3339(status["expirationTimestamp"])  # type: ignore[no-untyped-call]
        return True

    def _file(self, status: dict[str, Any], key: str, base: str) -> Any:
        return FileOrData(  # type: ignore[no-untyped-call]
            status,
            None,
            data_key_name=key,
            file_base_path=base,
            base64_file_content=False,
            temp_file_path=self._temp_file_path,
        ).as_file()


class _Plugin(ExecProvider):
    """One run of a plugin, as Kubernetes documents client-go credential plugins."""

    def __init__(self, config: Any, base: str, cluster: Any, on_line: LineCallback | None) -> None:
        super().__init__(config, base, cluster)  # type: ignore[no-untyped-call]
        self._on_line = on_line

    def run(self, previous_response: Any = None) -> dict[str, Any]:
        """Run the plugin; return the ``status`` of the ExecCredential that it prints.

        Raises:
            PluginError: the plugin could not be run, failed, took too long, or printed something else.
        """
        del previous_response
        is_interactive = self._on_line is not None and sys.stdin is not None and sys.stdin.isatty()
        env = {**self.env, "KUBERNETES_EXEC_INFO": json.dumps(self._info(is_interactive=is_interactive))}
        try:
            process = subprocess.Popen(
                self.args,
                stdin=None if is_interactive else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self.cwd,
                env=env,
                bufsize=0,
                start_new_session=not is_interactive,
            )
        except OSError as error:
            raise PluginError(f"the credential plugin can't be run: {describe(error)}") from None
        if not is_interactive:
            _in_own_group.add(process)
        try:
            stdout = self._read(process, None if is_interactive else TIMEOUT)
        finally:
            _in_own_group.discard(process)
            _end(process, in_own_group=not is_interactive)
        if len(stdout) > MAX_OUTPUT_BYTES:
            raise PluginError(f"the credential plugin printed more than {MAX_OUTPUT_BYTES} bytes")
        if process.returncode != 0:
            raise PluginError(f"the credential plugin ended with exit code {process.returncode}")
        return self._parse_status(stdout.decode(errors="replace"))

    def _read(self, process: "subprocess.Popen[bytes]", timeout: float | None) -> bytes:
        """Return the process's stdout, at most one byte over the limit, and pass on its stderr, until it exits.

        The end of the pipes is not awaited: a background process that inherited a pipe may keep it open forever.
        """
        assert process.stdout is not None
        assert process.stderr is not None
        stdout = bytearray()
        lines = _Lines(self._on_line)
        has_exited = False
        last_read = time.monotonic()
        deadline = last_read + timeout if timeout is not None else math.inf
        with selectors.DefaultSelector() as pipes:
            for pipe in (process.stdout, process.stderr):
                os.set_blocking(pipe.fileno(), False)
                pipes.register(pipe, selectors.EVENT_READ)
            while pipes.get_map() or not has_exited:
                for key, _ in pipes.select(_POLL_SECONDS):
                    chunk = _read_chunk(key.fd)
                    if chunk == b"":
                        pipes.unregister(key.fileobj)
                    elif chunk is not None and key.fileobj is process.stdout:
                        stdout += chunk
                    elif chunk is not None:
                        lines.add(chunk)
                        last_read = time.monotonic()
                now = time.monotonic()
                if len(stdout) > MAX_OUTPUT_BYTES or now >= deadline:
                    break
                if timeout is None and now >= last_read + _PROMPT_SECONDS:
                    lines.show_prompt()
                # After the check of the deadline, so that the pipes are read once more after the exit.
                if not has_exited and process.poll() is not None:
                    has_exited, deadline = True, now + _DRAIN_SECONDS
        lines.end()
        return bytes(stdout[: MAX_OUTPUT_BYTES + 1])

    def _info(self, *, is_interactive: bool) -> dict[str, Any]:
        """Return the ExecCredential that the plugin receives in KUBERNETES_EXEC_INFO."""
        spec: dict[str, Any] = {"interactive": is_interactive}
        if self.cluster:
            value = self.cluster.value
            extensions = [each for each in value.get("extensions") or [] if each.get("name") == _EXTENSION]
            spec["cluster"] = {**value, **({"config": extensions[0].get("extension")} if extensions else {})}
        return {"apiVersion": self.api_version, "kind": "ExecCredential", "spec": spec}

    def _parse_status(self, output: str) -> dict[str, Any]:
        try:
            credential = json.loads(output)
        except (ValueError, RecursionError):
            raise PluginError("the credential plugin printed no JSON") from None
        status = credential.get("status") if isinstance(credential, dict) else None
        if not isinstance(status, dict) or credential.get("apiVersion") != self.api_version:
            raise PluginError("the credential plugin printed no ExecCredential of the requested API version")
        return status


_EXTENSION = "client.authentication.k8s.io/exec"
"""The extension of a kubeconfig's cluster that is passed to plugins as ``config``."""


class _Lines:
    """Splits a plugin's stderr, which is read in chunks, into lines, and passes these on."""

    def __init__(self, on_line: LineCallback | None) -> None:
        self._on_line = on_line
        self._decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")("replace"), translate=True)
        self._unfinished = ""
        self._is_inside_line = False
        """True if the beginning of the current line was passed on before its end was known."""
        self._count = 0

    def add(self, chunk: bytes, *, is_last: bool = False) -> None:
        """Pass on the lines that a chunk completes, and pieces of a line that is too long."""
        *lines, self._unfinished = (self._unfinished + self._decoder.decode(chunk, final=is_last)).split("\n")
        for line in lines:
            self._pass_on(line, is_end=True)
        while len(self._unfinished) > MAX_LINE_LENGTH:
            self._pass_on(self._unfinished[:MAX_LINE_LENGTH], is_end=False)
            self._unfinished = self._unfinished[MAX_LINE_LENGTH:]

    def show_prompt(self) -> None:
        """Pass on an unfinished line: the plugin has paused, and may wait for an answer to it."""
        if self._unfinished:
            self._pass_on(self._unfinished, is_end=False)
            self._unfinished = ""

    def end(self) -> None:
        """Pass on a last line that has no line end."""
        self.add(b"", is_last=True)
        self.show_prompt()

    def _pass_on(self, line: str, *, is_end: bool) -> None:
        pieces = [line[at : at + MAX_LINE_LENGTH] for at in range(0, len(line), MAX_LINE_LENGTH)]
        if not pieces and not self._is_inside_line:
            pieces = [""]
        self._is_inside_line = not is_end
        for piece in pieces:
            if self._on_line is not None and self._count < MAX_LINES:
                self._count += 1
                self._on_line(piece)


def _read_chunk(descriptor: int) -> bytes | None:
    """Read the bytes that a non-blocking pipe holds; b"" at its end, None if there is nothing to read yet."""
    try:
        return os.read(descriptor, _CHUNK_BYTES)
    except BlockingIOError:
        return None


def _end(process: "subprocess.Popen[bytes]", *, in_own_group: bool) -> None:
    """Close the pipes; kill the process if it has not exited, with its group if it leads one, and reap it.

    Raises:
        PluginError: the process survives, as a process of another user does.
    """
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    if process.poll() is not None:
        return  # it is reaped, and another process may have its pid
    with contextlib.suppress(OSError):
        if in_own_group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    try:
        process.wait(_KILL_SECONDS)
    except subprocess.TimeoutExpired:
        raise PluginError("the credential plugin takes too long and can't be ended") from None
