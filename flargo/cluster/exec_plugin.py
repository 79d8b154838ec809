"""Runs a kubeconfig's exec credential plugin as kubectl does (client-go: plugin/pkg/client/auth/exec).

A plugin is a foreign program, so it runs within limits: a time, an amount of output, and no terminal unless a person
has started the command. Its stderr goes, line by line as it arrives, to a callback of the caller. A command shows the
lines, redacted and inert. A FLARE parent passes no callback, and the lines are dropped: a plugin that fails may write a
token of any form, flargo can redact only the tokens that it knows, and more people read a parent's log than its
kubeconfig. The parent's log names the program, how it ended, and that running it by hand shows why.
"""

import atexit
import codecs
import contextlib
import io
import json
import math
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

from flargo.cluster.error_text import OwnError, describe
from flargo.cluster.kubeconfig import Plugin
from flargo.text import inert

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


@dataclass(frozen=True, slots=True)
class Credential:
    """What a plugin returned: a token, a certificate with its key (PEM), or both."""

    token: str = field(repr=False)
    certificate: str
    key: str = field(repr=False)
    expires_at: datetime | None
    """None: the plugin has not said it."""


def run_plugin(plugin: Plugin, cluster: Mapping[str, Any] | None, on_line: LineCallback | None) -> Credential:
    """Run a plugin; return the credentials that it prints.

    Args:
        plugin: the plugin, as the kubeconfig describes it.
        cluster: what the plugin gets to know about the cluster; None: nothing.
        on_line: called with each line of the plugin's stderr; None: nobody reads the lines, and the plugin can't ask
            for anything.

    Raises:
        PluginError: the plugin could not be run, failed, took too long, or printed something else.
    """
    return _Run(plugin, on_line).credential(cluster)


class _Run:
    """One run of a plugin."""

    def __init__(self, plugin: Plugin, on_line: LineCallback | None) -> None:
        self._plugin = plugin
        self._lines = _Lines(on_line)
        self._name = f"the credential plugin {inert(PurePath(plugin.command).name)}"
        self._has_reader = on_line is not None
        self._is_interactive = plugin.interactive_mode != "Never" and self._has_reader and _has_terminal()

    def credential(self, cluster: Mapping[str, Any] | None) -> Credential:
        if self._plugin.interactive_mode == "Always" and not self._is_interactive:
            raise PluginError(f"{self._name} needs a terminal (interactiveMode Always), and there is none")
        process = self._start(cluster)
        if not self._is_interactive:
            _in_own_group.add(process)
        try:
            stdout = self._read(process, None if self._is_interactive else TIMEOUT)
        finally:
            _in_own_group.discard(process)
            is_killed = _end(process, in_own_group=not self._is_interactive)
        if len(stdout) > MAX_OUTPUT_BYTES:
            raise PluginError(f"{self._name} printed more than {MAX_OUTPUT_BYTES} bytes")
        if is_killed:
            raise PluginError(f"{self._name} took more than {TIMEOUT:g} s, and was killed{self._advice()}")
        if process.returncode != 0:
            raise PluginError(f"{self._name} ended with exit code {process.returncode}{self._advice()}")
        return self._parse(stdout)

    def _start(self, cluster: Mapping[str, Any] | None) -> "subprocess.Popen[bytes]":
        # In the PATH of this process, not in one that the plugin's env sets: as kubectl.
        program = shutil.which(self._plugin.command)
        if program is None:
            hint = f": {self._plugin.install_hint}" if self._plugin.install_hint else ""
            raise PluginError(f"{self._name} is not installed, or not in the PATH{hint}")
        spec = {"interactive": self._is_interactive, **({"cluster": cluster} if cluster is not None else {})}
        info = {"apiVersion": self._plugin.api_version, "kind": "ExecCredential", "spec": spec}
        try:
            return subprocess.Popen(
                [self._plugin.command, *self._plugin.args],
                executable=program,
                stdin=None if self._is_interactive else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **dict(self._plugin.env), "KUBERNETES_EXEC_INFO": json.dumps(info)},
                bufsize=0,
                start_new_session=not self._is_interactive,
            )
        except (OSError, ValueError) as error:
            raise PluginError(f"{self._name} can't be run: {describe(error)}") from None

    def _advice(self) -> str:
        """Return what people can do about a plugin that failed."""
        if not self._has_reader:
            return "; its own words are not logged, since they may hold a token: run it by hand to see them"
        if not self._lines.count:
            return " and wrote no message; run it by hand, or sign in again with the program that it belongs to"
        return "; its own words are on stderr. It may help to sign in again with the program that it belongs to"

    def _read(self, process: "subprocess.Popen[bytes]", timeout: float | None) -> bytes:
        """Return the process's stdout, at most one byte over the limit, and pass on its stderr, until it exits.

        The end of the pipes is not awaited: a background process that inherited a pipe may keep it open forever.
        """
        assert process.stdout is not None
        assert process.stderr is not None
        stdout = bytearray()
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
                        self._lines.add(chunk)
                        last_read = time.monotonic()
                now = time.monotonic()
                if len(stdout) > MAX_OUTPUT_BYTES or now >= deadline:
                    break
                if timeout is None and now >= last_read + _PROMPT_SECONDS:
                    self._lines.show_prompt()
                # After the check of the deadline, so that the pipes are read once more after the exit.
                if not has_exited and process.poll() is not None:
                    has_exited, deadline = True, now + _DRAIN_SECONDS
        self._lines.end()
        return bytes(stdout[: MAX_OUTPUT_BYTES + 1])

    def _parse(self, stdout: bytes) -> Credential:
        try:
            document = json.loads(stdout.decode(errors="replace"))
        except (ValueError, RecursionError):
            raise PluginError(f"{self._name} printed no JSON") from None
        status = document.get("status") if isinstance(document, dict) else None
        version = document.get("apiVersion") if isinstance(document, dict) else None
        if not isinstance(status, dict) or version != self._plugin.api_version:
            raise PluginError(f"{self._name} printed no ExecCredential of the requested API version")
        keys = ("token", "clientCertificateData", "clientKeyData", "expirationTimestamp")
        values = [status.get(key) or "" for key in keys]
        if not all(isinstance(value, str) for value in values):
            raise PluginError(f"{self._name} printed an ExecCredential with a value that is no text")
        token, certificate, key, expiry = values
        if bool(certificate) != bool(key) or not (token or certificate):
            raise PluginError(f"{self._name} returned neither a token nor a certificate with its key")
        return Credential(token, certificate, key, self._time(expiry) if expiry else None)

    def _time(self, text: str) -> datetime:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise PluginError(f"{self._name} returned an expirationTimestamp that is no time") from None
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _has_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


class _Lines:
    """Splits a plugin's stderr, which is read in chunks, into lines, and passes these on."""

    def __init__(self, on_line: LineCallback | None) -> None:
        self._on_line = on_line
        self._decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")("replace"), translate=True)
        self._unfinished = ""
        self._is_inside_line = False
        """True if the beginning of the current line was passed on before its end was known."""
        self.count = 0
        """The lines that were passed on."""

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
            if self._on_line is not None and self.count < MAX_LINES:
                self.count += 1
                self._on_line(piece)


def _read_chunk(descriptor: int) -> bytes | None:
    """Read the bytes that a non-blocking pipe holds; b"" at its end, None if there is nothing to read yet."""
    try:
        return os.read(descriptor, _CHUNK_BYTES)
    except BlockingIOError:
        return None


def _end(process: "subprocess.Popen[bytes]", *, in_own_group: bool) -> bool:
    """Close the pipes; kill the process if it has not exited, with its group if it leads one, and reap it.

    Returns:
        Whether it was killed.

    Raises:
        PluginError: the process survives, as a process of another user does.
    """
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    if process.poll() is not None:
        return False  # it is reaped, and another process may have its pid
    with contextlib.suppress(OSError):
        if in_own_group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    try:
        process.wait(_KILL_SECONDS)
    except subprocess.TimeoutExpired:
        raise PluginError("the credential plugin takes too long and can't be ended") from None
    return True
