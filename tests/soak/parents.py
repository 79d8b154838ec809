"""The launchers of a run, in a process of their own, so that all it holds is held by FLARE's code and flargo's.

The wire, the observer and the jobs' followers run in the main process and call this one through a manager of the
standard library; a job is named by its id.
"""

import logging
import logging.handlers
import multiprocessing
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.managers import BaseManager
from typing import Any

from flargo.control.launched_job import LaunchedJob
from flargo.status.verdict import Verdict
from flargo.terms import Role
from tests.harness.cluster import Cluster, eventually
from tests.harness.embedded_cluster import EmbeddedCluster, EngineAddress
from tests.harness.real_cluster.target import find
from tests.harness.site import Job, Site
from tests.harness.wire import Route
from tests.soak import gauge
from tests.soak.plan import MAX_REJOINS
from tests.soak.timeline import Timeline

STUDIES: dict[str, Any] = {
    "short-grace": {"pod_template": {"metadata": {}, "spec": {"terminationGracePeriodSeconds": 5}}},
}
"""A short grace period, so that a program that ignores SIGTERM does not occupy the machine for half a minute when its
pod is deleted."""
ARGO: dict[str, Any] = {"policy": {"rejoin": MAX_REJOINS}}
"""The client's launcher lets jobs be started again."""


class Parents:
    """One server's and one client's launcher; the object lives in the other process."""

    def __init__(self, route: Route, engine: EngineAddress | None) -> None:
        """Set up both launchers, with the wire between them and the API server.

        Args:
            route: the wire's address.
            engine: the embedded engine; None means the real cluster.
        """
        cluster = _find_cluster(engine)
        self._initial_threads = Counter(thread.name for thread in threading.enumerate())
        self._sites = {
            role: Site(cluster, wire=route, role=role, studies=STUDIES, argo=ARGO if role is Role.CLIENT else None)
            for role in Role
        }
        self._jobs: dict[str, Job] = {}

    def federations(self) -> dict[Role, str]:
        """Return the launchers' federation labels."""
        return {role: site.federation for role, site in self._sites.items()}

    def launch(self, role: Role, code: str, spec: Mapping[str, Any]) -> tuple[str, str]:
        """Launch a job; return its id and its Workflow's name as soon as the launcher tracks it."""
        job = self._sites[role].launch(code, spec, study="short-grace")
        # Wait before another launch: they share the site's context, which a server's launch reads in its own thread.
        assert job.launched_job
        self._jobs[job.id] = job
        return job.id, job.name

    def wait_for_verdict(self, job_id: str, within: float) -> bool:
        """Wait for a job's verdict; return whether there is one."""
        return self._jobs[job_id].launched_job.wait(_has_verdict, within)

    def verdict(self, job_id: str) -> Verdict | None:
        """Return what FLARE hears about a job; None before it hears anything."""
        return self._jobs[job_id].launched_job.verdict

    def stage(self, job_id: str) -> str:
        """Return the job's stage as the launcher sees it."""
        return self._jobs[job_id].launched_job.stage.label

    def return_code(self, job_id: str) -> object:
        """Wait for a job as FLARE does, and return its handle's return code."""
        handle = self._jobs[job_id].handle
        handle.wait()
        return handle.poll()

    def wait_until_released(self, job_id: str, within: float) -> None:
        """Wait until the launcher no longer tracks a job."""
        eventually(lambda: not self._jobs[job_id].is_followed, within, "the launcher releases the job")

    def abort(self, job_id: str) -> None:
        """Abort a job as FLARE does: during a server's launch FLARE only stores the job's new status."""
        job = self._jobs[job_id]
        if job.site.role is Role.SERVER:
            job.site.jobs.status[job.id] = "FINISHED:ABORTED"
        assert job.handle
        job.abort()

    def cleanup(self, job_id: str) -> None:
        """End a job as FLARE does when the server's heartbeat no longer names it."""
        self._jobs[job_id].cleanup()

    def forget(self) -> None:
        """Drop all jobs, as FLARE drops the handles of finished jobs."""
        for site in self._sites.values():
            site.jobs.status.clear()
        self._jobs.clear()

    def followed_workflows(self) -> set[str]:
        """Return the names of the Workflows that a launcher still tracks."""
        loops = [site.launcher._loop for site in self._sites.values()]
        return {name for loop in loops if loop is not None for name in (*loop._jobs, *loop._reconciler.names)}

    def read_gauge(self) -> gauge.Reading:
        """Measure what this process holds."""
        return gauge.read()

    def close(self) -> list[str]:
        """Shut both launchers down; return a problem for the threads that do not end."""
        with ExitStack() as stack:
            for site in self._sites.values():
                stack.callback(site.close)
        try:
            # A watch without events ends with its next bookmark, up to a minute later.
            eventually(lambda: not self._extra_threads(), 90, "all threads have ended")
        except AssertionError:
            return [f"threads left: {dict(self._extra_threads())}"]
        return []

    def _extra_threads(self) -> Counter[str]:
        names = (thread.name for thread in threading.enumerate())
        return Counter(name for name in names if not gauge.is_infrastructure(name)) - self._initial_threads


def _find_cluster(engine: EngineAddress | None) -> Cluster:
    if engine is not None:
        return EmbeddedCluster(engine, engine.file.parent)
    target = find()
    assert target is not None, "the cluster is gone"
    return Cluster(target)


class _Manager(BaseManager):
    """The manager that starts and calls the other process."""

    def parents(self, route: Route, engine: EngineAddress | None) -> Parents:
        """Set up the launchers in the other process."""
        raise NotImplementedError  # replaced by register()


_Manager.register("parents", Parents)


@contextmanager
def parents_process(route: Route, engine: EngineAddress | None, timeline: Timeline) -> Iterator[Parents]:
    """Run the launchers in a process of their own, and write what they log into the timeline."""
    spawn = multiprocessing.get_context("spawn")
    records: Any = spawn.Queue()
    listener = logging.handlers.QueueListener(records, timeline.handler())
    listener.start()
    manager = _Manager(ctx=spawn)
    manager.start(_log_to, (records,))
    try:
        yield manager.parents(route, engine)
    finally:
        manager.shutdown()
        listener.stop()
        records.close()


def _log_to(records: Any) -> None:
    """Send the process's log records to a queue."""
    logger = logging.getLogger("flargo")
    logger.addHandler(logging.handlers.QueueHandler(records))
    logger.setLevel(logging.INFO)


@dataclass(frozen=True)
class JobReference:
    """A launched job, as the main process knows it."""

    id: str
    name: str
    """The Workflow's name."""


def _has_verdict(job: LaunchedJob) -> bool:
    return job.verdict is not None
