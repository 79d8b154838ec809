"""The order of things, and the way out: whatever happens, nothing is left running."""

import contextlib
import io
import logging
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self

from flargo.cluster.error_text import describe
from flargo.cluster.errors import ApiError
from flargo.flare.request import federation_id as federation_of
from flargo.terms import Label
from flargo.text import shell_command
from flargo.tools.demo import federation as parents
from flargo.tools.demo import job_folder, progress
from flargo.tools.demo.backend import Cluster, engine
from flargo.tools.demo.child_processes import ChildProcesses
from flargo.tools.demo.cleanup import start_cleanup
from flargo.tools.demo.failure import why
from flargo.tools.demo.federation import ADMIN, Federation, Launcher
from flargo.tools.demo.kits import SERVER
from flargo.tools.demo.options import DemoError, Options
from flargo.tools.demo.screen import Progress, Screen

IMAGE = "flargo.demo/job:embedded"
"""On the embedded engine, which only looks at the name."""
_START_SECONDS = 60.0
_LOOK_SECONDS, _LOOK_SECONDS_CLUSTER = 0.25, 1.0
_TAIL_SECONDS = 5.0
"""How long the cluster may take to show a job's end that FLARE knows of."""
_SETTLE_SECONDS = 30.0
"""How long Argo may take to end the Workflows of a job that FLARE says has ended."""
_ABORT_SECONDS = 20.0


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP."""

    def __init__(self, number: int) -> None:
        """By that signal."""
        super().__init__(number)
        self.number = number


class Signals:
    """The first signal interrupts, and is kept in case somebody swallows it; later ones can't break the clean-up."""

    KINDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        """None yet."""
        self._got: int | None = None
        self._held = False

    def __enter__(self) -> Self:
        self._before = {kind: signal.signal(kind, self._hear) for kind in self.KINDS}
        return self

    def __exit__(self, *_: object) -> None:
        for kind, handler in self._before.items():
            signal.signal(kind, handler)

    def hold(self) -> None:
        """From now on they are not heard."""
        self._held = True

    def check(self) -> None:
        """Raise the one that came."""
        if self._got is not None and not self._held:
            raise Interrupted(self._got)

    def _hear(self, number: int, _: FrameType | None) -> None:
        if self._got is None and not self._held:
            self._got = number
            raise Interrupted(number)


@dataclass(frozen=True, slots=True)
class Demo:
    """What the steps share."""

    options: Options
    screen: Screen
    signals: Signals
    root: Path
    left: list[str]
    """What could not be cleaned up."""


@dataclass(frozen=True, slots=True)
class Up:
    """A federation that runs, and the ways to ask after it."""

    federation: Federation
    children: ChildProcesses
    cluster: Cluster
    session: Any
    """FLARE's, of the admin."""


@contextlib.contextmanager
def _silent_logging() -> Iterator[None]:
    """FLARE's library speaks through logging, of which people need nothing here."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def run(options: Options, screen: Screen) -> int:
    """Run the demo; returns the exit code: 0 done, 1 it failed, 128 + N ended by signal N."""
    left: list[str] = []
    kept = ""
    with Signals() as signals, _silent_logging():
        stack = contextlib.ExitStack()
        try:
            root = stack.enter_context(_folder(options))
            kept = f"; kits, logs and the result are in {options.keep}" if options.keep else ""
            code = _run(Demo(options, screen, signals, root, left), stack)
        except Interrupted as interrupted:
            screen.say("stopped", f"by {signal.Signals(interrupted.number).name}; cleaning up", "yellow")
            code = 128 + interrupted.number
        except DemoError as error:
            screen.say("failed", str(error), "bold red")
            code = 1
        finally:
            signals.hold()
            stack.close()
    for each in left:
        screen.say("left", each, "red")
    if not left:
        screen.say("done", f"in {screen.seconds:.0f} s, and nothing is left running{kept}")
    return code


@contextlib.contextmanager
def _folder(options: Options) -> Iterator[Path]:
    if options.keep is not None:
        try:
            options.keep.mkdir(parents=True, exist_ok=True)
            used = any(options.keep.iterdir())
        except OSError as error:
            raise DemoError(f"{options.keep} can't be a folder to keep things in: {describe(error)}.") from error
        if used:
            raise DemoError(f"{options.keep} is not empty: name a new folder to keep things in.")
        yield options.keep.resolve()
        return
    # Short, and with this machine's /tmp in it: a job pod mounts its workspace at the same path.
    root = Path(tempfile.mkdtemp(prefix="flargo-demo-")).resolve()
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _run(demo: Demo, stack: contextlib.ExitStack) -> int:
    options, screen = demo.options, demo.screen
    sites = _sites(options)
    cluster = stack.enter_context(engine(options, demo.root))
    told = "the embedded engine stands in: jobs run as processes of this machine"
    screen.say("cluster", told if cluster.embedded else f"{cluster.kubeconfig}, namespace {cluster.namespace}")
    job = _job(demo, len(sites), cluster)
    ports = parents.free_ports(options.address, len(sites) + 2)
    federation = Federation(demo.root, sites, options.address, ports)
    parents.provision(federation, Launcher(cluster.kubeconfig, cluster.namespace))
    screen.say("federation", f"{', '.join(federation.names)}, with startup kits in {demo.root}")
    identity = federation_of(demo.root / SERVER / "startup")
    if not cluster.embedded:
        stack.enter_context(start_cleanup(cluster, identity, federation.names, demo.left))
    children = stack.enter_context(ChildProcesses())
    parents.start(federation, children)
    parents.wait_ready(federation, children, (SERVER,), _START_SECONDS)
    session = stack.enter_context(_session(federation))
    parents.wait_ready(federation, children, sites, _START_SECONDS)
    screen.say("connected", f"the sites are registered with the server at {options.address}:{ports[0]}")
    return _job_run(demo, Up(federation, children, cluster, session), job)


def _sites(options: Options) -> tuple[str, ...]:
    if options.job is None:
        return job_folder.sites_of({}, options.sites)
    job_folder.check_files(options.job)
    said = job_folder.meta(options.job)
    return job_folder.sites_of(said, options.sites)


def _job(demo: Demo, sites: int, cluster: Cluster) -> Path:
    options = demo.options
    image = options.image or (IMAGE if cluster.embedded else None)
    folder = demo.root / "jobs"
    if options.job is not None:
        return job_folder.own(options.job, folder, image)
    if image is None:
        raise DemoError(
            "Job pods on a real cluster need an image with Python, nvflare and numpy: name it with --image."
        )
    return job_folder.fedavg(folder, sites, options.rounds, image)


@contextlib.contextmanager
def _session(federation: Federation) -> Iterator[Any]:
    from nvflare.fuel.flare_api.flare_api import new_secure_session  # noqa: PLC0415  (a slow import)

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it talks
            session = new_secure_session(ADMIN, str(federation.root / ADMIN), timeout=20)
    except Exception as error:
        said = parents.last_words(federation.log(SERVER))
        raise DemoError(f"FLARE's server takes no commands: {describe(error)}; its log ends with: {said}") from error
    try:
        yield session
    finally:
        with contextlib.suppress(Exception):  # the server may be gone
            session.close()


def _job_run(demo: Demo, up: Up, job: Path) -> int:
    screen = demo.screen
    try:
        job_id = str(up.session.submit_job(str(job)))
    except Exception as error:
        raise DemoError(f"FLARE does not take the job: {describe(error)}") from error
    selector = f"{Label.JOB_ID}={job_id}"
    screen.say("job", f"{job.name} {job_id}")
    where = ("-n", up.cluster.namespace, "-l", selector)
    names = (up.cluster.namespace, job_id)
    if command := shell_command("argo", "list", "--kubeconfig", str(up.cluster.kubeconfig), *where, names=names):
        # In two lines: the path of a kubeconfig is long.
        first, flag, rest = command.rpartition(" -n ")
        screen.more(f"{first} \\", "dim")
        screen.more(f" {flag}{rest}", "dim")
    try:
        seen = _follow(demo, up, job_id)
    except BaseException:
        if not up.cluster.embedded:
            screen.say("stopping", "the job is aborted, and its Workflows end", "yellow")
            _abort(up, job_id)
        raise
    # Argo ends a Workflow some seconds after its program; one that has not ended would be deleted, not kept to be seen.
    with contextlib.suppress(ApiError):
        up.cluster.wait_over(selector, _SETTLE_SECONDS)
    if seen.status != progress.COMPLETED:
        raise DemoError(_why(up, selector, seen.status))
    return _result(demo, up, job_id)


def _follow(demo: Demo, up: Up, job_id: str) -> progress.Seen:
    """Show the job until it has ended."""
    options = demo.options
    deadline = time.monotonic() + options.timeout
    seen, tail = progress.Seen(), 0.0
    with Progress(demo.screen, 0 if options.job else options.rounds) as shown:
        while not (seen.finished and (seen.over or time.monotonic() > tail)):
            demo.signals.check()
            was_finished = seen.finished
            seen = _look(up, job_id, seen)
            shown.show(seen)
            if seen.finished and not was_finished:
                tail = time.monotonic() + _TAIL_SECONDS
            if not seen.finished:
                _give_up(up, seen, options.timeout, deadline)
            time.sleep(_LOOK_SECONDS if up.cluster.embedded else _LOOK_SECONDS_CLUSTER)
    return seen


def _give_up(up: Up, seen: progress.Seen, timeout: float, deadline: float) -> None:
    """Raise what makes it useless to wait on, if anything does."""
    for name in up.children.ended():
        raise DemoError(f"FLARE's parent of {name} ended: {parents.last_words(up.federation.log(name))}")
    if time.monotonic() > deadline:
        waits = "; ".join(f"{party.name} {party.words}" for party in seen.parties)
        raise DemoError(f"The job did not end within {timeout:.0f} s ({waits}): give it longer with --timeout.")


def _look(up: Up, job_id: str, before: progress.Seen) -> progress.Seen:
    """What is seen now; where somebody does not answer, what was seen before."""
    status, seen, rounds = before.status, before.parties, before.rounds
    with contextlib.suppress(ApiError):
        workflows, pods = up.cluster.look(f"{Label.JOB_ID}={job_id}")
        seen = progress.parties(up.federation.names, workflows, pods)
        for pod in pods:
            if pod["metadata"]["labels"].get(Label.ROLE) == "server":
                rounds = progress.rounds(up.cluster.log(pod)) or rounds
    with contextlib.suppress(Exception):  # the API of a session names none; the next look tells
        status = str(up.session.get_job_meta(job_id)["status"])
    return progress.Seen(seen, status, rounds)


def _why(up: Up, selector: str, status: str) -> str:
    logs = {name: up.federation.log(name).read_text(errors="replace") for name in up.federation.names}
    said: dict[str, str] = {}
    with contextlib.suppress(ApiError):
        for pod in up.cluster.look(selector)[1]:
            said[pod["metadata"]["labels"][Label.SITE]] = up.cluster.log(pod)
    return why(status, logs, said)


def _result(demo: Demo, up: Up, job_id: str) -> int:
    """Fetch the result and show it; whether it is right, where that is known."""
    options, screen = demo.options, demo.screen
    try:
        folder = Path(up.session.download_job_result(job_id, str(demo.root / "results")))
    except Exception as error:
        raise DemoError(f"The job completed, but FLARE does not give its result: {describe(error)}") from error
    if options.job is not None:
        kept = str(folder) if options.keep else "name a folder with --keep to have them"
        screen.say("result", f"{sum(each.is_file() for each in folder.rglob('*'))} files: {kept}", "green")
        return 0
    import numpy as np  # noqa: PLC0415  (a slow import)

    model = folder / "workspace" / job_folder.MODEL
    if not model.exists():
        raise DemoError(f"The job completed without its model, {job_folder.MODEL}.")
    weights = np.load(model).astype(float)
    expected = job_folder.expected(len(up.federation.sites), options.rounds)
    right = bool(np.allclose(weights, expected))
    told = "as it must be" if right else f"but it must be {np.round(expected, 4).tolist()}"
    screen.say("weights", f"{weights.round(4).tolist()}, {told}", "bold green" if right else "bold red")
    return 0 if right else 1


def _abort(up: Up, job_id: str) -> None:
    """FLARE's own way first: flargo then ends the Workflows and sees them gone."""
    with contextlib.suppress(Exception):  # what is left is deleted afterwards
        up.session.abort_job(job_id)
        up.cluster.wait_over(f"{Label.JOB_ID}={job_id}", _ABORT_SECONDS)
