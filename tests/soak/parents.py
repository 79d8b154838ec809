"""The parents of a run, as the main process sees them: one process for each role. The client's may be killed."""

import logging
import multiprocessing
import multiprocessing.util
import os
import re
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from flargo.flare.launch_records import FOLDER
from flargo.status.reasons import Reason
from flargo.terms import Label, Role
from tests.harness.cluster import Cluster, eventually
from tests.harness.embedded_cluster import EngineAddress
from tests.harness.site import first_workflow
from tests.harness.wire import Route
from tests.soak import gauge
from tests.soak.parent import HeardVerdict, Parent, ParentManager, log_to
from tests.soak.restarts import LoggedVerdict, ParentRestart
from tests.soak.timeline import Timeline

T = TypeVar("T")
MAX_RETURN_SECONDS = 180.0
"""The time from a parent's start until it has taken its jobs back, in the worst case: two minutes in which the API
server is not reachable, the wait for the Lease, and the process's own start."""
MIN_LIFE_SECONDS = 15.0
"""The shortest time from a parent's return to its next end."""
MIN_JOBS = 4
"""How many jobs a parent should have when it is killed."""
MAX_JOBS_SECONDS = 20.0
"""How long a restart waits for them: a round may have no more."""
_SITES = {Role.SERVER: "server", Role.CLIENT: "site-1"}
_VERDICT_LINE = re.compile(r"job (\S+) at \S+: ([A-Z_]+) \((\d+)\): ")
"""The line with which a launcher logs a job's verdict."""


@dataclass(frozen=True)
class JobReference:
    """A launched job, as the main process knows it."""

    id: str
    name: str
    """The Workflow's name."""
    role: Role
    is_launched: bool = True
    """False if the parent was killed before FLARE's launch call returned."""


class JobLostError(Exception):
    """A client's parent that restarted has not taken a job back."""

    def __init__(self, restart: ParentRestart) -> None:
        """Name the restart."""
        super().__init__("not taken back")
        self.restart = restart


class Parents:
    """The processes of a run's parents. Any thread may call it; calls wait while the client's parent is away."""

    def __init__(
        self, cluster: Cluster, route: Route, engine: EngineAddress | None, timeline: Timeline, folder: Path
    ) -> None:
        """Start both parents.

        Args:
            cluster: where their jobs run.
            route: the wire's address.
            engine: the embedded engine; None means the real cluster.
            timeline: gets what they log.
            folder: an empty folder for their workspaces.
        """
        self._cluster, self._route, self._engine = cluster, route, engine
        self._timeline, self._folder = timeline, folder
        self._changed = threading.Condition()
        self._restart_lock = threading.Lock()
        self._processes: dict[Role, _Process] = {}
        self._verdicts: defaultdict[str, list[LoggedVerdict]] = defaultdict(list)
        self._handler = timeline.handler()
        self.restarts: list[ParentRestart] = []
        """The restarts of the client's parent."""
        self.taken_back: list[int] = []
        """How many jobs it has taken back at each restart."""
        for role in Role:
            (folder / role.value).mkdir()
            self._processes[role] = self._begin(role, self._start_process(role))

    # --- jobs

    def launch(self, role: Role, code: str, spec: Mapping[str, Any]) -> JobReference:
        """Launch a job; return as soon as the launcher tracks it, or was killed."""
        job_id = str(uuid.uuid4())
        name, process = first_workflow(job_id, _SITES[role]), self._current(role)
        try:
            process.parent.launch(job_id, code, spec)
        except (EOFError, OSError):
            if self._is_alive(role, process):
                raise
            return JobReference(job_id, name, role, is_launched=False)
        return JobReference(job_id, name, role)

    def wait_for_verdict(self, job: JobReference, within: float) -> HeardVerdict | None:
        """Wait for a job's verdict, so many seconds of its parent's time; return it, or None."""
        return self._ask(job, lambda parent: parent.wait_for_verdict(job.id, within))

    def stage(self, job: JobReference) -> str:
        """Return the job's stage as the launcher sees it."""
        return self._ask(job, lambda parent: parent.stage(job.id))

    def wait_until_released(self, job: JobReference, within: float) -> None:
        """Wait until no launcher tracks a job."""
        with suppress(JobLostError):
            self._ask(job, lambda parent: parent.wait_until_released(job.id, within))

    def abort(self, job: JobReference) -> None:
        """Abort a job as FLARE does."""
        self._ask(job, lambda parent: parent.abort(job.id))

    def cleanup(self, job: JobReference) -> None:
        """End a job as FLARE does when the server's heartbeat no longer names it."""
        self._ask(job, lambda parent: parent.cleanup(job.id))

    def verdicts(self, job: JobReference) -> Sequence[LoggedVerdict]:
        """Return the verdicts on a job in the logs of its parents."""
        return list(self._verdicts[job.id])

    # --- restarts

    def restart(self, seconds: float) -> ParentRestart:
        """Kill the client's parent, and start it again after so many seconds.

        If it is away, has just come back, or has few jobs, it is killed some seconds later.
        """
        with self._restart_lock:
            last = self.restarts[-1].back_at if self.restarts else 0.0
            time.sleep(max(0.0, last + MIN_LIFE_SECONDS - time.time()))
            with suppress(AssertionError):
                eventually(lambda: len(self.records()) >= MIN_JOBS, MAX_JOBS_SECONDS, "the parent has jobs")
            return self._restart(seconds)

    def _restart(self, seconds: float) -> ParentRestart:
        with self._changed:
            process = self._processes.pop(Role.CLIENT)
        killed_at = time.time()
        process.kill()
        records = [path.stem for path in (self._folder / Role.CLIENT.value / FOLDER).glob("*.json")]
        secrets = self._cluster.items("secrets", f"{Label.FEDERATION}={process.federation}")
        owners = [owner["name"] for item in secrets for owner in item["metadata"].get("ownerReferences") or ()]
        successor = self._start_process(Role.CLIENT)  # It imports everything, and waits.
        time.sleep(max(0.0, killed_at + seconds - time.time()))
        successor = self._begin(Role.CLIENT, successor)
        restart = ParentRestart(killed_at, time.time(), records, owners)
        taken_back = successor.parent.taken_back()
        self._timeline.say(f"the client's parent has taken {len(taken_back)} jobs back; {len(records)} had a record")
        self.taken_back.append(len(taken_back))
        with self._changed:
            self.restarts.append(restart)
            self._processes[Role.CLIENT] = successor
            self._changed.notify_all()
        return restart

    def _start_process(self, role: Role) -> "_Process":
        return _Process(role, self._route, self._engine, self._folder / role.value, self._log)

    def _begin(self, role: Role, process: "_Process") -> "_Process":
        """Let a parent begin, and another one if it ends as a second parent does; return the process that has begun."""
        deadline = time.time() + MAX_RETURN_SECONDS
        while refusal := process.parent.start():
            # A renewal of the one that was killed has arrived late.
            self._timeline.say(f"the {role.value}'s parent ends: {refusal}")
            process.kill()
            assert time.time() < deadline, refusal
            process = self._start_process(role)
        eventually(process.parent.has_begun, MAX_RETURN_SECONDS, f"the {role.value}'s parent has taken its jobs back")
        return process

    # --- all of them

    @property
    def federations(self) -> dict[Role, str]:
        """The parents' federation labels."""
        return {role: self._current(role).federation for role in Role}

    def forget(self) -> None:
        """Drop all jobs, as FLARE drops the handles of finished jobs."""
        self._verdicts.clear()
        for role in Role:
            self._current(role).parent.forget()

    def followed_workflows(self) -> set[str]:
        """Return the names of the Workflows that a launcher still tracks."""
        return {name for role in Role for name in self._current(role).parent.followed_workflows()}

    def records(self) -> list[str]:
        """Return the names of the records of launches on the client's disk."""
        return [path.name for path in (self._folder / Role.CLIENT.value / FOLDER).glob("*")]

    def read_gauges(self) -> dict[str, gauge.Reading]:
        """Measure what each process holds, by a name that no other process of the run has."""
        processes = [self._current(role) for role in Role]
        return {process.name: process.parent.read_gauge() for process in processes}

    def close(self) -> list[str]:
        """Shut the parents down; return a problem for the threads that do not end."""
        with self._changed:
            processes, self._processes = self._processes, {}
        problems = []
        for process in processes.values():
            problems += process.parent.close()
            process.close()
        return problems

    def _current(self, role: Role) -> "_Process":
        """Return a role's process, as soon as it is there."""
        with self._changed:
            assert self._changed.wait_for(lambda: role in self._processes, 2 * MAX_RETURN_SECONDS), "its parent is away"
            return self._processes[role]

    def _is_alive(self, role: Role, process: "_Process") -> bool:
        with self._changed:
            return self._processes.get(role) is process

    def _ask(self, job: JobReference, question: Callable[[Parent], T]) -> T:
        """Ask the job's parent, and its next run if it is killed before it answers.

        Raises:
            JobLostError: this run of the parent does not know the job.
        """
        while True:
            process = self._current(job.role)
            try:
                if not process.parent.knows(job.id):
                    raise JobLostError(self.restarts[-1])
                return question(process.parent)
            except (EOFError, OSError):
                if self._is_alive(job.role, process):
                    raise

    def _log(self, record: logging.LogRecord) -> None:
        match = _VERDICT_LINE.match(record.getMessage())
        if match is not None:
            job_id, reason, code = match.groups()
            self._verdicts[job_id].append(LoggedVerdict(record.created, (Reason[reason], int(code))))
        self._handler.handle(record)


class _Process:
    """A process with a parent."""

    _count = 0

    def __init__(
        self,
        role: Role,
        route: Route,
        engine: EngineAddress | None,
        root: Path,
        log: Callable[[logging.LogRecord], None],
    ) -> None:
        """Start the process, whose log records ``log`` gets."""
        _Process._count += 1
        self.name = f"{role.value} (process {_Process._count})"
        spawn = multiprocessing.get_context("spawn")
        # The process inherits this folder for its socket; one of its own would stay if it is killed.
        multiprocessing.util.get_temp_dir()
        reader, writer = spawn.Pipe(duplex=False)
        self._manager = ParentManager(ctx=spawn)
        self._manager.start(log_to, (writer,))
        writer.close()
        self._reader = threading.Thread(target=_read, args=(reader, log), name=f"log of {self.name}", daemon=True)
        self._reader.start()
        self.parent = self._manager.parent(role, route, engine, root)
        self.federation = self.parent.federation()

    def kill(self) -> None:
        """Kill the process; nothing of it ends in order."""
        process = self._manager._process  # type: ignore[attr-defined]
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        self.close()

    def close(self) -> None:
        """End the process, if it still runs, and wait for the rest of its log."""
        self._manager.shutdown()
        self._reader.join(5)


def _read(reader: Connection, log: Callable[[logging.LogRecord], None]) -> None:
    with suppress(EOFError, OSError), reader:
        while True:
            log(reader.recv())


@contextmanager
def running_parents(
    cluster: Cluster, route: Route, engine: EngineAddress | None, timeline: Timeline
) -> Iterator[Parents]:
    """Run the parents, and delete their workspaces in the end."""
    folder = Path(tempfile.mkdtemp(prefix="flargo-", dir="/tmp"))
    parents: Parents | None = None
    try:
        parents = Parents(cluster, route, engine, timeline, folder)
        yield parents
    finally:
        if parents is not None:
            parents.close()
        shutil.rmtree(folder, ignore_errors=True)
