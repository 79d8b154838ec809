"""The whole of it in a thread: a loop, a server on the loop-back device, and a folder for what it runs."""

import asyncio
import base64
import contextlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from aiohttp import web

from flargo.embedded import tls
from flargo.embedded.cluster import Cluster, Settings
from flargo.embedded.model import Policy
from flargo.embedded.processes import Processes
from flargo.embedded.routes import Routes
from flargo.embedded.store import WINDOW, Key, Store

T = TypeVar("T")
HOST = "127.0.0.1"
_STOP_SECONDS = 10.0


class Embedded:
    """A stand-in for a Kubernetes with Argo, for trying and testing. Use it in a ``with``.

    Whoever has its kubeconfig runs programs as the user who started it.
    """

    def __init__(self, settings: Settings | None = None, *, namespace: str = "default", window: int = WINDOW) -> None:
        """Set it up; nothing runs before the ``with``.

        Args:
            settings: what it has, and how fast it is.
            namespace: of the kubeconfigs that it writes; it serves all of them.
            window: changes that it remembers for watches.
        """
        self.settings, self.namespace = settings or Settings(), namespace
        self._window = window
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="flargo-embedded", daemon=True)

    def __enter__(self) -> Self:
        self.root = Path(tempfile.mkdtemp(prefix="flargo-embedded-"))
        self._thread.start()
        try:
            self.port: int = self._do(self._start())
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._do(self._stop())
        finally:
            self._close()

    @property
    def url(self) -> str:
        """Of the API."""
        return f"https://{HOST}:{self.port}"

    @property
    def certificate(self) -> bytes:
        """What signs the server's certificate, PEM."""
        return self._public

    @property
    def token(self) -> str:
        """The administrator's, who may do everything that is served."""
        return self._token

    def kubeconfig(self, path: Path) -> Path:
        """Write an administrator's kubeconfig, which is a secret."""
        data = base64.b64encode(self._public).decode()
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

    def folder(self, pod: str) -> Path:
        """The directory of a pod by its name: ``tmp``, ``home``, ``volumes`` and ``main.log``."""

        async def find() -> Path:
            return self._cluster.folder(self._cluster.store.get(Key("pods", self.namespace, pod)))

        return self._do(find())

    def controller(self, *, runs: bool) -> None:
        """Take Argo's controller away, or give it back."""

        async def change() -> None:
            self._cluster.controller(runs=runs)

        self._do(change())

    @contextlib.contextmanager
    def denying(self, policy: Policy) -> Iterator[None]:
        """An admission policy is in force for as long as the ``with`` lasts."""

        async def change(act: Callable[[Policy], None]) -> None:
            act(policy)

        self._do(change(self._cluster.policies.append))
        try:
            yield
        finally:
            self._do(change(self._cluster.policies.remove))

    async def _start(self) -> int:
        store = Store(time.time, self._window)
        self._cluster = Cluster(store, Processes(time.time), self.root / "pods", self.settings, time.time)
        (self.root / "pods").mkdir()
        self._routes = Routes(self._cluster, self.settings.lags.bookmark)
        (self._token,) = self._routes.tokens
        self._public, private = tls.certificate()
        self._runner = web.AppRunner(self._routes.application(), access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST, 0, ssl_context=tls.context(self._public, private, self.root))
        await site.start()
        self._moving = asyncio.ensure_future(self._cluster.run())
        address: tuple[str, int] = self._runner.addresses[0]
        return address[1]

    async def _stop(self) -> None:
        self._routes.end()
        await self._runner.cleanup()
        self._moving.cancel()
        self._cluster.close()
        with contextlib.suppress(asyncio.CancelledError):
            await self._moving

    def _close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_SECONDS)
        self._loop.close()
        shutil.rmtree(self.root, ignore_errors=True)

    def _do(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(_STOP_SECONDS)
