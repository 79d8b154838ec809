"""Runs the demo's steps in order, and cleans up after them however the demo ends: nothing is left running."""

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
from flargo.flare.redact import REDACTION
from flargo.flare.request import federation_id
from flargo.terms import FLARE_COMPLETED, Label
from flargo.text import shell_command
from flargo.tools.demo import job_folder, progress
from flargo.tools.demo.backend import KUBECONFIG, ClusterNamespace, open_cluster
from flargo.tools.demo.child_processes import ChildProcesses
from flargo.tools.demo.cleanup import start_cleanup
from flargo.tools.demo.drain import Drain
from flargo.tools.demo.drain_evidence import count_results
from flargo.tools.demo.failure import Failure, explain_failure
from flargo.tools.demo.federation import (
    ADMIN,
    LOGS,
    Federation,
    Launcher,
    free_ports,
    parent_error,
    provision,
    start_parents,
    wait_until_ready,
)
from flargo.tools.demo.kits import SERVER
from flargo.tools.demo.options import DemoError, Options, OptionsError
from flargo.tools.demo.screen import Progress, Screen

EMBEDDED_IMAGE = "flargo.demo/job:embedded"
"""The image of jobs on the embedded engine, which reads its name and pulls nothing."""
_START_SECONDS = 60.0
_POLL_SECONDS, _CLUSTER_POLL_SECONDS = 0.25, 1.0
_CATCH_UP_SECONDS = 5.0
"""The time that the cluster may take to show the end of a job that FLARE has reported."""
_SETTLE_SECONDS = 30.0
"""The time that Argo may take to end the Workflows of a job that FLARE reports as ended."""
_ABORT_SECONDS = 20.0


class Interrupted(BaseException):
    """The demo received SIGINT, SIGTERM or SIGHUP."""

    def __init__(self, number: int) -> None:
        """Keep the signal's number."""
        super().__init__(number)
        self.number = number


class Signals:
    """Turns the first signal into an Interrupted; later signals cannot break the clean-up.

    The signal is also remembered, in case a library catches the exception.
    """

    KINDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        """Start without a signal; entering the context installs the handlers."""
        self._received: int | None = None
        self._is_ignoring = False

    def __enter__(self) -> Self:
        self._old_handlers = {kind: signal.signal(kind, self._on_signal) for kind in self.KINDS}
        return self

    def __exit__(self, *_: object) -> None:
        for kind, handler in self._old_handlers.items():
            signal.signal(kind, handler)

    def ignore(self) -> None:
        """Ignore all further signals."""
        self._is_ignoring = True

    def raise_pending(self) -> None:
        """Raise Interrupted again if a signal was received, unless signals are ignored."""
        if self._received is not None and not self._is_ignoring:
            raise Interrupted(self._received)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self._received is None and not self._is_ignoring:
            self._received = number
            raise Interrupted(number)


@dataclass(frozen=True, slots=True)
class DemoContext:
    """The objects that all steps of the demo share."""

    options: Options
    screen: Screen
    signals: Signals
    root: Path
    problems: list[str]
    """A message for each object that could not be cleaned up."""


@dataclass(frozen=True, slots=True)
class RunningFederation:
    """A federation whose parents run, and the connections to it."""

    federation: Federation
    processes: ChildProcesses
    cluster: ClusterNamespace
    session: Any
    """FLARE's session of the admin."""


@contextlib.contextmanager
def _silent_logging() -> Iterator[None]:
    """Disable logging, because FLARE's library logs much that users of the demo do not need."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def run(options: Options, screen: Screen) -> int:
    """Run the demo and return the exit code: 0 for success, 1 for a failure, 128 + N if signal N ended it."""
    problems: list[str] = []
    root: Path | None = None
    code = 1  # also for an exception that nobody expects
    with Signals() as signals, _silent_logging():
        stack = contextlib.ExitStack()
        try:
            root = _create_folder(options.keep)
            code = _run_demo(DemoContext(options, screen, signals, root, problems), stack)
        except Interrupted as interrupted:
            screen.print_line("stopped", f"by {signal.Signals(interrupted.number).name}; cleaning up", "yellow")
            code = 128 + interrupted.number
        except DemoError as error:
            screen.print_line("failed", str(error), "bold red")
            for line in error.lines:
                screen.print_detail(line, "dim")
        finally:
            signals.ignore()
            stack.close()
            for problem in problems:
                screen.print_line("left over", problem, "red")
            if root is not None:
                _leave_folder(root, screen, code, is_chosen=options.keep is not None)
    if not problems:
        screen.print_line("done", f"in {screen.seconds:.0f} s, and nothing is left running")
    return code


def _create_folder(keep: Path | None) -> Path:
    """Create the folder of a run: the one that is to be kept, or a temporary one."""
    if keep is None:
        # The path must be short, and the same in a job pod, which mounts its workspace where the parent has it.
        return Path(tempfile.mkdtemp(prefix="flargo-demo-")).resolve()
    try:
        keep.mkdir(parents=True, exist_ok=True)
        is_used = any(keep.iterdir())
    except OSError as error:
        raise DemoError(f"The --keep folder {keep} cannot be used: {describe(error)}.") from error
    if is_used:
        raise DemoError(f"The --keep folder {keep} is not empty: name a new folder.")
    return keep.resolve()


def _leave_folder(root: Path, screen: Screen, code: int, *, is_chosen: bool) -> None:
    """Keep a folder that the user has chosen, or that may show why a run failed, and say where; delete any other.

    Before the parents are started, the folder shows nothing that the message of the failure does not say.
    """
    has_logs = (root / LOGS).is_dir()
    is_kept = is_chosen or (code == 1 and has_logs)
    if not is_kept:
        shutil.rmtree(root, ignore_errors=True)
        return
    if has_logs:
        screen.print_line("kept", f"kits and logs{'' if code else ', and the result'}: {root}")
    # A kubeconfig in it may be a copy of the user's own, with credentials for the cluster.
    (root / KUBECONFIG).unlink(missing_ok=True)
    if not is_chosen:
        screen.print_detail(f"to delete them: {shell_command('rm', '-r', str(root))}", "dim")


def _run_demo(demo: DemoContext, stack: contextlib.ExitStack) -> int:
    options, screen = demo.options, demo.screen
    sites = check_options(options)
    cluster = stack.enter_context(open_cluster(options, demo.root))
    place = f"{cluster.kubeconfig}, namespace {cluster.namespace}"
    embedded = "the embedded engine stands in: jobs run as processes of this machine"
    screen.print_line("cluster", embedded if cluster.embedded else place)
    job = _prepare_job(demo, len(sites), cluster)
    ports = free_ports(options.address, len(sites) + 2)
    federation = Federation(demo.root, sites, options.address, ports)
    argo = {"policy": {"rejoin": job_folder.MAX_REJOINS}} if options.drain else {}
    provision(federation, Launcher(cluster.kubeconfig, cluster.namespace, argo))
    screen.print_line("federation", f"{', '.join(federation.names)}, with startup kits in {demo.root}")
    identity = federation_id(demo.root / SERVER / "startup")
    if not cluster.embedded:
        stack.enter_context(start_cleanup(cluster, identity, federation.names, demo.problems))
    processes = stack.enter_context(ChildProcesses())
    start_parents(federation, processes)
    wait_until_ready(federation, processes, (SERVER,), _START_SECONDS)
    session = stack.enter_context(_open_session(federation))
    wait_until_ready(federation, processes, sites, _START_SECONDS)
    screen.print_line("connected", f"the sites are registered with the server at {options.address}:{ports[0]}")
    return _run_job(demo, RunningFederation(federation, processes, cluster, session), job)


def check_options(options: Options) -> tuple[str, ...]:
    """Check the options and the job, without any request, and return the names of the sites.

    Raises:
        OptionsError: the options contradict each other or the job, or one is missing.
        DemoError: the job cannot be used.
    """
    meta = {} if options.job is None else job_folder.read_meta(options.job)
    file = "meta.json" if options.job is None else job_folder.meta_name(options.job)
    names_image = job_folder.names_default_image(meta)
    if options.kubeconfig is not None and options.image is None and not names_image:
        raise OptionsError(
            "Job pods on a cluster need an image with Python, nvflare and numpy: name it with --image, or in the job's"
            f" {file} (launcher_spec.default.k8s.image)."
        )
    if options.job is None:
        return job_folder.site_names({}, options.sites)
    job_folder.check_files(options.job)
    names = job_folder.site_names(meta, options.sites, file)
    if options.is_site_count_given and len(names) != options.sites:
        raise OptionsError(f"--sites {options.sites} contradicts the job's {file}, which needs {len(names)} sites.")
    if options.image is not None and names_image:
        message = f"--image has no effect: the job's {file} names an image (launcher_spec.default.k8s.image)."
        raise OptionsError(message)
    return names


def _prepare_job(demo: DemoContext, site_count: int, cluster: ClusterNamespace) -> Path:
    options = demo.options
    image = options.image or (EMBEDDED_IMAGE if cluster.embedded else None)
    folder = demo.root / "jobs"
    if options.job is not None:
        return job_folder.copy_job(options.job, folder, image)
    assert image is not None  # check_options has required it
    return job_folder.export_fedavg(folder, site_count, options.rounds, image, can_be_drained=options.drain)


@contextlib.contextmanager
def _open_session(federation: Federation) -> Iterator[Any]:
    """Open FLARE's session of the admin, which ends with the context."""
    from nvflare.fuel.flare_api.flare_api import new_secure_session  # noqa: PLC0415  (a slow import)

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # nvflare prints progress to stdout
            session = new_secure_session(ADMIN, str(federation.root / ADMIN), timeout=20)
    except Exception as error:
        text = f"FLARE's server does not accept commands ({describe(error)}). The last error in its log"
        raise parent_error(text, federation.log_path(SERVER)) from error
    try:
        yield session
    finally:
        with contextlib.suppress(Exception):  # the server may have ended
            session.close()


def _run_job(demo: DemoContext, running: RunningFederation, job: Path) -> int:
    """Submit the job, show it until it ends, and show its result; returns the demo's exit code."""
    screen, cluster = demo.screen, running.cluster
    try:
        job_id = str(running.session.submit_job(str(job)))
    except Exception as error:
        raise DemoError(f"FLARE rejects the job: {describe(error)}") from error
    selector = f"{Label.JOB_ID}={job_id}"
    screen.print_line("job", f"{job.name} {job_id}")
    arguments = ("--kubeconfig", str(cluster.kubeconfig), "-n", cluster.namespace, "-l", selector)
    if command := shell_command("argo", "list", *arguments, names=(cluster.namespace, job_id)):
        # The path of a kubeconfig is long, so the command is printed in two lines.
        first, flag, rest = command.rpartition(" -n ")
        screen.print_detail(f"{first} \\", "dim")
        screen.print_detail(f" {flag}{rest}", "dim")
    drain = Drain(screen, cluster, running.federation, job_id, demo.options.rounds) if demo.options.drain else None
    try:
        snapshot = _follow(demo, running, job_id, drain)
    except BaseException as error:
        if isinstance(error, DemoError):
            _read_job_logs(running, selector)
        if not cluster.embedded:
            screen.print_line("stopping", "the job is aborted, and its Workflows end", "yellow")
            _abort_job(running, job_id)
        raise
    # Argo ends a Workflow seconds after its program. The clean-up would delete a Workflow that has not ended yet, and
    # users could not look at it.
    with contextlib.suppress(ApiError):
        cluster.wait_until_finished(selector, _SETTLE_SECONDS)
    if snapshot.status != FLARE_COMPLETED:
        failure = _explain_failure(running, selector, snapshot.status)
        raise DemoError(failure.sentence, failure.lines)
    if drain is not None:
        drain.check()
    return _show_result(demo, running, job_id)


def _follow(demo: DemoContext, running: RunningFederation, job_id: str, drain: Drain | None) -> progress.Snapshot:
    """Show the job's progress until it has ended, and return the last snapshot; drain a site on the way."""
    options = demo.options
    deadline = time.monotonic() + options.timeout
    snapshot, catch_up_deadline = progress.Snapshot(), 0.0
    with Progress(demo.screen, 0 if options.job else options.rounds) as display:
        while not (snapshot.is_finished and (snapshot.has_ended or time.monotonic() > catch_up_deadline)):
            demo.signals.raise_pending()
            was_finished = snapshot.is_finished
            snapshot = _take_snapshot(running, job_id, snapshot)
            if drain is not None:
                drain.update()
            display.show(snapshot)
            if snapshot.is_finished and not was_finished:
                catch_up_deadline = time.monotonic() + _CATCH_UP_SECONDS
            if not snapshot.is_finished:
                _check_can_finish(running, snapshot, options.timeout, deadline)
            time.sleep(_POLL_SECONDS if running.cluster.embedded else _CLUSTER_POLL_SECONDS)
    return snapshot


def _check_can_finish(running: RunningFederation, snapshot: progress.Snapshot, timeout: float, deadline: float) -> None:
    """Raise DemoError if a parent has ended or the job's time is over."""
    for name in running.processes.exited():
        raise parent_error(f"The FLARE parent of {name} ended", running.federation.log_path(name))
    if time.monotonic() > deadline:
        states = "; ".join(f"{party.name} {party.state_text}" for party in snapshot.parties)
        raise DemoError(f"The job did not end within {timeout:.0f} s ({states}): allow more time with --timeout.")


def _take_snapshot(running: RunningFederation, job_id: str, before: progress.Snapshot) -> progress.Snapshot:
    """Return the job's progress now; what FLARE or the API server does not answer is taken from the last snapshot."""
    status, parties, rounds = before.status, before.parties, before.rounds
    with contextlib.suppress(ApiError):
        workflows, pods = running.cluster.list_objects(f"{Label.JOB_ID}={job_id}")
        parties = progress.parse_parties(running.federation.names, workflows, pods)
        for pod in pods:
            if pod["metadata"]["labels"].get(Label.ROLE) == "server":
                rounds = progress.parse_rounds(running.cluster.read_log(pod)) or rounds
    with contextlib.suppress(Exception):  # nvflare's session may raise anything; the next snapshot asks again
        status = str(running.session.get_job_meta(job_id)["status"])
    return progress.Snapshot(parties, status, rounds)


def _explain_failure(running: RunningFederation, selector: str, status: str) -> Failure:
    federation = running.federation
    parent_logs = {name: federation.log_path(name).read_text(errors="replace") for name in federation.names}
    return explain_failure(status, parent_logs, _read_job_logs(running, selector))


def _read_job_logs(running: RunningFederation, selector: str) -> dict[str, str]:
    """Return the log of each party's program, and write it beside the parents' logs: the embedded engine deletes it."""
    logs: dict[str, str] = {}
    with contextlib.suppress(ApiError):
        for pod in running.cluster.list_objects(selector)[1]:
            # As a whole, before a line is taken out of it: a key has several lines.
            log = REDACTION.redact(running.cluster.read_log(pod))
            site = pod["metadata"]["labels"][Label.SITE]
            # A job that was started again has a log for each attempt.
            logs[site] = f"{logs.get(site, '')}{log}\n"
    with contextlib.suppress(OSError):  # a full disk must not keep the job from being aborted
        for name in logs.keys() & set(running.federation.names):
            running.federation.log_path(f"job-{name}").write_text(logs[name])
    return logs


def _show_result(demo: DemoContext, running: RunningFederation, job_id: str) -> int:
    """Download and show the job's result; returns 1 if it is the demo's own job and its weights are wrong, else 0."""
    options, screen = demo.options, demo.screen
    try:
        folder = Path(running.session.download_job_result(job_id, str(demo.root / "results")))
    except Exception as error:
        raise DemoError(f"The job completed, but its result cannot be downloaded: {describe(error)}") from error
    if options.job is not None:
        place = str(folder) if options.keep else "to keep them, name a folder with --keep"
        screen.print_line("result", f"{sum(each.is_file() for each in folder.rglob('*'))} files: {place}", "green")
        return 0
    import numpy as np  # noqa: PLC0415  (a slow import)

    model = folder / "workspace" / job_folder.MODEL_PATH
    if not model.exists():
        raise DemoError(f"The job completed, but its result has no model ({job_folder.MODEL_PATH}).")
    weights = np.load(model).astype(float)
    expected_weights = job_folder.expected_weights(len(running.federation.sites), options.rounds)
    is_right = bool(np.allclose(weights, expected_weights))
    verdict = "as expected" if is_right else f"but expected {np.round(expected_weights, 4).tolist()}"
    screen.print_line("weights", f"{weights.round(4).tolist()}, {verdict}", _style(is_right=is_right))
    if options.drain:
        is_right &= _show_contributions(demo, running.federation.sites, folder / "workspace" / "log.txt")
    return 0 if is_right else 1


def _show_contributions(demo: DemoContext, sites: tuple[str, ...], log: Path) -> bool:
    """Show how many results of each site the server's log names; return whether there is one for each round."""
    counts, rounds = count_results(log.read_text(errors="replace") if log.exists() else ""), demo.options.rounds
    is_right = counts == dict.fromkeys(sites, rounds)
    text = ", ".join(f"{counts[site]} of {rounds} from {site}" for site in sites)
    demo.screen.print_line("results", f"the server got {text}", _style(is_right=is_right))
    return is_right


def _style(*, is_right: bool) -> str:
    return "bold green" if is_right else "bold red"


def _abort_job(running: RunningFederation, job_id: str) -> None:
    """Abort the job through FLARE, so that flargo ends its Workflows, and wait until they have ended."""
    with contextlib.suppress(Exception):  # the clean-up deletes what is left
        running.session.abort_job(job_id)
        running.cluster.wait_until_finished(f"{Label.JOB_ID}={job_id}", _ABORT_SECONDS)
