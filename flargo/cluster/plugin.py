"""Credentials from a kubeconfig's exec plugin, without a word of the plugin's in a log.

The kubernetes client writes what a failing plugin said on stderr, a token perhaps, to the root logger, and then goes
on without credentials. Here a failing plugin is an error, whose text is flargo's own; what the plugin says on stderr
goes, line by line as it comes, to whoever asked for it, and to nobody in a parent.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import IO, Any

from kubernetes.config.dateutil import parse_rfc3339
from kubernetes.config.exec_provider import ExecProvider
from kubernetes.config.kube_config import FileOrData, KubeConfigLoader

from flargo.cluster.failures import OwnError, describe

TIMEOUT = 60.0
"""Seconds that a plugin may take which nobody can talk to."""
MAX_OUTPUT_BYTES = 1 << 20
MAX_LINE_LENGTH = 4096
MAX_LINES = 1000
OnLine = Callable[[str], None]


class PluginError(OwnError):
    """A credential plugin that gave no credentials."""


class Loader(KubeConfigLoader):
    """The client's own loader, with another way to run exec plugins."""

    def __init__(self, *, on_line: OnLine | None, **kwargs: Any) -> None:
        """See KubeConfigLoader.

        Args:
            on_line: called with each line of a plugin's stderr; None: nobody reads it, and nobody can be asked
                anything.
            kwargs: KubeConfigLoader's.
        """
        self._on_line = on_line
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]

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
            raise PluginError("the credential plugin gave neither a token nor a certificate with its key")
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

    def __init__(self, config: Any, base: str, cluster: Any, on_line: OnLine | None) -> None:
        super().__init__(config, base, cluster)  # type: ignore[no-untyped-call]
        self._on_line = on_line

    def run(self, previous_response: Any = None) -> dict[str, Any]:
        """The status that the plugin prints.

        Raises:
            PluginError: it could not be run, failed, took too long, or printed something else.
        """
        del previous_response
        interactive = self._on_line is not None and sys.stdin is not None and sys.stdin.isatty()
        env = {**self.env, "KUBERNETES_EXEC_INFO": json.dumps(self._info(interactive=interactive))}
        try:
            process = subprocess.Popen(
                self.args,
                stdin=None if interactive else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self.cwd,
                env=env,
                encoding="utf-8",
                errors="replace",
                start_new_session=not interactive,
            )
        except OSError as error:
            raise PluginError(f"the credential plugin can't be run: {describe(error)}") from None
        with process:
            printed = self._printed(process, None if interactive else TIMEOUT)
        if process.returncode != 0:
            raise PluginError(f"the credential plugin ended with exit code {process.returncode}")
        return self._status(printed)

    def _printed(self, process: "subprocess.Popen[str]", timeout: float | None) -> str:
        assert process.stdout is not None
        reader = threading.Thread(target=self._pass_on, args=(process.stderr,), daemon=True)
        reader.start()
        # With all that it has started, which may hold its output open.
        kill = partial(os.killpg, process.pid, signal.SIGKILL)
        killer = threading.Timer(timeout, kill) if timeout is not None else None
        if killer is not None:
            killer.start()
        try:
            return process.stdout.read(MAX_OUTPUT_BYTES)
        finally:
            process.stdout.close()
            process.wait()
            reader.join(1.0)
            if killer is not None:
                killer.cancel()

    def _pass_on(self, stderr: IO[str]) -> None:
        for number, line in enumerate(iter(lambda: stderr.readline(MAX_LINE_LENGTH), "")):
            if self._on_line is not None and number < MAX_LINES:
                self._on_line(line.rstrip("\n"))

    def _info(self, *, interactive: bool) -> dict[str, Any]:
        spec: dict[str, Any] = {"interactive": interactive}
        if self.cluster:
            value = self.cluster.value
            named = [each for each in value.get("extensions") or [] if each.get("name") == _EXTENSION]
            spec["cluster"] = {**value, **({"config": named[0].get("extension")} if named else {})}
        return {"apiVersion": self.api_version, "kind": "ExecCredential", "spec": spec}

    def _status(self, printed: str) -> dict[str, Any]:
        try:
            found = json.loads(printed)
        except (ValueError, RecursionError):
            raise PluginError("the credential plugin printed no JSON") from None
        status = found.get("status") if isinstance(found, dict) else None
        if not isinstance(status, dict) or found.get("apiVersion") != self.api_version:
            raise PluginError("the credential plugin printed no ExecCredential of the API version that was asked for")
        return status


_EXTENSION = "client.authentication.k8s.io/exec"
