"""A real NVIDIA FLARE federation for tests: it provisions kits, starts the parents as processes, and ends them.

The parents (the server and the sites) are the programs that a startup kit's start script runs, each with its own
workspace folder, ports and log file, so that one of them can be killed and started again. The caller chooses the
launcher: :class:`Federation` takes a function that returns the launcher's component, so that FLARE's own process
launcher, its Kubernetes launcher and flargo's run the same tests.

No code here looks up the machine's own name or needs DNS: a federation also runs in a network namespace that has
nothing but ``lo`` and a bridge.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar

import numpy as np
import numpy.typing as npt
from nvflare.apis.fl_exception import FLCommunicationError
from nvflare.fuel.flare_api.api_spec import NoConnection, SessionClosed
from nvflare.fuel.flare_api.flare_api import new_secure_session

from flargo.tools.demo import kits
from flargo.tools.demo.kits import SERVER
from flargo.tools.kit.preparation import PASSTHROUGH_MANAGER

Component = Mapping[str, Any]
"""A FLARE component as its configuration files spell it: ``id``, ``path`` and ``args``."""

Launcher = Callable[[str, str], Component]
"""``launcher(role, site)`` returns a parent's job launcher; the role is ``server`` or ``client``."""

ADMIN = "admin@flargo.test"
ADDRESS = "10.88.0.1"
"""The address of the sandbox's bridge, at which both its pods and its processes reach the parents."""

_PORTS = range(20000, 30000)
"""Ports below the kernel's ephemeral ports and the NodePorts, so that a stopped parent's port stays free for it."""

_MARK = "FLARGO_TEST_FEDERATION"
"""An environment variable that every process of a federation inherits; its value identifies the federation."""

_LOST = (NoConnection, SessionClosed, FLCommunicationError)
"""The exceptions of a session whose server has ended or restarted."""

Answer = TypeVar("Answer")


def process_launcher(role: str, site: str) -> Component:
    """Return FLARE's stock launcher: a job is a child process of the parent. It needs no cluster."""
    del site
    name = {"server": "ServerProcessJobLauncher", "client": "ClientProcessJobLauncher"}[role]
    module = f"nvflare.app_common.job_launcher.{role}_process_launcher"
    return {"id": "process_launcher", "path": f"{module}.{name}", "args": {}}


def kubernetes_launcher(root: Path, **arguments: object) -> Launcher:
    """Return FLARE's stock Kubernetes launcher for a federation below ``root``, with its class's arguments."""
    return _pod_launcher("k8s_launcher", "nvflare.app_opt.job_launcher.k8s_launcher.{}K8sJobLauncher", root, arguments)


def argo_launcher(root: Path, **arguments: object) -> Launcher:
    """Return flargo's launcher for a federation below ``root``, with its class's arguments."""
    return _pod_launcher("argo_launcher", "flargo.{}ArgoJobLauncher", root, arguments)


def _pod_launcher(name: str, path: str, root: Path, arguments: Mapping[str, object]) -> Launcher:
    """Return a launcher that mounts a pod's workspace at the parent's own path."""

    def launcher(role: str, site: str) -> Component:
        args = {"workspace_mount_path": str(root.resolve() / site), **arguments}
        return {"id": name, "path": path.format(role.capitalize()), "args": args}

    return launcher


class Ports:
    """Free TCP ports, reserved for one federation among all on the machine until they are closed.

    A reservation is a socket in the abstract namespace: it belongs to the network namespace, as the port does, and
    ends with the process. The port itself can't be bound here, since a parent has to bind it.
    """

    def __init__(self) -> None:
        self._reservations: list[socket.socket] = []

    def take(self) -> int:
        """Reserve and return a port that nobody listens on and no other federation has reserved."""
        for port in random.sample(_PORTS, len(_PORTS)):
            reservation = socket.socket(socket.AF_UNIX)
            try:
                reservation.bind(f"\0flargo-test-port-{port}")
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("", port))
            except OSError:
                reservation.close()
                continue
            self._reservations.append(reservation)
            return port
        raise RuntimeError(f"no free port in {_PORTS}")

    def close(self) -> None:
        """Release all ports."""
        while self._reservations:
            self._reservations.pop().close()


class Federation:
    """A server, its sites and an admin user; a ``with`` starts them on entry and ends them on exit.

    ``root`` should be a short path below ``/tmp`` that does not change between runs of a job: a job pod mounts its
    workspace at the very path that its parent uses, which is ``root/<name>``. The snapshot and job stores are inside
    the server's workspace, as ``nvflare deploy prepare`` puts them, since the job pod opens them too, and its workspace
    is the only folder to which it is sure to have access.

    :param root: folder for kits, logs and results; created if missing, kept on exit
    :param sites: names of the client sites
    :param host: IP address at which parents listen and jobs reach them
    :param launcher: returns each parent's launcher component, see :data:`Launcher`
    :param environment: added to the environment of the parents
    :param edit: called as ``edit(role, site, resources)`` to change a parent's ``resources.json`` in place
    :param passthrough: let parents grant any resource, as ``nvflare deploy prepare`` does for Kubernetes;
        otherwise the stock GPU resource manager stays, and refuses jobs that need a GPU
    :param allow_log_streaming: whether sites agree to send their jobs' error logs to the server
    :param patience: seconds to wait until the parents are ready
    """

    def __init__(
        self,
        root: Path,
        sites: Sequence[str] = ("site-1", "site-2"),
        host: str = ADDRESS,
        launcher: Launcher = process_launcher,
        *,
        environment: Mapping[str, str] | None = None,
        edit: Callable[[str, str, dict[str, Any]], None] | None = None,
        passthrough: bool = True,
        allow_log_streaming: bool = True,
        patience: float = 120,
    ) -> None:
        self.root = root.resolve()
        self.sites = tuple(sites)
        self.host = host
        self.launcher = launcher
        self.environment = dict(environment or {})
        self.edit = edit
        self.passthrough = passthrough
        self.allow_log_streaming = allow_log_streaming
        self.start_timeout = patience
        self.port = 0
        self._token = uuid.uuid4().hex
        self._ports = Ports()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._log_offsets: dict[str, int] = {}
        self._session: Any = None
        self._session_lock = threading.RLock()

    # Start and end

    def __enter__(self) -> Self:
        try:
            self.provision()
            for name in self.names:
                self.start(name)
            self.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all parents, the server first."""
        return (SERVER, *self.sites)

    def workspace(self, name: str = SERVER) -> Path:
        """Return the folder of a parent (``server`` or a site), which has its kit, and in which its jobs run."""
        return self.root / name

    def provision(self) -> None:
        """Create the startup kits and configure each parent; done once, on entry at the latest.

        A test that has to change more than the arguments can express calls this, edits files below :meth:`workspace`,
        and enters the ``with`` then.
        """
        if self.port:
            return
        self.port = self._ports.take()
        self.root.mkdir(parents=True, exist_ok=True)
        streams = self.allow_log_streaming
        project = kits.Project(self.root.name, self.sites, ADMIN, self.host, self.port, allow_log_streaming=streams)
        kits.move(project, kits.make(project, self.root / "provision"), self.root)
        for name in self.names:
            self._configure(name)

    def start(self, name: str) -> None:
        """Start a parent's process, the first time or again; it appends to the same log file."""
        if self.is_running(name):
            raise RuntimeError(f"{name} already runs")
        path = self.log_path(name)
        path.parent.mkdir(exist_ok=True)
        self._log_offsets[name] = path.stat().st_size if path.exists() else 0
        with path.open("ab") as output:
            self._processes[name] = self._spawn(name, self.workspace(name), output)

    def _spawn(self, name: str, workspace: Path, output: BinaryIO) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            kits.parent_command(name, workspace),
            cwd=workspace,
            env={**os.environ, "MALLOC_ARENA_MAX": "4", **self.environment, _MARK: self._token},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @contextlib.contextmanager
    def second_parent(self, name: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
        """Run another parent of a site beside the first one, as on another machine; give its process and log file.

        It has a copy of the site's folder, with the records of the jobs that run, and listens for jobs at a port of
        its own.
        """
        workspace, log = self.root / f"{name}-second", self.root / "logs" / f"{name}-second.log"
        shutil.rmtree(workspace, ignore_errors=True)
        shutil.copytree(self.workspace(name), workspace)
        _write(workspace / "local" / "comm_config.json", kits.comm_config(self.host, self._ports.take()))
        with log.open("wb") as output:
            process = self._spawn(name, workspace, output)
        try:
            yield process, log
        except AssertionError as error:
            error.add_note(f"The log of the second parent ends:\n{log.read_text()[-5000:]}")
            raise
        finally:
            process.kill()
            process.wait()

    def stop(self, name: str, how: int = signal.SIGTERM, seconds: float = 20) -> int:
        """Send a signal to a parent, wait for its end, and return its exit code as subprocess does.

        FLARE's parents do not handle SIGTERM, so any signal ends them at once, without an event to their components;
        :meth:`shutdown` ends them in order.
        """
        process = self._processes[name]
        process.send_signal(how)
        return process.wait(seconds)

    def shutdown(self, *names: str, seconds: float = 60) -> None:
        """End parents in order, by the admin's command (sites by name, all parents by default)."""
        clients = [name for name in (names or self.sites) if name != SERVER and self.is_running(name)]
        if clients:
            self._ask(lambda session: session.shutdown("client", clients))
        if not names or SERVER in names:
            self._ask(lambda session: session.shutdown("server"))
            self._forget_session()
        for name in names or self.names:
            self._processes[name].wait(seconds)

    def close(self) -> None:
        """End every process of this federation, its jobs' included; logs and kits are kept."""
        self._forget_session()
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        _kill_marked(f"{_MARK}={self._token}".encode())
        self._ports.close()

    # Parents

    def pid(self, name: str) -> int:
        """Return a parent's process id in the caller's PID namespace."""
        return self._processes[name].pid

    def is_running(self, name: str) -> bool:
        """Return whether the parent's process is alive."""
        process = self._processes.get(name)
        return process is not None and process.poll() is None

    def log_path(self, name: str) -> Path:
        """Return the path of the file with a parent's standard output and error."""
        return self.root / "logs" / f"{name}.log"

    def log(self, name: str = SERVER) -> str:
        """Return all that a parent has written so far, over all its starts."""
        path = self.log_path(name)
        return path.read_text(errors="replace") if path.exists() else ""

    def job_log(self, job_id: str, name: str) -> str:
        """Return the job's own log in a parent's workspace; empty until the job has transferred it."""
        path = self.workspace(name) / job_id / "log.txt"
        return path.read_text(errors="replace") if path.exists() else ""

    def connected_sites(self) -> set[str]:
        """Return the sites that are registered at the server; a dead site stays registered for ten minutes."""
        return {client.name for client in self._ask(lambda session: session.get_connected_client_list())}

    def is_registered(self, site: str) -> bool:
        """Return whether the site's process has logged its registration since its latest start."""
        return "Successfully registered client" in self.log_since_start(site)

    def log_since_start(self, name: str) -> str:
        """Return what a parent has written since its latest start."""
        with self.log_path(name).open("rb") as log:
            log.seek(self._log_offsets[name])
            return log.read().decode(errors="replace")

    def wait_ready(self, sites: Collection[str] | None = None) -> None:
        """Wait until the server answers and the sites (all by default) are registered.

        After a restart of the server alone, sites register again at their next heartbeat.
        """
        expected = set(self.sites if sites is None else sites)
        deadline = time.monotonic() + self.start_timeout
        missing: object = "the server"
        while time.monotonic() < deadline:
            for name in (SERVER, *expected):
                if not self.is_running(name) and "could not register to server" in self.log_since_start(name):
                    # FLARE's client gives up after 30 s, while a busy machine may still be starting the server. In
                    # a cluster, Kubernetes starts such a parent again.
                    self.start(name)
                if not self.is_running(name):
                    raise RuntimeError(f"{name} ended:\n{self.log(name)[-4000:]}")
            if self._listening():
                try:
                    missing = expected - {
                        site for site in self.connected_sites() & expected if self.is_registered(site)
                    }
                except _LOST as error:
                    missing = error
                if not missing:
                    return
            time.sleep(0.5)
        logs = "\n".join(f"== {name}\n{self.log(name)[-2000:]}" for name in self.names)
        raise TimeoutError(f"still waiting for {missing}\n{logs}")

    # Jobs

    def session(self) -> Any:
        """Return the admin's FLARE API session, which is opened for its first use and again after a loss."""
        if self._session is None:
            self._session = new_secure_session(ADMIN, str(self.root / ADMIN), timeout=20)
        return self._session

    def submit(self, job: Path) -> str:
        """Submit a job folder, and return the job's id."""
        return str(self._ask(lambda session: session.submit_job(str(job))))

    def meta(self, job_id: str) -> dict[str, Any]:
        """Return the server's record of a job."""
        return dict(self._ask(lambda session: session.get_job_meta(job_id)))

    def status(self, job_id: str) -> str:
        """Return the job's status, such as ``RUNNING`` or ``FINISHED:COMPLETED``."""
        return str(self.meta(job_id)["status"])

    def wait(self, job_id: str, seconds: float = 180) -> str:
        """Wait for the end of a job, and return its final status."""
        return self.wait_status(job_id, "FINISHED:", seconds)

    def wait_status(self, job_id: str, prefix: str, seconds: float = 60) -> str:
        """Wait until the job's status begins with ``prefix``; raise an error if the job ends with another status."""
        deadline = time.monotonic() + seconds
        while not (status := self.status(job_id)).startswith(prefix):
            if status.startswith("FINISHED:"):
                raise RuntimeError(f"job {job_id} is {status}, not {prefix}")
            if time.monotonic() > deadline:
                logs = "\n".join(f"== {name}\n{self.log(name)[-3000:]}" for name in self.names)
                raise TimeoutError(f"job {job_id} is still {status}\n{logs}")
            time.sleep(0.5)
        return status

    def abort(self, job_id: str) -> str:
        """Abort a job, and return the server's answer. The status changes later."""
        return str(self._ask(lambda session: session.abort_job(job_id)))

    def download(self, job_id: str) -> Path:
        """Download a finished job's result, and return its folder, which has the server's run in ``workspace/``."""
        results = self.root / "results"
        shutil.rmtree(results / job_id, ignore_errors=True)
        return Path(self._ask(lambda session: session.download_job_result(job_id, str(results))))

    def components(self, job_id: str) -> Path:
        """Download what else the server stored of a job, such as the sites' ``ERRORLOG_<site>``; return the folder."""
        return Path(self._ask(lambda session: session.download_job_components(job_id)))

    def weights(self, job_id: str) -> npt.NDArray[np.float32]:
        """Return the final global model of a job of :mod:`tests.harness.job_folders`."""
        model: npt.NDArray[np.float32] = np.load(self.download(job_id) / "workspace" / "models" / "server.npy")
        return model

    # Internals

    def _configure(self, name: str) -> None:
        """Add the launcher, the listener for jobs and the stores to a kit, as ``nvflare deploy prepare`` would."""
        local = self.workspace(name) / "local"
        role = "server" if name == SERVER else "client"
        resources = json.loads((local / "resources.json.default").read_text())
        components = [part for part in resources["components"] if part["id"] != "process_launcher"]
        if self.passthrough:
            components = [part for part in components if part["id"] not in ("resource_manager", "resource_consumer")]
            components.append({**PASSTHROUGH_MANAGER})
        resources["components"] = components
        if name == SERVER:
            _place_stores(self.workspace(), resources)
        if self.edit:
            self.edit(role, name, resources)
        launcher = dict(self.launcher(role, name))
        _write(local / "resources.json", resources)
        # Parents read *__p_resources.json, jobs do not: a job's image does not need the launcher.
        _write(local / f"{launcher['id']}__p_resources.json", {"format_version": 2, "components": [launcher]})
        _write(local / "comm_config.json", kits.comm_config(self.host, self._ports.take()))

    def _listening(self) -> bool:
        """Return whether the server's port is open: an earlier session would only run into its long timeout."""
        try:
            with socket.create_connection((self.host, self.port), timeout=2):
                return True
        except OSError:
            return False

    def _ask(self, question: Callable[[Any], Answer]) -> Answer:
        """Call the server through the session; if the session is lost, once more through a new one.

        Several threads may do so: the session answers one at a time.
        """
        with self._session_lock:
            try:
                return question(self.session())
            except _LOST:
                self._forget_session()
                return question(self.session())

    def _forget_session(self) -> None:
        """Close the session, whether or not the server still answers."""
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(Exception):  # FLARE documents no exceptions, and a dead server fails no test
                session.close()


def _place_stores(workspace: Path, resources: dict[str, Any]) -> None:
    """Put the server's snapshots and jobs into its workspace; by FLARE's default, all servers of a machine share them.

    `flargo prepare` does the same, but only for flargo's launcher.
    """
    kits.make_stores(workspace)
    resources["snapshot_persistor"]["args"]["storage"]["args"]["root_dir"] = str(workspace / "snapshot-storage")
    (manager,) = (part for part in resources["components"] if part["id"] == "job_manager")
    manager["args"]["uri_root"] = str(workspace / "jobs-storage")


def _write(path: Path, value: object) -> None:
    """Write JSON to a file."""
    path.write_text(json.dumps(value, indent=2) + "\n")


def _kill_marked(mark: bytes) -> None:
    """Kill the processes whose environment has the mark: jobs that outlived their parent.

    The process launcher puts each job into a session of its own, so no process group has them all; but all of them,
    and no other process, inherit the mark.
    """
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
        except OSError:
            continue
