"""Runs the whole engine in one thread: an event loop, an HTTPS server on the loopback interface, and a work folder."""

import asyncio
import base64
import contextlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from aiohttp import web

from flargo.embedded import tls
from flargo.embedded.cluster import Cluster, Settings
from flargo.embedded.model import Object, Policy
from flargo.embedded.processes import Processes
from flargo.embedded.routes import Routes
from flargo.embedded.store import WATCH_CACHE_SIZE, Key, Store

T = TypeVar("T")
HOST = "127.0.0.1"
_MAX_CALL_SECONDS = 10.0
"""How long a call waits for the engine's thread."""


class Embedded:
    """A stand-in for Kubernetes with Argo Workflows, for trials and tests; a context manager.

    Everybody who has its kubeconfig can run programs as the user who started it.
    """

    def __init__(
        self, settings: Settings | None = None, *, namespace: str = "default", watch_cache_size: int = WATCH_CACHE_SIZE
    ) -> None:
        """Prepare the engine; it starts when the ``with`` block is entered.

        Args:
            settings: the cluster's resources and delays.
            namespace: the namespace of the kubeconfigs that it writes. It serves every namespace.
            watch_cache_size: number of changes that are kept for watches; a watch from an older version gets 410.
        """
        self.settings, self.namespace = settings or Settings(), namespace
        self._watch_cache_size = watch_cache_size
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="flargo-embedded", daemon=True)

    def __enter__(self) -> Self:
        self.root = Path(tempfile.mkdtemp(prefix="flargo-embedded-"))
        self._thread.start()
        try:
            self.port: int = self._run_on_loop(self._start())
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._run_on_loop(self._stop())
        finally:
            self._close()

    @property
    def url(self) -> str:
        """The base URL of the API."""
        return f"https://{HOST}:{self.port}"

    @property
    def certificate(self) -> bytes:
        """The certificate of the server's authority, PEM."""
        return self._certificate

    @property
    def token(self) -> str:
        """The administrator's token, which permits everything that is served."""
        return self._token

    def kubeconfig(self, path: Path) -> Path:
        """Write the administrator's kubeconfig, which contains a token, and return its path."""
        data = base64.b64encode(self._certificate).decode()
        context = {"cluster": "embedded", "user": "admin", "namespace": self.namespace}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "embedded", "cluster": {"server": self.url, "certificate-authority-data": data}}],
            "users": [{"name": "admin", "user": {"token": self.token}}],
            "contexts": [{"name": "embedded", "context": context}],
            "current-context": "embedded",
        }
        with open(path, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            json.dump(document, file, indent=2)
        return path

    def pod_folder(self, name: str) -> Path:
        """Return the directory of a pod, which holds ``tmp``, ``home``, ``volumes`` and ``main.log``."""

        async def find() -> Path:
            return self._cluster.pod_folder(self._cluster.store.get(Key("pods", self.namespace, name)))

        return self._run_on_loop(find())

    def set_controller(self, *, running: bool) -> None:
        """Stop Argo's Workflow controller, or start it again."""

        async def change() -> None:
            self._cluster.set_controller(running=running)

        self._run_on_loop(change())

    def set_workflow_defaults(self, defaults: Object) -> None:
        """Set the controller's ``workflowDefaults``, a Workflow whose fields every unfinished Workflow gets."""

        async def change() -> None:
            self._cluster.workflow_defaults = defaults

        self._run_on_loop(change())

    def label_node(self, **labels: str | None) -> None:
        """Set labels of the node; None removes a label. Pods that it did not suit are tried again within a second."""

        async def change() -> None:
            node = self._cluster.node
            self._cluster.node = replace(node, labels=_merge(node.labels, labels))

        self._run_on_loop(change())

    def set_allocatable(self, **amounts: str | None) -> None:
        """Set how much of some resources the node has for pods; None removes a resource. Running pods stay."""

        async def change() -> None:
            node = self._cluster.node
            self._cluster.node = replace(node, allocatable=_merge(node.allocatable, amounts))

        self._run_on_loop(change())

    @contextlib.contextmanager
    def admission_policy(self, policy: Policy) -> Iterator[None]:
        """Put an admission policy into force for the duration of the ``with`` block."""

        async def change(update: Callable[[Policy], None]) -> None:
            update(policy)

        self._run_on_loop(change(self._cluster.policies.append))
        try:
            yield
        finally:
            self._run_on_loop(change(self._cluster.policies.remove))

    async def _start(self) -> int:
        store = Store(time.time, self._watch_cache_size)
        self._cluster = Cluster(store, Processes(time.time), self.root / "pods", self.settings, time.time)
        (self.root / "pods").mkdir()
        self._routes = Routes(self._cluster, self.settings.delays.bookmark)
        (self._token,) = self._routes.tokens
        self._certificate, private_key = tls.create_certificate()
        self._runner = web.AppRunner(self._routes.build_application(), access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        context = tls.server_context(self._certificate, private_key, self.root)
        site = web.TCPSite(self._runner, HOST, 0, ssl_context=context)
        await site.start()
        self._cluster_task = asyncio.ensure_future(self._cluster.run())
        address: tuple[str, int] = self._runner.addresses[0]
        return address[1]

    async def _stop(self) -> None:
        self._routes.stop_watches()
        await self._runner.cleanup()
        self._cluster_task.cancel()
        self._cluster.close()
        with contextlib.suppress(asyncio.CancelledError):
            await self._cluster_task

    def _close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_MAX_CALL_SECONDS)
        self._loop.close()
        shutil.rmtree(self.root, ignore_errors=True)

    def _run_on_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_MAX_CALL_SECONDS)


def _merge(values: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """Return values with some of them changed; None removes a value."""
    merged = {**values, **changes}
    return {key: value for key, value in merged.items() if value is not None}
